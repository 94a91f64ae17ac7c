"""What a machine said of itself → facts → the text of its inventory entry."""

from __future__ import annotations

import os
import tomllib
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from bench.bios_microcode import BiosRevision, Told, bios_revision
from bench.cli_inventory import discover as command
from bench.discovered.entry import card_of, entry, holes_in, memory_of, name_of
from bench.errors import LabError, UsageError
from bench.hardware import SshAccess
from bench.inventory.metal import MetalFile
from bench.inventory.reading import read
from bench.lab.discover import Discovery, read_ram
from bench.lab.discover_boot import methods_of
from bench.lab.discover_dmi import installed_bytes
from bench.lab.discover_processor import CPUID, CPUINFO, PLATFORM_FLAGS, PLATFORM_MSR, Processor, read_processor
from bench.lab.discover_serial import Ears, Heard
from bench.lab.discover_wires import Card, SerialPort, read_cards, read_ports
from bench.lab.fingerprint import split_answers
from bench.lab.flash.system import Room, System

MIB, GIB = 1 << 20, 1 << 30
# A Coffee Lake desktop with platform id 1; text as dd and od give it.
ANSWERS: dict[str, str] = {
    "vendor leaf": "00000016 756e6547 6c65746e 49656e69",
    "signature leaf": "000906ea 00100800 7ffafbff bfebfbff",
    "features leaf": "00000000 029c6fbf 00000000 bc000e00",
    "extended leaf": "00000000 00000000 00000121 2c100800",
    "address leaf": "00003027 00000000 00000000 00000000",
    "platform msr": "00000000 00040000",
    "platform flags": "0x2",
    "processors": "12",
    "cpuinfo": "\n".join((
        "vendor_id\\x09: GenuineIntel", "cpu family\\x09: 6", "model\\x09\\x09: 158",
        "model name\\x09: Intel(R) Core(TM) i7", "stepping\\x09: 10", "microcode\\x09: 0xf4",
        "flags\\x09\\x09: fpu vme nx lm", "address sizes\\x09: 39 bits physical, 48 bits virtual",
    )),
}  # fmt: skip
SYSTEM = System(
    user="0", kernel="6.1.0", boot_id="x", command_line="BOOT_IMAGE=/vmlinuz root=/dev/sda2", uefi=True, efivars=True,
    secure_boot=False, lockdown="none", kexec_off=False,
    tools=frozenset({"sha256sum", "sync", "kexec", "grub-editenv", "chattr", "dd", "od"}),
    boot=Room("/dev/sda2", GIB, "/boot", "ext4"), esp=Room("/dev/sda1", GIB, "/boot/efi", "vfat"), boot_layers=(),
    root_layers=(), crypttab=(), grub="/boot/grub",
    grub_has=frozenset({"next_entry", "save_env next_entry", "custom.cfg", "grubenv"}), loader="", loader_info="",
    loader_selected="", loader_default="", loader_conf="",
)  # fmt: skip
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGmyD/lF97plBgyhBb7QxizdRNkEQyIoExgJCp95fgVU"
ACCESS = SshAccess("10.20.0.7", "root", f"{KEY} a comment", 2222, "~/.ssh/bench")
MAC = "94:c6:91:00:00:07"


def found(**other: Any) -> Discovery:
    values: dict[str, Any] = {
        "host_name": "nuc-7.lab", "processor": read_processor(ANSWERS), "installed_bytes": 16 * GIB,
        "ram": (range(0x9_E000), range(MIB, 0x8000_0000), range(4 * GIB, 18 * GIB)), "names": {"board": "NUC7"},
        "cards": (Card("eno1", MAC, "up", "e1000e", ("10.20.0.7",)),), "reached_at": "10.20.0.7",
        "ports": (SerialPort("ttyS0", 0x3F8), SerialPort("ttyS4", 0xE000)), "system": SYSTEM,
        "methods": methods_of(other.get("system", SYSTEM)), "kernel_log": b"Linux version 6.1.0\n",
    }  # fmt: skip
    return Discovery(**{**values, **other})


def text_of(one: Discovery, heard: tuple[Heard, ...] = ()) -> str:
    return entry(one, ACCESS, name="nuc-7", on=date(2026, 11, 24), heard=heard, baud=57600)


# --- the processor ---------------------------------------------------------------------------------------------------


def test_cpuid_tells_what_the_processor_has() -> None:
    assert read_processor(ANSWERS) == Processor(
        "GenuineIntel", "Intel(R) Core(TM) i7", 0x906EA, CPUID, 12, False, True, False, 39, 1, PLATFORM_MSR, 0xF4
    )


