"""One case, one machine, one kernel: predict, boot, observe, compare."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path

from bench.errors import LabError, UsageError
from bench.images.init import build_init
from bench.images.kernel_image import KernelImage
from bench.images.microcode_package import Package
from bench.images.msr_sites import find_msr_sites
from bench.images.newest_update import intels_newest, made_up
from bench.initrd import init_cpio
from bench.inventory import load_inventory
from bench.lab.boot import Limits, Load, Progress, boot
from bench.lab.virtual import INITRD
from bench.microcode.later import AGAIN, hold_boot, verdict_of
from bench.microcode.observe import LOG_WORDS, Difference, Observed
from bench.microcode.story import Story, files_of, kexec_files, look, predict_story, steps_of
from bench.microcode.trial import Case, Ground, Trial
from bench.parse.capture_file import read_captures
from bench.records import Machine, MsrSite, Verdict
from bench.sim.ucode_load import EarlyLoad, End, LoadOffer
from bench.sim.ucode_loaders import Loader, loader_of
from bench.wire import encode
from bench.x86.microcode_processor import Cores, Restart

# A kernel that looks whether the timer ticks gives up on an emulated one that a loaded computer holds up.
COMMAND_LINE = "console=ttyS0,115200 earlyprintk=serial,ttyS0,115200 panic=-1 no_timer_check"
# To the loader the same, in half the time: processors are found in the MP table, ACPI and PCI are not started, and the
# APIC's timer is not measured.
QUICK = "acpi=off pci=off nolapic_timer"
# Processors that take turns, in place of waiting for each other on cores of their own.
IN_TURN = "tcg,thread=single"
MEMORY_BYTES = 256 << 20
# A processor that does not come up is waited for 10 s (6.5 and newer): longer than that has to pass in silence.
LIMITS = Limits(first_byte_s=25, silence_s=25, total_s=180)
# For what is predicted to say more: 6.1 counts a second in ten million steps before it panics, for which an emulated
# processor of a loaded computer takes half a minute and longer. It costs nothing where the prediction is right.
PATIENT = Limits(first_byte_s=120, silence_s=240, total_s=600)
_LOG = f"log {' '.join(LOG_WORDS)}"
_RELOAD_SYMBOL, _MP_TABLE_SYMBOL = "dev_attr_reload", "mpf_base"
# Everything twice: a serial line may lose a byte, and nothing in these lines would tell.
_STEPS = (
    "show /proc/cpuinfo", "say bench-init: the kernel's log", _LOG,
    "say bench-init: again", "show /proc/cpuinfo",
)  # fmt: skip


@dataclass(frozen=True)
class Subject:
    """A kernel that cases are run on."""

    name: str
    kernel: Path
    release: str
    sha256: str
    sites: tuple[MsrSite, ...]
    init: bytes
    words: str = ""
    """What it wants on its command line."""
    late: bool = False
    """It has been built with CONFIG_MICROCODE_LATE_LOADING."""
    quick: bool = False
    """Cases of the start alone are started with `QUICK`, for which it has to be built with CONFIG_X86_MPPARSE."""
    traced: bool = False
    """It has the trace."""

    @property
    def loader(self) -> Loader:
        """Its generation."""
        return loader_of(self.release)


@dataclass(frozen=True)
class Result:
    """What came of one boot of a case. `why` says what broke, if nothing could be compared."""

    case: str
    subject: str
    image_sha256: str
    machine: str
    model: str
    signature: int
    verdict: Verdict
    predicted: EarlyLoad
    observed: Observed | None
    differences: tuple[Difference, ...]
    seconds: float
    folder: str
    why: str = ""
    flags: int = 0
    """Platform flags of its processors."""
    shared_with: str = ""
    """Machine and case whose boot it was, if this cell, of equal inputs, had none of its own."""


def subject_of(root: Path, image: KernelImage, *, quick: bool = False) -> Subject:
    """A built kernel as a subject, started quickly where it can be if it is to be `quick`. Raises UsageError if it has
    no microcode loader, or no symbols."""
    # With the trace, a kernel would end the boot before init does.
    words = "bench.done=init" if image.traced else ""
    sites = find_msr_sites(image.folder)
    symbols = (image.folder / "System.map").read_text(encoding="latin-1")
    late, quick = f" {_RELOAD_SYMBOL}\n" in symbols, quick and f" {_MP_TABLE_SYMBOL}\n" in symbols
    init = build_init(root).read_bytes()
    return Subject(image.name, image.kernel, image.release, image.sha256, sites, init, words, late, quick, image.traced)


def ground_of(machine: Machine, package: Package | None, *, processors: int = 2, bios: int | None = None) -> Ground:
    """A machine's signature and platform with Intel's newest update for it, or with a made-up one.

    Raises UsageError if the package has none.
    """
    newest = intels_newest(machine, package) if package else made_up(machine)
    return Ground(machine.signature, machine.platform_id, newest.data, processors, bios)


def starts_quickly(trial: Trial, subject: Subject) -> bool:
    """Whether a case is started with `QUICK`: nothing is done behind the start, and no processors are siblings, which
    an MP table does not list."""
    return subject.quick and not trial.deeds and not trial.then and trial.rules.siblings == 1


def machine_of(root: Path, wanted: str | Machine, trial: Trial, *, quick: bool = False) -> Machine:
    """A machine, or the inventory's of that name, as a case wants it: small, and with the trial's processors."""
    found = load_inventory(root).get(wanted) if isinstance(wanted, str) else wanted
    if found is None or found.virtual is None:
        raise UsageError(f"{wanted}: not a virtual machine of the inventory; `bench inventory list` names them")
    properties = tuple(p for p in found.virtual.properties if not p.startswith("hypervisor="))
    if not trial.hypervisor:
        properties += ("hypervisor=off",)
    spec = replace(found.virtual, properties=properties, processors=trial.processors, microcode=trial.rules)
    if quick:
        spec = replace(spec, packages=True, accelerator=IN_TURN)
    return replace(found, virtual=spec, memory_bytes=MEMORY_BYTES)


def command_line_of(trial: Trial, subject: Subject, words: str) -> str:
    """The kernel's, at each start."""
    started = "" if trial.started is None else f"maxcpus={trial.started}"
    quick = QUICK if starts_quickly(trial, subject) else ""
    return " ".join(part for part in (COMMAND_LINE, quick, subject.words, words, trial.words, started) if part)


