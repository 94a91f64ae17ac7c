"""`bench run`: orders for machines, progress while they run, a table per CPU model at the end."""

from __future__ import annotations

import json as jsons
import os
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli_orders import Asked, tasks_of
from bench.errors import UsageError
from bench.journal import Ended, Journal, Unfinished, latest
from bench.records import Verdict, worst
from bench.terminal import note, say

if TYPE_CHECKING:
    from bench.batch import Outcome, Task
    from bench.images import PayloadImage

# An order with one of these has told all that it can; the others are run again when a run is gone on with.
TOLD = (Verdict.PASS, Verdict.FAIL, Verdict.DONE, Verdict.SKIP)


def run(
    machine: Annotated[list[str] | None, typer.Option(help="Machine of the inventory (may be repeated).")] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="All machines of a CPU model, such as 06-9e-0a (may be repeated).")
    ] = None,
    all_machines: Annotated[bool, typer.Option("--all", help="Every machine of the inventory.")] = False,
    variant: Annotated[list[str] | None, typer.Option(help="Handler variant (default: each that applies).")] = None,
    scenario: Annotated[list[str] | None, typer.Option(help="Scenario (default: the whole set).")] = None,
    scenario_set: Annotated[str, typer.Option("--set", help="Set of scenarios.")] = "hil",
    image: Annotated[
        list[str] | None,
        typer.Option(help="payload, or a kernel of `bench images list` (may be repeated; default: payload)."),
    ] = None,
    plan: Annotated[list[str] | None, typer.Option("--boot", help="Boot plan of a kernel (default: its set).")] = None,
    full: Annotated[
        bool,
        typer.Option(
            "--full",
            help="Kernels and boot plans of the long set too, on more machines; virtual ones with a disk in each way.",
        ),
    ] = False,
    demonstrate: Annotated[
        bool, typer.Option(help="One more boot a machine with a hidden bug in the handler, which must be found.")
    ] = False,
    draw: Annotated[int, typer.Option(help="Selects the bugs to demonstrate.")] = 0,
    witness: Annotated[bool, typer.Option(help="Hold the trace against QEMU's own exception log.")] = False,
    method: Annotated[
        str | None, typer.Option(help="Load machines in this way only, one of their boot_methods.")
    ] = None,
    lab: Annotated[
        Path | None, typer.Option(help="Another lab: its folder, or a file in it, such as inventory/lab.toml.")
    ] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Machines at a time (default: one a processor).")] = None,
    results: Annotated[Path | None, typer.Option(help="Where captures and store go (default: results/).")] = None,
    dry: Annotated[bool, typer.Option("--plan", help="Only say what would be done, and how long it takes.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the last run that was broken off; takes no other choices.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on standard output, nothing else.")] = False,
) -> int:
    """Boot machines with the payload, capture what they say and hold it against the reference simulator."""
    from bench.inventory import find_root

    asked = Asked(
        machine or (), model or (), all_machines, variant or (), scenario or (), scenario_set, image or (),
        plan or (), full, demonstrate, draw, witness, str(lab.resolve()) if lab else "", method or "",
    )  # fmt: skip
    broken: Unfinished | None = None
    if resume:
        if asked != Asked():
            raise UsageError("--resume goes on with what the run that was broken off was asked for: no other choices")
        broken = latest(results or find_root() / "results")
        asked = Asked(**broken.asked)
    root = find_root(Path(asked.lab) if asked.lab else None)
    where = results or root / "results"
    try:
        (where / "captures").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{where}: nothing can be written there: {error.strerror}") from error
    return _Run(asked, root, where, jobs or os.cpu_count() or 1, json=json, dry=dry, broken=broken).carry_out()


