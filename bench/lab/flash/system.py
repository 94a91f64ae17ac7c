"""What a machine's known-good system says of everything that flashing depends on: one question, one answer.

Plain files and tools that busybox has too. What cannot be read is empty; `refusals` decides what that means.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field

from bench.errors import LabError
from bench.lab.fingerprint import split_answers
from bench.lab.ssh import Ssh
from bench.lab.text import escape

BOOT = "/boot"
EFIVARS = "/sys/firmware/efi/efivars"
GLOBAL = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
"""EFI_GLOBAL_VARIABLE (UEFI 2.10, 3.3)."""
LOADER = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
"""Vendor of the variables of systemd's boot loader interface."""
TOOLS = ("sha256sum", "sync", "dd", "od", "chattr", "kexec", "grub-editenv", "grub2-editenv", "poweroff")
ANSWER_S = 60.0

# Every part prints its own name first; the shell does what it can by itself, since a program takes as long to start as
# all else here. $boot is set in front of it. What others ask behind it may use $v (UEFI's variables), $g (GRUB's
# folder), $l (the folder that has loader/) and $esp; each is empty where there is none.
_QUESTIONS = r"""
v=/sys/firmware/efi/efivars esp=
line() { [ -r "$1" ] && read -r x <"$1" && echo "$x"; }
text() { [ ! -e "$v/$1" ] || { tail -c +5 "$v/$1" | tr -d '\000'; echo; }; }
layers() {
    for b in "$@"; do
        dm=/sys/class/block/$b/dm
        [ -f $dm/uuid ] && echo "$(cut -d- -f1 $dm/uuid) $(cat $dm/name)"
        [ -d /sys/class/block/$b/md ] || [ -d /sys/class/block/$b/../md ] && echo RAID $b
        for d in /sys/class/block/$b/slaves/*; do [ -e "$d" ] && layers "${d##*/}"; done
    done
}
under() {
    s=$1
    [ ! -L "$s" ] || s=$(readlink -f "$s")
    # Without udev the name of a mapped device is no link but a node.
    case $s in
        /dev/mapper/*)
            for d in /sys/class/block/dm-*; do [ "$(line $d/dm/name)" != "${s##*/}" ] || layers "${d##*/}"; done;;
        /dev/*) layers "${s##*/}";;
    esac
}
echo @user; id -u
echo @kernel; line /proc/sys/kernel/osrelease
echo @boot id; line /proc/sys/kernel/random/boot_id
echo @command line; line /proc/cmdline
for n in vendor version date; do echo "@bios $n"; line /sys/class/dmi/id/bios_$n; done
echo @board; line /sys/class/dmi/id/board_name
echo @firmware; if [ -d /sys/firmware/efi ]; then echo uefi; else echo bios; fi
echo @secure boot; s=$v/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c; [ ! -e $s ] || od -An -tu1 $s
echo @lockdown; line /sys/kernel/security/lockdown
echo @kexec off; line /proc/sys/kernel/kexec_load_disabled
echo @tools; for t in TOOLS; do command -v $t >/dev/null && echo $t; done
echo @mounts
fats=' ' rw= root= on= n=0
while read -r s m t o _; do
    echo "$m $t"
    [ "$m" != / ] || root=$s
    case $t:$o, in vfat:*) fats="$fats$m ";; efivarfs:rw,*) [ "$m" != $v ] || rw=1;; esac
done </proc/mounts
echo @efivars; echo $rw
for d in "$boot/efi" /efi /boot/efi "$boot"; do case $fats in *" $d "*) esp=$d; break;; esac; done
[ -e "$boot" ] && while read -r s rest; do
    case $n in
        1) on=$s; echo "@boot room"; echo "$s $rest";;
        2) echo "@esp room"; echo "$s $rest";;
    esac
    n=$((n + 1))
done <<E
$(df -Pk "$boot" ${esp:+"$esp"})
E
echo @boot layers; under "$on"
echo @root layers; under "$root"
echo @crypttab; [ ! -e /etc/crypttab ] || grep -v '^ *#' /etc/crypttab
for g in "$boot/grub" "$boot/grub2"; do [ -f "$g/grub.cfg" ] && break; g=; done
echo @grub; echo "$g"
echo @grub has; [ -z "$g" ] || {
    c=$(cat "$g/grub.cfg")
    for w in next_entry 'save_env next_entry' custom.cfg; do case $c in *"$w"*) echo "$w";; esac; done
    [ -f "$g/grubenv" ] && echo grubenv
}
echo @loader info; text LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f
echo @loader selected; text LoaderEntrySelected-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f
echo @loader default; text LoaderEntryDefault-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f
for l in "$boot" /efi /boot/efi; do [ -f "$l/loader/loader.conf" ] && break; l=; done
echo @loader; echo "$l"
echo @loader conf; [ -z "$l" ] || cat "$l/loader/loader.conf"
"""


