"""`bench report`: the site."""

from __future__ import annotations

import json as jsons
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli_results import Json, Results, changes_of, results_folder, stored_runs
from bench.terminal import complain, say

if TYPE_CHECKING:
    from bench.records import Machine
    from bench.report.site import Built


def report(
    results: Results = None,
    lab: Annotated[
        Path | None, typer.Option(help="Another lab, as for bench run: its results/ and its inventory.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where the site goes (default: reports/ of the results).")] = None,
    drawn: Annotated[int, typer.Option(min=0, help="Draw the captures of the latest so many runs.")] = 400,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes (default: one a processor).")] = None,
    json: Json = False,
) -> int:
    """Write the results as a static site that opens from disk; only what changed is written."""
    from bench.inventory import find_root

    started = time.monotonic()
    root = find_root(lab) if lab else None
    folder = results_folder(results or (root / "results" if root else None))
    built = build_report(folder, out, root=root, drawn=drawn, jobs=jobs)
    seconds = time.monotonic() - started
    if json:
        rows = {"index": str(built.index), "written": built.written, "unchanged": built.unchanged}
        say(
            jsons.dumps(
                {**rows, "removed": built.removed, "runs_drawn": built.runs_drawn, "seconds": round(seconds, 2)}
            )
        )
        return 0
    counts = f"{len(built.written)} files written ({built.runs_drawn} runs drawn from their captures)"
    say(f"{counts}, {built.unchanged} unchanged, {len(built.removed)} removed, {seconds:.1f} s")
    say(f"open {built.index.resolve()}")
    return 0


def build_report(
    folder: Path, out: Path | None = None, *, root: Path | None = None, drawn: int = 400, jobs: int | None = None
) -> Built:
    """The site of a folder of results, with the facts of the machines of the lab at `root` (default: this clone's)."""
    from bench.report.site import build

    runs = stored_runs(folder)
    changes = changes_of(folder, runs)
    at_a_time = jobs or os.cpu_count() or 1
    return build(folder, out or folder / "reports", runs, changes, _machines(root), drawn=drawn, jobs=at_a_time)


def _machines(root: Path | None) -> dict[str, Machine]:
    """The inventory's, if there is one here that can be read: a report does without."""
    from bench.errors import BenchError
    from bench.inventory import find_root, load_inventory

    try:
        return load_inventory(root or find_root())
    except BenchError as error:
        complain(f"the report has no facts of the inventory: {error}")
        return {}
