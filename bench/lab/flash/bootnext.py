"""UEFI itself: a boot option for the image on the ESP, started once by BootNext, which firmware deletes before it does.

The option is never in BootOrder. Kernels with an EFI stub take their command line from the option's data and the
initrd from ``initrd=`` in it. UEFI 2.10, 3.1.1: the variable is deleted before the option is started.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress

from bench.errors import FormatError, LabError
from bench.lab.fingerprint import split_answers
from bench.lab.flash import efivarfs
from bench.lab.flash.load_option import LoadOption, Partition, file_on, gpt_partition, parse_load_option
from bench.lab.flash.oneshot import PREFIX, Addition, Arming, Entry, Left, OneShot, ask, done, is_program_of_uefi
from bench.lab.flash.system import EFIVARS, GLOBAL, System
from bench.lab.ssh import Ssh

_NEXT, _CURRENT = f"BootNext-{GLOBAL}", f"BootCurrent-{GLOBAL}"
_OPTION = re.compile(rf"option Boot([0-9A-F]{{4}})-{GLOBAL}")
# Far from what firmware and installers number from 0, and below what firmware keeps for itself.
_FIRST = 0x0BE0
# Entries of a GPT of the usual size, behind two blocks.
_ENTRIES_BYTES = 16 << 10
_DIGIT = "[0-9A-F]"


class BootNext(OneShot):
    """UEFI's boot manager."""

    name = "bootnext"
    questions = rf"""
f=${{esp:+$esp/bench}}
show() {{ [ ! -e "$v/$1" ] || {{ od -An -v -tx1 "$v/$1" | tr -d ' \n'; echo; }}; }}
echo @next; show {_NEXT}
echo @current; show {_CURRENT}
for o in "$v"/Boot{4 * _DIGIT}-{GLOBAL}; do echo "@option ${{o##*/}}"; show "${{o##*/}}"; done
[ -z "$esp" ] || {{
    s=$(df -Pk "$esp" | tail -n 1 | cut -d' ' -f1); s=/sys/class/block/${{s##*/}}
    n=$(cat $s/../queue/logical_block_size) d=$(readlink -f $s/..)
    echo @esp number; cat $s/partition
    echo @esp block; echo $n
    echo @esp table
    dd if=/dev/${{d##*/}} bs=$n count=$((2 + {_ENTRIES_BYTES} / n)) 2>/dev/null | od -An -v -tx1 | tr -d ' \n'; echo
}}
"""

    def objections(self, system: System) -> list[str]:
        """See OneShot."""
        found = efivarfs.objections(system)
        if system.uefi and system.esp is None:
            found.append("no ESP is mounted at /boot/efi, /efi or /boot")
        return found

    def image_objections(self, kernel: bytes) -> list[str]:
        """See OneShot."""
        return [] if is_program_of_uefi(kernel) else ["the image has no PE header: UEFI firmware cannot start it"]

    def folder(self, system: System) -> tuple[str, int]:
        """On the ESP."""
        assert system.esp is not None
        return f"{system.esp.mount}/bench", system.esp.free_bytes

    def left(self, answers: Mapping[str, str]) -> Left:
        """See OneShot."""
        options = _told(answers)
        ours = any(option.description.startswith(PREFIX) for option in options.values())
        return Left(_pending(answers, options), ours)

    def adding(self, system: System, answers: Mapping[str, str], entry: Entry) -> Addition:
        """See OneShot."""
        assert system.esp is not None
        mount = system.esp.mount
        words = entry.command_line
        if entry.initrd:
            initrd = entry.initrd.removeprefix(mount).replace("/", "\\")
            words = f"initrd={initrd} {words}".rstrip()
        kernel = file_on(_partition(system, answers), entry.kernel.removeprefix(mount))
        return _addition(answers, LoadOption(entry.name, kernel, f"{words}\0".encode("utf-16-le")))

    def twin(self, ssh: Ssh, system: System, answers: Mapping[str, str], token: str) -> tuple[Entry, Addition]:  # noqa: ARG002
        """A copy of the option that has started the running system; BootCurrent tells the two apart."""
        current = efivarfs.value_of(answers["current"])
        option = _told(answers).get(int.from_bytes(current[:2], "little")) if current else None
        if option is None:
            words = "firmware does not say which boot option has started the running system"
            raise LabError(f"UEFI: {words}", component="boot loader", witness=answers["current"])
        # Not its data: by what firmware puts there it knows options of its own making again, and may remove them.
        return Entry(token, "", "", ""), _addition(answers, LoadOption(PREFIX + token, option.paths))

    def pending(self, ssh: Ssh, system: System) -> str:  # noqa: ARG002
        """See OneShot."""
        answers = _ask(ssh)
        return _pending(answers, _told(answers))

    def ran(self, ssh: Ssh, system: System, entry: Entry) -> bool:  # noqa: ARG002
        """See OneShot."""
        current = int.from_bytes(efivarfs.read(ssh, _CURRENT)[:2], "little")
        option = efivarfs.read(ssh, f"Boot{current:04X}-{GLOBAL}")
        return bool(option) and parse_load_option(option).description == entry.name

    def withdraw(self, ssh: Ssh, system: System) -> list[str]:  # noqa: ARG002
        """See OneShot."""
        answers = _ask(ssh)
        options = _told(answers)
        going = []
        if (pending := _pending(answers, options)).startswith(PREFIX):
            going.append((f"BootNext={pending}", _NEXT))
        ours = sorted(number for number, option in options.items() if option.description.startswith(PREFIX))
        going += [(f"Boot{number:04X}", f"Boot{number:04X}-{GLOBAL}") for number in ours]
        if going:
            command = " && ".join(efivarfs.removing(name) for _, name in going)
            done(ssh, command, what=f"delete {', '.join(what for what, _ in going)}")
        return [what for what, _ in going]


