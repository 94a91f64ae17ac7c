"""Sums such as ``1 GiB + 0x1234`` or ``maxmem - 8``: the addresses and sizes of scenario files."""

from __future__ import annotations

import re
from collections.abc import Mapping

# What a name stands for depends on machine and variant.
NAMES: dict[str, str] = {
    "maxmem": "size of the variant's direct map: the first physical address that its handler rejects",
    "maxphyaddr": "2^MAXPHYADDR: the first physical address that the processor cannot have",
    "ram_end": "first physical address above all RAM",
    "page_offset": "linear address of physical address 0 in the direct map",
    "noncanonical": "lowest linear address that is not canonical",
}
UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}

_TERM = re.compile(
    r"\s*(?P<sign>[+-])?\s*(?:(?P<number>0x[0-9a-fA-F_]+|[0-9][0-9_]*)(?:\s*(?P<unit>[KMGT]iB))?|(?P<name>[a-z_]+))\s*"
)


def evaluate(text: str, names: Mapping[str, int]) -> int:
    """Value of a sum of numbers (decimal or 0x, with or without a unit) and names. Raises ValueError."""
    total, at = 0, 0
    while at < len(text) or at == 0:
        match = _TERM.match(text, at)
        if match is None or (at > 0 and not match["sign"]):
            raise ValueError(f"{text!r} is not a sum such as '1 GiB + 0x1234' or 'maxmem - 8'")
        value = _named(match["name"], names) if match["name"] else int(match["number"], 0) * UNITS.get(match["unit"], 1)
        total += -value if match["sign"] == "-" else value
        at = match.end()
    return total


def _named(name: str, names: Mapping[str, int]) -> int:
    if name not in names:
        raise ValueError(f"{name!r} is not one of {', '.join(sorted(names))}")
    return names[name]


def checked(text: str) -> str:
    """`text` itself if it is a sum of known names. Raises ValueError."""
    evaluate(text, dict.fromkeys(NAMES, 0))
    return text


def size(text: str) -> int:
    """A number of bytes in which no names occur, such as ``66 GiB``. Raises ValueError."""
    value = evaluate(text, {})
    if value < 0:
        raise ValueError(f"{text!r} is negative")
    return value
