"""One machine, one image, all stages in order: the file to read first.

offer    scenarios that apply to the machine → windows of a script
boot     the lab boots payload and script and captures what the machine says
judge    parse, simulate, reconcile
again    a machine that died in a window is booted anew for the windows after it
store    the verdict, with the path of its captures
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from bench.errors import LabError, UsageError
from bench.images import KernelImage, PayloadImage
from bench.images.microcode_package import find_package
from bench.images.newest_update import intels_newest
from bench.images.payload_sites import payload_sites
from bench.judge import Judgement, judge
from bench.lab.boot import Limits, Load, Progress, boot
from bench.lab.flash.kexec import RESETS_NOTHING, KexecLoader
from bench.parse.capture_file import read_captures
from bench.parse.exception_log import read_exceptions
from bench.parse.trace import parse_trace
from bench.records import PAYLOAD, Finding, Machine, ScenarioResult, Verdict, worst
from bench.scenarios import BootPlan, Scenario, Skip, expand
from bench.script import ScriptWindow, render
from bench.store import MicrocodeRow, RunRecord, Transition
from bench.update_safety import require_allowed, require_fallback
from bench.updates import NOTHING, PLAYED, SILICON, UpdateOffer
from bench.witness import Testimony, cross_examine, of_the_kernel

MATRIX = "microcode/"
"""In front of the names of the matrix' cases, where those of scenarios and boot plans stand."""
# A machine that dies in one window after another is not booted for each of the rest.
MAX_BOOTS = 4
INTERRUPTED = Finding("bench", "the run was interrupted")


@dataclass(frozen=True)
class Order:
    """What to run: one machine, one handler variant of the payload, a set of scenarios."""

    machine: Machine
    variant: str
    scenarios: tuple[Scenario, ...]
    bug: int = 0
    """A bug to build into the handler; neither trace nor simulator is told."""
    witness: bool = False
    """Hold the trace against the virtual machine's own exception log."""
    method: str = ""
    """The one way to load the machine that the run is about, if it is; part of its names, and so of what is stored."""

    @property
    def image(self) -> str:
        """Name of the image under test."""
        return f"{PAYLOAD}/{self.label}"

    @property
    def label(self) -> str:
        """What of the machine's image it is about, in a word."""
        return _loaded_by(self.variant, self.method)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of what is done, in order."""
        return tuple(s.name for s in self.scenarios)


@dataclass(frozen=True)
class KernelOrder:
    """What to run: one machine, one kernel, a set of boot plans."""

    machine: Machine
    kernel: KernelImage
    plans: tuple[BootPlan, ...]
    init: Path
    """The program that is started as init where a plan asks for one."""
    witness: bool = False
    method: str = ""
    """As in `Order`."""

    @property
    def image(self) -> str:
        """Name of the image under test."""
        return self.label

    @property
    def label(self) -> str:
        """What of the machine's image it is about, in a word."""
        return _loaded_by(self.kernel.name, self.method)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of what is done, in order."""
        return tuple(p.name for p in self.plans)


def _loaded_by(image: str, method: str) -> str:
    return f"{image}@{method}" if method else image


@dataclass(frozen=True)
class MatrixOrder:
    """What to run: one virtual machine, one kernel, cases of the microcode matrix."""

    machine: Machine
    kernel: KernelImage
    cases: tuple[str, ...]
    made_up: bool
    """Made-up updates; otherwise Intel's, without which it is skipped."""
    root: Path
    """The project's folder."""
    witness: bool = False

    @property
    def image(self) -> str:
        """Name of the image under test."""
        return self.kernel.name

    @property
    def label(self) -> str:
        """What of the machine's image it is about, in a word."""
        return f"{self.kernel.name} microcode{' (made up)' if self.made_up else ''}"

    @property
    def names(self) -> tuple[str, ...]:
        """Names of what is done, in order."""
        return tuple(f"{MATRIX}{name}" for name in self.cases)


