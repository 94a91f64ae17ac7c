"""A BMC by pyghmi's own server that takes an order for the next boot for every boot: `PORT USER PASSWORD ORDERS KEEPS`.

It notes in the file ORDERS what it was told, a line each, and KEEPS is `yes` if it cannot be told otherwise again.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from pyghmi.ipmi.bmc import Bmc
from pyghmi.ipmi.private import serversession

# IPMI 2.0, 13.17 and 13.18: RAKP-HMAC-SHA1, where an Open Session Request asks for it, and no such algorithm.
AT, SHA1, NO_MATCH = 12, 1, 0x11
BOOT_FLAGS, FOR_EVER, DEVICE = 5, 0x40, 0x3C


class Session(serversession.ServerSession):  # type: ignore[misc]
    """pyghmi's server answers with SHA-1 whatever it is asked for, which its own client does not follow."""

    def create_open_session_response(self, request: Any) -> Any:
        if request[AT] != SHA1:
            return bytearray([request[0], NO_MATCH, 0, 0]) + bytearray(request[4:8])
        return super().create_open_session_response(request)


class ForEver(Bmc):  # type: ignore[misc]
    def __init__(self, port: int, user: str, password: str, orders: Path, keeps: bool) -> None:
        super().__init__({user: password}, port=port, address="127.0.0.1")
        self._flags, self._device, self._orders, self._keeps = 0, 0, orders, keeps

    def set_system_boot_options(self, request: Any, session: Any) -> None:
        parameter, flags, device = request["data"][:3]
        assert parameter == BOOT_FLAGS
        with self._orders.open("a") as out:
            out.write(f"{flags:#04x} {device & DEVICE:#04x}\n")
        if device & DEVICE or not self._keeps:
            self._flags, self._device = (flags | FOR_EVER if flags else 0), device & DEVICE
        session.send_ipmi_response()

    def get_system_boot_options(self, request: Any, session: Any) -> None:
        assert request["data"][0] == BOOT_FLAGS
        session.send_ipmi_response(data=[1, BOOT_FLAGS, self._flags, self._device, 0, 0, 0])


if __name__ == "__main__":
    serversession.ServerSession = Session
    port, user, password, orders, keeps = sys.argv[1:]
    ForEver(int(port), user, password, Path(orders), keeps == "yes").listen()
