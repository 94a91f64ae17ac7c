"""systemd-boot: an entry file, started once by the variable LoaderEntryOneShot, which it deletes before it starts it.

The default has to be named: without a name it is the first in an order in which a new entry may come first.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping

from bench.errors import LabError
from bench.lab.flash import efivarfs, files
from bench.lab.flash.oneshot import (
    PREFIX,
    WORD,
    Addition,
    Arming,
    Entry,
    Left,
    OneShot,
    done,
    is_program_of_uefi,
    said,
)
from bench.lab.flash.system import LOADER, System
from bench.lab.ssh import Ssh

_VARIABLE = f"LoaderEntryOneShot-{LOADER}"
_SHOWING = f"tail -c +5 {efivarfs.path(_VARIABLE)} 2>/dev/null | tr -d '\\000'"


class SystemdBoot(OneShot):
    """systemd-boot, from any release that takes Boot Loader Specification entries."""

    name = "systemd-boot"
    questions = f"""
f=${{l:+$l/bench}}
echo @pending; text {_VARIABLE}
echo @entries; [ -z "$l" ] || ls "$l/loader/entries" | grep '^{PREFIX}'
"""

    def objections(self, system: System) -> list[str]:
        """See OneShot."""
        found = efivarfs.objections(system)
        if not system.uefi:
            return found
        if not system.loader or not system.loader_info.startswith("systemd-boot"):
            return [
                f"systemd-boot has not started this system ({system.loader_info or 'no boot loader says its name'})"
            ]
        default = default_entry(system)
        if not default:
            found.append(f"{system.loader}/loader/loader.conf names no default: a new entry might become it")
        elif default.startswith("@"):
            found.append(f"the default is {default}: what was started last, so that a one-shot would stay")
        elif fnmatch.fnmatch(f"{PREFIX}0.conf", default):
            found.append(f"the default is a pattern, {default}, that a new entry fits too")
        return found

    def image_objections(self, kernel: bytes) -> list[str]:
        """See OneShot."""
        return [] if is_program_of_uefi(kernel) else ["the image has no PE header: UEFI firmware cannot start it"]

    def folder(self, system: System) -> tuple[str, int]:
        """On the partition that has loader/."""
        room = system.esp if system.esp is not None and system.esp.mount == system.loader else system.boot
        return f"{system.loader}/bench", room.free_bytes

    def left(self, answers: Mapping[str, str]) -> Left:
        """See OneShot."""
        return Left(answers["pending"], bool(answers["entries"]))

    def adding(self, system: System, answers: Mapping[str, str], entry: Entry) -> Addition:  # noqa: ARG002
        """See OneShot."""
        lines = [f"linux {entry.kernel.removeprefix(system.loader)}"]
        lines += [f"initrd {entry.initrd.removeprefix(system.loader)}"] if entry.initrd else []
        return self._addition(system, entry.name, [*lines, f"options {entry.command_line}"])

    def twin(self, ssh: Ssh, system: System, answers: Mapping[str, str], token: str) -> tuple[Entry, Addition]:  # noqa: ARG002
        """The entry that has started the running system, with one more word."""
        selected = system.loader_selected
        path = f"{_entries(system)}/{selected.removesuffix('.conf')}.conf"
        text = files.read(ssh, path).decode("utf-8", "replace")
        lines = [line.strip() for line in text.splitlines()]
        if not any(line.split(None, 1)[:1] in (["linux"], ["efi"]) for line in lines):
            raise LabError(
                f"systemd-boot: {path} has no linux or efi line, and the running system is said to come from it",
                component="boot loader",
                witness=selected,
            )
        kept = [line for line in lines if line.split(None, 1)[:1] not in (["title"], ["sort-key"], ["version"])]
        entry = Entry(token, "", "", f"{WORD}{token}")
        return entry, self._addition(system, entry.name, [*kept, f"options {entry.command_line}"])

    def _addition(self, system: System, name: str, lines: list[str]) -> Addition:
        value = f"{name}.conf"
        setting = efivarfs.writing(_VARIABLE, f"{value}\0".encode("utf-16-le"))
        return Addition(
            files.replacing(f"{_entries(system)}/{value}"),
            "\n".join([f"title {name}", *lines, ""]).encode(),
            Arming(setting, _SHOWING, value, efivarfs.removing(_VARIABLE)),
        )

    def pending(self, ssh: Ssh, system: System) -> str:  # noqa: ARG002
        """See OneShot."""
        return said(ssh, _SHOWING)

    def ran(self, ssh: Ssh, system: System, entry: Entry) -> bool:  # noqa: ARG002
        """See OneShot."""
        return f"{WORD}{entry.token}" in said(ssh, "cat /proc/cmdline").split()

    def withdraw(self, ssh: Ssh, system: System) -> list[str]:
        """See OneShot."""
        removed: list[str] = []
        if (pending := self.pending(ssh, system)).startswith(PREFIX):
            done(ssh, efivarfs.removing(_VARIABLE), what="delete LoaderEntryOneShot")
            removed.append(f"LoaderEntryOneShot={pending}")
        ours = fnmatch.filter(files.listed(ssh, _entries(system)), f"{PREFIX}*.conf")
        files.remove(ssh, *(f"{_entries(system)}/{name}" for name in ours))
        return removed + ours


def default_entry(system: System) -> str:
    """Name or pattern of the default entry, as systemd-boot chooses it; empty: none is named."""
    if system.loader_default:
        return system.loader_default
    for line in system.loader_conf.splitlines():
        words = line.split(None, 1)
        if words[:1] == ["default"] and len(words) > 1:
            return words[1].strip()
    return ""


def _entries(system: System) -> str:
    return f"{system.loader}/loader/entries"
