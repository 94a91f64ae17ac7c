"""`bench run`: orders for machines, progress while they run, a table per CPU model at the end."""

from __future__ import annotations

import json as jsons
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.errors import UsageError
from bench.records import PAYLOAD_VARIANTS, Machine, worst
from bench.terminal import say

if TYPE_CHECKING:
    from bench.batch import Outcome, Task

SCENARIOS = Path("firmware-images/scenarios")
PAYLOAD = "payload"


def run(
    machine: Annotated[list[str] | None, typer.Option(help="Machine of the inventory (may be repeated).")] = None,
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
        typer.Option("--full", help="Kernels and boot plans of the long set too, on more machines."),
    ] = False,
    demonstrate: Annotated[
        bool, typer.Option(help="One more boot a machine with a hidden bug in the handler, which must be found.")
    ] = False,
    draw: Annotated[int, typer.Option(help="Selects the bugs to demonstrate.")] = 0,
    witness: Annotated[bool, typer.Option(help="Hold the trace against QEMU's own exception log.")] = False,
    jobs: Annotated[int | None, typer.Option(min=1, help="Machines at a time (default: one a processor).")] = None,
    results: Annotated[Path | None, typer.Option(help="Where captures and store go (default: results/).")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on standard output, nothing else.")] = False,
) -> int:
    """Boot machines with the payload, capture what they say and hold it against the reference simulator."""
    from bench.batch import carry_out
    from bench.cli_kernels import kernel_names, kernel_tasks
    from bench.cli_summary import one_line, outcome_rows, summary
    from bench.images import build_payload
    from bench.inventory import find_root
    from bench.lab.boot import Limits
    from bench.progress import Board
    from bench.report.rows import EXIT_CODES

    root = find_root()
    images = image or [PAYLOAD]
    tasks: list[Task] = []
    if PAYLOAD in images:
        tasks = _tasks(root, machine or [], all_machines, variant or [], scenario or [], scenario_set, witness)
    if demonstrate:
        machines = {t.order.machine.name: t.order.machine for t in tasks}
        tasks += _demonstrations(root, list(machines.values()), draw)
    kernels = [name for name in images if name != PAYLOAD]
    if not image and all_machines:
        kernels = kernel_names(root, full=full)
    tasks += kernel_tasks(
        root, kernels, machine or [], every=all_machines, plans=plan or [], full=full, witness=witness, quiet=json
    )
    payload = build_payload(root)
    where = results or root / "results"
    try:
        (where / "captures").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{where}: nothing can be written there: {error.strerror}") from error
    started = time.monotonic()
    at_a_time = jobs or os.cpu_count() or 1
    board = Board(len(tasks), at_a_time, quiet=json)

    def finished(outcome: Outcome) -> None:
        _store(where, outcome)
        board.finish(outcome.task.name, outcome.verdict, one_line(outcome))

    outcomes = carry_out(
        tasks,
        payload=payload,
        results=where,
        jobs=at_a_time,
        limits=Limits(),
        progress=lambda task, p: board.update(task.name, p),
        finished=finished,
        interrupted=board.interrupted,
    )
    board.close()
    verdict = worst([o.verdict for o in outcomes])
    if json:
        say(
            jsons.dumps(
                {"verdict": verdict, "interrupted": board.was_interrupted, "runs": list(outcome_rows(outcomes))},
                indent=2,
            )
        )
    else:
        for line in summary(outcomes, time.monotonic() - started):
            say(line)
    return 130 if board.was_interrupted else EXIT_CODES[verdict]


def _tasks(
    root: Path,
    names: Sequence[str],
    every: bool,
    variants: Sequence[str],
    scenarios: Sequence[str],
    scenario_set: str,
    witness: bool,
) -> list[Task]:
    from bench.batch import Task
    from bench.inventory import load_inventory
    from bench.run import Order
    from bench.scenarios import load_scenarios

    machines = load_inventory(root)
    if not every and not names:
        raise UsageError("say which machine: --machine NAME, or --all; `bench inventory list` shows them")
    chosen = list(machines) if every else list(names)
    _known("machine", chosen, machines)
    _known("variant", variants, PAYLOAD_VARIANTS)
    known = load_scenarios(root / SCENARIOS)
    _known("scenario", scenarios, known)
    wanted = [known[n] for n in scenarios] or [s for s in known.values() if s.set == scenario_set]
    if not wanted:
        raise UsageError(f"no scenario is in set {scenario_set!r}; there are {sorted({s.set for s in known.values()})}")
    tasks = []
    for name in chosen:
        for variant in variants or PAYLOAD_VARIANTS:
            applies = tuple(s for s in wanted if variant in s.variants)
            if (variant != "la57" or machines[name].la57 or variants) and applies:
                tasks.append(Task(Order(machines[name], variant, applies, witness=witness)))
    if not tasks:
        raise UsageError("no scenario of this choice is for such a machine and variant")
    return tasks


def _known(what: str, names: Iterable[str], known: Iterable[str]) -> None:
    for name in names:
        if name not in known:
            raise UsageError(f"no {what} {name!r}; there are: {', '.join(known)}")


def _demonstrations(root: Path, machines: Sequence[Machine], draw: int) -> list[Task]:
    from bench.batch import Task
    from bench.bugs import load_bugs
    from bench.run import Order
    from bench.scenarios import load_scenarios

    table, scenarios = load_bugs(root), load_scenarios(root / SCENARIOS)
    tasks = []
    for number, machine in enumerate(machines):
        # Neighbours in the table are kin: step through it by a number that is prime to its size.
        picked = table.pick(machine, draw + 7 * number)
        if picked:
            bug, variant = picked
            chosen = tuple(scenarios[name] for name in table.scenarios if variant in scenarios[name].variants)
            tasks.append(Task(Order(machine, variant, chosen, bug=bug.number), bug))
    return tasks


def _store(results: Path, outcome: Outcome) -> None:
    from bench.store import Store

    if outcome.result:
        with Store(results / "bench.sqlite") as store:
            store.save_run(outcome.result.record(demonstration=outcome.task.bug is not None))
