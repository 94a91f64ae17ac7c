"""UEFI variables of a running Linux, by the files that efivarfs makes of them: attributes (4 bytes), then the value.

A value is one write. The kernel makes files of vendors' variables immutable (Documentation/filesystems/efivarfs.rst).
"""

from __future__ import annotations

import shlex

from bench.lab.flash.oneshot import ask, done
from bench.lab.flash.system import EFIVARS
from bench.lab.ssh import Ssh

# NON_VOLATILE, BOOTSERVICE_ACCESS, RUNTIME_ACCESS (UEFI 2.10, 8.2.1).
ATTRIBUTES = 7


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


def write(ssh: Ssh, name: str, value: bytes) -> None:
    """Set a variable to a value of any length. Raises LabError."""
    file = path(name)
    unlock = f"{{ [ ! -e {file} ] || chattr -i {file}; }}"
    command = f"t=$(mktemp) && cat >$t && {unlock} && dd if=$t of={file} bs=64k 2>/dev/null; r=$?; rm -f $t; exit $r"
    done(ssh, command, what=f"set UEFI variable {name}", stdin=ATTRIBUTES.to_bytes(4, "little") + value)


def names(ssh: Ssh) -> list[str]:
    """All variables."""
    return ask(ssh, f"ls -1 {EFIVARS}").output.decode("ascii", "replace").split()