@dataclass(frozen=True)
class RunResult:
    """What came of an order. `scenarios` has the skipped ones too, in the order's order."""

    order: Order | KernelOrder | MatrixOrder
    judgement: Judgement
    scenarios: tuple[ScenarioResult, ...]
    verdict: Verdict
    seconds: float
    folder: Path
    image_sha256: str
    started: datetime
    witnessed: int = 0
    """Exceptions on which trace and witness agree."""
    details: Mapping[str, str] = field(default_factory=dict)
    """What the image is made of, in words."""

    def record(self, *, demonstration: bool = False) -> RunRecord:
        """The run as the store keeps it; a demonstration's image is not the faithful one, and is named so."""
        return RunRecord(
            started=self.started,
            machine=self.order.machine.name,
            model=self.order.machine.model,
            signature=self.order.machine.signature,
            image=self.order.image + ("+hidden-bug" if demonstration else ""),
            image_sha256=self.image_sha256,
            virtual=self.order.machine.virtual is not None,
            verdict=self.verdict,
            seconds=self.seconds,
            capture=str(self.folder),
            scenarios=self.scenarios,
            details=self.details,
            microcode=tuple(
                MicrocodeRow(t.boot, t.processor, t.flags, t.before, t.offered, t.after, Transition(t.outcome))
                for t in self.judgement.transitions
            ),
        )


def run(
    order: Order,
    *,
    payload: PayloadImage,
    results: Path,
    limits: Limits,
    judged: Callable[[Sequence[Path]], Judgement] | None = None,
    progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
) -> RunResult:
    """Carry out one order. `judged` judges boot folders, here or in another process.

    What the lab fails at is in the result: MISS, with what was seen. Raises UsageError for what cannot be run so.
    """
    started, clock = datetime.now(UTC), time.monotonic()
    windows, names, skipped = offer(order)
    if offers_updates(windows) and order.machine.virtual is None:
        require_allowed(order.machine)
        require_fallback(order.machine)
    folder = new_folder(results / "captures", started, order.machine.name, order.variant)
    captured: list[Path] = []
    judgement = judge([])
    remaining, cut = windows, None
    while remaining and len(captured) < MAX_BOOTS:
        here = folder / f"boot-{len(captured) + 1}"
        try:
            _boot(order, remaining, names, payload, here, limits, progress, cancel)
        except LabError as error:
            cut = blamed(error)
            break
        captured.append(here)
        judgement = (judged or judge_folders)(captured)
        remaining = tuple(w for w in windows if w.number in judgement.pending)
        caught = order.bug and judgement.verdict is Verdict.FAIL
        if cancel is not None and cancel.is_set():
            cut = INTERRUPTED
        if caught or cut:
            break
    witnessed, objection = question_witness(captured) if order.witness else (0, None)
    scenarios = in_order(order.names, judgement, skipped, objection)
    if cut:
        scenarios = cut_short(scenarios, judgement, Counter(names.values()), cut)
    return RunResult(
        order=order,
        judgement=judgement,
        scenarios=scenarios,
        verdict=worst([s.verdict for s in scenarios]),
        seconds=round(time.monotonic() - clock, 2),
        folder=folder,
        image_sha256=payload.sha256,
        started=started,
        witnessed=witnessed,
        details=payload.details,
    )


def judge_folders(folders: Sequence[Path]) -> Judgement:
    """Judge the boots of a run by their folders."""
    return judge([capture for folder in folders for capture in read_captures(folder)])


def offer(order: Order) -> tuple[tuple[ScriptWindow, ...], dict[int, str], dict[str, str]]:
    """Windows numbered through, window number → scenario, and skipped scenario → reason."""
    windows: list[ScriptWindow] = []
    names: dict[int, str] = {}
    skipped: dict[str, str] = {}
    for scenario in order.scenarios:
        expanded = expand(scenario, order.machine, order.variant, bug=order.bug, newest=_intels_newest(order.machine))
        if isinstance(expanded, Skip):
            skipped[scenario.name] = expanded.reason
            continue
        if order.machine.boot_methods == (KexecLoader.name,) and offers_updates(expanded):
            skipped[scenario.name] = RESETS_NOTHING
            continue
        for window in expanded:
            names[len(windows)] = scenario.name
            windows.append(replace(window, number=len(windows)))
    return tuple(windows), names, skipped


def offers_updates(windows: Sequence[ScriptWindow]) -> bool:
    """Whether the payload is to offer its processor an update of microcode."""
    return any(step.op == "ucode" for window in windows for step in window.steps)


def _intels_newest(machine: Machine) -> bytes:
    """For a machine of metal that may be offered updates; empty if there is none."""
    package = find_package() if machine.virtual is None and machine.allow_updates else None
    try:
        return intels_newest(machine, package).data if package else b""
    except UsageError:
        return b""


