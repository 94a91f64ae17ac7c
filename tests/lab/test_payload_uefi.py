"""The same file, started by UEFI in every way there is: the same windows say the same, field by field."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from bench.images import build_payload
from bench.inventory import load_inventory
from bench.lab.boot import Limits
from bench.records import Machine, Verdict
from bench.run import Order, offer, run
from bench.scenarios import load_scenarios
from bench.script import render
from bench.uki import build_uki
from tests.lab.payload_machine import LA57, NONCE, ROOT, Boot, Record, number, reads, until_done, window
from tests.lab.uefi_machine import (
    DEADLINE_S,
    FALLBACK,
    IPXE,
    MACHINE,
    SYSTEMD_BOOT,
    boot_files,
    by_bios,
    disk,
    grub,
    medium,
    qemu,
    told,
)

pytestmark = [pytest.mark.lab, pytest.mark.slow, pytest.mark.timeout(400)]

SCENARIOS = load_scenarios(ROOT / "firmware-images" / "scenarios")
VARIANT_NAMES = ("seed-2012", "v3.9", "la57")


def every_scenario(variant: str) -> tuple[str, ...]:
    return tuple(name for name, scenario in SCENARIOS.items() if variant in scenario.variants and "long" not in name)


@dataclass(frozen=True)
class Everything:
    """A script with all scenarios of all variants, and what the machine says to it by BIOS and a direct boot."""

    script: bytes
    by_bios: list[Record]


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Everything:
    windows = []
    for variant in VARIANT_NAMES:
        chosen = tuple(SCENARIOS[name] for name in every_scenario(variant))
        windows += offer(Order(MACHINE, variant, chosen))[0]
    script = render(tuple(replace(each, number=n) for n, each in enumerate(windows)), nonce=NONCE)
    records = told(direct(tmp_path_factory.mktemp("bios"), script, machine=by_bios(MACHINE)))
    assert number(records[-1], "WN") == len(windows)
    return Everything(script, records)


def direct(
    folder: Path, script: bytes, *, machine: Machine = MACHINE, compiler: str = "gcc", options: tuple[str, ...] = ()
) -> bytes:
    (folder / "script.txt").write_bytes(script)
    kernel = build_payload(ROOT, compiler=compiler).kernel
    load = ("-kernel", str(kernel), "-initrd", str(folder / "script.txt"), "-append", "quiet")
    return until_done(qemu(machine, *load, *options), deadline_s=DEADLINE_S)


def test_direct_boot(everything: Everything, tmp_path: Path) -> None:
    assert told(direct(tmp_path, everything.script)) == everything.by_bios


@pytest.mark.payloads
def test_direct_boot_of_what_clang_has_built(everything: Everything, tmp_path: Path) -> None:
    bios = told(direct(tmp_path, everything.script, machine=by_bios(MACHINE), compiler="clang"))
    assert told(direct(tmp_path, everything.script, compiler="clang")) == bios


def by_uki(folder: Path, payload: bytes, script: bytes) -> bytes:
    return boot_files(folder, {FALLBACK: build_uki(payload, script, "quiet")})


def by_systemd_boot(folder: Path, payload: bytes, script: bytes) -> bytes:
    entry = b"title payload\nlinux /payload.bin\ninitrd /script.txt\noptions quiet\n"
    files = {FALLBACK: SYSTEMD_BOOT, "loader/entries/payload.conf": entry}
    return boot_files(folder, {**files, "payload.bin": payload, "script.txt": script})


def _by_grub(*commands: str) -> Callable[[Path, bytes, bytes], bytes]:
    def started(folder: Path, payload: bytes, script: bytes) -> bytes:
        files = grub(folder, "\n".join((*commands, "boot\n")))
        return boot_files(folder, {**files, "payload.bin": payload, "script.txt": script})

    return started


def by_ipxe(folder: Path, payload: bytes, script: bytes) -> bytes:
    """Over QEMU's own DHCP and TFTP, with iPXE's own driver for the card."""
    served = folder / "tftp"
    served.mkdir()
    (served / "payload.bin").write_bytes(payload)
    (served / "script.txt").write_bytes(script)
    (served / "boot.ipxe").write_text(
        "#!ipxe\nkernel tftp://10.0.2.2/payload.bin quiet initrd=script.txt\ninitrd tftp://10.0.2.2/script.txt\nboot\n"
    )
    network = ("-netdev", f"user,id=net,restrict=on,tftp={served},bootfile=boot.ipxe")
    card = ("-device", "virtio-net-pci,netdev=net,romfile=")
    image = medium(folder / "esp.img", {FALLBACK: IPXE})
    return until_done(qemu(MACHINE, *disk(image), *network, *card), deadline_s=DEADLINE_S)


WAYS: dict[str, Callable[[Path, bytes, bytes], bytes]] = {
    "unified kernel image": by_uki,
    "systemd-boot": by_systemd_boot,
    "initrd= on its own medium": _by_grub("chainloader /payload.bin quiet initrd=/script.txt"),
    "GRUB linux": _by_grub("linux /payload.bin quiet", "initrd /script.txt"),
    "GRUB linuxefi": _by_grub("linuxefi /payload.bin quiet", "initrdefi /script.txt"),
    "iPXE": by_ipxe,
}


@pytest.mark.boot
@pytest.mark.parametrize("way", WAYS)
def test_way_to_boot(everything: Everything, tmp_path: Path, way: str) -> None:
    payload = build_payload(ROOT).kernel.read_bytes()
    data = WAYS[way](tmp_path, payload, everything.script)
    assert told(data) == everything.by_bios
    assert b"quiet" in data[data.index(b" boot ") :].split(b"\r\n")[0], "its command line came too"


@pytest.mark.parametrize(("machine", "variant"), [("uefi", "seed-2012"), ("uefi", "v3.9"), ("uefi-la57", "la57")])
def test_run_gives_the_verdicts_of_a_boot_by_bios(machine: str, variant: str, tmp_path: Path) -> None:
    asked = Order(load_inventory(ROOT)[machine], variant, tuple(SCENARIOS[name] for name in every_scenario(variant)))
    orders = (asked, replace(asked, machine=by_bios(asked.machine)))
    uefi, bios = (
        run(o, payload=build_payload(ROOT), results=tmp_path / str(n), limits=Limits()) for n, o in enumerate(orders)
    )
    assert uefi.verdict is Verdict.PASS
    assert uefi.scenarios == bios.scenarios


@pytest.mark.boot
def test_other_port_by_the_loader_s_command_line(tmp_path: Path) -> None:
    script = render((window(0, LA57),), nonce=NONCE)
    image = build_uki(build_payload(ROOT).kernel.read_bytes(), script, "quiet bench.uart=0x2f8")
    esp = medium(tmp_path / "esp.img", {FALLBACK: image})
    command = qemu(MACHINE, *disk(esp))
    at = command.index("-serial")
    command[at:at] = ["-serial", "null"]
    assert Boot(until_done(command, deadline_s=DEADLINE_S)).kinds(0) == "begin boot end"


def test_nothing_that_firmware_has_switched_on_reaches_a_window(tmp_path: Path) -> None:
    """By QEMU's log: control registers and EFER at the exceptions of a window are those of a boot by BIOS."""
    script = render((window(0, LA57, *reads(LA57, 1 << 21)),), nonce=NONCE)
    seen = []
    for name, machine in (("uefi", MACHINE), ("bios", by_bios(MACHINE))):
        log = tmp_path / f"{name}.log"
        direct(tmp_path, script, machine=machine, options=("-d", "int", "-D", str(log)))
        text = log.read_text()
        at = text.index(" IP=0010:ffffffff81")
        seen.append([re.search(rf"{register}=(\w+)", text[at:])[1] for register in ("CR0", "CR4", "EFER")])  # type: ignore[index]
    assert seen[0] == seen[1]
