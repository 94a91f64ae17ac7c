"""Known ways in which this code was wrong, or would be, and how each shows in a first divergence.

A row says what it looks like; the rows that fit are offered as likely, the most specific first. It is a hint for
whoever reads the report and no part of any verdict. Numbers in `seen` are the kernel's history as far as it is known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from bench.judge import WindowVerdict
from bench.records import BootFacts, Event, EventKind, LoadFinal, Touch

_ADDRESS = 0x000F_FFFF_FFFF_F000
_ENTRIES = ("pgd", "p4d", "pud", "pmd")
_NX = 1 << 63
# Bits 13 to 20, which a 2 MiB leaf must have clear, and those that an address spills below them.
_BELOW_2M = 0x1FE000
_MASK = (1 << 64) - 1


@dataclass(frozen=True)
class Clue:
    """All that a row looks at. `model` and `machine` are empty events where that side has none."""

    facts: BootFacts
    field: str
    model: Event
    machine: Event
    silent: bool
    """The machine reset itself or fell silent where the model goes on."""
    triple: bool
    """… and it was a reset."""
    resets_so_far: int
    """Resets of the pool before the divergence, the initial one not counted."""
    after_final: bool
    """The final tables had been loaded."""
    flags_so_far: bool
    """An exception had been handled before."""

    def pair(self, name: str) -> tuple[int, int] | None:
        """Both sides' numbers of a field."""
        a, b = getattr(self.model, name), getattr(self.machine, name)
        return None if a is None or b is None else (a, b)

    def moved_by(self, distance: int) -> bool:
        """Whether an entry's address on the machine is the model's plus `distance` (modulo 2^64)."""
        for name in _ENTRIES:
            if (sides := self.pair(name)) and sides[0] != sides[1]:
                return (sides[1] - sides[0]) & _MASK == distance & _MASK
        return False

    def entry_bits(self, name: str) -> int:
        """The bits in which an entry differs."""
        sides = self.pair(name)
        return sides[0] ^ sides[1] if sides else 0


@dataclass(frozen=True)
class Known:
    """A row of the catalogue."""

    name: str
    about: str
    seen: str
    fits: Callable[[Clue], bool]


def _livelock(c: Clue) -> bool:
    return c.machine.kind in (EventKind.CAP, EventKind.SPIN)


def _fault_missing(c: Clue) -> bool:
    return c.model.kind is EventKind.ENTER and c.machine.kind is not EventKind.ENTER and not c.silent


def _reserved(c: Clue) -> bool:
    return c.machine.kind in (EventKind.ENTER, EventKind.CAP) and bool((c.machine.error or 0) & 8)