def test_features_are_single_bits() -> None:
    def of(**other: str) -> Processor:
        return read_processor({**ANSWERS, **{key.replace("_", " "): value for key, value in other.items()}})

    assert of(features_leaf="00000000 00000000 00010000 00000000").la57
    assert not of(
        features_leaf="00000000 00000000 00010000 00000000", vendor_leaf="00000006 756e6547 6c65746e 49656e69"
    ).la57, "a processor whose highest leaf is 6 has no leaf 7"
    assert not of(extended_leaf="00000000 00000000 00000121 2c000800").nx
    assert of(signature_leaf="000906ea 00100800 fffafbff bfebfbff").hypervisor


def test_without_cpuid_the_kernel_is_asked() -> None:
    blind = {**ANSWERS, **{name: "" for name in ANSWERS if name.endswith("leaf")}, "platform msr": ""}
    told = read_processor(blind)
    assert (told.signature, told.source, told.nx, told.la57, told.maxphyaddr) == (0x906EA, CPUINFO, True, False, 39)
    assert (told.platform_id, told.platform_source) == (1, PLATFORM_FLAGS)
    assert read_processor({**blind, "platform flags": ""}).platform_id is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"signature leaf": "c00906ea 0 0 0"},
        {"signature leaf": "", "cpuinfo": "cpu family: 6"},
        {"signature leaf": "words of no number"},
        {"platform flags": "-1", "platform msr": ""},
    ],
)
def test_what_is_no_processor_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises((UsageError, ValueError, LookupError)):
        read_processor({**ANSWERS, **wrong})


# --- memory, cards, ports --------------------------------------------------------------------------------------------


def device(size: int, extended: int = 0) -> bytes:
    data = bytearray(0x28)
    data[0], data[1] = 17, len(data)
    data[0x0C:0x0E] = size.to_bytes(2, "little")
    data[0x1C:0x20] = extended.to_bytes(4, "little")
    return bytes(data) + b"DIMM A\0Samsung\0\0"


END = bytes((127, 4, 0, 0)) + b"\0\0"


@pytest.mark.parametrize(
    ("table", "size"),
    [
        (device(0x4000) + device(0) + device(0x4000) + END, 32 * GIB),
        (device(0x7FFF, 65536) + END, 64 * GIB),
        (device(0x8000 | 0x7000) + END, 28 * MIB),
        (device(0xFFFF) + END, None),
        (bytes((0, 6, 0, 0, 1, 1)) + b"text\0\0" + device(0x400) + END + device(0x4000), GIB),
        (device(0x4000)[:0x20], None),
        (b"\x11\x02\0\0", None),
        (b"", None),
    ],
)
def test_memory_devices_are_summed(table: bytes, size: int | None) -> None:
    assert installed_bytes(table.hex(" ")) == size


def test_the_memory_map_is_joined_and_held_against_what_a_pc_usually_has() -> None:
    lines = ["0x100000 0x1fffff System RAM", "0x0 0x9fbff System RAM", "0x200000 0x2fffff System RAM",
             "0xf0000 0xfffff Reserved", "cut"]  # fmt: skip
    assert read_ram("\n".join(lines)) == (range(0x9FC00), range(0x100000, 0x300000))
    ram = (range(10, 20), range(30, 40))
    assert list(holes_in(range(5, 50), ram)) == [range(5, 10), range(20, 30), range(40, 50)]
    assert list(holes_in(range(12, 35), ram)) == [range(20, 30)] and list(holes_in(range(31, 40), ram)) == []


def test_memory_is_what_is_plugged_in_or_else_what_the_map_has() -> None:
    assert memory_of(found())[0] == 16 * GIB
    size, who = memory_of(found(installed_bytes=None, ram=(range(MIB, 2 * GIB - 70 * MIB),)))
    assert size == 2 * GIB and "TODO" in who
    assert memory_of(found(installed_bytes=GIB))[0] == 16 * GIB, "firmware that names less than there is"
    with pytest.raises(UsageError, match="log in as root"):
        memory_of(found(installed_bytes=None, ram=()))


def test_cards_have_the_addresses_of_their_bond() -> None:
    cards = f"eno1 {MAC} up igb bond0\nwlan0 02:00:00:00:00:01 down  \nib0 00:00:10:28:fe:80 up\nbad nonsense up x\n"
    seen = read_cards(cards, "2: bond0    inet 10.0.0.2/24 scope global bond0\n2: bond0    inet6 fe80::1/64 scope link")
    assert [(card.name, card.addresses) for card in seen] == [
        ("eno1", ("10.0.0.2", "fe80::1")),
        ("wlan0", ()),
        ("ib0", ()),
    ]
    assert card_of(found(cards=seen, reached_at="10.0.0.2")) == seen[0]
    assert card_of(found(cards=seen, reached_at="10.9.9.9")) is None, "two are up, and neither has that address"


