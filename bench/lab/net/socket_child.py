"""A program that makes one socket in a network namespace and hands it over: ``socket_child.py HANDLE WISH``.

A socket stays in the namespace in which it was made, whoever has it. HANDLE is a unix socket; WISH is a JSON object:
``{"kind": "listen", "address": …, "port": …}``, ``{"kind": "connect", "address": …, "port": …, "timeout_s": …}`` or
``{"kind": "wire", "interface": …}``.
"""

import array
import json
import socket
import sys

BACKLOG = 64
ETH_P_ALL = 3


def make(wish: dict[str, object]) -> socket.socket:
    """The socket that is wished for. Raises OSError."""
    if wish["kind"] == "wire":
        one = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        try:
            one.bind((str(wish["interface"]), 0))
        except OSError:
            one.close()
            raise
        return one
    if wish["kind"] == "connect":
        whom = (str(wish["address"]), int(str(wish["port"])))
        return socket.create_connection(whom, float(str(wish["timeout_s"])))
    return socket.create_server((str(wish["address"]), int(str(wish["port"]))), backlog=BACKLOG)


def main() -> None:
    """Make it, send it, end; or say why not and end with 1."""
    handle, wish = int(sys.argv[1]), json.loads(sys.argv[2])
    try:
        one = make(wish)
    except OSError as error:
        sys.exit(f"{error.strerror or error}")
    with socket.socket(fileno=handle) as to, one:
        to.sendmsg([b"s"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [one.fileno()]))])


if __name__ == "__main__":
    main()
