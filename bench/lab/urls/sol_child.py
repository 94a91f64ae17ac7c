"""A program that is one SOL session: the BMC's bytes to standard output, standard input's bytes to the BMC.

The first line of standard input is the request, a JSON object with host, port, user and password. Standard error says
`READY` once the session is active, and why it ended. The end of standard input ends the session.
"""

import json
import os
import select
import sys
from typing import Any

READY = "SOL active"
POLL_S = 0.05


def main() -> None:
    """Never returns while the session lasts; exits with 0 when asked, with 1 and a sentence otherwise."""
    from pyghmi.exceptions import IpmiException
    from pyghmi.ipmi.console import Console
    from pyghmi.ipmi.private.session import Session

    request = json.loads(_line())
    ended: list[str] = []

    def came(data: Any) -> None:
        if isinstance(data, dict):
            ended.append(str(data.get("error", data)))
        else:
            _write_all(data if isinstance(data, bytes) else str(data).encode())

    try:
        console = Console(request["host"], request["user"], request["password"], came, port=request["port"], force=True)
        told = False
        while not ended:
            Session.wait_for_rsp(POLL_S)
            if console.connected and not told:
                told = True
                sys.stderr.write(READY + "\n")
                sys.stderr.flush()
            if console.connected and select.select([0], [], [], 0)[0]:
                data = os.read(0, 4096)
                if not data:
                    console.close()
                    return
                console.send_data(data)
            if console.broken:
                ended.append("the session broke")
    except (IpmiException, OSError, NotImplementedError) as error:
        ended.append(f"{type(error).__name__}: {error}")
    sys.exit(ended[0] or "no answer")


def _line() -> bytes:
    # Byte by byte: what comes behind the line is for the machine, and must not get stuck in a buffer.
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            break
        line += byte
    return line


def _write_all(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]


if __name__ == "__main__":
    main()