def initrd_of(trial: Trial, subject: Subject, command_line: str = "") -> bytes:
    """The trial's early part, then the init that does and shows things and ends the boot."""
    done = f"say {encode(0, 'done', {}, nonce=0).decode().strip()}"
    if not (trial.deeds or trial.then):
        return _initrd(trial.early, init_cpio(subject.init, [*_STEPS, done]))
    files, steps = files_of(trial), [*steps_of(trial), _LOG]
    if trial.then is Restart.KEXEC:
        second = second_initrd_of(trial, subject)
        files |= kexec_files(subject.kernel.read_bytes(), second, command_line)
        return _initrd(trial.early, init_cpio(subject.init, [*steps, "kexec"], files))
    return _initrd(trial.early, init_cpio(subject.init, [*steps, done], files))


def second_initrd_of(trial: Trial, subject: Subject) -> bytes:
    """Of the second start: there is nothing to do but to show what runs."""
    if trial.then is Restart.KEXEC:
        done = f"say {encode(0, 'done', {}, nonce=0).decode().strip()}"
        steps = [*look(len(trial.deeds) + 1), _LOG, done]
        return _initrd(trial.then_early, init_cpio(subject.init, steps))
    return initrd_of(replace(trial, early=trial.then_early, deeds=(), then=None), subject)


def _initrd(early: bytes, rest: bytes) -> bytes:
    return early + bytes(-len(early) % 16) + rest


def offer_of(trial: Trial, initrd: bytes, command_line: str) -> LoadOffer:
    """What the loader is offered. Where the initrd lies matters by its alignment alone, and it is a page's."""
    processors = trial.processors if trial.started is None else trial.started
    return LoadOffer(initrd, len(initrd), 0, command_line, trial.hypervisor, processors)


@dataclass(frozen=True)
class Prepared:
    """A case ready to be booted, with its prediction."""

    trial: Trial
    machine: Machine
    command_line: str
    initrd: bytes
    second: bytes
    """The initrd of the second start; empty: there is none."""
    story: Story


def prepare(
    root: Path, case: Case, wanted: str | Machine, ground: Ground, subject: Subject, *, words: str = "nokaslr"
) -> Prepared:
    """What a case boots on this ground, and what has to come of it. Raises UsageError."""
    trial = case.make(ground)
    # A kernel that kexec starts lies where its symbols say: where the first one lies is looked for once.
    command_line = command_line_of(trial, subject, "nokaslr" if trial.then is Restart.KEXEC else words)
    initrd = initrd_of(trial, subject, command_line)
    second = second_initrd_of(trial, subject) if trial.then else b""
    story = predict_story(
        subject.loader, trial, offer_of(trial, initrd, command_line),
        offer_of(trial, second, command_line) if second else None, late_built_in=subject.late,
    )  # fmt: skip
    machine = machine_of(root, wanted, trial, quick=starts_quickly(trial, subject))
    return Prepared(trial, machine, command_line, initrd, second, story)


