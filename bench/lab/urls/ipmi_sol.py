"""``ipmi-sol://USER@HOST:PORT?password_env=NAME``: a serial line over a BMC's network (IPMI 2.0, serial over LAN).

The session lives in a child process (`sol_child`): pyghmi's sessions are process-wide, and a BMC that hangs must not
take the bench with it. The password is read from where the URL says (``password_env``, ``password_file``) and goes to
the child through a pipe. A session that somebody else has is taken over: whoever has the machine has its line.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from contextlib import suppress
from importlib.util import find_spec
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from serial.serialutil import PortNotOpenError, SerialException, Timeout

from bench.errors import UsageError
from bench.hardware import Secret
from bench.lab.secret import reveal
from bench.lab.text import escape
from bench.lab.urls import sol_child
from bench.lab.urls.lineless import LinelessSerial

SCHEME = "ipmi-sol"
OPEN_S = 20.0


class Serial(LinelessSerial):
    """pyserial's interface over one SOL session. The speed is the BMC's affair; there are no modem lines."""

    _child: subprocess.Popen[bytes] | None = None

    def open(self) -> None:
        """Start the session. Raises SerialException with the BMC's words if it does not begin in 20 s."""
        if self.is_open:
            raise SerialException(f"{self.port} is already open")
        request = _request(self.port or "")
        child = subprocess.Popen(
            [sys.executable, "-I", sol_child.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the bench, which closes its ports in order
        )
        assert child.stdin and child.stdout and child.stderr
        self._child = child
        try:
            child.stdin.write(json.dumps(request).encode() + b"\n")
            child.stdin.flush()
            said = _first_line(child, time.monotonic() + OPEN_S)
        except BaseException:
            self._end()
            raise
        if said != sol_child.READY:
            self._end()
            raise SerialException(f"no SOL session: {said or f'nothing within {OPEN_S:g} s'}")
        os.set_blocking(child.stdout.fileno(), False)
        self.is_open = True

    def close(self) -> None:
        """End the session and the child."""
        self._end()
        self.is_open = False

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        assert child.stdin and child.stdout and child.stderr
        with suppress(OSError):
            child.stdin.close()  # its sign to log out
        try:
            child.wait(2)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        child.stdout.close()
        child.stderr.close()

    def _output(self) -> int:
        if self._child is None or self._child.stdout is None:
            raise PortNotOpenError()
        return self._child.stdout.fileno()

    def fileno(self) -> int:
        """The descriptor that becomes readable when `read` has something to do."""
        return self._output()

    @property
    def in_waiting(self) -> int:
        """1 if a byte or the session's end is waiting, else 0."""
        return len(select.select([self._output()], [], [], 0)[0])

    def read(self, size: int = 1, /) -> bytes:
        """Up to `size` bytes within the timeout. Raises SerialException with the reason when the session has ended."""
        got = bytearray()
        deadline = Timeout(self.timeout)  # type: ignore[arg-type]  # None waits for ever; the stubs know only numbers
        while len(got) < size:
            if not select.select([self._output()], [], [], deadline.time_left())[0]:
                break
            data = os.read(self._output(), size - len(got))
            if not data:
                if got:
                    break
                raise SerialException(f"the SOL session has ended: {self._last_words()}")
            got += data
            if deadline.expired():
                break
        return bytes(got)

    def _last_words(self) -> str:
        child = self._child
        if child is None or child.stderr is None:
            return ""
        with suppress(subprocess.TimeoutExpired):
            child.wait(2)
        os.set_blocking(child.stderr.fileno(), False)
        return escape((child.stderr.read() or b"").strip()[-200:]) or f"exit code {child.returncode}"

    def write(self, data: Any, /) -> int:
        """Send to the machine. Raises SerialException if the session has ended."""
        if self._child is None or self._child.stdin is None:
            raise PortNotOpenError()
        try:
            self._child.stdin.write(bytes(data))
            self._child.stdin.flush()
        except OSError as error:
            raise SerialException(f"the SOL session has ended: {error}") from error
        return len(data)


def _request(text: str) -> dict[str, object]:
    """What the child has to know. Raises SerialException for a URL that says less, UsageError for a secret."""
    url = urlsplit(text)
    names = parse_qs(url.query)
    if url.scheme != SCHEME or not url.hostname or not url.username or url.password is not None:
        raise SerialException(f"{text!r} is not of the form {SCHEME}://USER@HOST:PORT?password_env=NAME")
    secret = Secret(env=names.get("password_env", [""])[0], file=names.get("password_file", [""])[0])
    if not (secret.env or secret.file):
        raise SerialException(f"{text!r} does not say where the password is: ?password_env=NAME or ?password_file=PATH")
    if find_spec("pyghmi") is None:
        raise UsageError(f"{SCHEME}://: the Python package pyghmi is not installed: pip install 'bench[rack]'")
    password = reveal(secret, whose=f"SOL of {url.hostname}")
    return {"host": url.hostname, "port": url.port or 623, "user": unquote(url.username), "password": password}


def _first_line(child: subprocess.Popen[bytes], deadline: float) -> str:
    """The first line of the child's standard error, escaped; what there is of it if it does not come in time."""
    assert child.stderr is not None
    line = b""
    while not line.endswith(b"\n"):
        left_s = deadline - time.monotonic()
        if left_s <= 0 or not select.select([child.stderr], [], [], left_s)[0]:
            break
        data = os.read(child.stderr.fileno(), 4096)
        if not data:
            break
        line += data
    return escape(line.strip().rpartition(b"\n")[2])
