"""pytest with machines: a test asks for a machine, boots it, and gets what the kernel did.

A verdict on the kernel is the test's to judge. Trouble of the lab never is: it comes out as an error with its
component and witness, or as a skip where no machine of the lab fits; never as a failure.

Only pytest is imported with this module: it is loaded in every session of an environment that has the bench.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bench.errors import LabError, UsageError

if TYPE_CHECKING:
    from bench.images import PayloadImage
    from bench.judge import Judgement
    from bench.records import Capture, Machine, Prediction, Stimulus
    from bench.run import RunResult

WAIT_S = 600.0
ASK_AGAIN_S = 0.25
# What a mark may need, beside tags of the inventory.
_NEEDS: dict[str, Callable[[Machine], bool]] = {
    "nx": lambda m: m.nx,
    "no-nx": lambda m: not m.nx,
    "la57": lambda m: m.la57,
    "virtual": lambda m: m.virtual is not None,
    "silicon": lambda m: m.virtual is None,
    "updates": lambda m: m.allow_updates,
    "beyond-ram": lambda m: m.allow_beyond_ram,
}


class LabTrouble(LabError):
    """A run that told nothing of the kernel: MISS or ERROR."""


@dataclass
class Lab:
    """The machines of this session, where it holds them and where it leaves its captures."""

    root: Path
    machines: Sequence[Machine]
    results: Path
    wait_s: float


@dataclass(frozen=True)
class Reference:
    """The simulator, and the judgement that rests on it."""

    def predict(self, stimulus: Stimulus, *, quirks: frozenset[str] = frozenset()) -> Prediction:
        """What a machine must do that is offered `stimulus`."""
        from bench.sim.predict import predict

        return predict(stimulus, quirks=quirks)

    def judge(self, captures: Sequence[Capture]) -> Judgement:
        """The verdict on the boots of one run."""
        from bench.judge import judge

        return judge(captures)


@dataclass
class Booter:
    """The fixture `boot`: boots the test's machine, and remembers what came of it."""

    lab: Lab
    machine: Machine
    image: PayloadImage
    results: list[RunResult] = field(default_factory=list)

    def __call__(self, *scenarios: str, variant: str = "v3.9", bug: int = 0) -> RunResult:
        """Run scenarios on the machine. Raises LabTrouble if nothing can be told of the kernel."""
        from bench.lab.boot import Limits
        from bench.run import Order, run
        from bench.scenarios import load_scenarios

        known = load_scenarios(self.lab.root / "firmware-images" / "scenarios")
        unknown = [name for name in scenarios if name not in known]
        if unknown:
            raise UsageError(f"no scenario {unknown[0]!r}; there are: {', '.join(known)}")
        order = Order(self.machine, variant, tuple(known[name] for name in scenarios), bug=bug)
        result = run(order, payload=self.image, results=self.lab.results, limits=Limits())
        self.results.append(result)
        if result.verdict.value in ("MISS", "ERROR"):
            found = next((f for s in result.scenarios for f in s.findings), None)
            what = f"{found.component}: {found.summary}" if found else "no finding"
            witness = ", ".join(f"{k} {v}" for k, v in found.witness.items()) if found else ""
            component = found.component if found else "lab"
            text = f"{result.verdict} on {self.machine.name}: {what} (captures: {result.folder})"
            raise LabTrouble(text, component=component, witness=witness)
        if all(s.verdict.value == "SKIP" for s in result.scenarios):
            reasons = "; ".join(f"{s.scenario}: {s.reason}" for s in result.scenarios)
            pytest.skip(f"does not apply to {self.machine.name}: {reasons}")
        return result


# --- options and marks ------------------------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    """The lab and its machines."""
    group = parser.getgroup("bench", "machines of a lab")
    group.addoption(
        "--bench-lab",
        metavar="{virtual,FILE}",
        help="virtual: the virtual machines of this clone; FILE: a clone with an inventory, or a file in it. "
        "Without it tests that need a machine are skipped",
    )
    group.addoption("--bench-machine", action="append", default=[], metavar="NAME", help="only this machine (repeat)")
    group.addoption("--bench-model", action="append", default=[], metavar="06-9e-0a", help="only this model (repeat)")
    group.addoption("--bench-results", metavar="DIR", help="keep captures there (default: a temporary folder)")
    group.addoption(
        "--bench-wait",
        type=float,
        default=WAIT_S,
        metavar="SECONDS",
        help="wait so long for a machine that others hold",
    )


def pytest_configure(config: pytest.Config) -> None:
    """The mark."""
    words = ", ".join(_NEEDS)
    config.addinivalue_line(
        "markers",
        f"hil(model='06-9e-0a', needs=[...]): runs on a machine of the lab that fits; needs: {words}, or tags",
    )


def fits(machine: Machine, model: str | None, needs: Sequence[str]) -> bool:
    """Whether a machine is what a mark asks for."""
    return model in (None, machine.model) and all(
        _NEEDS[need](machine) if need in _NEEDS else need in machine.tags for need in needs
    )