def run_case(
    root: Path,
    case: Case,
    wanted: str | Machine,
    ground: Ground,
    subject: Subject,
    folder: Path,
    *,
    words: str = "nokaslr",
    limits: Limits | None = None,
    cancel: threading.Event | None = None,
    name: str = "",
    progress: Callable[[Progress], None] | None = None,
) -> Result:
    """One case into `folder`, which keeps the hash of its initrd, and that itself only if the case is not as predicted.

    `name`: what the machine is called in the result; `limits`: in place of `limits_of`. A second boot of it, after the
    power was off, goes into a folder of its own beside that. Trouble of the lab's own becomes a MISS; UsageError is
    raised.
    """
    began = time.monotonic()
    ready = prepare(root, case, wanted, ground, subject, words=words)
    meta = {
        "image": subject.name, "nonce": "0", "virtual": True, "case": case.name, "command_line": ready.command_line,
        "traced": subject.traced, "prediction": _as_json(ready.story),
    }  # fmt: skip
    cores = Cores(ready.trial.rules, ready.trial.processors)
    result = _empty(case, ready, subject, folder, name)
    try:
        for part, there in ((ready.initrd, folder), (ready.second, folder.with_name(f"{folder.name}{AGAIN}"))):
            if there != folder and (ready.trial.then is not Restart.POWER_CYCLE or result.verdict is not Verdict.PASS):
                break
            note = f"an initrd of {len(part)} bytes, SHA-256 {sha256(part).hexdigest()}\n".encode()
            load = Load(subject.kernel, part, ready.command_line, offer=note, msr_sites=subject.sites, cores=cores)
            boot(
                ready.machine,
                load,
                there,
                meta=meta,
                limits=limits or limits_of(ready.story),
                cancel=cancel,
                progress=progress,
            )
            result = _held(result, ready.story, there)
            if result.verdict is not Verdict.PASS:
                (there / INITRD).write_bytes(part)
    except (LabError, OSError) as error:
        component = error.component if isinstance(error, LabError) else "bench"
        result = replace(result, verdict=Verdict.MISS, observed=None, differences=(), why=f"{component}: {error}")
    return replace(result, seconds=round(time.monotonic() - began, 2))


def limits_of(story: Story) -> Limits:
    """How long its boots are waited for: only a silence that is predicted is believed soon."""
    return LIMITS if story.end in (End.HANG, End.RETRY) else PATIENT


def share_boot(cell: Cell, root: Path, boot_: Result, *, words: str = "nokaslr") -> Result:
    """What comes of a cell whose inputs are those of a boot that was made: its own prediction, held against that."""
    ready = prepare(root, cell.case, cell.machine, cell.ground, cell.subject, words=words)
    folder = Path(boot_.folder)
    result = replace(
        _empty(cell.case, ready, cell.subject, folder, cell.name), shared_with=f"{boot_.machine} {boot_.case}"
    )
    if boot_.observed is None:
        return replace(result, verdict=Verdict.MISS, why=boot_.why)
    again = folder.with_name(f"{folder.name}{AGAIN}")
    for there in (folder, again):
        if there == folder or (again.is_dir() and result.verdict is Verdict.PASS):
            result = _held(result, ready.story, there)
            if result.verdict is not Verdict.PASS:
                (there / INITRD).write_bytes(ready.initrd if there == folder else ready.second)
    return result


def _empty(case: Case, ready: Prepared, subject: Subject, folder: Path, name: str) -> Result:
    machine, early = ready.machine, replace(ready.story.early, kept=(), given=b"")
    return Result(
        case.name, subject.name, subject.sha256, name or machine.name, machine.model, machine.signature, Verdict.PASS,
        early, None, (), 0.0, str(folder), "", ready.trial.rules.platform_flags,
    )  # fmt: skip


def _held(result: Result, story: Story, folder: Path) -> Result:
    """The result with what one boot's folder has, held against the prediction."""
    (capture,) = read_captures(folder)
    seen, found, damage = hold_boot(story, capture, folder)
    verdict, why = verdict_of(seen, found, damage)
    return replace(result, verdict=verdict, observed=seen, differences=tuple(found), why=why)


def _as_json(story: Story) -> object:
    """For ``capture.json``: without the updates themselves."""
    plain = replace(story, early=replace(story.early, kept=(), given=b""))
    if plain.second:
        plain = replace(plain, second=replace(plain.second, kept=(), given=b""))
    return json.loads(json.dumps(asdict(plain), default=str))


@dataclass(frozen=True)
class Cell:
    """One cell of the matrix, to be run `times` times."""

    case: Case
    machine: Machine
    ground: Ground
    subject: Subject
    times: int = 1

    @property
    def name(self) -> str:
        """Of the machine, and of the BIOS's revision if the ground has one of its own."""
        return self.machine.name if self.ground.bios is None else f"{self.machine.name}-b{self.ground.bios:x}"

    @property
    def key(self) -> tuple[str, str, str]:
        """What tells it from others in the store: the kernel's hash, its name, and the case's."""
        return self.subject.sha256, self.name, self.case.name