def _boot(
    order: Order,
    windows: Sequence[ScriptWindow],
    names: dict[int, str],
    payload: PayloadImage,
    folder: Path,
    limits: Limits,
    progress: Callable[[Progress], None] | None,
    cancel: threading.Event | None,
) -> None:
    machine = order.machine
    nonce = secrets.randbits(64) | 1  # zero stands for "not known yet"
    meta = {
        "machine": machine.name,
        "model": machine.model,
        "image": order.image,
        "virtual": machine.virtual is not None,
        "nonce": f"{nonce:x}",
        "quirks": list(machine.quirks),
        "scenarios": {str(w.number): names[w.number] for w in windows},
        "payload_sha256": payload.sha256,
    }
    load = Load(payload.kernel, render(tuple(windows), nonce=nonce), "")
    if offers_updates(windows):
        virtual = machine.virtual
        rules = virtual.microcode if virtual else None
        takes = SILICON if virtual is None else (PLAYED if rules else NOTHING)
        meta["updates"] = UpdateOffer("", 1, takes, rules).as_json()
        load = replace(load, msr_sites=payload_sites(payload), may_lie_elsewhere=False, updates=True)
    boot(machine, load, folder, meta=meta, limits=limits, witness=order.witness, progress=progress, cancel=cancel)


def question_witness(captured: Sequence[Path]) -> tuple[int, Finding | None]:
    """Hold the traces of all boots against QEMU's logs: exceptions agreed on, and the first objection."""
    agreed = 0
    for path in captured:
        log = path / "exceptions.log"
        if not log.exists():
            raise LabError(f"{log}: the virtual machine left no exception log", component="QEMU")
        capture = read_captures(path)[0]
        windows = parse_trace(capture.data, nonce=capture.nonce).windows
        testimony = [Testimony(e.vector, e.error, e.cr2, e.ip) for e in read_exceptions(log.read_bytes())]
        if any(window.stimulus.facts.is_linux for window in windows):
            testimony = of_the_kernel(windows, testimony)
        agreement = cross_examine(windows, testimony)
        agreed += agreement.exceptions
        if agreement.finding:
            return agreed, agreement.finding
    return agreed, None


def in_order(
    names: Sequence[str], judgement: Judgement, skipped: dict[str, str], objection: Finding | None
) -> tuple[ScenarioResult, ...]:
    """The judged scenarios and the skipped ones in the order of `names`; last what the witness objects to."""
    judged = {s.scenario: s for s in judgement.scenarios}
    rows = [
        judged.get(name) or ScenarioResult(name, Verdict.SKIP, reason=skipped.get(name, "nothing to do"))
        for name in names
    ]
    if objection:
        rows.append(ScenarioResult("witness", Verdict.ERROR, findings=(objection,), reason=objection.summary))
    return tuple(rows)


def cut_short(
    rows: Sequence[ScenarioResult], judgement: Judgement, windows: Mapping[str, int], cut: Finding
) -> tuple[ScenarioResult, ...]:
    """`rows` of a run that `cut` ended before its time: a scenario of which not all `windows` were run has told less
    than it seems to."""
    told = Counter(w.scenario for w in judgement.windows if w.number not in judgement.pending)

    def row_of(row: ScenarioResult) -> ScenarioResult:
        if told[row.scenario] >= windows.get(row.scenario, 0):
            return row
        verdict = worst([row.verdict, Verdict.MISS]) if told[row.scenario] else Verdict.MISS
        return replace(row, verdict=verdict, findings=(*row.findings, cut), reason=cut.summary)

    return tuple(row_of(row) for row in rows)


def blamed(error: LabError) -> Finding:
    """A failure of the lab as what was found: what broke, and its witness."""
    summary = str(error).removeprefix(f"{error.component}: ")
    return Finding(error.component, summary, witness={"seen": error.witness} if error.witness else {})


def new_folder(captures: Path, started: datetime, machine: str, label: str) -> Path:
    """``captures/DATE/TIME-MACHINE-LABEL-XXXX``, made now, never reused."""
    name = f"{started:%H%M%S}-{machine}-{label.replace('/', '-')}-{secrets.token_hex(2)}"
    folder = captures / f"{started:%Y-%m-%d}" / name
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise UsageError(f"{folder}: no captures can be written there: {error.strerror}") from error
    return folder
