"""`bench results`: baselines, changes, comparisons, retention. Needs no lab."""

from __future__ import annotations

import json as jsons
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.describe import printable
from bench.errors import UsageError
from bench.terminal import say

if TYPE_CHECKING:
    from bench.report.comparison import Comparison
    from bench.report.regressions import Change
    from bench.store import StoredRun

app = typer.Typer(no_args_is_help=True, help="What earlier runs found. Needs no lab.")

Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output, nothing else.")]
Results = Annotated[Path | None, typer.Option("--results", help="The folder of results (default: results/).")]
Runs = Annotated[list[int] | None, typer.Argument(help="Numbers of runs in the store.", metavar="[RUN]...")]


def results_folder(results: Path | None) -> Path:
    """The folder that was named, or that of this clone. Raises UsageError if it has no store."""
    from bench.inventory import find_root
    from bench.store import is_there

    folder = results or find_root() / "results"
    if not is_there(folder):
        raise UsageError(
            f"{folder}: no run is stored there yet (no bench.sqlite); `bench run --machine NAME` makes one"
        )
    return folder


def stored_runs(folder: Path) -> list[StoredRun]:
    """All runs of the folder's store, the latest first."""
    from bench.store import Store, place_of

    with Store(place_of(folder)) as store:
        return store.runs()


def changes_of(folder: Path, runs: list[StoredRun]) -> list[Change]:
    """Every test against the baselines in `folder`."""
    from bench.report.baselines import known_tests, load_baselines
    from bench.report.regressions import compare

    return compare(runs, known_tests(load_baselines(folder / "baselines")))


@app.command("bless")
def bless_runs(
    run: Runs = None,
    everything: Annotated[bool, typer.Option("--all", help="All machines and images of the store.")] = False,
    machine: Annotated[str | None, typer.Option(help="Only this machine.")] = None,
    image: Annotated[str | None, typer.Option(help="Only this image.")] = None,
    results: Results = None,
    json: Json = False,
) -> int:
    """Make what was found the baseline: what is known, and so no news. Writes baselines/MACHINE.toml, for review.

    With numbers of runs, just those; else the latest ten of each test, so that a test that passes and fails is
    blessed as unstable, k of n.
    """
    from bench.report.baselines import bless
    from bench.report.history import is_demonstration

    folder = results_folder(results)
    runs = stored_runs(folder)
    if run:
        unknown = set(run) - {r.id for r in runs}
        if unknown:
            raise UsageError(f"the store has no run {min(unknown)}")
        runs = [r for r in runs if r.id in run]
    elif not (everything or machine or image):
        raise UsageError("say what to bless: numbers of runs, --machine, --image or --all")
    runs = [
        r
        for r in runs
        if machine in (None, r.record.machine) and image in (None, r.record.image) and not is_demonstration(r.record)
    ]
    changed = bless(folder / "baselines", runs, now=datetime.now(UTC))
    if json:
        say(jsons.dumps([str(path) for path in changed]))
        return 0
    for path in changed:
        say(f"{path}")
    say(f"{len(changed)} baseline{'s' * (len(changed) != 1)} changed; review and commit them" if changed else "no news")
    return 0


@app.command("changes")
def results_changes(results: Results = None, json: Json = False) -> int:
    """Say what is new against the baselines. Exit code 1 if there is a regression or a new failure."""
    from bench.report.regressions import BAD

    folder = results_folder(results)
    changes = changes_of(folder, stored_runs(folder))
    if json:
        say(jsons.dumps([_change_row(c) for c in changes if c.word], indent=2))
    else:
        for line in changes_lines(changes):
            say(line)
    return 1 if any(c.word in BAD for c in changes) else 0


def changes_lines(changes: list[Change]) -> list[str]:
    """The changed tests by urgency, and a count of the rest."""
    from bench.report.regressions import Word, change_words, counted

    lines = []
    for word in Word:
        for change in (c for c in changes if c.word is word):
            t = change.test
            lines.append(f"{word:14} {t.machine:20} {t.image:24} {t.scenario:26} {printable(change_words(change))}")
    same = sum(c.word is None for c in changes)
    trouble = sum(bool(c.trouble) for c in changes)
    told = counted(changes) or "nothing new"
    lines.append(f"{told}; {same} without news; {trouble} that the lab kept silent lately")
    return lines


