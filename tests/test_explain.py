"""What is told of a divergence: entries bit by bit, the likely fault, the serial lines, how to see it again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.judge import Judgement, judge
from bench.parse.capture_file import read_captures
from bench.parse.lines import stretches
from bench.records import Capture, Comparison, Divergence, Event, EventKind, Finding, Verdict
from bench.report.bits import ERROR_CODE, LEAF_2M, TABLE_ENTRY, beside, bits_of, decoded, error_words
from bench.report.catalogue import CATALOGUE, likely
from bench.report.explain import explain
from bench.report.site.pool import FREE, size_of, uses
from bench.wire import encode

CAPTURES = Path(__file__).parent / "captures"


def capture_of(name: str) -> Capture:
    (capture,) = read_captures(CAPTURES / f"{name}.capture")
    return capture


def edited(kind: str, field: str, change: int, *, nth: int = 1) -> Judgement:
    """The good capture with one number of its nth record of a kind changed, CRC and all."""
    capture = capture_of("skylake-server-v3.9")
    lines = [s for s in stretches(capture.data, nonce=capture.nonce) if s.line and s.line.kind == kind]
    stretch = lines[nth]
    assert stretch.line and capture.nonce
    fields = stretch.line.fields | {field: stretch.line.number(field) ^ change}
    text = encode(stretch.line.seq, kind, fields, nonce=capture.nonce)[:-2]
    data = capture.data[: stretch.span[0]] + text + capture.data[stretch.span[1] :]
    return judge([replace(capture, data=data)])


def names(judgement: Judgement) -> list[str]:
    (bad,) = [w for w in judgement.windows if w.verdict is Verdict.FAIL]
    return [known.name for known in likely(bad)]


@pytest.mark.slow
def test_a_page_tells_the_whole_story_of_a_hidden_bug() -> None:
    capture = capture_of("haswell-v3.9-hidden-bug")
    lines = list(explain(judge([capture]), captures=[capture], replay="run.capture", limit=1))
    text = "\n".join(lines)
    for part in (
        "Window 0 (recursion), boot 1: FAIL",
        "read of 8 bytes at 0xffff880010603048",
        "* next_early_pgt",
        "Why the model says so:",
        "It looks like: a table not zeroed, or stale.",
        "The serial line, from line ",
        "bench replay run.capture",
        "bench explain --window 0 run.capture",
    ):
        assert part in text
    (marked,) = [line for line in lines if line.startswith("  > ")]
    assert f"{marked[4:]}\r\n".encode() in capture.data


@pytest.mark.slow
def test_an_entry_that_differs_is_told_bit_by_bit() -> None:
    text = "\n".join(explain(edited("x", "pmd", 1 << 8 | 1 << 63)))
    assert "PMD entry, field by field:" in text
    assert any(line.split()[:5] == ["*", "8", "G", "0", "1"] for line in text.splitlines())
    assert any(line.split()[:5] == ["*", "63", "NX", "1", "0"] for line in text.splitlines())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "field", "change", "name"),
    [
        ("x", "pmd", 1 << 13, "leaf not at a multiple of 2 MiB"),
        ("x", "flag", 1, "recursion flag not counted down"),
        ("x", "pmd", 1 << 8, "wrong flags in an entry"),
        ("x", "pud", 1 << 14, "wrong table or page"),
        ("digest", "crc", 1, "a table not zeroed, or stale"),
    ],
)
def test_a_divergence_is_named_by_what_it_looks_like(kind: str, field: str, change: int, name: str) -> None:
    assert name in names(edited(kind, field, change))


def test_trouble_of_the_lab_looks_like_no_fault_of_the_kernel() -> None:
    capture = capture_of("haswell-v3.9-hidden-bug")
    (first, *_) = judge([capture]).windows
    assert likely(replace(first, finding=Finding("serial line", "bytes are missing"))) == []
    assert likely(replace(first, comparison=None)) == []


@pytest.mark.slow
def test_a_faithful_capture_needs_no_explanation() -> None:
    judgement = judge([capture_of("skylake-server-v3.9")])
    assert list(explain(judgement))[1].startswith("Every event of 23 windows equals its prediction")
    assert all(likely(w) == [] for w in judgement.windows)


def test_an_entry_fits_wherever_two_events_are_nothing_alike() -> None:
    """No row of the catalogue trips over a side that says nothing."""
    capture = capture_of("haswell-v3.9-hidden-bug")
    (first, *_) = judge([capture]).windows
    for kind in EventKind:
        for other in (None, *(Event(k) for k in EventKind)):
            divergence = Divergence(1, "kind", other, Event(kind))
            likely(replace(first, comparison=Comparison(divergence, 1, 1, 0, 0)))
    assert len({row.name for row in CATALOGUE}) == len(CATALOGUE)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["skylake-server-v3.9", "ivybridge-seed-2012", "la57-la57"])
def test_the_drawn_pool_is_set_back_as_often_as_the_model_says(name: str) -> None:
    compared = 0
    for verdict in judge([capture_of(name)]).windows:
        assert verdict.window and verdict.prediction
        drawn = list(uses(verdict.window))
        resets = sum(use.reset for use in drawn)
        if verdict.prediction.outcome == "done":
            assert resets == verdict.prediction.resets, verdict.number
            compared += resets
        else:  # Of a livelock only the first faults are written, of an endless handler none.
            assert resets <= verdict.prediction.resets
        for use in drawn:
            in_use = [slot for slot, role in enumerate(use.roles) if role != FREE]
            assert use.taken <= size_of(verdict.window)
            assert in_use == list(range(use.taken))
    assert compared > 0


# --- bits -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", [TABLE_ENTRY, LEAF_2M])
def test_the_fields_of_an_entry_cover_each_bit_once(table: tuple[object, ...]) -> None:
    bits = [n for f in table for n in range(f.low, f.high + 1)]  # type: ignore[attr-defined]
    assert sorted(bits) == list(range(64))


def test_an_error_code_is_told_by_its_names() -> None:
    assert error_words(0xB) == "P W RSVD" and error_words(0) == "-"
    assert [r.field.name for r in beside("error", 0x3, 0xB)] == ["RSVD", "W", "P"]
    assert {f.low for f in ERROR_CODE} == {0, 1, 2, 3, 4, 5, 6, 7, 15}


@given(a=st.integers(0, 2**64 - 1), b=st.integers(0, 2**64 - 1), name=st.sampled_from(["pgd", "pud", "pmd"]))
def test_a_field_differs_exactly_where_the_values_do(a: int, b: int, name: str) -> None:
    rows = beside(name, a, b)
    mask = sum(((1 << r.field.high - r.field.low + 1) - 1) << r.field.low for r in rows if r.differs)
    assert (a ^ b) & ~mask == 0
    assert bool(mask) is (a != b)
    assert all(r.field.of(a) != r.field.of(b) for r in rows if r.differs)


def test_bits_that_are_free_are_the_processors_choice() -> None:
    (row,) = beside("pgd", 0x20, 0, free=0x20)
    assert (row.model, row.machine, row.differs) == ("free", "free", False)


def test_sixty_four_bits_the_highest_first() -> None:
    assert bits_of(1 << 63 | 1) == [1, *[0] * 62, 1]


def test_a_2_mib_leaf_and_a_table_are_taken_apart_differently() -> None:
    told = dict(decoded({"pud": 0x1056063, "pmd": 0x80000000106000E3, "next": 5}))
    assert told["pud"] == "51:12 address 0x1056000, 6 D, 5 A, 1 RW, 0 P"
    assert told["pmd"] == "63 NX, 51:21 address 0x10600000, 7 PS, 6 D, 5 A, 1 RW, 0 P"
    assert "next" not in told
