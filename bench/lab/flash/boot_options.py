"""Boot options of UEFI firmware and BootNext, as the machine's own system shows them (UEFI 2.10, 3.1 and 3.3)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress

from bench.errors import FormatError
from bench.lab.fingerprint import split_answers
from bench.lab.flash import efivarfs
from bench.lab.flash.load_option import LoadOption, parse_load_option
from bench.lab.flash.oneshot import Arming, ask
from bench.lab.flash.system import EFIVARS, GLOBAL
from bench.lab.ssh import Ssh

NEXT, CURRENT = f"BootNext-{GLOBAL}", f"BootCurrent-{GLOBAL}"
_OPTION = re.compile(rf"option Boot([0-9A-F]{{4}})-{GLOBAL}")
_DIGIT = "[0-9A-F]"

# $v is the folder of the variables.
QUESTIONS = rf"""
show() {{ [ ! -e "$v/$1" ] || {{ od -An -v -tx1 "$v/$1" | tr -d ' \n'; echo; }}; }}
echo @next; show {NEXT}
echo @current; show {CURRENT}
for o in "$v"/Boot{4 * _DIGIT}-{GLOBAL}; do echo "@option ${{o##*/}}"; show "${{o##*/}}"; done
"""


def option_name(number: int) -> str:
    """``Boot0BE0``."""
    return f"Boot{number:04X}"


def ask_options(ssh: Ssh, more: str = "") -> Mapping[str, str]:
    """The answers to `QUESTIONS`, and to `more` behind them."""
    return split_answers(ask(ssh, f"v={EFIVARS} esp=\n{QUESTIONS}{more}").output)


def numbers(answers: Mapping[str, str]) -> set[int]:
    """Of all options, whether they can be read or not."""
    return {int(match[1], 16) for name in answers if (match := _OPTION.fullmatch(name))}


def options(answers: Mapping[str, str]) -> dict[int, LoadOption]:
    """Number and content of every boot option that can be read."""
    found: dict[int, LoadOption] = {}
    for name, shown in answers.items():
        if match := _OPTION.fullmatch(name):
            with suppress(FormatError):
                found[int(match[1], 16)] = parse_load_option(efivarfs.value_of(shown))
    return found


def next_number(answers: Mapping[str, str]) -> int | None:
    """What BootNext is; None: not set."""
    value = efivarfs.value_of(answers.get("next", ""))
    return int.from_bytes(value[:2], "little") if value else None


def arming(number: int) -> Arming:
    """BootNext set to the option `number`."""
    value = number.to_bytes(2, "little")
    expected = efivarfs.ATTRIBUTES.to_bytes(4, "little") + value
    return Arming(efivarfs.writing(NEXT, value), efivarfs.showing(NEXT), expected.hex(), efivarfs.removing(NEXT))