def _change_row(change: Change) -> dict[str, Any]:
    from bench.report.regressions import change_words

    return {
        **change.test._asdict(),
        "word": change.word,
        "baseline": str(change.known) if change.known else None,
        "passed": change.sample.passed if change.sample else None,
        "judged": change.sample.judged if change.sample else None,
        "run": change.sample.latest.run if change.sample else None,
        "last_before": change.before.run if change.before else None,
        "first_since": change.since.run if change.since else None,
        "trouble": change.trouble,
        "text": change_words(change),
    }


@app.command("compare")
def results_compare(
    left: Annotated[str, typer.Argument(help="An image, a machine, a date or a run's number.")],
    right: Annotated[str, typer.Argument(help="Another of that kind.")],
    page: Annotated[bool, typer.Option("--page", help="Write a page of the report too.")] = False,
    results: Results = None,
    json: Json = False,
) -> int:
    """Compare two images, machines, dates or runs, field by field."""
    from bench.report.comparison import compare_sides

    folder = results_folder(results)
    comparison = compare_sides(stored_runs(folder), left, right)
    if json:
        say(jsons.dumps(_comparison_row(comparison), indent=2))
        return 0
    for d in comparison.differences:
        where = " ".join(p for p in (d.machine, d.image, d.scenario) if p) or "image"
        say(f"{printable(where):60} {d.name:18} {printable(d.left) or '-'}  |  {printable(d.right) or '-'}")
    for side, only in ((left, comparison.only_left), (right, comparison.only_right)):
        for key in only:
            say(f"{' '.join(p for p in key if p):60} only {side}")
    say(f"{comparison.equal} of {comparison.tests} tests that both {comparison.kind}s tell of are equal")
    if page:
        from bench.report.site.pages import write_comparison

        say(f"open {write_comparison(folder / 'reports', comparison).resolve()}")
    return 0


def _comparison_row(comparison: Comparison) -> dict[str, Any]:
    return {
        "kind": comparison.kind,
        "left": comparison.left,
        "right": comparison.right,
        "tests": comparison.tests,
        "equal": comparison.equal,
        "differences": [vars(d) for d in comparison.differences],
        "only_left": comparison.only_left,
        "only_right": comparison.only_right,
    }


@app.command("check")
def results_check(
    results: Results = None,
    seal: Annotated[bool, typer.Option("--seal", help="Give captures without a manifest one now.")] = False,
    json: Json = False,
) -> int:
    """Prove that store and files agree: every file of every capture against the manifest of its run."""
    from bench.report.retention import check
    from bench.report.retention import seal as seal_all
    from bench.store import Store, place_of

    folder = results_folder(results)
    with Store(place_of(folder)) as store:
        found = check(store.runs(), folder)
        sealed = seal_all(store, found.unsealed, folder) if seal else 0
    unsealed = [r.id for r in found.unsealed][sealed:]
    if json:
        lists = {"complaints": found.complaints, "unsealed": unsealed, "orphans": [str(p) for p in found.orphans]}
        say(jsons.dumps({"whole": found.whole, "pruned": found.pruned, "sealed": sealed, **lists}, indent=2))
        return 3 if found.complaints else 0
    for text in found.complaints:
        say(text)
    for path in found.orphans:
        say(f"no run of the store names {path}")
    counts = f"{found.whole} runs whole, {found.pruned} pruned, {len(found.complaints)} complaints"
    say(f"{counts}, {len(unsealed)} without manifest{' (--seal makes them)' if unsealed else ''}")
    return 3 if found.complaints else 0


