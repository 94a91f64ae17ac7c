"""How far a load came over the network: the first missing step, its witness, and the words of loaders and firmware."""

from __future__ import annotations

import pytest

from bench.judge import judge
from bench.loading import first_missing, own_system_to_end_s
from bench.parse.boot_words import Saying, refused_by_secure_boot, sayings
from bench.records import Capture, LabEvent, LabEventKind, Verdict

STEPS = "discover offer lease loader script kernel initrd"
CAME = STEPS.split()


def capture(*loading: dict[str, str], data: bytes = b"", steps: str = STEPS) -> Capture:
    loaded = LabEvent(LabEventKind.LOADED, 0.0, 0, {"loader": "network: ipxe", "steps": steps} if steps else {})
    events = [LabEvent(LabEventKind.LOADING, float(n + 1), 0, witness) for n, witness in enumerate(loading)]
    end = LabEvent(LabEventKind.SILENCE, 99.0, len(data), {"limit": "10 s without a byte"})
    return Capture("box", data, events=(loaded, *events, end), scenarios={0: "ping-pong"}, image="early-pf/v3.9")


def came(count: int) -> list[dict[str, str]]:
    return [{"step": step, "bytes": "88"} for step in CAME[:count]]


@pytest.mark.parametrize(
    ("count", "component", "words"),
    [
        (0, "network card", "the machine has not asked for an address"),
        (1, "DHCP", "was offered none"),
        (2, "DHCP", "did not take it"),
        (3, "TFTP", "the boot loader was not fetched"),
        (4, "boot loader", "did not fetch its script"),
        (5, "boot loader", "the kernel was not fetched"),
        (6, "boot loader", "the initrd was not fetched"),
        (7, "boot loader", "all was fetched"),
    ],
)
def test_the_verdict_names_the_first_missing_step(count: int, component: str, words: str) -> None:
    judgement = judge([capture(*came(count))])
    assert judgement.verdict is Verdict.MISS
    (finding,) = judgement.scenarios[0].findings
    assert finding.component == component and words in finding.summary
    last = "none" if count == 0 else f"{CAME[count - 1]} at {count}.00 s (bytes 88)"
    assert finding.witness["last step"] == last


def test_a_step_that_a_proxy_does_not_see_is_not_missing() -> None:
    finding = first_missing(capture({"step": "offer"}, {"step": "loader"}))
    assert finding is not None and "did not fetch its script" in finding.summary


def test_what_broke_since_the_last_step_is_named_and_what_was_overcome_is_not() -> None:
    broken = {"step": "HTTP", "what": "broken: kernel: timed out", "bytes": "65536"}
    finding = first_missing(capture(*came(5), broken))
    assert finding is not None
    assert (finding.component, finding.summary) == ("HTTP", "the kernel was not fetched: broken: kernel: timed out")
    assert finding.witness["trouble"] == "HTTP at 6.00 s (bytes 65536)"
    overcome = first_missing(capture(broken, *came(6)))
    assert overcome is not None and overcome.component == "boot loader"


def test_a_dead_server_outranks_all() -> None:
    dead = {"step": "trouble", "component": "dnsmasq", "what": "dnsmasq (pid 7) ended by itself, signal 9"}
    finding = first_missing(capture(*came(1), dead, {"step": "lease"}))
    assert finding is not None and finding.component == "dnsmasq" and "signal 9" in finding.summary


def test_a_boot_that_was_not_loaded_over_the_network_is_not_spoken_of() -> None:
    assert first_missing(capture(*came(2), steps="")) is None


REAL = (
    b"\x1b[2JSeaBIOS (version 1.16.2-debian-1.16.2-1)\r\n\r\niPXE (http://ipxe.org) 00:02.0 C000 PCI2.10\r\n"
    b"Booting from ROM...\r\niPXE initialising devices...ok\r\n\x1b[1miPXE 1.0.0+git\x1b[0m -- Open Source\r\n"
    b"http://10.77.0.1:8069/x/kernel... ok\r\nCould not select: Exec format error (http://ipxe.org/2e008081)\r\n"
)


def test_firmware_and_loaders_are_told_apart_by_their_lines() -> None:
    said = sayings(REAL)
    assert [one.who for one in said] == ["BIOS firmware", "BIOS firmware", "iPXE", "iPXE", "iPXE"]
    assert said[-1].complaint and "Exec format error" in said[-1].words
    assert all(one.words.split()[0].encode() in REAL[one.offset :] for one in said)
    finding = first_missing(capture(*came(6), data=REAL))
    assert finding is not None and "Exec format error" in finding.witness["complaint"]


@pytest.mark.parametrize(
    ("line", "who", "complaint"),
    [
        (b'BdsDxe: starting Boot0001 "UEFI PXEv4 (MAC:525400770001)" from PciRoot(0x0)', "UEFI firmware", False),
        (b">>Start PXE over IPv4.", "UEFI firmware", False),
        (b"PXE-E18: Server response timeout.", "UEFI firmware", True),
        (b"PXELINUX 6.04 lwIP 20190206 Copyright (C) 1994-2015 H. Peter Anvin et al", "PXELINUX", False),
        (b"error: unsupported HTTP error 410: Gone.", "GRUB", True),
        (b"No bootable device.", "BIOS firmware", True),
    ],
)
def test_a_real_line(line: bytes, who: str, complaint: bool) -> None:
    (said,) = sayings(b"\r\n" + line + b"\r\n")
    assert (said.who, said.complaint, said.offset) == (who, complaint, 2)


def test_a_kernel_s_lines_are_nobody_s() -> None:
    assert sayings(b"[    0.000000] Linux version 6.1.192\r\n@0 begin W1*00\r\nGRUB_CMDLINE=x\r\n") == ()


def test_secure_boot_is_the_reason_where_firmware_says_so() -> None:
    line = b'BdsDxe: failed to load Boot0001 "UEFI PXEv4" from PciRoot(0x0): Access Denied\r\n'
    assert refused_by_secure_boot(Saying(0, "UEFI firmware", line.decode(), True))
    finding = first_missing(capture(*came(4), data=line))
    assert finding is not None and finding.component == "firmware" and "Secure Boot" in finding.summary


def test_the_time_of_a_load_is_from_its_own_systems_answer_to_the_last_record_without_the_proof() -> None:
    answers, proved, upload = ({"step": step} for step in ("known-good system answers", "proved", "uploading"))
    marker = LabEvent(LabEventKind.MARKER, 9.0, 0)
    back = LabEvent(LabEventKind.LOADING, 20.0, 0, answers)
    assert own_system_to_end_s([*capture(answers, upload).events[1:-1], marker, back]) == 8.0
    assert own_system_to_end_s([*capture(answers, proved, upload).events[1:-1], marker]) == 7.0
    assert own_system_to_end_s([*capture(upload).events, marker]) is None
    assert own_system_to_end_s(capture(answers).events) is None
