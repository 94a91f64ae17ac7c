"""GRUB: an entry in custom.cfg, started once by next_entry in its environment block.

grub.cfg as grub-mkconfig writes it takes next_entry before saved_entry, clears it and saves that before it starts
anything, and reads custom.cfg last, so that no number of a default entry shifts. Whether it can save depends on the
file system, on LVM and on RAID: the proof tells.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping

from bench.errors import LabError
from bench.lab.flash import files
from bench.lab.flash.oneshot import PREFIX, WORD, Addition, Arming, Entry, Left, OneShot, done, said
from bench.lab.flash.system import System
from bench.lab.ssh import Ssh
from bench.lab.text import escape

BEGIN, END = b"# bench: begin (removed by the bench after the boot)\n", b"# bench: end\n"
GLUED = b"# bench: the line feed in front of this is the bench's too\n"
_FIRST, _LAST, _GLUED = (mark.decode().strip() for mark in (BEGIN, END, GLUED))


def _literal(text: str) -> str:
    """For a basic regular expression."""
    return "".join(f"\\{char}" if char in "/.*[]^$\\" else char for char in text)


THEIRS = f"sed {shlex.quote(f'/^{_literal(_FIRST)}$/,/^{_literal(_LAST)}$/d')}"
"""Shell command that prints a custom.cfg, its argument, without what is ours."""
_BLOCK = re.compile(
    rb"\n" + re.escape(BEGIN + GLUED) + rb".*?" + re.escape(END) + rb"|" + re.escape(BEGIN) + rb".*?" + re.escape(END),
    re.DOTALL,
)
# A last line that was not ended gets its end from us, and the block says so in its second line.
_ENDED = """\
g=
[ ! -s {custom} ] || { grep -qxF {glued} {custom} && g=1; } || [ -z "$(tail -c 1 {custom})" ] || { echo; g=1; }
[ -z "$g" ] || { IFS= read -r b && printf '%s\\n%s\\n' "$b" {glued}; }
"""
_SAFE = re.compile(r"[A-Za-z0-9_@%+=:,./-]+")
_LINUX = re.compile(rb"^\s*linux(?:16|efi)?\s+(\S+)(.*)$")
_INITRD = re.compile(rb"^\s*initrd(?:16|efi)?\s+(.*)$")
_ENTRY = re.compile(rb"^\s*(?:menuentry|submenu)\s")


class Grub(OneShot):
    """GRUB 2, for BIOS and for UEFI."""

    name = "grub"
    questions = f"""
