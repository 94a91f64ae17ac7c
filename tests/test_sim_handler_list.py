"""`bench sim`: a list of addresses, one call of the handler each."""

import pytest

from bench.errors import FormatError, UsageError
from bench.sim.handler_list import fault_list, parse_address_list

PO = 0xFFFF_8800_0000_0000
GIB = 1 << 30


def test_each_line_is_one_call_whether_or_not_the_address_is_mapped() -> None:
    assert list(fault_list("seed-2012", 4, [PO, PO, PO + 9 * GIB, 0, PO + 512 * GIB])) == [
        {"va": "0xffff880000000000", "outcome": "mapped", "tables": [0, 1], "next": 2, "resets": 0},
        {"va": "0xffff880000000000", "outcome": "mapped", "tables": [2], "next": 3, "resets": 0},
        {"va": "0xffff880240000000", "outcome": "mapped", "tables": [3], "next": 4, "resets": 0},
        {"va": "0x0000000000000000", "outcome": "rejected", "tables": [], "next": 4, "resets": 0},
        {"va": "0xffff888000000000", "outcome": "mapped", "tables": [0, 1], "next": 2, "resets": 1},
        {"faults": 5, "resets": 1, "next": 2},
    ]


def test_tables_wasted_before_a_reset_are_listed() -> None:
    rows = list(fault_list("v3.9", 3, [PO, PO + 512 * GIB]))
    assert [row.get("tables") for row in rows] == [[0, 1], [2, 0, 1], None]


@pytest.mark.parametrize(("variant", "pool", "tables"), [("v3.9", 1, [0, 0]), ("la57", 2, [0, 1, 0, 1])])
def test_a_handler_that_never_returns_ends_the_list(variant: str, pool: int, tables: list[int]) -> None:
    base = 0xFF11_0000_0000_0000 if variant == "la57" else PO
    rows = list(fault_list(variant, pool, [0, base, base]))
    assert [row.get("outcome") for row in rows] == ["rejected", "livelock", None]
    assert rows[1]["tables"] == tables
    assert rows[2]["faults"] == 2


def test_page_offset_can_be_given() -> None:
    rows = list(fault_list("v6.1", 64, [PO, 0xFFFF_9000_0000_0000], page_offset=0xFFFF_9000_0000_0000))
    assert [row.get("outcome") for row in rows] == ["rejected", "mapped", None]


def test_no_addresses_give_the_totals_only() -> None:
    assert list(fault_list("v3.9", 64, [])) == [{"faults": 0, "resets": 0, "next": 0}]


@pytest.mark.parametrize(
    ("arguments", "because"),
    [(("v2.6", 64, []), "v2.6"), (("v3.9", 65, []), "64"), (("v3.9", 64, [], 1 << 64), "64 bits")],
)
def test_wrong_use_is_said(arguments: tuple, because: str) -> None:
    with pytest.raises(UsageError, match=because):
        list(fault_list(*arguments))


def test_a_list_with_comments_blank_lines_and_both_prefixes() -> None:
    lines = ["# sweep", "", "  ffff880000000000  # first", "0xFFFF880000000000", "0X10", "0\n"]
    assert list(parse_address_list(lines, "x")) == [PO, PO, 16, 0]


@pytest.mark.parametrize("bad", ["zz", "0x", "-1", "1 2", "12345678901234567", "1_0", "\x1b[31m"])
def test_other_lines_are_refused_with_their_number(bad: str) -> None:
    with pytest.raises(FormatError, match=r"^list\.txt: line 3: ") as caught:
        list(parse_address_list(["1", "# 2", bad], "list.txt"))
    assert caught.value.source == "list.txt"
    assert str(caught.value).isprintable()
