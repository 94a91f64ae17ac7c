"""URL schemes that the bench adds to pyserial's, and two of pyserial's that it mends.

pyserial looks for a scheme's handler in a module named ``protocol_<scheme>`` of each package in
`serial.protocol_handler_packages`. Plus and minus cannot stand in a module's name, so the handlers of
``listen+unix`` and ``ipmi-sol`` are entered under the names by which pyserial asks for them.
"""

import select
import socket
import sys
from contextlib import suppress

import serial
from serial.urlhandler import protocol_socket

from bench.lab.text import escape
from bench.lab.urls import fifo, ipmi_sol, listen_unix, rfc2217, tcp

sys.modules[f"{__name__}.protocol_listen+unix"] = listen_unix
sys.modules[f"{__name__}.protocol_fifo"] = fifo
sys.modules[f"{__name__}.protocol_ipmi-sol"] = ipmi_sol
sys.modules[f"{__name__}.protocol_rfc2217"] = rfc2217
sys.modules[f"{__name__}.protocol_socket"] = tcp

# A console server whose port is taken says so and hangs up: within this time.
WELCOME_S = 0.25
_REFUSAL_BYTES = 200
# A console server that lost its own power never says goodbye: ask after 10 s of silence, 3 times, every 5 s.
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 10), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3))


def register() -> None:
    """Let `serial.serial_for_url` find the schemes of this package, before its own."""
    if __name__ not in serial.protocol_handler_packages:
        serial.protocol_handler_packages.insert(0, __name__)


def check_welcome(device: serial.SerialBase) -> None:
    """Raise SerialException if a console server on ``socket://`` hangs up at once, with what it said.

    What it says is not the machine's. Also has the system notice when such a server goes away in silence.
    """
    if not isinstance(device, protocol_socket.Serial):
        return
    line: socket.socket = device._socket  # type: ignore[attr-defined]  # the stubs leave it out
    with suppress(OSError):  # not TCP
        line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE:
            line.setsockopt(socket.IPPROTO_TCP, option, value)
    poll = select.poll()
    poll.register(line, select.POLLRDHUP)
    if poll.poll(1000 * WELCOME_S):
        said = b""
        with suppress(OSError):
            said = line.recv(_REFUSAL_BYTES)
        raise serial.SerialException(f"the other side hangs up at once, saying {escape(said.strip())!r}")
