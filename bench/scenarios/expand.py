"""A scenario on one machine: windows of the script, or the reason why there are none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

from bench.errors import UsageError
from bench.records import Machine
from bench.scenarios import terms
from bench.scenarios.files import (
    LINKED_AT,
    AccessStep,
    AnyStep,
    MarkStep,
    Needs,
    RandomStep,
    Scenario,
    Sweep,
    UpdateStep,
)
from bench.scenarios.ground import Ground, Unfit
from bench.scenarios.offered import offered
from bench.scenarios.schedule import RET, schedule
from bench.script import Flag, ScriptWindow, Step
from bench.wire import VARIANTS, Access
from bench.x86.direct_map import DIRECT_MAPS
from bench.x86.paging import PMD_SIZE
from bench.x86.pc_memory import GIB, MIB, ram_end

# Numbers of the seed's list of mistakes that end a window at its first touch: phys_base is missing, which
# matters away from the linked address; NX is set in leaves although the processor may lack it.
NO_PHYS_BASE, NX_ALWAYS = 3, 4


@dataclass(frozen=True)
class Skip:
    """The scenario does not apply; `reason` says why in words."""

    reason: str


def expand(
    scenario: Scenario, machine: Machine, variant: str, *, bug: int = 0, newest: bytes = b""
) -> tuple[ScriptWindow, ...] | Skip:
    """The windows of `scenario` on `machine`: rounds × pools × places × `each`, numbered from 0.

    `bug` is built into the handler of every window; `newest` is Intel's newest update for a machine of metal. Equal
    arguments give equal windows, on every version of Python. Raises UsageError if the file asks for something that no
    machine can do.
    """
    reason = _objection(scenario, machine, variant)
    if reason:
        return Skip(reason)
    layout = DIRECT_MAPS[variant]
    windows: list[ScriptWindow] = []
    last_steps: Sequence[AnyStep | None] = scenario.each or [None]
    places = [terms.size(place) for place in scenario.place]
    try:
        for _, pool, place, last in product(range(scenario.rounds), scenario.pool, places, last_steps):
            ground = Ground(machine, layout, place)
            _check_place(ground)
            declared = [*scenario.steps, *([last] if last else [])]
            steps = tuple(steps_on(declared, ground, pool=pool, number=len(windows), newest=newest))
            windows.append(
                ScriptWindow(
                    number=len(windows),
                    variant=VARIANTS.index(variant),
                    pool=pool,
                    place=place,
                    levels=layout.levels,
                    steps=steps,
                    mend=_mend(scenario, machine, place) if variant == "seed-2012" else 0,
                    bug=bug,
                    flags=Flag.BEYOND_RAM if machine.allow_beyond_ram else Flag(0),
                )
            )
    except Unfit as unfit:
        return Skip(str(unfit))
    return tuple(windows)


def _objection(scenario: Scenario, machine: Machine, variant: str) -> str:
    """Why the scenario does not apply, in words; empty if it does as far as its needs tell."""
    if variant not in scenario.variants:
        return f"is for {', '.join(scenario.variants)}, not for {variant}"
    if DIRECT_MAPS[variant].levels == 5 and not machine.la57:
        return "needs 5-level paging, which the processor lacks"
    return unmet(scenario.needs, machine)


def unmet(needs: Needs, machine: Machine) -> str:
    """What the machine lacks, in words; empty if it lacks nothing."""
    if needs.memory is not None:
        # Where the memory map is no limit, the address bits are.
        end = 1 << machine.maxphyaddr if machine.allow_beyond_ram else ram_end(machine.memory_bytes)
        if end < terms.size(needs.memory):
            return f"needs RAM up to {needs.memory}, the machine's ends at {_spoken(end)}"
    if needs.maxphyaddr_min is not None and machine.maxphyaddr < needs.maxphyaddr_min:
        return f"needs at least {needs.maxphyaddr_min} physical address bits, the processor has {machine.maxphyaddr}"
    if needs.maxphyaddr_max is not None and machine.maxphyaddr > needs.maxphyaddr_max:
        return f"needs at most {needs.maxphyaddr_max} physical address bits, the processor has {machine.maxphyaddr}"
    for name, wanted, has in (("NX", needs.nx, machine.nx), ("LA57", needs.la57, machine.la57)):
        if wanted is not None and wanted != has:
            return f"needs a processor {'with' if wanted else 'without'} {name}"
    return ""


def _spoken(size: int) -> str:
    return f"{size // GIB} GiB" if size >= GIB else f"{size // MIB} MiB"


def _check_place(ground: Ground) -> None:
    if not ground.is_ram(ground.place, PMD_SIZE):
        raise Unfit(f"the image's place {ground.place:#x} is not RAM on {ground.machine.name}")


def _mend(scenario: Scenario, machine: Machine, place: int) -> int:
    mistakes = set(scenario.mend)
    if place != terms.size(LINKED_AT):
        mistakes.add(NO_PHYS_BASE)
    if not machine.nx:
        mistakes.add(NX_ALWAYS)
    return sum(1 << mistake for mistake in mistakes - set(scenario.leave))


def steps_on(
    declared: Iterable[AnyStep],
    ground: Ground,
    *,
    pool: int,
    number: int,
    kernel: bool = False,
    newest: bytes = b"",
) -> Iterator[Step]:
    """The script's steps, for the payload or a kernel's exerciser. Raises Unfit where one would reach memory that it
    must not reach."""
    for step in declared:
        match step:
            case MarkStep():
                yield Step(step.do)
                if step.do == "final" and kernel:
                    ground = replace(ground, under_final_tables=True)
            case UpdateStep() if kernel:
                raise Unfit("has a step `ucode`, which is the payload's: a kernel loads updates itself")
            case UpdateStep():
                yield offered(step, ground.machine, newest)
            case RandomStep():
                yield from schedule(step.random, ground, pool=pool, number=number)
            case AccessStep():
                yield from _accesses(step, ground)


def _accesses(step: AccessStep, ground: Ground) -> Iterator[Step]:
    writes = step.do == "write" or (step.do == "fetch" and step.plant)
    addresses = _sweep(step.sweep, ground, writes=writes) if step.sweep else [_address(step, ground)]
    for va in addresses:
        for _ in range(step.times):
            yield from _access(step, va, ground)


def _access(step: AccessStep, va: int, ground: Ground) -> Iterator[Step]:
    access = Access[step.do.upper()]
    size = 1 if access is Access.FETCH else step.size
    planted = access is Access.FETCH and step.plant
    ground.check(va, size, writes=access is Access.WRITE or planted)
    va_to = 0
    if access is Access.MOVE:
        va_to = _target(step, ground)
        ground.check(va_to, size, writes=True)
    if planted:
        yield Step("access", Access.WRITE, va, 1, value=RET, fixup=step.fixup)
    value = 0
    if access is Access.WRITE:
        # Unless told otherwise a write leaves its own physical address, which shows where a stray one came from.
        wanted = terms.evaluate(step.value, {}) if step.value is not None else ground.layout.physical(va)
        value = wanted & ((1 << 8 * size) - 1)
    yield Step("access", access, va, size, va_to=va_to, value=value, fixup=step.fixup)


def _sweep(sweep: Sweep, ground: Ground, *, writes: bool) -> Iterator[int]:
    start, step = terms.evaluate(sweep.start, ground.names), terms.evaluate(sweep.step, ground.names)
    if step == 0:
        raise UsageError("sweep.step: is 0")
    allowed = ground.is_free if writes else ground.is_ram
    for number in range(sweep.count):
        physical = start + number * step
        if allowed(physical, 8):
            yield ground.layout.virtual(physical)


def _address(step: AccessStep, ground: Ground) -> int:
    if step.virt is not None:
        return _linear(step.virt, ground)
    if step.around is not None:
        return _physical(step.around, ground) - _before(step)
    assert step.at is not None
    return _physical(step.at, ground)


def _target(step: AccessStep, ground: Ground) -> int:
    if step.to_virt is not None:
        return _linear(step.to_virt, ground)
    if step.to_around is not None:
        return _physical(step.to_around, ground) - _before(step)
    assert step.to is not None
    return _physical(step.to, ground)


def _before(step: AccessStep) -> int:
    return step.before if step.before is not None else step.size // 2


def _physical(text: str, ground: Ground) -> int:
    """Linear address of a sum of physical addresses. Raises Unfit where MAXPHYADDR leaves no room for it."""
    physical = terms.evaluate(text, ground.names)
    if "maxphyaddr" in text and physical >= ground.layout.maxmem:
        bits = ground.machine.maxphyaddr
        raise Unfit(f"the processor can have every address that the handler accepts (MAXPHYADDR is {bits})")
    return ground.layout.virtual(physical)


def _linear(text: str, ground: Ground) -> int:
    return terms.evaluate(text, ground.names) % (1 << 64)
