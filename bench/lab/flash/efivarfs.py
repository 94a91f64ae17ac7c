"""UEFI variables of a running Linux, by the files that efivarfs makes of them: attributes (4 bytes), then the value.

A value is one write. The kernel makes files of vendors' variables immutable (Documentation/filesystems/efivarfs.rst).
"""

from __future__ import annotations

import shlex

from bench.lab.flash.oneshot import ask
from bench.lab.flash.system import EFIVARS, System
from bench.lab.ssh import Ssh

# NON_VOLATILE, BOOTSERVICE_ACCESS, RUNTIME_ACCESS (UEFI 2.10, 8.2.1).
ATTRIBUTES = 7


def objections(system: System) -> list[str]:
    """What is in the way of setting variables and deleting them again."""
    if not system.uefi:
        return ["the machine was not started by UEFI firmware"]
    found = [] if system.efivars else ["UEFI variables cannot be written (efivarfs is not mounted read-write)"]
    if missing := {"chattr", "dd", "od"} - system.tools:
        found.append(
            f"no {', '.join(sorted(missing))} on the machine: a variable could be set and not be deleted again"
        )
    return found


def path(name: str) -> str:
    """The file of a variable, ``Name-guid``."""
    return shlex.quote(f"{EFIVARS}/{name}")


def writing(name: str, value: bytes) -> str:
    """Shell command that sets a variable to a short `value`."""
    octal = "".join(f"\\{byte:03o}" for byte in ATTRIBUTES.to_bytes(4, "little") + value)
    file = path(name)
    unlock = f"{{ [ ! -e {file} ] || chattr -i {file}; }}"
    return f"{unlock} && printf '{octal}' | dd of={file} bs=64k 2>/dev/null && sync"


def removing(name: str) -> str:
    """Shell command that deletes a variable."""
    file = path(name)
    return f"{{ [ ! -e {file} ] || {{ chattr -i {file}; rm -f {file}; }}; }} && sync"


def read(ssh: Ssh, name: str) -> bytes:
    """Value of a variable; empty if it does not exist."""
    return ask(ssh, f"cat {path(name)} 2>/dev/null").output[4:]


def storing(name: str, value: bytes) -> tuple[str, bytes]:
    """Shell command that sets a variable to a value of any length, and fails if it is not kept; its input."""
    file, whole = path(name), ATTRIBUTES.to_bytes(4, "little") + value
    unlock = f"{{ [ ! -e {file} ] || chattr -i {file}; }}"
    kept = f'[ "$({showing(name)})" = {whole.hex()} ] || {{ echo "firmware has not kept {name}" >&2; false; }}'
    command = f"t=$(mktemp) && cat >$t && {unlock} && dd if=$t of={file} bs=64k 2>/dev/null; r=$?; rm -f $t"
    return f"{{ {command}; [ $r = 0 ]; }} && {{ {kept}; }}", whole


def showing(name: str) -> str:
    """Shell command that prints attributes and value of a variable in hexadecimal digits."""
    return f"od -An -v -tx1 {path(name)} 2>/dev/null | tr -d ' \\n'"


def value_of(shown: str) -> bytes:
    """The value out of what `showing` printed; empty if there was no such variable."""
    try:
        return bytes.fromhex(shown)[4:]
    except ValueError:
        return b""
