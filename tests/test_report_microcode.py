"""The report's microcode transitions: what virtual processors did is never counted as silicon's."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from bench.cli_report import build_report
from bench.records import Verdict
from bench.report.site.figures import transition_chart
from bench.report.site.microcode import transitions
from bench.store import MicrocodeRow, RunRecord, Store, StoredRun, Transition
from tests.lab_history import START

LOADER_ONLY = "A virtual processor proves the loader, not the processor"
UPDATED = MicrocodeRow(1, 0, 0x2, 0x27, 0x28, 0x28, Transition.UPDATED)
REFUSED = replace(UPDATED, after=0x27, outcome=Transition.REFUSED)
SILICON = RunRecord(
    started=START, machine="haswell", model="06-3c-03", signature=0x306C3, image="linux-6.1", image_sha256="ab" * 32,
    virtual=False, verdict=Verdict.PASS, seconds=1.0, capture="", microcode=(REFUSED,),
)  # fmt: skip
VIRTUAL = replace(
    SILICON, machine="haswell-virtual", virtual=True, microcode=(UPDATED,), started=START + timedelta(hours=1)
)


def built(folder: Path, *records: RunRecord) -> tuple[Path, list[StoredRun]]:
    """The site of a store with these runs, and the runs."""
    with Store(folder / "bench.sqlite") as store:
        store.save_runs(list(records))
        runs = list(store.runs())
    return build_report(folder, jobs=1).index.parent, runs


def test_virtual_and_silicon_are_rows_and_marks_of_their_own() -> None:
    runs = [StoredRun(n, each) for n, each in enumerate([SILICON, VIRTUAL] * 50, start=1)]
    rows = transitions(runs)
    assert [(row.virtual, row.updated, row.observed, row.latest.id) for row in rows] == [
        (False, 0, 50, 99), (True, 50, 50, 100),
    ]  # fmt: skip
    chart = transition_chart(rows)
    assert chart and chart.data[0]["y"] == [row[0] for row in chart.rows]
    assert chart.data[0]["y"] == [
        "06-3c-03/2 silicon 0x27→0x28 linux-6.1", "06-3c-03/2 virtual 0x27→0x28 linux-6.1",
    ]  # fmt: skip


@pytest.mark.slow
def test_pages_with_a_virtual_processors_microcode_say_what_that_proves(tmp_path: Path) -> None:
    site, runs = built(tmp_path, SILICON, VIRTUAL)
    page = (site / "microcode.html").read_text()
    assert LOADER_ONLY in page and "<td>0 of 1</td>" in page and "<td>1 of 1</td>" in page
    silicon, virtual = (row for row in page.split("<tr>") if "0x000306c3" in row)
    assert ">silicon<" in silicon and "virtual: not silicon" in virtual
    facts = re.sub(r"<[^>]+>|\s+", " ", (site / "models" / "06-3c-03.html").read_text())
    assert re.search(r"microcode in use \(silicon\) +0x00000027 .*microcode in use \(virtual\) +0x00000028 ", facts)
    for run in runs:
        assert (LOADER_ONLY in (site / "runs" / f"{run.id}.html").read_text()) is run.record.virtual


@pytest.mark.slow
def test_pages_of_silicon_alone_do_not_speak_of_virtual_processors(tmp_path: Path) -> None:
    site, _ = built(tmp_path, SILICON)
    assert LOADER_ONLY not in (site / "microcode.html").read_text()
