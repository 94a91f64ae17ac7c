"""`bench netboot check`: what is ready, what is missing, and who else gives addresses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench.hardware import NetworkMode, PxeLoader
from bench.lab.net import loaders
from bench.lab.net.segment import segment
from bench.lab.net.server import BootServer
from bench.lab.net.survey import survey
from tests.net.machines import ADDRESSES, NETWORK, site_server

pytestmark = [pytest.mark.boot, pytest.mark.slow]
ALL = set(loaders.FIRST) | {(PxeLoader.UKI, "uefi"), (PxeLoader.UKI_HTTP, "uefi")}


def test_all_is_ready_and_a_site_s_server_is_seen(tmp_path: Path) -> None:
    with segment(ADDRESSES, ports=2) as wire:
        points = list(survey(NETWORK, ALL, wire.place))
        assert [point for point in points if not point.ok] == []
        assert {"interface boot0", "port 8069", "other DHCP servers", "grub for bios"} <= {p.what for p in points}
        with site_server(wire, 1, tmp_path / "site.log"):
            (other,) = [point for point in survey(NETWORK, set(), wire.place) if not point.ok]
            assert other.what == "other DHCP servers" and other.said.startswith("10.77.0.2 (")
            proxy = replace(NETWORK, mode=NetworkMode.PROXY)
            assert all(point.ok for point in survey(proxy, set(), wire.place))


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(loaders.FILES, "undionly.kpxe", (("/nowhere",), "ipxe"))
    with segment(["10.77.0.9/24"]) as wire:
        said = {
            point.what: point.said for point in survey(NETWORK, {(PxeLoader.IPXE, "bios")}, wire.place) if not point.ok
        }
    assert said == {
        "ipxe for bios": "undionly.kpxe is not installed (package ipxe)",
        "interface boot0": "has 10.77.0.9/24, and not 10.77.0.1/24",
    }
    with segment(ADDRESSES) as wire, BootServer(replace(NETWORK, mode=NetworkMode.PROXY), wire.place):
        missing = [point.what for point in survey(NETWORK, set(), wire.place) if not point.ok]
    assert missing == ["port 8069"]
