"""URL schemes that the bench adds to pyserial's.

pyserial looks for a scheme's handler in a module named ``protocol_<scheme>`` of each package in
`serial.protocol_handler_packages`. A plus sign cannot stand in a module's name, so the handler of
``listen+unix`` is entered under the name by which pyserial asks for it.
"""

import sys

import serial

from bench.lab.urls import fifo, listen_unix

sys.modules[f"{__name__}.protocol_listen+unix"] = listen_unix
sys.modules[f"{__name__}.protocol_fifo"] = fifo


def register() -> None:
    """Let `serial.serial_for_url` find the schemes of this package."""
    if __name__ not in serial.protocol_handler_packages:
        serial.protocol_handler_packages.append(__name__)
