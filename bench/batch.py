"""Many orders, some at a time; Ctrl-C lets those that run switch their machines off and starts no more."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from bench.bugs import Bug
from bench.errors import BenchError, UsageError
from bench.health import Health
from bench.hosts import with_files
from bench.images import PayloadImage
from bench.judge import Judgement
from bench.lab.boot import Limits, Progress
from bench.leases import lease
from bench.microcode.order import run_matrix_order
from bench.records import Machine, Verdict
from bench.run import KernelOrder, MatrixOrder, Order, RunResult, judge_folders
from bench.run import run as run_order
from bench.run_kernel import run_kernel
from bench.store import Store, place_of

# How long an order waits for a machine that somebody else has.
LEASE_WAIT_S = 3600.0


@dataclass(frozen=True)
class Task:
    """An order and, for a demonstration, the bug in it."""

    order: Order | KernelOrder | MatrixOrder
    bug: Bug | None = None

    @property
    def name(self) -> str:
        """Machine and variant, as progress shows them."""
        return f"{self.order.machine.name} {self.order.label}{' (demonstration)' if self.bug else ''}"


@dataclass
class Outcome:
    """What came of a task: a result, or the error that kept it from starting."""

    task: Task
    result: RunResult | None = None
    error: BenchError | None = None

    @property
    def verdict(self) -> Verdict:
        """The verdict that counts. A demonstration passes if its bug was caught, and only then."""
        if self.result is None:
            return Verdict.ERROR if isinstance(self.error, UsageError) else Verdict.MISS
        if self.task.bug is None:
            return self.result.verdict
        return {Verdict.FAIL: Verdict.PASS, Verdict.MISS: Verdict.MISS}.get(self.result.verdict, Verdict.ERROR)

    @property
    def whole(self) -> bool:
        """Every scenario has told something, or has a reason why it was left out."""
        return self.result is not None and all(each.verdict is not Verdict.MISS for each in self.result.scenarios)


def carry_out(
    tasks: Sequence[Task],
    *,
    root: Path,
    payload: PayloadImage,
    results: Path,
    jobs: int,
    limits: Limits,
    progress: Callable[[Task, Progress], None],
    finished: Callable[[Outcome], None],
    interrupted: Callable[[], None],
) -> list[Outcome]:
    """Outcomes in the order of the tasks; fewer than tasks if it was interrupted, which is reported at once.

    `progress` and `finished` are called from the threads that run the orders. Judging is done by other processes:
    in this one it would keep the threads that read serial ports waiting, and so the machines.
    """
    stops = [threading.Event() for _ in tasks]
    stop_of = {id(task): stop for task, stop in zip(tasks, stops, strict=True)}
    judges = ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"), initializer=_serve_the_bench)

    def one(task: Task) -> Outcome:
        # Set by Ctrl-C, and if the machine is taken away from us.
        cancel = stop_of[id(task)]

        def judged(folders: Sequence[Path]) -> Judgement:
            return judges.submit(judge_folders, folders).result()

        def tell(news: Progress) -> None:
            progress(task, news)

        order = task.order
        try:
            order = replace(order, machine=with_files(order.machine, root))
            with _had(order.machine, results, cancel) as machine:
                order = replace(order, machine=machine)
                if isinstance(order, MatrixOrder):
                    result = run_matrix_order(order, results=results, progress=tell, cancel=cancel)
                elif isinstance(order, KernelOrder):
                    result = run_kernel(
                        order, results=results, limits=limits, judged=judged, progress=tell, cancel=cancel
                    )
                else:
                    result = run_order(
                        order, payload=payload, results=results, limits=limits, judged=judged, progress=tell,
                        cancel=cancel,
                    )  # fmt: skip
            outcome = Outcome(task, result)
        except BenchError as error:
            outcome = Outcome(task, error=error)
        finished(outcome)
        return outcome

    outcomes: list[Outcome] = []
    waiting = list(tasks)
    with judges, ThreadPoolExecutor(jobs) as pool:
        futures: set[Future[Outcome]] = set()
        try:
            while waiting or futures:
                while waiting and len(futures) < jobs:
                    futures.add(pool.submit(one, waiting.pop(0)))
                done, futures = wait(futures, return_when=FIRST_COMPLETED, timeout=0.5)
                outcomes += [future.result() for future in done]
        except KeyboardInterrupt:
            interrupted()
            for stop in stops:
                stop.set()
            outcomes += [future.result() for future in futures]
    place = {id(task): number for number, task in enumerate(tasks)}
    return sorted(outcomes, key=lambda o: place[id(o.task)])


@contextmanager
def _had(machine: Machine, results: Path, cancel: threading.Event) -> Iterator[Machine]:
    """The machine for ourselves, and only if it is fit; with what is learnt of it. A virtual one is made anew for each
    run and is always both."""
    if machine.virtual is not None:
        yield machine
        return
    with Store(place_of(results)) as store:
        health = Health(store)
        health.require_online(machine.name)
        machine = health.as_learnt(machine)
    with lease(machine, results, wait_s=LEASE_WAIT_S, cancel=cancel):
        yield machine


def _serve_the_bench() -> None:
    """Leave Ctrl-C to the bench, and end with it, even if it is killed: nobody else would end a judge."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_bench, daemon=True).start()


def _end_with_the_bench() -> None:
    bench = multiprocessing.parent_process()
    if bench is not None:
        bench.join()
        os._exit(1)
