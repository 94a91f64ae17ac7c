"""What the payload will not do under UEFI: it says why, and it is the firmware's turn again."""

from __future__ import annotations

import re
import struct
from pathlib import Path
from urllib.parse import unquote

import pytest

from bench.images import build_payload
from bench.script import render
from bench.uki import build_uki
from tests.lab.payload_machine import LA57, NONCE, ROOT, Boot, until_done, window
from tests.lab.uefi_machine import DEADLINE_S, FALLBACK, MACHINE, boot_files, disk, grub, medium, qemu, small

pytestmark = [pytest.mark.lab, pytest.mark.boot, pytest.mark.slow, pytest.mark.timeout(400)]

SCRIPT = render((window(0, LA57),), nonce=NONCE)
# Where the supervisor says how much memory it needs, from its begin.
MEMORY_BYTES_AT = 0x1D8


def payload() -> bytes:
    return build_payload(ROOT).kernel.read_bytes()


def needs(memory_bytes: int) -> bytes:
    """A payload that asks for so much memory."""
    kernel = bytearray(payload())
    struct.pack_into("<Q", kernel, (kernel[0x1F1] + 1) * 512 + MEMORY_BYTES_AT, memory_bytes)
    return bytes(kernel)


def refusals(data: bytes) -> list[str]:
    return [unquote(why.decode()) for why in re.findall(rb" refuse [^\r\n]*WHY'([^*\r\n]*)\*", data)]


def test_boot_loader_gets_every_refusal_in_words_and_then_a_good_start(tmp_path: Path) -> None:
    """GRUB goes on with its next command, the firmware still works, and its memory has come back."""
    lines = [
        "chainloader /payload.bin quiet",
        "chainloader /payload.bin quiet initrd=/nothing.txt",
        "chainloader /payload.bin initrd=/script.txt quiet initrd=/script.txt",
        "chainloader /payload.bin initrd=/empty.txt",
        f"chainloader /payload.bin initrd=/{'long/' * 60}",
        f"chainloader /payload.bin {'x' * 2100} initrd=/script.txt",
        "chainloader /payload.bin initrd=/large.img",
        "chainloader /greedy.bin initrd=/script.txt",
        "chainloader /payload.bin not.initrd=/nothing.txt initrd=/script.txt",
    ]
    files = grub(tmp_path, "".join(f"{line}\nboot\n" for line in lines))
    large = tmp_path / "large.img"
    with large.open("wb") as out:
        out.truncate(240 << 20)
    more = {
        "payload.bin": payload(),
        "greedy.bin": needs(3 << 30),
        "script.txt": SCRIPT,
        "empty.txt": b"",
        "large.img": large,
    }
    data = boot_files(tmp_path, {**files, **more}, machine=small(256), times=len(lines), mib=320)
    assert refusals(data) == [
        "UEFI: there is no script: no loader offers an initrd, and no initrd= names one",
        "UEFI: initrd=: there is no such file",
        "UEFI: more than one initrd= on the command line",
        "UEFI: the script is empty",
        "UEFI: initrd=: the path is longer than 255 characters",
        "UEFI: the command line is longer than 2047 characters",
        "UEFI: no memory for the script: bytes 0xf000000 below 0x80000000",
        "UEFI: no free RAM for the program itself: bytes 0xc0000000 between 1 MiB and 4 GiB",
    ]
    assert Boot(data[data.rindex(b"@0 begin") :]).kinds(0) == "begin boot end"


def test_firmware_goes_on_to_its_next_boot_option(tmp_path: Path) -> None:
    """A medium that cannot be used does not keep the machine from its known-good system behind it."""
    bad = medium(tmp_path / "bad.img", {FALLBACK: payload()})
    good = medium(tmp_path / "good.img", {FALLBACK: build_uki(payload(), SCRIPT, "quiet")})
    data = until_done(qemu(MACHINE, *disk(bad, 1), *disk(good, 2)), deadline_s=DEADLINE_S, times=2)
    assert len(refusals(data)) == 1
    assert Boot(data[data.index(b"@0 begin") :]).kinds(0) == "begin boot end"


def test_loader_that_hands_over_without_a_script_is_left_for_the_next_boot_option(tmp_path: Path) -> None:
    bad = medium(
        tmp_path / "bad.img", {**grub(tmp_path, "linuxefi /payload.bin quiet\nboot\n"), "payload.bin": payload()}
    )
    good = medium(tmp_path / "good.img", {FALLBACK: build_uki(payload(), SCRIPT, "quiet")})
    data = until_done(qemu(MACHINE, *disk(bad, 1), *disk(good, 2)), deadline_s=DEADLINE_S, times=2)
    assert refusals(data) == ["UEFI: there is no script: the loader has brought no initrd"]
    assert Boot(data[data.index(b"@0 begin") :]).kinds(0) == "begin boot end"


def test_program_that_comes_from_no_file_system_does_not_look_for_one(tmp_path: Path) -> None:
    """A unified kernel image starts its kernel from memory."""
    data = boot_files(tmp_path, {FALLBACK: build_uki(payload(), b"", "quiet initrd=/script.txt")})
    assert refusals(data) == ["UEFI: initrd=: there is no file system where this was loaded from"]


def test_refusal_goes_to_the_port_that_was_asked_for(tmp_path: Path) -> None:
    image = medium(tmp_path / "esp.img", {FALLBACK: build_uki(payload(), b"", "bench.uart=0x2f8")})
    command = qemu(MACHINE, *disk(image))
    at = command.index("-serial")
    command[at:at] = ["-serial", "null"]
    assert refusals(until_done(command, deadline_s=DEADLINE_S)) == [
        "UEFI: there is no script: no loader offers an initrd, and no initrd= names one"
    ]