class _Run:
    """One run of the command."""

    def __init__(
        self, asked: Asked, root: Path, results: Path, jobs: int, *, json: bool, dry: bool, broken: Unfinished | None
    ) -> None:
        from bench.images import build_payload

        self._asked, self._root, self._results, self._jobs = asked, root, results, jobs
        self._json, self._dry, self._broken = json, dry, broken
        # A kernel takes minutes to build: whoever asks for the plan alone does not wait for that.
        self._unbuilt: list[str] | None = [] if dry else None
        self._every = tasks_of(asked, root, quiet=json, unbuilt=self._unbuilt)
        self._payload = build_payload(root)
        told = {(one.name, one.image_sha256): one for one in broken.ended if one.verdict in TOLD} if broken else {}
        keys = {(task.name, _sha256(task, self._payload)): task for task in self._every}
        self._before: list[Ended] = [one for key, one in told.items() if key in keys]
        self._tasks: Sequence[Task] = [task for key, task in keys.items() if key not in told]

    def carry_out(self) -> int:
        """All that is left to do, or only the plan of it; the exit code."""
        from bench.cli_plan import make_plan
        from bench.cli_systems import announce_for

        plan = make_plan(self._tasks, self._results, self._jobs, unbuilt=self._unbuilt or ())
        if self._dry:
            for line in [jsons.dumps(plan.as_json(), indent=2)] if self._json else plan.lines():
                say(line)
            return 0
        if not self._json:
            if self._broken:
                note(f"going on with the run of {self._broken.started}: {len(self._before)} runs are done, "
                     f"{len(self._tasks)} are left")  # fmt: skip
            for line in plan.lines():
                note(line)
            announce_for(task.order.machine for task in self._tasks)
        return self._boot_all()

    def _boot_all(self) -> int:
        from bench.batch import carry_out
        from bench.cli_summary import one_line, outcome_rows, summary
        from bench.lab.boot import Limits
        from bench.progress import Board
        from bench.report.rows import EXIT_CODES

        started = time.monotonic()
        journal = Journal(self._results, vars(self._asked), len(self._every), resumed=self._broken)
        board = Board(len(self._tasks), self._jobs, quiet=self._json)

        def finished(outcome: Outcome) -> None:
            _store(self._results, outcome)
            task, text = outcome.task, one_line(outcome)
            if outcome.whole or not board.was_interrupted:  # else --resume takes it from its beginning
                journal.ended(Ended(task.name, _sha256(task, self._payload), outcome.verdict, text))
            board.finish(task.name, outcome.verdict, text)

        try:
            outcomes = carry_out(
                self._tasks,
                root=self._root,
                payload=self._payload,
                results=self._results,
                jobs=self._jobs,
                limits=Limits(),
                progress=lambda task, p: board.update(task.name, p),
                finished=finished,
                interrupted=board.interrupted,
            )
            board.close()
            journal.close(whole=not board.was_interrupted)
        except BaseException:
            journal.close(whole=False)
            raise
        verdict = worst([*(o.verdict for o in outcomes), *(Verdict(one.verdict) for one in self._before)])
        if self._json:
            rows = list(outcome_rows(outcomes))
            result = {"verdict": verdict, "interrupted": board.was_interrupted, "runs": rows}
            if self._broken:
                result["before"] = [vars(one) for one in self._before]
            say(jsons.dumps(result, indent=2))
        else:
            for line in summary(outcomes, time.monotonic() - started):
                say(line)
            if self._before:
                counts = Counter(one.verdict for one in self._before)
                words = ", ".join(f"{n} {v}" for v, n in sorted(counts.items()))
                say(f"{verdict} with the runs that were done before: {words}")
            if board.was_interrupted:
                say("Broken off: bench run --resume goes on with what is left")
        return 130 if board.was_interrupted else EXIT_CODES[verdict]


def _sha256(task: Task, payload: PayloadImage) -> str:
    from bench.run import Order

    return payload.sha256 if isinstance(task.order, Order) else task.order.kernel.sha256


def _store(results: Path, outcome: Outcome) -> None:
    from bench.store import Store, place_of

    if outcome.result:
        with Store(place_of(results)) as store:
            store.save_run(outcome.result.record(demonstration=outcome.task.bug is not None))
