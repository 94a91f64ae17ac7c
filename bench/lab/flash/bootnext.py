"""UEFI itself: a boot option for the image on the ESP, started once by BootNext, which firmware deletes before it does.

The option is never in BootOrder. Kernels with an EFI stub take their command line from the option's data and the
initrd from ``initrd=`` in it. UEFI 2.10, 3.1.1: the variable is deleted before the option is started.
"""

from __future__ import annotations

import re
import shlex
from contextlib import suppress

from bench.errors import FormatError, LabError
from bench.lab.flash import efivarfs
from bench.lab.flash.load_option import LoadOption, Partition, file_on, gpt_partition, parse_load_option
from bench.lab.flash.oneshot import PREFIX, Arming, Entry, OneShot, done, is_program_of_uefi
from bench.lab.flash.system import GLOBAL, System
from bench.lab.ssh import Ssh

_NEXT, _CURRENT = f"BootNext-{GLOBAL}", f"BootCurrent-{GLOBAL}"
_OPTION = re.compile(rf"Boot([0-9A-F]{{4}})-{GLOBAL}")
# Far from what firmware and installers number from 0, and below what firmware keeps for itself.
_FIRST = 0x0BE0
# Header and entries of a GPT of the usual size lie in so many bytes.
_TABLE_BYTES = 64 << 10


class BootNext(OneShot):
    """UEFI's boot manager."""

    name = "bootnext"

    def objections(self, system: System) -> list[str]:
        """See OneShot."""
        if not system.uefi:
            return ["the machine was not started by UEFI firmware"]
        found = [] if system.efivars else ["UEFI variables cannot be written (efivarfs is not mounted read-write)"]
        if system.esp is None:
            found.append("no ESP is mounted at /boot/efi, /efi or /boot")
        return found

    def image_objections(self, kernel: bytes) -> list[str]:
        """See OneShot."""
        return [] if is_program_of_uefi(kernel) else ["the image has no PE header: UEFI firmware cannot start it"]

    def folder(self, system: System) -> tuple[str, int]:
        """On the ESP."""
        assert system.esp is not None
        return f"{system.esp.mount}/bench", system.esp.free_bytes

    def add(self, ssh: Ssh, system: System, entry: Entry) -> None:
        """See OneShot."""
        assert system.esp is not None
        mount = system.esp.mount
        words = entry.command_line
        if entry.initrd:
            initrd = entry.initrd.removeprefix(mount).replace("/", "\\")
            words = f"initrd={initrd} {words}".rstrip()
        option = LoadOption(
            entry.name, file_on(_partition(ssh, system), entry.kernel.removeprefix(mount)),
            f"{words}\0".encode("utf-16-le"),
        )  # fmt: skip
        self._write(ssh, option)

    def add_twin(self, ssh: Ssh, system: System, token: str) -> Entry:  # noqa: ARG002
        """A copy of the option that has started the running system; BootCurrent tells the two apart."""
        current = efivarfs.read(ssh, _CURRENT)
        name = f"Boot{int.from_bytes(current[:2], 'little'):04X}-{GLOBAL}"
        try:
            option = parse_load_option(efivarfs.read(ssh, name) if current else b"")
        except FormatError as error:
            words = "firmware does not say which boot option has started the running system"
            raise LabError(f"UEFI: {words}: {error}", component="boot loader", witness=name) from error
        # Not its data: by what firmware puts there it knows options of its own making again, and may remove them.
        self._write(ssh, LoadOption(PREFIX + token, option.paths))
        return Entry(token, "", "", "")

    def _write(self, ssh: Ssh, option: LoadOption) -> None:
        there = {int(match[1], 16) for name in efivarfs.names(ssh) if (match := _OPTION.fullmatch(name))}
        number = next(each for each in range(_FIRST, 0x1000) if each not in there)
        efivarfs.write(ssh, f"Boot{number:04X}-{GLOBAL}", option.pack())

    def arming(self, ssh: Ssh, system: System, entry: Entry) -> Arming:  # noqa: ARG002
        """See OneShot."""
        number = next((n for n, option in _options(ssh) if option.description == entry.name), None)
        if number is None:
            words = f"firmware has not kept the boot option {entry.name}"
            raise LabError(f"UEFI: {words}", component="boot loader", witness=words)
        shown = f"od -An -v -tx1 {efivarfs.path(_NEXT)} | tr -d ' \\n'"
        value = number.to_bytes(2, "little")
        expected = efivarfs.ATTRIBUTES.to_bytes(4, "little") + value
        return Arming(f"{efivarfs.writing(_NEXT, value)} && {shown}", expected.hex())

    def pending(self, ssh: Ssh, system: System) -> str:  # noqa: ARG002
        """See OneShot."""
        if not (value := efivarfs.read(ssh, _NEXT)):
            return ""
        number = int.from_bytes(value[:2], "little")
        return next((option.description for n, option in _options(ssh) if n == number), f"Boot{number:04X}")

    def ran(self, ssh: Ssh, system: System, entry: Entry) -> bool:  # noqa: ARG002
        """See OneShot."""
        current = int.from_bytes(efivarfs.read(ssh, _CURRENT)[:2], "little")
        option = efivarfs.read(ssh, f"Boot{current:04X}-{GLOBAL}")
        return bool(option) and parse_load_option(option).description == entry.name

    def withdraw(self, ssh: Ssh, system: System) -> list[str]:
        """See OneShot."""
        removed: list[str] = []
        if (pending := self.pending(ssh, system)).startswith(PREFIX):
            done(ssh, efivarfs.removing(_NEXT), what="delete BootNext")
            removed.append(f"BootNext={pending}")
        for number, option in _options(ssh):
            if option.description.startswith(PREFIX):
                done(ssh, efivarfs.removing(f"Boot{number:04X}-{GLOBAL}"), what=f"delete Boot{number:04X}")
                removed.append(f"Boot{number:04X}")
        return removed


def _options(ssh: Ssh) -> list[tuple[int, LoadOption]]:
    """Number and content of every boot option that can be read."""
    found: list[tuple[int, LoadOption]] = []
    for name in efivarfs.names(ssh):
        if match := _OPTION.fullmatch(name):
            with suppress(FormatError):
                found.append((int(match[1], 16), parse_load_option(efivarfs.read(ssh, name))))
    return found


def _partition(ssh: Ssh, system: System) -> Partition:
    """The ESP's place on its disk."""
    assert system.esp is not None
    name = shlex.quote(system.esp.source.rpartition("/")[2])
    base = f"/sys/class/block/{name}"
    look = f"cat {base}/partition && cat {base}/../queue/logical_block_size && basename $(readlink -f {base}/..)"
    words = done(ssh, look, what=f"find the disk of {system.esp.source}").decode("ascii", "replace").split()
    number, block_bytes, disk = int(words[0]), int(words[1]), shlex.quote(words[2])
    table = done(
        ssh, f"dd if=/dev/{disk} bs={block_bytes} count={_TABLE_BYTES // block_bytes} 2>/dev/null",
        what=f"read the partition table of {disk}",
    )  # fmt: skip
    try:
        return gpt_partition(table, block_bytes, number)
    except FormatError as error:
        raise LabError(f"{system.esp.source}: {error}", component="boot loader", witness=str(error)) from error
