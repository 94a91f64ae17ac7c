"""Boot plans: how a real kernel is booted on a machine, ``firmware-images/boots/NAME.toml``.

A plan is to a kernel what a scenario is to the payload: one boot for each number of processors, each memory size and
each pool, with the steps that the exerciser makes inside the window.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationError

from bench.errors import UsageError
from bench.records import Machine
from bench.scenarios import terms
from bench.scenarios.expand import Skip, steps_on, unmet
from bench.scenarios.files import AnyStep, Bytes, Needs, Place, Pool, StrictModel, complaint
from bench.scenarios.ground import Ground, Unfit
from bench.script import ScriptWindow
from bench.wire import VARIANTS
from bench.x86.direct_map import direct_map

BOOTS = Path("firmware-images") / "boots"
# A kernel that is not moved by KASLR runs where it is linked.
_LINKED_AT = 16 << 20


def _command_line(text: str) -> str:
    if not text.isascii() or not text.isprintable():
        raise ValueError(f"{text!r} is not printable ASCII")
    if own := [word for word in text.split() if word.startswith("bench.") and word != "bench.pool_keep"]:
        raise ValueError(f"{own[0]!r} is the bench's own to say")
    return text


class BootPlan(StrictModel):
    """One plan file."""

    name: str
    about: str = Field(min_length=10)
    set: Literal["hil", "full"] = "full"
    command_line: Annotated[str, AfterValidator(_command_line)] = "nokaslr"
    processors: list[Annotated[int, Field(ge=1, le=8)]] = Field(default=[1], min_length=1)
    memory: list[Bytes] = Field(default=[])
    """Virtual machines only: their memory, in place of the inventory's."""
    pool: list[Pool] = Field(default=[64], min_length=1)
    firmware: Literal["bios", "uefi"] = "bios"
    hypervisor: bool = True
    """Virtual machines only: what CPUID says; the microcode loader does nothing under a hypervisor."""
    initrd: Literal["none", "empty", "zeros"] = "empty"
    """What the initrd holds beside the exerciser's script: nothing, or 6 MiB of zeros, which the loader reads."""
    updates: Literal["none", "newest"] = "none"
    """Microcode in the initrd: the newest update for the machine."""
    init: list[Literal["cpuinfo", "hotplug", "suspend"]] = Field(default=[])
    """What init does before the boot is done, in this order; without any the boot is done at the window's end."""
    kexec: list[Place] = Field(default=[])
    """Physical addresses: one boot each, in which init starts the kernel a second time, placed there."""
    rounds: int = Field(default=1, ge=1, le=64)
    needs: Needs = Needs()
    steps: list[AnyStep] = Field(default=[])


@dataclass(frozen=True)
class KernelBoot:
    """One boot of a plan. `machine` is the inventory's with the plan's memory, processors and firmware."""

    plan: str
    machine: Machine
    command_line: str
    pool: int
    script: ScriptWindow | None
    filler_bytes: int
    """Zeros in the initrd."""
    with_initrd: bool
    with_update: bool = False
    """The newest update for the machine lies in the initrd."""
    init: tuple[str, ...] = ()
    """What init does; with `kexec` that comes last."""
    kexec: int | None = None
    """Physical address at which the kernel is started a second time, in the same boot."""

    @property
    def windows(self) -> int:
        """How many windows the boot has."""
        return 1 if self.kexec is None else 2


def load_boot_plans(root: Path) -> dict[str, BootPlan]:
    """The plans of the project at `root`, by name. Raises UsageError that names file and key."""
    paths = sorted((root / BOOTS).glob("*.toml"))
    return {path.stem: _read(path) for path in paths}


def _read(path: Path) -> BootPlan:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        if "name" in content:
            raise UsageError(f"{path}: name: the file's name is the plan's name")
        return BootPlan.model_validate({**content, "name": path.stem})
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path}: {error}") from error
    except ValidationError as error:
        raise UsageError("\n".join(f"{path}: {complaint(e)}" for e in error.errors())) from error


def expand_boots(plan: BootPlan, machine: Machine, variant: str) -> tuple[KernelBoot, ...] | Skip:
    """The boots of `plan` with a kernel whose handler is `variant`, or the reason why there are none."""
    sizes = [terms.size(text) for text in plan.memory] or [machine.memory_bytes]
    if machine.fixed and (reason := _not_as_it_is(plan, machine)):
        return Skip(reason)
    if reason := may_not_update(plan, machine):
        return Skip(reason)
    found: list[KernelBoot] = []
    try:
        places: list[int | None] = [*(terms.size(text) for text in plan.kexec)] or [None]
        processors_of = plan.processors[:1] if machine.fixed else plan.processors
        choices = product(range(plan.rounds), processors_of, sizes, plan.pool, places)
        for _, processors, memory, pool, place in choices:
            fitted = _fitted(plan, machine, processors, memory)
            if reason := unmet(plan.needs, fitted):
                return Skip(reason)
            found.append(replace(_boot(plan, fitted, variant, pool, len(found)), kexec=place))
    except Unfit as unfit:
        return Skip(str(unfit))
    return tuple(found)


def may_not_update(plan: BootPlan, machine: Machine) -> str:
    """Why the plan may not be booted on the machine: it has updates, which the inventory does not allow; or empty.

    A virtual machine forgets them.
    """
    if plan.updates == "none" or machine.virtual is not None or machine.allow_updates:
        return ""
    return "offers an update, and the inventory does not allow updates on this machine (allow_updates)"


def _not_as_it_is(plan: BootPlan, machine: Machine) -> str:
    """Why a machine that is as it is cannot be booted so; or empty."""
    if plan.memory:
        return "asks for memory that only a virtual machine can be given"
    firmware = machine.virtual.firmware if machine.virtual is not None else machine.wiring.firmware
    if plan.firmware == "uefi" and firmware == "bios":
        return "is for UEFI, and the machine starts by a BIOS"
    if not plan.hypervisor and machine.virtual is not None and "hypervisor=off" not in machine.virtual.properties:
        return "asks for a processor without the hypervisor bit"
    return ""


def _fitted(plan: BootPlan, machine: Machine, processors: int, memory_bytes: int) -> Machine:
    if machine.virtual is None or machine.fixed:
        return machine
    properties = machine.virtual.properties + (() if plan.hypervisor else ("hypervisor=off",))
    virtual = replace(machine.virtual, properties=properties, processors=processors, firmware=plan.firmware)
    return replace(machine, memory_bytes=memory_bytes, virtual=virtual)


def _boot(plan: BootPlan, machine: Machine, variant: str, pool: int, number: int) -> KernelBoot:
    levels = 5 if machine.la57 and "no5lvl" not in plan.command_line.split() else 4
    layout = direct_map(variant, levels)
    script = None
    if plan.steps:
        ground = Ground(machine, layout, _LINKED_AT)
        steps = tuple(steps_on(plan.steps, ground, pool=pool, number=number, kernel=True))
        script = ScriptWindow(0, VARIANTS.index(variant), pool, _LINKED_AT, levels, steps)
    words = list(_words(plan, pool))
    filler = 6 << 20 if plan.initrd == "zeros" else 0
    update = plan.updates != "none"
    with_initrd = plan.initrd != "none" or bool(script) or update
    return KernelBoot(plan.name, machine, " ".join(words), pool, script, filler, with_initrd, update, tuple(plan.init))


def _words(plan: BootPlan, pool: int) -> Iterator[str]:
    yield from plan.command_line.split()
    if pool != 64:
        yield f"bench.pool={pool}"