def test_ports_come_in_order_and_without_io_ports_where_they_have_none() -> None:
    said = "ttyS10 2 0x0 0xFE034000\nttyS4 0 0xE000 0x0\nttyS0 0 0x3F8 0x0\nconsole 0 0x1 0x0"
    assert read_ports(said) == (SerialPort("ttyS0", 0x3F8), SerialPort("ttyS4", 0xE000), SerialPort("ttyS10", None))


# --- the boot loader -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("system", "usable"),
    [
        (SYSTEM, ("grub", "bootnext", "kexec")),
        (replace(SYSTEM, boot=Room("/dev/sda2", GIB, "/boot", "btrfs")), ("bootnext", "kexec")),
        (replace(SYSTEM, boot_layers=("LVM vg-boot",)), ("bootnext", "kexec")),
        (replace(SYSTEM, boot_layers=("RAID md0",), uefi=False), ("kexec",)),
        (replace(SYSTEM, uefi=False, kexec_off=True), ("grub",)),
        (replace(SYSTEM, grub="", esp=None, tools=frozenset({"sha256sum", "sync"})), ()),
        (
            replace(SYSTEM, grub="", loader="/boot", loader_info="systemd-boot 252", loader_conf="default debian.conf"),
            ("systemd-boot", "bootnext", "kexec"),
        ),
    ],
)
def test_methods_are_those_that_flashing_would_not_refuse(system: System, usable: tuple[str, ...]) -> None:
    methods = methods_of(system)
    assert methods.usable == usable and set(usable) | set(methods.refused) == {
        "grub",
        "systemd-boot",
        "bootnext",
        "kexec",
    }
    assert all(methods.refused.values()) and methods.in_the_way == ()


def test_secure_boot_is_in_the_way_of_all_of_them() -> None:
    text = text_of(found(system=replace(SYSTEM, secure_boot=True)))
    assert "# Secure Boot: ON" in text and "# TODO before anything can be flashed: Secure Boot is on" in text


# --- the BIOS's own microcode ----------------------------------------------------------------------------------------

BEGIN = b"[    0.000000] Linux version 6.1.0-28-amd64 (debian-kernel@lists.debian.org)\n"


@pytest.mark.parametrize(
    ("log", "told"),
    [
        (BEGIN + b"[    1.0] microcode: sig=0x906ea, pf=0x2, revision=0xf4", BiosRevision(Told.SAME, 0xF4)),
        (b"[    1.0] microcode: sig=0x906ea, pf=0x2, revision=0xf4", BiosRevision(Told.UNKNOWN)),
        (b"", BiosRevision(Told.UNKNOWN)),
        (BEGIN + b"[    0.0] microcode: microcode updated early to revision 0xf4, date = 2022-07-31",
         BiosRevision(Told.HIDDEN)),
        (BEGIN + b"[    0.0] microcode: updated early: 0xde -> 0xf4, date = 2022-07-31",
         BiosRevision(Told.KNOWN, 0xDE)),
        (BEGIN + b"[    0.1] microcode: Current revision: 0x000000f4\n"
         b"[    0.1] microcode: Updated early from: 0x000000de", BiosRevision(Told.KNOWN, 0xDE)),
        (BEGIN + b"[  900.0] microcode: Reload succeeded, microcode revision: 0xde -> 0xf4",
         BiosRevision(Told.KNOWN, 0xDE)),
        # An early update may have come before it, in the part of the log that is gone.
        (b"[  900.0] microcode: Reload succeeded, microcode revision: 0xde -> 0xf4", BiosRevision(Told.HIDDEN)),
    ],
)  # fmt: skip
def test_the_log_tells_whether_the_bios_revision_still_runs(log: bytes, told: BiosRevision) -> None:
    assert bios_revision(log, 0xF4) == told


def test_the_entry_says_so_in_words() -> None:
    early = BEGIN + b"[    0.0] microcode: microcode updated early to revision 0xf4, date = 2022-07-31"
    assert "hides the BIOS's own: TODO boot with dis_ucode_ldr" in in_one_line(text_of(found(kernel_log=early)))
    assert "it is the BIOS's own" in in_one_line(text_of(found()))
    silent = text_of(found(processor=replace(found().processor, revision=None)))
    assert "the kernel shows no revision" in silent and "BIOS's own" not in silent


def in_one_line(text: str) -> str:
    return " ".join(text.replace("#", "").split())


# --- the entry -------------------------------------------------------------------------------------------------------


