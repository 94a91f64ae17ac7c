"""Cases of the matrix as a part of `bench run`: one machine and kernel, stored and counted as any other run.

A kernel that is built without late loading shows so once, by the case `SHOWS_IT`: its other cases that load late would
each meet the same file that is not there, and are skipped with that reason.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from bench.images.microcode_package import find_package
from bench.judge import Judgement
from bench.lab.boot import Progress
from bench.microcode.cases import case
from bench.microcode.run import ground_of, run_case, subject_of
from bench.microcode.saved import scenarios_of, transitions_of
from bench.microcode.trial import Trial
from bench.records import ScenarioResult, Verdict, worst
from bench.run import MATRIX, MatrixOrder, RunResult, new_folder
from bench.sim.ucode_system import What

SHOWS_IT = "late-newest"
NO_LATE_LOADING = (
    f"this kernel is built without late loading, which {SHOWS_IT} shows: run it on kernels with the fragment "
    "late-load, by `bench microcode matrix --kernel linux-6.1 --kernel linux-7.3`"
)
NOT_HERE = "Intel's microcode is not here: get it with `bench microcode fetch`"


def run_matrix_order(
    order: MatrixOrder,
    *,
    results: Path,
    progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
) -> RunResult:
    """Carry out one order, case after case; skipped as a whole without Intel's files, if it wants those."""
    started, clock = datetime.now(UTC), time.monotonic()
    package = None if order.made_up else find_package()
    folder = new_folder(results / "captures", started, order.machine.name, order.label.replace(" ", "-"))
    outcomes, left_out = [], []
    if package is not None or order.made_up:
        subject, ground = subject_of(order.root, order.kernel), ground_of(order.machine, package)
        for number, name in enumerate(order.cases, start=1):
            found = case(name)
            assert found is not None, name
            if not subject.late and name != SHOWS_IT and loads_late(found.make(ground)):
                left_out.append(ScenarioResult(f"{MATRIX}{name}", Verdict.SKIP, reason=NO_LATE_LOADING))
                continue
            here = folder / f"boot-{number}"
            outcomes.append(
                run_case(order.root, found, order.machine, ground, subject, here, cancel=cancel, progress=progress)
            )
            if cancel is not None and cancel.is_set():
                break
        scenarios = (*scenarios_of(outcomes), *left_out)
    else:
        scenarios = tuple(ScenarioResult(name, Verdict.SKIP, reason=NOT_HERE) for name in order.names)
    verdict = worst([each.verdict for each in scenarios])
    judgement = Judgement(
        machine=order.machine.name, model=order.machine.model, image=order.image, virtual=True, verdict=verdict,
        scenarios=scenarios, windows=(), pending=(), transitions=transitions_of(outcomes),
    )  # fmt: skip
    return RunResult(
        order=order,
        judgement=judgement,
        scenarios=scenarios,
        verdict=verdict,
        seconds=round(time.monotonic() - clock, 2),
        folder=folder,
        image_sha256=order.kernel.sha256,
        started=started,
        details=order.kernel.details,
    )


def loads_late(trial: Trial) -> bool:
    """Whether it writes to the kernel's reload file."""
    return any(deed.what is What.LATE for deed in trial.deeds)