def _ask(ssh: Ssh) -> Mapping[str, str]:
    return split_answers(ask(ssh, f"v={EFIVARS} esp=\n{BootNext.questions}").output)


def _told(answers: Mapping[str, str]) -> dict[int, LoadOption]:
    """Number and content of every boot option that can be read."""
    found: dict[int, LoadOption] = {}
    for name, shown in answers.items():
        if match := _OPTION.fullmatch(name):
            with suppress(FormatError):
                found[int(match[1], 16)] = parse_load_option(efivarfs.value_of(shown))
    return found


def _pending(answers: Mapping[str, str], options: Mapping[int, LoadOption]) -> str:
    if not (value := efivarfs.value_of(answers.get("next", ""))):
        return ""
    number = int.from_bytes(value[:2], "little")
    return options[number].description if number in options else f"Boot{number:04X}"


def _addition(answers: Mapping[str, str], option: LoadOption) -> Addition:
    there = {int(match[1], 16) for name in answers if (match := _OPTION.fullmatch(name))}
    number = next(each for each in range(_FIRST, 0x1000) if each not in there)
    value = number.to_bytes(2, "little")
    expected = efivarfs.ATTRIBUTES.to_bytes(4, "little") + value
    return Addition(
        *efivarfs.storing(f"Boot{number:04X}-{GLOBAL}", option.pack()),
        Arming(efivarfs.writing(_NEXT, value), efivarfs.showing(_NEXT), expected.hex(), efivarfs.removing(_NEXT)),
    )


def _partition(system: System, answers: Mapping[str, str]) -> Partition:
    """The ESP's place on its disk."""
    assert system.esp is not None
    try:
        number, block_bytes = int(answers["esp number"]), int(answers["esp block"])
        return gpt_partition(bytes.fromhex(answers["esp table"]), block_bytes, number)
    except (FormatError, ValueError) as error:
        words = f"{system.esp.source}: its place on its disk cannot be told: {error}"
        raise LabError(words, component="boot loader", witness=str(error)) from error