CATALOGUE: tuple[Known, ...] = (
    Known(
        "NX set on a processor without NX",
        "Bit 63 is reserved while EFER.NXE is clear: the leaf faults for ever with RSVD.",
        "The patch of 2012 and 3.9.0; later the bit is set only if CPUID has it.",
        lambda c: not c.facts.nx and (bool(c.entry_bits("pmd") & _NX) or (_reserved(c) and not c.silent)),
    ),
    Known(
        "phys_base left out",
        "A pointer between tables, or the way back from one, lacks the distance by which the kernel was moved.",
        "The patch of 2012: only a relocated kernel shows it.",
        lambda c: (
            bool(c.facts.phys_base)
            and (c.moved_by(-c.facts.phys_base) or ((_livelock(c) or c.silent) and not c.resets_so_far))
        ),
    ),
    Known(
        "no test for tables that are no longer in use",
        "After CR3 has left early_top_pgt the handler must give up; this one went on filling tables that nobody walks.",
        "The patch of 2012; the comparison with CR3 came with the merge.",
        lambda c: c.after_final and (_livelock(c) or c.machine.kind in (EventKind.EXIT, EventKind.ENTER)),
    ),
    Known(
        "entry 511 wiped",
        "The reset cleared the kernel's own mapping: the next instruction fetch has nowhere to fault to.",
        "Shows at the first reset of the pool, as a triple fault.",
        lambda c: c.triple,
    ),
    Known(
        "next_early_pgt not set back",
        "After a reset the pool is taken from where it stood, not from its beginning.",
        "",
        lambda c: (
            ((sides := c.pair("next")) is not None and sides[1] - sides[0] > 1) or c.machine.kind is EventKind.SPIN
        ),
    ),
    Known(
        "capacity test off by one",
        "At the pool's last table the machine resets at another fault than the model, or takes a table beyond the end.",
        "",
        lambda c: (
            (
                (sides := c.pair("resets")) is not None
                and sides[0] != sides[1]
                and (c.machine.next or 0) + 2 >= c.facts.pool
            )
            or (c.machine.next or 0) > c.facts.pool
        ),
    ),
    Known(
        "pool of another size",
        "Resets come at other faults than the model's pool gives.",
        "",
        lambda c: (sides := c.pair("resets")) is not None and sides[0] != sides[1],
    ),
    Known(
        "reset without flush",
        "Old translations outlive the reset: a fault that was due did not come, and memory was reached through tables "
        "that are no longer there.",
        "Silent on its own; the digest and the missing fault give it away.",
        lambda c: _fault_missing(c) and c.resets_so_far > 0,
    ),
    Known(
        "leaf not at a multiple of 2 MiB",
        "Bits 13 to 20 of a 2 MiB leaf are reserved: the access faults again with RSVD.",
        "",
        lambda c: (sides := c.pair("pmd")) is not None and bool(sides[1] & ~sides[0] & _BELOW_2M),
    ),
    Known(
        "addresses beyond MAXMEM accepted",
        "An address outside the direct map was mapped; the model's handler gives it up.",
        "A comparison with > for >=, or none.",
        lambda c: c.machine.kind is EventKind.EXIT and c.model.kind in (EventKind.FATAL, EventKind.END),
    ),
    Known(
        "exception table asked first",
        "An access with a fixup was sent to it although the handler could have mapped the page.",
        "",
        lambda c: (sides := c.pair("pgd")) is not None and bool(sides[0]) and not sides[1],
    ),
    Known(
        "recursion flag not counted down",
        "early_recursion_flag grows with each exception: the third one halts in silence, or loses its text.",
        "",
        lambda c: c.field == "flag" or (c.silent and not c.triple and c.flags_so_far),
    ),
    Known(
        "more mapped than was asked for",
        "The leaf is not the one of the faulting address, or an existing table was replaced.",
        "Whole GiB were mapped by the patch of 2012, beyond the end of RAM and over holes.",
        lambda c: (
            (c.field == "next" and (c.machine.next or 0) > (c.model.next or 0))
            or (c.field == "crc" and not c.resets_so_far)
        ),
    ),
    Known(
        "a table not zeroed, or stale",
        "Something lies in a table that should be empty: a digest differs, or fewer faults come and fewer tables are "
        "taken than the model needs.",
        "",
        lambda c: (
            c.field == "crc"
            or c.machine.kind is EventKind.DUMP
            or _fault_missing(c)
            or (c.field == "next" and (c.machine.next or 0) < (c.model.next or 0))
        ),
    ),
    Known(
        "wrong flags in an entry",
        "The address is right, its permission or type bits are not.",
        "",
        lambda c: any(c.entry_bits(n) and not c.entry_bits(n) & _ADDRESS for n in _ENTRIES),
    ),
    Known(
        "wrong table or page",
        "The entry points elsewhere than the model's.",
        "",
        lambda c: any(c.entry_bits(n) & _ADDRESS for n in _ENTRIES),
    ),
)


def likely(verdict: WindowVerdict, limit: int = 2) -> list[Known]:
    """The rows that fit a window's divergence, the first of them the likeliest; empty if there is none to judge."""
    clue = clue_of(verdict)
    return [] if clue is None else [row for row in CATALOGUE if row.fits(clue)][:limit]


def clue_of(verdict: WindowVerdict) -> Clue | None:
    """What there is to go by, or None if the window has no divergence of the handler."""
    window, comparison, finding = verdict.window, verdict.comparison, verdict.finding
    if not window or not comparison or not finding or finding.component != "handler":
        return None
    events = window.observation.events
    divergence = comparison.divergence
    nothing = Event(EventKind.END)
    at = divergence.event if divergence else len(events)
    rest = verdict.prediction.events[at:] if verdict.prediction else ()
    model = (divergence.predicted if divergence else rest[0] if rest else None) or nothing
    machine = (divergence.observed if divergence else None) or nothing
    before = events[:at]
    taken = [e.next for e in before if e.kind is EventKind.EXIT and e.next is not None and e.pgd]
    step = machine.step if machine.step is not None else model.step
    done = [s for s in window.stimulus.steps if step is None or s.step <= step]
    return Clue(
        facts=window.stimulus.facts,
        field=finding.field_name,
        model=model,
        machine=machine,
        silent=divergence is None,
        triple=divergence is None and finding.observed == "triple fault",
        # Mainline has no counter, but a page that was mapped took a table: else the index has been set back.
        resets_so_far=sum(b <= a for a, b in pairwise(taken)),
        after_final=any(isinstance(s, LoadFinal) for s in done) and any(isinstance(s, Touch) for s in done),
        flags_so_far=any(e.kind is EventKind.EXIT for e in before),
    )
