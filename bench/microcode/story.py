"""What a case comes to from power-on to its end: the early load, what is done behind it, and a second start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.microcode.trial import Trial
from bench.sim.ucode_load import EarlyLoad, End, LoadOffer, Write, predict_early
from bench.sim.ucode_loaders import Loader
from bench.sim.ucode_system import Moment, System, What
from bench.x86.microcode_processor import Restart
from bench.x86.signature import processor

CPU = "/sys/devices/system/cpu"
RELOAD = f"{CPU}/microcode/reload"
TAINTED = "/proc/sys/kernel/tainted"
PLACE = 96 << 20
"""Physical address of a kernel that kexec starts."""
_FIRMWARE = "lib/firmware/intel-ucode"


@dataclass(frozen=True)
class Story:
    """The prediction. `second`: of the second start, which goes on in the same boot after a kexec."""

    early: EarlyLoad
    moments: tuple[Moment, ...] = ()
    second: EarlyLoad | None = None
    how: Restart | None = None

    @property
    def parts(self) -> tuple[EarlyLoad, ...]:
        """The starts of a kernel in the first boot."""
        return (self.early, self.second) if self.second and self.how is Restart.KEXEC else (self.early,)

    @property
    def end(self) -> End:
        """Of the first boot."""
        return self.moments[-1].end if self.moments else self.early.end

    @property
    def again(self) -> EarlyLoad:
        """Of a second boot. There is one if the power is off in between."""
        assert self.second is not None
        return self.second

    @property
    def lines(self) -> tuple[str, ...]:
        """The kernel's words in the first boot."""
        later = tuple(line for moment in self.moments for line in moment.lines)
        return self.early.lines + later + tuple(line for part in self.parts[1:] for line in part.lines)

    @property
    def writes(self) -> tuple[Write, ...]:
        """What the processors of the first boot are given."""
        later = tuple(write for moment in self.moments for write in moment.writes)
        return self.early.writes + later + tuple(write for part in self.parts[1:] for write in part.writes)


def predict_story(
    loader: Loader, trial: Trial, offer: LoadOffer, second: LoadOffer | None, *, late_built_in: bool
) -> Story:
    """Everything in its order. `second` is what the second start is offered, `running` left out."""
    early = predict_early(loader, trial.rules, offer)
    if not (trial.deeds or trial.then) or early.end is not End.BOOTS:
        return Story(early)
    system = System(loader, trial.rules, offer, early, trial.processors, late_built_in)
    moments: tuple[Moment, ...] = ()
    for deed in trial.deeds:
        moments += (system.do(deed),)
        if moments[-1].end is not End.BOOTS:
            return Story(early, moments)
    if second is None or trial.then is None:
        return Story(early, moments)
    if trial.then.keeps_updates:
        second = LoadOffer(**(vars(second) | {"running": system.runs[:: trial.rules.siblings]}))
    return Story(early, moments, predict_early(loader, trial.rules, second), trial.then)


def look(number: int) -> tuple[str, ...]:
    """Steps that show what there is after the deed of that number, twice."""
    return (f"say bench-init: at {number}", "cpuinfo", f"show {TAINTED}") * 2


def steps_of(trial: Trial) -> list[str]:
    """init's steps, from the first look to the last deed's."""
    steps = list(look(0))
    for number, deed in enumerate(trial.deeds, start=1):
        match deed.what:
            case What.LATE:
                if deed.file is not None:
                    steps.append(f"move /bench/late-{number} /{_FIRMWARE}/{processor(trial.rules.signature)}")
                steps.append(f"put {RELOAD} 1")
            case What.OFF | What.ON:
                steps.append(f"put {CPU}/cpu{deed.processor}/online {int(deed.what is What.ON)}")
            case What.SUSPEND:
                steps.append("suspend")
        steps += look(number)
    return steps


def files_of(trial: Trial) -> dict[str, bytes]:
    """What these steps need."""
    files = {f"bench/late-{n}": deed.file for n, deed in enumerate(trial.deeds, start=1) if deed.file is not None}
    return {f"{_FIRMWARE}/README": b"one file a processor\n", **files}


def kexec_files(kernel: bytes, initrd: bytes, command_line: str) -> dict[str, bytes]:
    """What the kexec step needs."""
    return {
        "kexec/kernel": kernel,
        "kexec/initrd": initrd,
        "kexec/cmdline": command_line.encode(),
        "kexec/place": b"%x" % PLACE,
    }


def by_order_of_processors(lines: Sequence[str], alike: tuple[str, ...]) -> list[str]:
    """Lines, with each run of those that begin with one of `alike` sorted: processors that load side by side speak in
    any order."""
    ordered: list[str] = []
    run: list[str] = []
    for line in lines:
        if line.startswith(alike):
            run.append(line)
            continue
        ordered += [*sorted(run), line]
        run = []
    return ordered + sorted(run)
