"""What ports have in common that are no line: no baud rate, no modem lines, and no buffer that may be thrown away."""

from __future__ import annotations

from serial.serialutil import SerialBase


class LinelessSerial(SerialBase):
    """pyserial's interface without a line's settings; a handler adds open, close, read and write."""

    def reset_input_buffer(self) -> None:
        """Nothing: a byte that has come is evidence."""

    def reset_output_buffer(self) -> None:
        """Nothing is ever queued."""

    def _reconfigure_port(self) -> None:
        """There is no line to configure; a BMC keeps its own."""

    def _update_dtr_state(self) -> None:
        """There is no modem line."""

    def _update_rts_state(self) -> None:
        """There is no modem line."""
