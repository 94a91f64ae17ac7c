"""``socket://HOST:PORT``: pyserial's own client, which throws away what arrives while it opens; this one keeps it."""

from __future__ import annotations

from serial.urlhandler import protocol_socket


class Serial(protocol_socket.Serial):
    """One connection; see the module."""

    def reset_input_buffer(self) -> None:
        """Nothing: a byte that has come is evidence, and pyserial asks for this when it opens."""
