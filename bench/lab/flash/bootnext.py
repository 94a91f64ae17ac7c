"""UEFI itself: a boot option for the image on the ESP, started once by BootNext, which firmware deletes before it does.

The option is never in BootOrder. Kernels with an EFI stub take their command line from the option's data and the
initrd from ``initrd=`` in it. UEFI 2.10, 3.1.1: the variable is deleted before the option is started.
"""

from __future__ import annotations

from collections.abc import Mapping

from bench.errors import FormatError, LabError
from bench.lab.flash import boot_options, efivarfs
from bench.lab.flash.boot_options import option_name
from bench.lab.flash.load_option import LoadOption, Partition, file_on, gpt_partition, parse_load_option
from bench.lab.flash.oneshot import PREFIX, Addition, Entry, Left, OneShot, done, is_program_of_uefi
from bench.lab.flash.system import GLOBAL, System
from bench.lab.ssh import Ssh

# Far from what firmware and installers number from 0, and below what firmware keeps for itself.
_FIRST = 0x0BE0
# Entries of a GPT of the usual size, behind two blocks.
_ENTRIES_BYTES = 16 << 10


class BootNext(OneShot):
    """UEFI's boot manager."""

    name = "bootnext"
    questions = rf"""
f=${{esp:+$esp/bench}}{boot_options.QUESTIONS}
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
        options = boot_options.options(answers)
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
        option = boot_options.options(answers).get(int.from_bytes(current[:2], "little")) if current else None
        if option is None:
            words = "firmware does not say which boot option has started the running system"
            raise LabError(f"UEFI: {words}", component="boot loader", witness=answers["current"])
        # Not its data: by what firmware puts there it knows options of its own making again, and may remove them.
        return Entry(token, "", "", ""), _addition(answers, LoadOption(PREFIX + token, option.paths))

    def pending(self, ssh: Ssh, system: System) -> str:  # noqa: ARG002
        """See OneShot."""
        answers = boot_options.ask_options(ssh)
        return _pending(answers, boot_options.options(answers))

    def ran(self, ssh: Ssh, system: System, entry: Entry) -> bool:  # noqa: ARG002
        """See OneShot."""
        current = int.from_bytes(efivarfs.read(ssh, boot_options.CURRENT)[:2], "little")
        option = efivarfs.read(ssh, f"{option_name(current)}-{GLOBAL}")
        return bool(option) and parse_load_option(option).description == entry.name

    def withdraw(self, ssh: Ssh, system: System) -> list[str]:  # noqa: ARG002
        """See OneShot."""
        answers = boot_options.ask_options(ssh)
        options = boot_options.options(answers)
        going = []
        if (pending := _pending(answers, options)).startswith(PREFIX):
            going.append((f"BootNext={pending}", boot_options.NEXT))
        ours = sorted(number for number, option in options.items() if option.description.startswith(PREFIX))
        going += [(option_name(number), f"{option_name(number)}-{GLOBAL}") for number in ours]
        if going:
            command = " && ".join(efivarfs.removing(name) for _, name in going)
            done(ssh, command, what=f"delete {', '.join(what for what, _ in going)}")
        return [what for what, _ in going]


def _pending(answers: Mapping[str, str], options: Mapping[int, LoadOption]) -> str:
    number = boot_options.next_number(answers)
    if number is None:
        return ""
    return options[number].description if number in options else option_name(number)


def _addition(answers: Mapping[str, str], option: LoadOption) -> Addition:
    there = boot_options.numbers(answers)
    number = next(each for each in range(_FIRST, 0x1000) if each not in there)
    return Addition(*efivarfs.storing(f"{option_name(number)}-{GLOBAL}", option.pack()), boot_options.arming(number))


def _partition(system: System, answers: Mapping[str, str]) -> Partition:
    """The ESP's place on its disk."""
    assert system.esp is not None
    try:
        number, block_bytes = int(answers["esp number"]), int(answers["esp block"])
        return gpt_partition(bytes.fromhex(answers["esp table"]), block_bytes, number)
    except (FormatError, ValueError) as error:
        words = f"{system.esp.source}: its place on its disk cannot be told: {error}"
        raise LabError(words, component="boot loader", witness=str(error)) from error