# --- fixtures ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def bench_lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """The lab that --bench-lab names; without it the test is skipped."""
    from bench.inventory import find_root, load_inventory

    chosen = request.config.getoption("--bench-lab")
    if not chosen:
        pytest.skip("no lab was named: --bench-lab virtual, or --bench-lab FILE")
    root = find_root(None if chosen == "virtual" else Path(chosen).resolve())
    machines = list(load_inventory(root).values())
    if chosen == "virtual":
        machines = [m for m in machines if m.virtual is not None]
    names, models = request.config.getoption("--bench-machine"), request.config.getoption("--bench-model")
    unknown = [n for n in names if n not in {m.name for m in machines}]
    if unknown:
        raise UsageError(f"--bench-machine {unknown[0]}: the lab has {', '.join(m.name for m in machines)}")
    machines = [m for m in machines if (not names or m.name in names) and (not models or m.model in models)]
    kept = request.config.getoption("--bench-results")
    results = Path(kept).resolve() if kept else tmp_path_factory.mktemp("bench-results")
    return Lab(root, machines, results, request.config.getoption("--bench-wait"))


@pytest.fixture
def machine(request: pytest.FixtureRequest, bench_lab: Lab) -> Iterator[Machine]:
    """A machine that fits the test's `hil` marks, held for the test alone."""
    model, needs = None, []
    for mark in request.node.iter_markers("hil"):
        model = model or mark.kwargs.get("model")
        needs += list(mark.kwargs.get("needs", ()))
    fitting = [m for m in bench_lab.machines if fits(m, model, needs)]
    if not fitting:
        wanted = ", ".join([*([f"model {model}"] if model else []), *needs]) or "any machine"
        pytest.skip(f"no machine of the lab fits: {wanted}")
    with hold_one(fitting, bench_lab, purpose=f"pytest {request.node.nodeid}") as held:
        yield held


@contextmanager
def hold_one(machines: Sequence[Machine], lab: Lab, *, purpose: str) -> Iterator[Machine]:
    """Have the first of `machines` that is free, by the lab's leases; virtual ones too, each for one test at a time.

    Raises LabError, whose witness names the owner, if none becomes free in time.
    """
    from bench.health import Health
    from bench.leases import Leases
    from bench.store import Store, place_of

    deadline = time.monotonic() + lab.wait_s
    folder = lab.root / "results"
    with Store(place_of(folder)) as store, ExitStack() as stack:
        leases = Leases(store, folder / "locks")
        # One machine has a queue of its own; of several the first that is free is taken, so each is asked in turn.
        wait_s = lab.wait_s if len(machines) == 1 else 0.0
        while True:
            for machine in machines:
                try:
                    stack.enter_context(leases.lease(machine.name, purpose=purpose, wait_s=wait_s))
                except LabError:
                    if machine is machines[-1] and time.monotonic() >= deadline:
                        raise
                    continue
                yield Health(store).as_learnt(machine)
                return
            time.sleep(ASK_AGAIN_S)


@pytest.fixture(scope="session")
def image(bench_lab: Lab) -> PayloadImage:
    """The payload, built from the lab's clone."""
    from bench.images import build_payload

    return build_payload(bench_lab.root)


@pytest.fixture
def boot(request: pytest.FixtureRequest, bench_lab: Lab, machine: Machine, image: PayloadImage) -> Booter:
    """``boot("ping-pong", variant="v3.9")`` runs scenarios and gives the RunResult."""
    booter = Booter(bench_lab, machine, image)
    request.node.stash[_booter] = booter
    return booter


@pytest.fixture
def capture(boot: Booter) -> Callable[[], list[Capture]]:
    """``capture()``: the captures of the boots that the test has made last."""
    from bench.parse.capture_file import read_captures

    def latest() -> list[Capture]:
        if not boot.results:
            raise UsageError("nothing was booted yet in this test: call the fixture boot first")
        return read_captures(boot.results[-1].folder)

    return latest


@pytest.fixture(scope="session")
def reference() -> Reference:
    """The reference simulator."""
    return Reference()


# --- whose fault it was -----------------------------------------------------------------------------------------------

_booter = pytest.StashKey[Booter]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[Any]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Trouble of the lab in a test's body is an error; a failure gets the story of the first divergence."""
    report = yield
    if call.excinfo is None:
        return report
    if call.when == "call" and call.excinfo.errisinstance(LabError):
        # pytest counts whatever goes wrong outside of `call` as an error, on the terminal and in JUnit alike.
        report.when = "setup"
        report.longrepr = f"lab: {call.excinfo.value}"
    booter = item.stash.get(_booter, None)
    if report.failed and booter and booter.results:
        from bench.report.explain import explain

        for result in booter.results:
            lines = [f"captures: {result.folder}", *explain(result.judgement)]
            report.sections.append((f"bench explain {result.order.image}", "\n".join(lines)))
    return report
