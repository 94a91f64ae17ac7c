"""Microcode cases: what each offers, what the generations make of it, and how a capture is held against that."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bench.microcode.cases import CASES, SLOW, case
from bench.microcode.observe import Observed, Write, compare, observe
from bench.microcode.run import Result, Subject, initrd_of, offer_of
from bench.microcode.saved import save
from bench.microcode.trial import Ground
from bench.records import Capture, LabEvent, LabEventKind, Verdict
from bench.sim.ucode_load import EarlyLoad, predict_early
from bench.sim.ucode_loaders import loader
from bench.store import Store
from tests.microcode_files import update

GROUND = Ground(0x906EA, 1, update(revision=0x100))
SUBJECT = Subject("kernel", Path("bzImage"), "6.1.192", "00", (), b"\x7fELF")


def predict(name: str, generation: str, ground: Ground = GROUND) -> EarlyLoad:
    found = case(name)
    assert found is not None
    trial = replace(found.make(ground), deeds=(), then=None)
    return predict_early(loader(generation), trial.rules, offer_of(trial, initrd_of(trial, SUBJECT), trial.words))


# --- the table -------------------------------------------------------------------------------------------------------


def test_names_are_unique_and_the_slow_ones_are_among_them() -> None:
    names = [each.name for each in CASES]
    assert len(set(names)) == len(names) and set(names) >= SLOW and case("nothing") is None


@pytest.mark.parametrize("each", CASES, ids=lambda each: each.name)
def test_a_case_is_the_same_every_time_and_every_generation_has_a_prediction(each: object) -> None:
    name = each.name  # type: ignore[attr-defined]
    assert case(name).make(GROUND) == case(name).make(GROUND)  # type: ignore[union-attr]
    for generation in ("v3.9", "v4.19", "v6.1", "v6.3", "v6.7", "v7.3"):
        predict(name, generation)


def test_each_case_shows_what_it_is_for() -> None:
    runs = {each.name: predict(each.name, "v6.1").runs for each in CASES}
    updated, left = 0x100, 0xFF
    for name in ("newest", "no-bios-update", "long-name"):
        assert set(runs[name]) == {updated}, name
    for name in (
        "already-newest", "wrong-signature", "wrong-flags", "bad-checksum", "bad-table", "bad-row", "bad-then-good",
        "good-then-bad", "short-tail", "cut", "misaligned", "no-file", "compressed-first", "hypervisor",
        "switched-off", "refused",
    ):  # fmt: skip
        assert set(runs[name]) == {updated if name == "already-newest" else left}, name
    assert set(runs["two-revisions"]) == {0x102} and set(runs["prefix-trap"]) == {0x101}
    assert runs["first-refuses"] == (left, updated) and runs["other-refuses"] == (updated, left)
    assert [w.processor for w in predict("siblings", "v6.1").writes] == [0, 2]


def test_the_generations_differ_where_their_rules_do() -> None:
    def ends(name: str) -> list[int]:
        return [predict(name, generation).runs[0] for generation in ("v3.9", "v6.1", "v7.3")]

    assert ends("two-revisions") == [0x101, 0x102, 0x102]
    assert ends("table-then-own") == [0x102, 0x101, 0x102]
    assert ends("no-flags") == [0xFF, 0xFF, 0x101]
    assert predict("first-refuses", "v6.1").runs == (0xFF, 0x100)
    assert predict("first-refuses", "v7.3").runs == (0xFF, 0xFF)


# --- a capture against it --------------------------------------------------------------------------------------------

CONSOLE = """\
[    0.000000] microcode: microcode updated early to revision 0x100, date = 2023-03-06
[    0.000000] Linux version 6.1.192
[    0.700000] microcode: sig=0x906ea, pf=0x2, revision=0x100
[    0.700000] microcode: Microcode Update Driver: v2.2.
"""
CPUINFO = "processor\t: 0\nmicrocode\t: 0x100\nprocessor\t: 1\nmicrocode\t: 0x100\n"
LOG = "".join(f"log: {line.split('] ')[1]}\n" for line in CONSOLE.splitlines() if "microcode: " in line)
WRITES = [{"processor": p, "revision": 0x100, "before": 0xFF, "after": 0x100} for p in (0, 1)]


def observed(
    tmp_path: Path, *, console: str = CONSOLE, first: str = CPUINFO, log: str = LOG, second: str = CPUINFO,
    end: LabEventKind = LabEventKind.MARKER, writes: list[dict[str, int]] | None = None,
) -> Observed:  # fmt: skip
    text = f"{console}{first}bench-init: the kernel's log\n{log}bench-init: again\n{second}"
    record = tmp_path / "microcode.jsonl"
    record.write_text("".join(json.dumps(row) + "\n" for row in (WRITES if writes is None else writes)))
    capture = Capture("serial.bin", text.replace("\n", "\r\n").encode(), (LabEvent(end, 1.0, 0, {}),))
    return observe(capture, record)


def test_a_boot_as_predicted_has_no_difference(tmp_path: Path) -> None:
    assert compare(predict("newest", "v6.1"), observed(tmp_path)) == ([], "")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"console": CONSOLE.replace("revision 0x100", "revision 0x101"),
          "log": LOG.replace("revision 0x100", "revision 0x101")}, "lines"),
        ({"console": "\n".join(CONSOLE.splitlines()[1:]) + "\n", "log": "\n".join(LOG.splitlines()[1:]) + "\n"},
         "lines"),
        ({"first": CPUINFO.replace("1\nmicrocode\t: 0x100", "1\nmicrocode\t: 0xff"),
          "second": CPUINFO.replace("1\nmicrocode\t: 0x100", "1\nmicrocode\t: 0xff")}, "cpuinfo"),
        ({"first": CPUINFO[: len(CPUINFO) // 2], "second": CPUINFO[: len(CPUINFO) // 2]}, "cpuinfo"),
        ({"writes": WRITES[:1]}, "writes"),
        ({"writes": [WRITES[0], WRITES[1] | {"after": 0xFF}]}, "writes"),
        ({"end": LabEventKind.RESET}, "end"),
        ({"end": LabEventKind.SILENCE}, "end"),
    ],
)  # fmt: skip
def test_what_differs_in_every_reading_is_the_kernels(tmp_path: Path, changes: dict[str, object], field: str) -> None:
    found, damage = compare(predict("newest", "v6.1"), observed(tmp_path, **changes))  # type: ignore[arg-type]
    assert damage == "" and found[0].field == field


@pytest.mark.parametrize(
    "changes",
    [
        {"console": CONSOLE.replace("pf=0x2, re", "pf=0")},
        {"log": LOG.replace("0x100, date", "0x1, date")},
        {"first": CPUINFO.replace("0x100", "0x00", 1)},
        {"second": CPUINFO.replace("microcode", "micr", 1)},
    ],
)
def test_bytes_that_the_line_lost_once_are_no_difference(tmp_path: Path, changes: dict[str, str]) -> None:
    assert compare(predict("newest", "v6.1"), observed(tmp_path, **changes)) == ([], "")  # type: ignore[arg-type]


def test_two_readings_that_are_both_wrong_and_differ_are_a_damaged_line(tmp_path: Path) -> None:
    seen = observed(tmp_path, console=CONSOLE.replace("pf=0x2", "pf=0"), log=LOG.replace("2023", "202"))
    found, damage = compare(predict("newest", "v6.1"), seen)
    assert found == [] and damage.startswith("lines: one reading is ")


def test_writes_of_other_processors_come_in_any_order_and_the_firsts_is_the_first(tmp_path: Path) -> None:
    ground = replace(GROUND, processors=3)
    rows = [{"processor": p, "revision": 0x100, "before": 0xFF, "after": 0x100} for p in (0, 2, 1)]
    predicted = predict("newest", "v7.3", ground)

    def fields(rows: list[dict[str, int]]) -> list[str]:
        return [d.field for d in compare(predicted, observed(tmp_path, writes=rows))[0]]

    assert "writes" not in fields(rows) and "first write" not in fields(rows)
    assert "first write" in fields(rows[1:] + rows[:1])


def test_what_is_said_before_there_is_a_console_is_lost_with_a_boot_that_ends_there(tmp_path: Path) -> None:
    predicted = predict("first-resets", "v6.1")
    capture = Capture("serial.bin", b"", (LabEvent(LabEventKind.RESET, 1.0, 0, {}),))
    record = tmp_path / "microcode.jsonl"
    record.write_text(json.dumps({"processor": 0, "revision": 0x100, "before": 0xFF, "after": 0xFF}) + "\n")
    assert compare(predicted, observe(capture, record)) == ([], "")


def test_a_processor_without_a_revision_has_no_line_of_it(tmp_path: Path) -> None:
    seen = observed(tmp_path, first="processor\t: 0\nprocessor\t: 1\nmicrocode\t: 0x5\n")
    assert seen.shown[0] == {0: 0, 1: 5}
    assert seen.writes == tuple(Write(p, 0x100, 0xFF, 0x100) for p in (0, 1))


def test_results_are_stored_as_boots_that_agreed_out_of_those_that_were_made(tmp_path: Path) -> None:
    predicted = predict("newest", "v6.1")
    good = Result(
        "newest", "linux-6.1", "ab", "machine", "06-9e-0a", 0x906EA, Verdict.PASS, predicted, None, (), 2.0,
        str(tmp_path / "1" / "boot"),
    )  # fmt: skip
    lost = replace(good, verdict=Verdict.MISS, why="serial line: damaged")
    save(tmp_path, [good, lost, good, replace(good, case="refused")])
    with Store(tmp_path / "bench.sqlite") as store:
        (stored,) = store.runs(limit=5)
    rows = [(s.scenario, s.verdict, s.predicted, s.windows, s.reason) for s in stored.record.scenarios]
    assert rows == [
        ("microcode/newest", "MISS", 2, 3, "serial line: damaged"), ("microcode/refused", "PASS", 1, 1, ""),
    ]  # fmt: skip
    assert stored.record.started <= datetime.now(UTC) and stored.record.virtual
