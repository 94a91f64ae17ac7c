"""The forms that other tools read: validated by those tools' own readers where there are any."""

from __future__ import annotations

import csv as csvs
import importlib
import inspect
import io
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as xml

import pytest

from bench.cli import app
from bench.errors import UsageError
from bench.images.kernel import build_kernel
from bench.images.kernel_cache import default_cache
from bench.inventory import find_root
from bench.records import Verdict
from bench.report.export import latest_of_each
from bench.report.export.kcidb import kcidb
from bench.report.export.ktap import ktap
from bench.store import Store, StoredRun
from tests.report_lab import make_results

pytestmark = pytest.mark.slow
LAB = ("MISS", "ERROR")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_results(tmp_path_factory.mktemp("lab") / "results")


@pytest.fixture(scope="module")
def runs(results: Path) -> list[StoredRun]:
    with Store(results / "bench.sqlite") as store:
        return store.runs()


def export(results: Path, tmp_path: Path, *words: str) -> bytes:
    out = tmp_path / "out"
    assert app(["results", "export", *words, "--results", str(results), "-o", str(out)], standalone_mode=False) == 0
    return out.read_bytes()


def count(runs: list[StoredRun]) -> Counter[Verdict]:
    return Counter(s.verdict for r in runs for s in r.record.scenarios)


def test_junit_has_kernels_as_failures_and_the_lab_as_errors(
    results: Path, runs: list[StoredRun], tmp_path: Path
) -> None:
    root = xml.fromstring(export(results, tmp_path, "junit", "--all"))
    verdicts = count(runs)
    assert len(root.findall("testsuite")) == len(runs)
    assert len(root.findall(".//testcase/failure")) == verdicts[Verdict.FAIL] > 0
    errors = root.findall(".//testcase/error")
    assert len(errors) == verdicts[Verdict.MISS] + verdicts[Verdict.ERROR] > 0
    assert all((e.get("type") or "").startswith(LAB) for e in errors)
    assert len(root.findall(".//testcase/skipped")) == verdicts[Verdict.SKIP]
    for suite in root.findall("testsuite"):
        assert int(suite.get("tests", "")) == len(suite.findall("testcase"))
        assert int(suite.get("failures", "")) == len(suite.findall("testcase/failure"))


def test_junit_of_the_latest_runs_alone(results: Path, runs: list[StoredRun], tmp_path: Path) -> None:
    root = xml.fromstring(export(results, tmp_path, "junit"))
    assert len(root.findall("testsuite")) == len(latest_of_each(runs)) < len(runs)


def test_kcidbs_own_schema_takes_it(results: Path, runs: list[StoredRun], tmp_path: Path) -> None:
    from kcidb_io.schema import V5_3

    document = json.loads(export(results, tmp_path, "kcidb", "--all", "--origin", "our_lab"))
    assert V5_3.validate(document) is not None
    tests = document["tests"]
    assert Counter(t["status"] for t in tests) == {str(k): n for k, n in count(runs).items()}
    for name in ("checkouts", "builds", "tests", "issues", "incidents"):
        ids = [row["id"] for row in document[name]]
        assert len(ids) == len(set(ids)) and all(i.startswith("our_lab:") for i in ids)
    known = {name: {row["id"] for row in document[name]} for name in ("checkouts", "builds", "tests", "issues")}
    assert {b["checkout_id"] for b in document["builds"]} <= known["checkouts"]
    assert {t["build_id"] for t in tests} <= known["builds"]
    assert {i["test_id"] for i in document["incidents"]} <= known["tests"]
    assert {i["issue_id"] for i in document["incidents"]} == known["issues"]


def test_kcidb_blames_the_kernel_for_failures_alone(runs: list[StoredRun]) -> None:
    document = kcidb(runs, origin="our_lab")
    status = {t["id"]: t["status"] for t in document["tests"]}
    culprit = {i["id"]: i["culprit"] for i in document["issues"]}
    part = {"FAIL": "code", "ERROR": "tool", "MISS": "harness"}
    for incident in document["incidents"]:
        blamed = [name for name, yes in culprit[incident["issue_id"]].items() if yes]
        assert blamed == [part[status[incident["test_id"]]]]


def test_kcidb_has_no_null_and_no_control_character(runs: list[StoredRun]) -> None:
    def values(value: Any) -> list[Any]:
        if isinstance(value, dict):
            return [x for k, v in value.items() for x in (k, *values(v))]
        if isinstance(value, list):
            return [x for v in value for x in values(v)]
        return [value]

    told = values(kcidb(runs, origin="a"))
    assert None not in told
    # A line feed parts the lines of an excerpt.
    assert not [t for t in told if isinstance(t, str) and re.search(r"[\x00-\x09\x0b-\x1f\x7f\u202e]", t)]


