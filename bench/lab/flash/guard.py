"""The machine's default, as far as a boot loader goes by it: the same before and after, or somebody has touched it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from bench.errors import LabError
from bench.lab.fingerprint import split_answers
from bench.lab.flash.grub import BEGIN, END
from bench.lab.flash.oneshot import COMMAND_S, PREFIX
from bench.lab.flash.system import System
from bench.lab.ssh import Ssh


def read_default(ssh: Ssh, system: System) -> dict[str, str]:
    """Name → hash or value of everything that decides what is started without a one-shot. Raises LabError."""
    begin, end = (mark.decode().strip() for mark in (BEGIN, END))
    lines = ["PATH=$PATH:/usr/sbin:/sbin:/usr/bin:/bin"]
    if system.grub:
        folder = shlex.quote(system.grub)
        between = f"/^{_literal(begin)}$/,/^{_literal(end)}$/d"
        lines += [
            f"echo '@grub.cfg'; sha256sum <{folder}/grub.cfg",
            f"echo '@custom.cfg'; {{ [ ! -e {folder}/custom.cfg ] || sed {shlex.quote(between)} {folder}/custom.cfg; }}"
            " | sha256sum",
            f"echo '@saved_entry'; grep -a '^saved_entry=' {folder}/grubenv",
        ]
    if system.loader:
        folder = shlex.quote(f"{system.loader}/loader")
        lines += [
            f"echo '@loader.conf'; sha256sum <{folder}/loader.conf",
            f"for f in {folder}/entries/*.conf; do case ${{f##*/}} in {PREFIX}*) ;; *)"
            ' [ -e "$f" ] && { echo "@entry ${f##*/}"; sha256sum <"$f"; };; esac; done',
        ]
    if system.uefi:
        lines += [
            f"for n in {' '.join(_VARIABLES)}; do f=/sys/firmware/efi/efivars/$n; "
            "[ -e $f ] && { echo \"@${n%%-*}\"; od -An -v -tx1 $f | tr -d ' \\n'; echo; }; done",
        ]
    done = ssh.run("\n".join([*lines, "echo @end"]), timeout_s=COMMAND_S)
    said = split_answers(done.output)
    if "end" not in said:
        raise LabError(f"{ssh.component}: its boot loader's default cannot be read", component=ssh.component)
    return {name: value for name, value in said.items() if name != "end"}


_VARIABLES = (
    "BootOrder-8be4df61-93ca-11d2-aa0d-00e098032b8c",
    "LoaderEntryDefault-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f",
)


def require_untouched(machine: str, before: Mapping[str, str], after: Mapping[str, str]) -> None:
    """Raise LabError (component ``boot loader``) that names each difference."""
    names = [*before, *(name for name in after if name not in before)]
    changed = [name for name in names if before.get(name) != after.get(name)]
    if changed:
        words = "; ".join(
            f"{name} was {before.get(name, 'not there')}, is {after.get(name, 'gone')}" for name in changed
        )
        raise LabError(
            f"{machine}: the boot loader's default has changed while an image was loaded: {words}",
            component="boot loader",
            witness=words,
        )


def _literal(text: str) -> str:
    """For a basic regular expression."""
    return "".join(f"\\{char}" if char in "/.*[]^$\\" else char for char in text)
