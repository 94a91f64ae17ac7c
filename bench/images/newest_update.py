"""The update that a machine is offered: the newest of Intel's for it, or one that is made up."""

from __future__ import annotations

from dataclasses import dataclass

from bench.errors import UsageError
from bench.images.microcode_package import Package
from bench.records import Machine
from bench.x86.microcode import read_update
from bench.x86.microcode_build import build_update
from bench.x86.microcode_set import best_match, stored_updates
from bench.x86.signature import platform_flag

MADE_UP_REVISION = 0x100
MADE_UP_DATE = 0x03062023


@dataclass(frozen=True)
class Newest:
    """An update for a machine, and where it is from."""

    data: bytes
    source: str
    """``Intel's 06-55-04``, or ``made up``."""

    @property
    def revision(self) -> int:
        """Of the update."""
        return read_update(self.data).revision


def intels_newest(machine: Machine, package: Package) -> Newest:
    """Intel's newest for a machine's signature and platform. Raises UsageError if the package has none."""
    best = best_match(
        list(stored_updates(package.file(machine.model))), machine.signature, platform_flag(machine.platform_id)
    )
    if best is None:
        raise UsageError(
            f"{machine.name}: Intel's file for {machine.model} has no update for platform id {machine.platform_id}"
        )
    return Newest(best.data, f"Intel's {machine.model}")


def made_up(machine: Machine, revision: int = MADE_UP_REVISION) -> Newest:
    """A well-formed update for a machine, without a byte of Intel's. No real processor takes it."""
    data = build_update(
        signature=machine.signature, platform_flags=platform_flag(machine.platform_id), revision=revision,
        date=MADE_UP_DATE, data=bytes(2000),
    )  # fmt: skip
    return Newest(data, "made up")


def update_for(machine: Machine, package: Package | None) -> Newest:
    """What a boot plan with updates offers a machine: Intel's newest; a virtual machine of which Intel's files are not
    here, or know nothing, a made-up one above its BIOS's.

    Raises UsageError for a machine of metal for which there is none.
    """
    if machine.virtual is None:
        if package is None:
            raise UsageError(
                f"{machine.name}: Intel's microcode is not here, and a made-up update is none for a machine of metal: "
                "get it with `bench microcode fetch`"
            )
        return intels_newest(machine, package)
    rules = machine.virtual.microcode
    made = made_up(machine, rules.bios_revision + 1 if rules else MADE_UP_REVISION)
    if package is None:
        return made
    try:
        return intels_newest(machine, package)
    except UsageError:
        return made