def test_an_origin_with_a_hyphen_is_refused(runs: list[StoredRun]) -> None:
    with pytest.raises(UsageError, match="our-lab"):
        kcidb(runs, origin="our-lab")


def test_csv_has_a_row_for_each_scenario_and_no_formula(results: Path, runs: list[StoredRun], tmp_path: Path) -> None:
    rows = list(csvs.DictReader(io.StringIO(export(results, tmp_path, "csv").decode())))
    assert Counter(r["verdict"] for r in rows) == {str(k): n for k, n in count(runs).items()}
    assert not [v for r in rows for v in r.values() if v.startswith(("=", "+", "-", "@", "\t"))]


def test_parquet_keeps_types(results: Path, runs: list[StoredRun], tmp_path: Path) -> None:
    import pandas as pd

    frame = pd.read_parquet(io.BytesIO(export(results, tmp_path, "parquet")))
    assert len(frame) == sum(count(runs).values())
    assert str(frame["started"].dtype).endswith("UTC]")
    assert str(frame["predicted"].dtype) == "int64" and str(frame["virtual"].dtype) == "bool"


def test_parquet_is_not_written_to_a_terminal(results: Path) -> None:
    with pytest.raises(UsageError, match="--output"):
        app(["results", "export", "parquet", "--results", str(results)], standalone_mode=False)


def test_markdown_tells_what_is_new_and_draws_nothing_of_a_machine(results: Path, tmp_path: Path) -> None:
    text = export(results, tmp_path, "markdown").decode()
    assert text.startswith("## bench: ")
    assert re.search(r"^Against the baselines: \d+ regression", text, re.M)
    assert "| `regression` | `haswell` | `early-pf/v3.9` |" in text
    # Outside code spans nothing of a machine stands, so no tag, mention or link of its making.
    outside = re.sub(r"`[^`\n]*`", "", text)
    assert not re.search(r"<(?!/?(?:details|summary)>)|@|\]\(", outside)
    assert len(text) < 65536


# --- KTAP -------------------------------------------------------------------------------------------------------------


def test_ktap_counts_lab_trouble_as_skipped(runs: list[StoredRun]) -> None:
    lines = list(ktap(runs))
    verdicts = count(runs)
    results = [line for line in lines if re.match(r" {4}(not )?ok ", line)]
    assert lines[:2] == ["KTAP version 1", f"1..{len(runs)}"]
    assert sum(line.startswith("    not ok") for line in results) == verdicts[Verdict.FAIL]
    skipped = verdicts[Verdict.SKIP] + verdicts[Verdict.MISS] + verdicts[Verdict.ERROR]
    assert sum(" # SKIP" in line for line in results) == skipped > 0


def kernels_own_parsers() -> Iterator[Callable[[Iterable[str]], Any]]:
    """parse_run_tests() of every kernel's source in the cache, where building one leaves it."""
    place = "trees/*/linux/tools/testing/kunit/kunit_parser.py"
    if not list(default_cache().glob(place)):
        build_kernel(find_root(), "linux-6.1")
    found = sorted(default_cache().glob(place))
    assert found, "the kernel is built, but its tree was pruned: remove the kernel from the cache, and it is made anew"
    for path in found:
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(path.parent)
            for name in ("kunit_parser", "kunit_printer"):
                patch.delitem(sys.modules, name, raising=False)
            parser = importlib.import_module("kunit_parser")
            assert parser.__file__ == str(path)
            # 6.1 and 6.12 have one printer, 7.3 is given one.
            wants_printer = len(inspect.signature(parser.parse_run_tests).parameters) > 1
            printer = [importlib.import_module("kunit_printer").stdout] if wants_printer else []
            yield lambda lines, parse=parser.parse_run_tests, printer=printer: parse(lines, *printer)


@pytest.mark.kernels
def test_the_kernels_own_kunit_parser_reads_it(runs: list[StoredRun], capsys: pytest.CaptureFixture[str]) -> None:
    for parse in kernels_own_parsers():
        test = parse(ktap(runs))
        verdicts = count(runs)
        counts = test.counts
        assert counts.failed == verdicts[Verdict.FAIL]
        assert counts.passed == verdicts[Verdict.PASS] + verdicts[Verdict.DONE]
        assert counts.skipped == verdicts[Verdict.SKIP] + verdicts[Verdict.MISS] + verdicts[Verdict.ERROR]
        assert (counts.errors, counts.crashed) == (0, 0)
        assert len(test.subtests) == len(runs)
        assert "[ERROR]" not in capsys.readouterr().out