@app.command("prune")
def results_prune(
    keep: Annotated[
        list[str], typer.Option(help="90d: captures younger than that; 20: so many of each machine and image.")
    ],
    do_it: Annotated[bool, typer.Option("--yes", help="Remove them; without it, only say what would go.")] = False,
    results: Results = None,
    json: Json = False,
) -> int:
    """Remove old captures; what was found stays in the store. Without --yes it removes nothing.

    Kept in any case: the latest of each machine and image, what a baseline names, and the first run of a failure that
    still stands with the last good one before it.
    """
    from bench.report.baselines import blessed_runs, load_baselines
    from bench.report.retention import Keep, prunable, prune
    from bench.store import Store, place_of

    folder = results_folder(results)
    rule = Keep.parse(keep)
    evidence = blessed_runs(load_baselines(folder / "baselines").values())
    with Store(place_of(folder)) as store:
        gone = prunable(store.runs(), rule, results=folder, evidence=evidence, now=datetime.now(UTC))
        if do_it:
            prune(store, gone)
    if json:
        rows = [{"run": p.run.id, "folder": str(p.folder), "bytes": p.size_bytes} for p in gone]
        say(jsons.dumps({"removed": do_it, "captures": rows}, indent=2))
        return 0
    for p in gone:
        say(f"{p.run.id:5d}  {p.run.record.started:%Y-%m-%d}  {p.size_bytes:10d} bytes  {p.folder}")
    size = sum(p.size_bytes for p in gone) / 1e6
    verb = "removed" if do_it else "would go (--yes removes them)"
    say(f"captures of {len(gone)} run{'s' * (len(gone) != 1)}, {size:.1f} MB, {verb}")
    return 0


class Form(StrEnum):
    """The forms of `bench results export`."""

    JUNIT = "junit"
    KTAP = "ktap"
    KCIDB = "kcidb"
    CSV = "csv"
    PARQUET = "parquet"
    MARKDOWN = "markdown"


@app.command("export")
def results_export(
    form: Annotated[Form, typer.Argument(help="The form.")],
    run: Runs = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The file (default: standard output).")] = None,
    machine: Annotated[str | None, typer.Option(help="Only this machine.")] = None,
    image: Annotated[str | None, typer.Option(help="Only this image.")] = None,
    since: Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Only runs from this day on.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All runs, not the latest of each machine and image.")] = False,
    origin: Annotated[str, typer.Option(help="KCIDB: the name of this lab.")] = "bench",
    results: Results = None,
) -> int:
    """Write results for other tools: JUnit XML, KTAP, KCIDB 5.3, CSV, Parquet, or Markdown for a forge's comment.

    The latest run of each machine and image, if nothing else is said; CSV and Parquet have all runs. In JUnit a failure
    is the kernel's and an error the lab's; in KTAP, which has no word for it, the lab's trouble is a skipped test.
    """
    from bench.report.export import chosen, latest_of_each

    folder = results_folder(results)
    stored = stored_runs(folder)
    day = since.replace(tzinfo=UTC) if since else None
    runs = chosen(stored, ids=frozenset(run or ()), machine=machine, image=image, since=day)
    if not (every or run or since or form in (Form.CSV, Form.PARQUET)):
        runs = latest_of_each(runs)
    data = _exported(form, runs, folder, stored, origin)
    if output is None:
        if form is Form.PARQUET:
            raise UsageError("Parquet is no text: name a file with --output")
        say(data.decode("utf-8").rstrip("\n"))
        return 0
    try:
        output.write_bytes(data)
    except OSError as error:
        raise UsageError(f"{output}: {error.strerror}") from error
    say(f"{output}: {len(runs)} run{'s' * (len(runs) != 1)}, {len(data)} bytes")
    return 0


def _exported(form: Form, runs: list[StoredRun], folder: Path, stored: list[StoredRun], origin: str) -> bytes:
    match form:
        case Form.JUNIT:
            from bench.report.export.junit import junit

            return junit(runs)
        case Form.KTAP:
            from bench.report.export.ktap import ktap

            return ("\n".join(ktap(runs)) + "\n").encode("utf-8", "backslashreplace")
        case Form.KCIDB:
            from bench.report.export.kcidb import kcidb

            return (jsons.dumps(kcidb(runs, origin=origin), indent=1) + "\n").encode()
        case Form.MARKDOWN:
            from bench.report.export.markdown import markdown

            return markdown(runs, changes_of(folder, stored)).encode("utf-8", "backslashreplace")
        case Form.CSV:
            from bench.report.export.tables import csv

            return csv(runs)
        case Form.PARQUET:
            from bench.report.export.tables import parquet

            return parquet(runs)