f=${{g:+${{g%/*}}/bench}} e=$(command -v grub-editenv || command -v grub2-editenv)
echo @pending; [ -z "$g" ] || "$e" "$g/grubenv" list | sed -n 's/^next_entry=//p'
echo @entries; [ ! -e "$g/custom.cfg" ] || grep -cxF {shlex.quote(_FIRST)} "$g/custom.cfg"
"""

    def objections(self, system: System) -> list[str]:
        """See OneShot."""
        if not system.grub:
            return [f"no grub.cfg in {system.boot.mount}: GRUB does not start this machine, or not from there"]
        wanted = {"next_entry": "knows no next_entry", "save_env next_entry": "does not clear next_entry",
                  "custom.cfg": "does not read custom.cfg"}  # fmt: skip
        found = [f"{system.grub}/grub.cfg {lacks}" for word, lacks in wanted.items() if word not in system.grub_has]
        if "grubenv" not in system.grub_has:
            found.append(f"{system.grub} has no grubenv: `grub-editenv {system.grub}/grubenv create`")
        if not _editor(system):
            found.append("no grub-editenv on the machine")
        return found

    def image_objections(self, kernel: bytes) -> list[str]:  # noqa: ARG002
        """GRUB starts whatever speaks Linux's boot protocol."""
        return []

    def folder(self, system: System) -> tuple[str, int]:
        """In /boot."""
        return f"{_boot_folder(system)}/bench", system.boot.free_bytes

    def left(self, answers: Mapping[str, str]) -> Left:
        """See OneShot."""
        return Left(answers["pending"], answers["entries"] not in ("", "0"))

    def adding(self, system: System, answers: Mapping[str, str], entry: Entry) -> Addition:  # noqa: ARG002
        """See OneShot."""
        kernel, initrd = (_as_grub_sees(system, path) for path in (entry.kernel, entry.initrd))
        return self._addition(system, entry, kernel, initrd, _quoted(entry.command_line))

    def twin(self, ssh: Ssh, system: System, answers: Mapping[str, str], token: str) -> tuple[Entry, Addition]:  # noqa: ARG002
        """The entry in grub.cfg that has started the running system, with one more word."""
        path, words, initrd = _running_entry(files.read(ssh, f"{system.grub}/grub.cfg"), system)
        entry = Entry(token, path, initrd, f"{words} {WORD}{token}".strip())
        return entry, self._addition(system, entry, path, initrd, entry.command_line)

    def _addition(self, system: System, entry: Entry, kernel: str, initrd: str, words: str) -> Addition:
        lines = [
            f"menuentry '{entry.name}' --id {entry.name} {{",
            f"  search --no-floppy --file --set=root {kernel}",
            f"  linux {kernel} {words}".rstrip(),
            *([f"  initrd {initrd}"] if initrd else []),
            "}",
        ]
        custom = shlex.quote(_custom(system))
        marks = (f"$(grep -cxF {shlex.quote(mark)} {custom} 2>/dev/null)" for mark in (_FIRST, _LAST))
        # Else what is behind the first mark would go with it.
        whole = f'[ "{next(marks)}" = "{next(marks)}" ] || {{ echo "its marks of the bench do not match" >&2; false; }}'
        ended = _ENDED.replace("{custom}", custom).replace("{glued}", shlex.quote(_GLUED))
        both = f"{{ {{ [ ! -e {custom} ] || {THEIRS} {custom}; }} && {{ {ended} }} && cat; }}"
        setting = f"next_entry={entry.name}"
        return Addition(
            f"{{ {whole}; }} && {files.replacing(_custom(system), both)}",
            BEGIN + "\n".join([*lines, ""]).encode() + END,
            Arming(_changing(system, f"set {setting}"), _listing(system), setting, _clearing(system)),
        )

    def pending(self, ssh: Ssh, system: System) -> str:
        """See OneShot."""
        return said(ssh, _listing(system)).removeprefix("next_entry=")

    def ran(self, ssh: Ssh, system: System, entry: Entry) -> bool:  # noqa: ARG002
        """See OneShot."""
        return f"{WORD}{entry.token}" in said(ssh, "cat /proc/cmdline").split()

    def withdraw(self, ssh: Ssh, system: System) -> list[str]:
        """See OneShot."""
        removed: list[str] = []
        if (pending := self.pending(ssh, system)).startswith(PREFIX):
            done(ssh, _clearing(system), what="unset next_entry")
            removed.append(f"next_entry={pending}")
        content = files.read(ssh, _custom(system))
        if (kept := without_ours(content)) != content:
            if kept:
                files.replace(ssh, _custom(system), kept)
            else:
                files.remove(ssh, _custom(system))
            removed.append("entry in custom.cfg")
        return removed


def without_ours(content: bytes) -> bytes:
    """custom.cfg as it is without the bench."""
    return _BLOCK.sub(b"", content)


def _custom(system: System) -> str:
    return f"{system.grub}/custom.cfg"


def _listing(system: System) -> str:
    return f"{_editor(system)} {shlex.quote(f'{system.grub}/grubenv')} list | grep '^next_entry=.'"


def _clearing(system: System) -> str:
    return _changing(system, "unset next_entry")


def _changing(system: System, order: str) -> str:
    """Shell command that changes the environment block where it lies on the disk, as GRUB itself does.

    grub-editenv 2.06 writes it anew, elsewhere, and where it lies then is at first told by the file system's journal
    alone. GRUB replays none: a power cut before the file system is unmounted would have it start the default, and leave
    the one-shot set for some later boot.
    """
    block = shlex.quote(f"{system.grub}/grubenv")
    changed = f"cp {block} $t && {_editor(system)} $t {order} && dd if=$t of={block} bs=1k conv=notrunc 2>/dev/null"
    return f"{{ t=$(mktemp) && {changed} && sync {block}; r=$?; rm -f $t; [ $r = 0 ]; }}"


def _editor(system: System) -> str:
    return next((name for name in ("grub-editenv", "grub2-editenv") if name in system.tools), "")


def _boot_folder(system: System) -> str:
    return system.grub.rpartition("/")[0]


def _as_grub_sees(system: System, path: str) -> str:
    """A path from the root of the file system that it lies on."""
    mount = system.boot.mount.rstrip("/")
    return path.removeprefix(mount) if path else ""


def _quoted(command_line: str) -> str:
    """Words of a command line so that GRUB's shell leaves them alone."""
    words = command_line.split(" ")
    return " ".join(word if _SAFE.fullmatch(word) or not word else _single(word) for word in words)


def _single(word: str) -> str:
    return "'" + word.replace("'", "'\"'\"'") + "'"


def _running_entry(config: bytes, system: System) -> tuple[str, str, str]:
    """Kernel, words and initrd of the entry in grub.cfg by which the running system was started."""
    image, _, words = system.command_line.partition(" ")
    wanted = image.removeprefix("BOOT_IMAGE=").rpartition(")")[2]
    found = ("", "", "")
    for line in config.splitlines():
        if _ENTRY.match(line) and found[0]:
            break
        if (match := _LINUX.match(line)) and not found[0]:
            path, there = escape(match[1]), " ".join(escape(match[2]).split())
            if path.rpartition(")")[2] == wanted and _plain(there) == _plain(words):
                found = (path.rpartition(")")[2], escape(match[2]).strip(), "")
        elif (match := _INITRD.match(line)) and found[0] and not found[2]:
            found = (found[0], found[1], " ".join(escape(match[1]).split()))
    if not found[0]:
        raise LabError(
            f"GRUB: no entry of {system.grub}/grub.cfg is what has started the running system, {image}: reboot the "
            "machine into its default first",
            component="boot loader",
            witness=system.command_line,
        )
    return found


def _plain(words: str) -> list[str]:
    """Words without GRUB's quotes and without what its scripts left empty."""
    return [word for word in re.sub(r"[\"'\\]", "", words).split() if not word.startswith("$")]
