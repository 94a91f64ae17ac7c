"""A kernel's own symbol table, in both orders that Linux has given it, and refused when its parts disagree."""

from __future__ import annotations

import random

import pytest

from bench.errors import FormatError
from bench.images.kallsyms import read_kallsyms, render_system_map
from tests import toy_kernel

SYMBOLS = toy_kernel.many_symbols()


@pytest.mark.parametrize(
    ("new_order", "sequences", "per_cpu"),
    [(False, False, True), (False, True, True), (True, True, True), (True, True, False)],
    ids=["6.1", "6.1 stable", "6.12", "7.x"],
)
def test_every_symbol_is_read_with_address_letter_and_name(new_order: bool, sequences: bool, per_cpu: bool) -> None:
    symbols = SYMBOLS if per_cpu else SYMBOLS[2:]
    data = toy_kernel.kallsyms(symbols, new_order=new_order, sequences=sequences, per_cpu=per_cpu)
    found = read_kallsyms(data, "vmlinux")
    assert [(s.address, s.letter, s.name) for s in found] == symbols


def test_system_map_has_the_form_of_a_builds_own() -> None:
    found = read_kallsyms(toy_kernel.kallsyms(SYMBOLS, new_order=False), "vmlinux")
    assert render_system_map(found).splitlines()[2] == "ffffffff81000000 T _text"


def test_a_file_without_a_table_is_refused() -> None:
    with pytest.raises(FormatError, match="CONFIG_KALLSYMS=n"):
        read_kallsyms(bytes(100_000), "vmlinux")


@pytest.mark.slow
def test_flipped_bits_never_crash_it() -> None:
    """A name may come out changed, since nothing sums them up; structure that is broken is refused."""
    seed = random.randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)
    whole = toy_kernel.kallsyms(SYMBOLS, new_order=False)
    for _ in range(60):
        data = bytearray(whole)
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        try:
            found = read_kallsyms(bytes(data), "vmlinux")
        except FormatError:
            continue
        assert len(found) == len(SYMBOLS)
