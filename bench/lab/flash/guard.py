"""The machine's default, as far as a boot loader goes by it: the same before and after, or somebody has touched it."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping

from bench.errors import LabError
from bench.lab.fingerprint import split_answers
from bench.lab.flash.grub import THEIRS
from bench.lab.flash.oneshot import COMMAND_S, PREFIX
from bench.lab.flash.system import EFIVARS, System
from bench.lab.ssh import Ssh

_MARK = "default "
_VARIABLES = (
    "BootOrder-8be4df61-93ca-11d2-aa0d-00e098032b8c",
    "LoaderEntryDefault-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f",
)
# One that is not there is an empty one.
_NONE = f"{hashlib.sha256().hexdigest()}  -"
# Uses $g, $l and $v of the system's questions.
QUESTIONS = f"""
if [ -n "$g" ]; then
    echo '@default grub.cfg'; sha256sum <"$g/grub.cfg"
    echo '@default custom.cfg'
    if [ -e "$g/custom.cfg" ]; then printf %s "$({THEIRS} "$g/custom.cfg")" | sha256sum; else echo '{_NONE}'; fi
    echo '@default saved_entry'
    while read -r x; do case $x in saved_entry=*) echo "$x";; esac; done <"$g/grubenv"
fi
if [ -n "$l" ]; then
    echo '@default loader.conf'; sha256sum <"$l/loader/loader.conf"
    for f in "$l"/loader/entries/*.conf; do case ${{f##*/}} in
        {PREFIX}*) ;;
        *) [ -e "$f" ] && {{ echo "@default entry ${{f##*/}}"; sha256sum <"$f"; }};;
    esac; done
fi
for n in {" ".join(_VARIABLES)}; do
    [ -e "$v/$n" ] && {{ echo "@default ${{n%%-*}}"; od -An -v -tx1 "$v/$n" | tr -d ' \\n'; echo; }}
done
"""


def read_default(ssh: Ssh, system: System) -> dict[str, str]:
    """Name → hash or value of everything that decides what is started without a one-shot. Raises LabError."""
    done = ssh.run(default_question(system), timeout_s=COMMAND_S)
    return default_told(ssh, split_answers(done.output))


def default_question(system: System) -> str:
    """Shell that asks for it on a machine that is known already; `default_told` reads the answer."""
    known = f"g={shlex.quote(system.grub)} l={shlex.quote(system.loader)} v={EFIVARS if system.uefi else '/nowhere'}"
    return f"PATH=$PATH:/usr/sbin:/sbin:/usr/bin:/bin\n{known}\n{QUESTIONS}\necho @end\n"


def default_told(ssh: Ssh, said: Mapping[str, str]) -> dict[str, str]:
    """The default out of answers. Raises LabError if they are not whole."""
    if "end" not in said:
        raise LabError(f"{ssh.component}: its boot loader's default cannot be read", component=ssh.component)
    return {name.removeprefix(_MARK): value for name, value in said.items() if name.startswith(_MARK)}


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