@dataclass(frozen=True)
class Room:
    """A mounted file system."""

    source: str
    free_bytes: int
    mount: str
    kind: str


@dataclass(frozen=True)
class System:
    """The answers. Paths are the machine's."""

    user: str
    kernel: str
    boot_id: str
    command_line: str
    uefi: bool
    efivars: bool
    secure_boot: bool
    lockdown: str
    """``none``, ``integrity`` or ``confidentiality``; empty: the kernel has no such thing."""
    kexec_off: bool
    tools: frozenset[str]
    boot: Room
    esp: Room | None
    boot_layers: tuple[str, ...]
    """What lies between /boot and its disks: ``LVM name``, ``CRYPT name``, ``RAID name``, …"""
    root_layers: tuple[str, ...]
    crypttab: tuple[str, ...]
    grub: str
    """Folder of GRUB's grub.cfg; empty: none was found."""
    grub_has: frozenset[str]
    loader: str
    """Folder that has loader/loader.conf; empty: none was found."""
    loader_info: str
    """What the boot loader says that it is, if it says so to the system."""
    loader_selected: str
    loader_default: str
    """Default entry that was chosen by hand; goes before loader.conf's."""
    loader_conf: str
    firmware: dict[str, str] = field(default_factory=dict)
    """Facts by which the firmware is known again."""


def read_system(ssh: Ssh, *, boot: str = BOOT) -> System:
    """Ask the running system; `boot` is where its boot loader's files are. Raises LabError if it does not answer so."""
    return ask_system(ssh, boot=boot)[0]


def ask_system(
    ssh: Ssh, *, boot: str = BOOT, more: str = "", timeout_s: float = ANSWER_S
) -> tuple[System, Mapping[str, str]]:
    """`read_system`, and in the same round trip the answers to `more`: shell that prints ``@name`` before each."""
    # The tools are looked for where root's login shell may not look.
    head = f"PATH=$PATH:/usr/sbin:/sbin:/usr/bin:/bin\nboot={shlex.quote(boot)}\n"
    questions = _QUESTIONS.replace("TOOLS", " ".join(TOOLS))
    done = ssh.run(f"{head}{questions}{more}\necho @end\n", timeout_s=timeout_s)
    said = split_answers(done.output)
    if "end" not in said or not said.get("boot room"):
        words = escape((done.output + done.complaints)[-200:])
        raise LabError(f"{ssh.component}: its system does not answer as Linux: {words}", component=ssh.component)
    return _system(said), said


def _system(said: Mapping[str, str]) -> System:
    kinds = {line.split()[0]: line.split()[1] for line in said["mounts"].splitlines() if len(line.split()) > 1}
    facts = {name: said[name] for name in ("bios vendor", "bios version", "bios date", "board") if said.get(name)}
    return System(
        user=said["user"],
        kernel=said["kernel"],
        boot_id=said["boot id"],
        command_line=said["command line"],
        uefi=said["firmware"] == "uefi",
        efivars=bool(said["efivars"]),
        secure_boot=said["secure boot"].split()[-1:] == ["1"],
        lockdown=_chosen(said["lockdown"]),
        kexec_off=said["kexec off"] == "1",
        tools=frozenset(said["tools"].split()),
        boot=_room(said["boot room"], kinds),
        esp=_room(said["esp room"], kinds) if said.get("esp room") else None,
        boot_layers=tuple(said["boot layers"].splitlines()),
        root_layers=tuple(said["root layers"].splitlines()),
        crypttab=tuple(said["crypttab"].splitlines()),
        grub=said["grub"],
        grub_has=frozenset(said["grub has"].splitlines()),
        loader=said["loader"],
        loader_info=said["loader info"],
        loader_selected=said["loader selected"],
        loader_default=said["loader default"],
        loader_conf=said["loader conf"],
        firmware=facts | {"firmware": said["firmware"]},
    )


def _room(line: str, kinds: dict[str, str]) -> Room:
    """A line of `df -Pk`: source, blocks, used, available, capacity, mount point."""
    source, _, _, free, _, mount = line.split(None, 5)
    return Room(source, int(free) << 10, mount, kinds.get(mount, ""))


def _chosen(text: str) -> str:
    """``none [integrity] confidentiality`` → integrity."""
    return text.partition("[")[2].partition("]")[0]