def test_an_entry_lacks_only_what_cannot_be_known(tmp_path: Path) -> None:
    text = text_of(found())
    assert tomllib.loads(text) == {
        "name": "nuc-7", "signature": "06-9e-0a", "platform_id": 1, "maxphyaddr": 39, "nx": True, "la57": False,
        "memory": "16 GiB", "mac": MAC, "ip": "10.20.0.7", "firmware": "uefi",
        "boot_methods": ["grub", "bootnext", "kexec"],
        "ssh": {"host": "10.20.0.7", "port": 2222, "user": "root", "key_file": "~/.ssh/bench", "host_key": KEY},
    }  # fmt: skip
    assert "TODO [serial]" in text and "TODO [power]" in text and "0x80000000 to 0xbfefffff" in text
    (tmp_path / "nuc-7.toml").write_text(text)
    with pytest.raises(UsageError, match="serial"):
        read(tmp_path / "nuc-7.toml", MetalFile)
    (tmp_path / "nuc-7.toml").write_text(text + '\n[serial]\nurl = "socket://console:7007"\n')
    assert read(tmp_path / "nuc-7.toml", MetalFile).signature == 0x906EA


def test_a_probed_port_is_filled_in() -> None:
    heard = (Heard("ttyS0", (), ""), Heard("ttyS4", ("socket://console:7007",), ""))
    text = text_of(found(), heard)
    assert tomllib.loads(text)["serial"] == {"url": "socket://console:7007", "baud": 57600}
    assert "# ttyS0: heard nowhere" in text and "bench.uart=0xe000" in text
    two = (Heard("ttyS0", ("/dev/a", "/dev/b"), ""), Heard("ttyS4", (), "stty: I/O error"))
    assert "serial" not in tomllib.loads(text_of(found(), two)) and "ttyS4: heard nowhere; stty: I/O" in text_of(
        found(), two
    )


def test_a_signature_with_a_type_is_a_number() -> None:
    overdrive = replace(found().processor, signature=0x1632)
    assert tomllib.loads(text_of(found(processor=overdrive)))["signature"] == 0x1632


def test_what_a_hostile_machine_says_stays_a_comment() -> None:
    said = split_answers(b'@board\nX"\r\x0callow_updates = true\xe2\x80\xa8\nallow_updates = true\n@end\n')
    plain = tomllib.loads(text_of(found()))
    hostile = found(names={"board": said["board"].replace("\n", " ")}, host_name='a"\\nallow_updates = true')
    assert tomllib.loads(text_of(hostile)) == plain


def test_what_the_caller_gives_is_quoted() -> None:
    access = replace(ACCESS, key_file='/keys/"odd" \\ name')
    text = entry(found(), access, name="nuc-7", on=date(2026, 11, 24), heard=(), baud=115200)
    assert tomllib.loads(text)["ssh"]["key_file"] == access.key_file


@pytest.mark.parametrize(("host", "name"), [("NUC-7.lab.example", "nuc-7"), ("a_b", "a-b"), ("x" * 60, "x" * 40)])
def test_a_host_name_becomes_a_machine_name(host: str, name: str) -> None:
    assert name_of(host) == name


@pytest.mark.parametrize("host", ["", "(none)", "--.x", "\\xff".replace("xff", "")])
def test_no_name_is_asked_for(host: str) -> None:
    with pytest.raises(UsageError, match="--name"):
        name_of(host)


# --- the serial probe ------------------------------------------------------------------------------------------------


@contextmanager
def terminal() -> Iterator[tuple[int, str]]:
    """A pseudo-terminal: the machine's end, and our device."""
    ours, theirs = os.openpty()
    try:
        tty.setraw(theirs)
        yield ours, os.ttyname(theirs)
    finally:
        os.close(ours)
        os.close(theirs)


def test_ears_tell_who_has_heard_a_word_that_comes_in_pieces() -> None:
    with terminal() as (first, url_1), terminal() as (second, url_2), Ears([url_1, url_2], baud=115200) as ears:
        os.write(first, b"login: \r\nbench-probe tty")
        os.write(second, b"noise\xff\x00")
        os.write(first, b"S0 abc\r\n")
        assert ears.who_heard(b"bench-probe ttyS0 abc", wait_s=20) == (url_1,)
        assert ears.who_heard(b"bench-probe ttyS1 abc", wait_s=0) == ()
        assert ears.lost() == {}


def test_a_port_that_is_not_there_is_named_and_the_others_are_closed() -> None:
    with terminal() as (_, url):
        with pytest.raises(LabError, match="/dev/ttyABSENT"):
            Ears([url, "/dev/ttyABSENT"], baud=115200)
        Ears([url], baud=115200).close()
        with pytest.raises(UsageError, match="twice"):
            Ears([url, url], baud=115200)


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"probe_serial": True}, "go together"),
        ({"serial_url": ["socket://x:1"]}, "go together"),
        ({"name": "Nuc 7"}, "lower-case letters"),
        ({"output": Path(__file__)}, "exists already"),
        ({"output": Path("/nowhere/Box.toml")}, "lower-case letters"),
    ],
)
def test_wrong_use_is_told_before_anybody_is_asked(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        command("no-such-host.invalid", host_key=KEY, **options)
