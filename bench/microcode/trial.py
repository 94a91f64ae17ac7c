"""What a case is made of: the ground it stands on, the trial that it makes of that, and updates that are made up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

from bench.sim.ucode_system import Deed
from bench.x86.early_cpio import UCODE_PATH, build
from bench.x86.microcode import HEADER_BYTES, TABLE_HEAD, TABLE_ROW, dword_sum, read_update
from bench.x86.microcode_build import build_update
from bench.x86.microcode_processor import ProcessorRules, Restart
from bench.x86.signature import platform_flag

_DATE = 0x03062023
_MADE_UP_BYTES = 2048
_OTHER_STEPPING = 1


@dataclass(frozen=True)
class Ground:
    """What a case is made from. `newest` is an update for `signature` and `platform_id`."""

    signature: int
    platform_id: int
    newest: bytes
    processors: int = 2
    bios: int | None = None
    """Revision that firmware has loaded; default: the one below the newest."""

    @property
    def revision(self) -> int:
        """Of the newest update."""
        return _revision(self.newest)

    @property
    def flags(self) -> int:
        """The platform's bit."""
        return platform_flag(self.platform_id)

    def rules(self, bios: int | None = None) -> ProcessorRules:
        """Processors that play by the rules."""
        start = self.bios if self.bios is not None else max(1, self.revision - 1)
        return ProcessorRules(self.signature, self.platform_id, start if bios is None else bios)

    def made(
        self,
        revision: int,
        *,
        signature: int | None = None,
        flags: int | None = None,
        extended: tuple[tuple[int, int], ...] = (),
        total_size: int = _MADE_UP_BYTES,
        seed: int = 1,
    ) -> bytes:
        """A made-up update, for the same processors unless said otherwise."""
        table = TABLE_HEAD.size + TABLE_ROW.size * len(extended) if extended else 0
        return build_update(
            signature=self.signature if signature is None else signature,
            platform_flags=self.flags if flags is None else flags,
            revision=revision,
            date=_DATE,
            data=bytes([seed]) * (total_size - HEADER_BYTES - table),
            extended=extended,
        )


@dataclass(frozen=True)
class Trial:
    """What one boot offers: the initrd's early part and the processors."""

    early: bytes
    rules: ProcessorRules
    words: str = ""
    """More words of the command line."""
    hypervisor: bool = False
    processors: int = 2
    started: int | None = None
    """So many of them come up with the kernel; None: all."""
    deeds: tuple[Deed, ...] = ()
    """What is done when the kernel has come up."""
    then: Restart | None = None
    """How the kernel is started once more: by kexec, or after the power was off."""
    then_early: bytes = b""
    """The initrd's early part of that second start."""


@dataclass(frozen=True)
class Case:
    """One row of the matrix."""

    name: str
    about: str
    make: Callable[[Ground], Trial]


@lru_cache(maxsize=64)
def _revision(update: bytes) -> int:
    """Intel's largest has 1.6 MB to be summed up, and a case asks several times."""
    return read_update(update).revision


def file_of(*updates: bytes) -> bytes:
    """An early archive with these updates."""
    return build({UCODE_PATH: b"".join(updates)})


def trial_of(ground: Ground, early: bytes, **changes: object) -> Trial:
    """A trial on this ground: the early part, and what else is `changes`."""
    trial = Trial(early, ground.rules(), processors=ground.processors)
    return replace(trial, **changes)  # type: ignore[arg-type]


def with_updates(*updates: Callable[[Ground], bytes]) -> Callable[[Ground], Trial]:
    """A file of these updates."""
    return lambda ground: trial_of(ground, file_of(*(make(ground) for make in updates)))


def newest(ground: Ground) -> bytes:
    """The ground's own."""
    return ground.newest


def older(ground: Ground) -> bytes:
    """Of the BIOS's revision."""
    return ground.made(max(1, ground.rules().bios_revision))


def newer(ground: Ground) -> bytes:
    """One above the newest, and so made up."""
    return ground.made(ground.revision + 1)


def newer_still(ground: Ground) -> bytes:
    """Two above the newest."""
    return ground.made(ground.revision + 2, seed=2)


def other_signature(ground: Ground) -> bytes:
    """For another stepping."""
    return ground.made(ground.revision + 1, signature=ground.signature ^ _OTHER_STEPPING)


def other_flags(ground: Ground) -> bytes:
    """For all platforms but this."""
    return ground.made(ground.revision + 1, flags=0xFF ^ ground.flags)


def no_flags(ground: Ground) -> bytes:
    """Without platform flags."""
    return ground.made(ground.revision + 1, flags=0)


def by_table(ground: Ground) -> bytes:
    """For this processor by its table."""
    return ground.made(
        ground.revision + 1, signature=ground.signature ^ _OTHER_STEPPING,
        extended=((ground.signature, ground.flags),), total_size=3072,
    )  # fmt: skip


def bad_checksum(ground: Ground) -> bytes:
    """One bit of its data is wrong."""
    good = newer(ground)
    return good[:-1] + bytes([good[-1] ^ 1])


def bad_table(ground: Ground) -> bytes:
    """Its table's checksum is wrong."""
    good = by_table(ground)
    at = len(good) - 32 + 4
    return good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]


def bad_row(ground: Ground) -> bytes:
    """A row whose checksum is wrong in a table whose own checksum is right."""
    good = bytearray(by_table(ground))
    table = len(good) - 32
    good[-4] ^= 1
    good[table + 4 : table + 8] = bytes(4)
    good[table + 4 : table + 8] = (-dword_sum(bytes(good), table, 32) & 0xFFFFFFFF).to_bytes(4, "little")
    return bytes(good)
