"""Whether a machine did what its script asked for: no more, no less, in that order."""

from __future__ import annotations

from collections.abc import Sequence

from bench import script as scripts
from bench.errors import FormatError
from bench.initrd import script_in
from bench.records import Capture, DigestPoint, DumpPoint, LoadFinal, Step, Touch, UpdatePoint, Window
from bench.wire import Outcome, Phase


def asked_steps(capture: Capture) -> dict[int, tuple[scripts.Step, ...]]:
    """Window number → steps that the script asked for; empty if the capture has no script."""
    script = capture.script
    number = None
    try:
        if inner := script_in(script):
            script, number = inner, min(capture.scenarios, default=0)
        if not script.startswith(scripts.MAGIC):
            return {}
        windows = scripts.read(script, source=f"{capture.source}: script")
        return {w.number if number is None else number: w.steps for w in windows}
    except FormatError:
        return {}


def obedience(asked: Sequence[scripts.Step], window: Window) -> str:
    """Whether the machine announced just the steps that the script asked for; the complaint, or nothing."""
    announced = window.stimulus.steps[: window.announced]
    for number, (wanted, got) in enumerate(zip(asked, announced, strict=False)):
        if _wanted(number, wanted) != _got(got):
            return f"step {number}: the script asks for {_wanted(number, wanted)}, the machine announced {_got(got)}"
    ended = window.observation.outcome == Outcome.DONE
    if len(announced) > len(asked):
        return f"the machine announced {len(announced)} steps, the script has {len(asked)}"
    if ended and len(announced) < len(asked):
        return f"the machine says it is done after {len(announced)} of {len(asked)} steps"
    return ""


def exercised(asked: Sequence[scripts.Step], window: Window) -> str:
    """Whether a kernel's exerciser announced just the accesses of its script; the complaint, or nothing."""
    phases = (Phase.EXERCISE, Phase.FINAL)
    steps = window.stimulus.steps
    # The first one is the reading of the script itself.
    made = [_got(step)[1:] for step in steps if isinstance(step, Touch) and step.step in phases][1:]
    wanted = [_wanted(0, step)[1:] for step in asked if step.op == "access"]
    for number, (want, got) in enumerate(zip(wanted, made, strict=False)):
        if want != got:
            return f"access {number} of the exerciser: the script asks for {want}, the machine announced {got}"
    over = window.observation.outcome == Outcome.DONE
    if len(made) > len(wanted) or (over and len(made) < len(wanted)):
        return f"the exerciser announced {len(made)} accesses, its script has {len(wanted)}"
    return ""


def _wanted(number: int, step: scripts.Step) -> tuple[object, ...]:
    if step.op != "access":
        return (number, step.op)
    return (number, step.access.name.lower(), hex(step.va), step.size, hex(step.va_to), step.fixup)


def _got(step: Step) -> tuple[object, ...]:
    match step:
        case Touch():
            return (step.step, step.access.name.lower(), hex(step.va), step.size, hex(step.va_to), step.fixup)
        case LoadFinal():
            return (step.step, "final")
        case DigestPoint():
            return (step.step, "digest")
        case DumpPoint():
            return (step.step, "dump")
        case UpdatePoint():
            return (step.step, "ucode")
        case _:
            return (step.step, "no step of a script")
