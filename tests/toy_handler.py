"""A small early #PF handler with its processor, with and without the built-in bugs.

It serves one purpose: to show on paper that a scenario tells a bug from the faithful handler, and how many faults
and bytes a scenario costs. It is written apart from the simulator and shares no code with it.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field

from bench.records import Machine
from bench.script import ScriptWindow, Step
from bench.wire import FAULT_CAP, VARIANTS, Access
from bench.x86.direct_map import DIRECT_MAPS

GIB, MIB2 = 1 << 30, 1 << 21
NX = 1 << 63
LINKED_AT = 16 << 20
MISSING = -1  # Where a pointer without phys_base leads: zeroed memory.


class Over(Exception):
    """The window has ended early."""


@dataclass
class Table:
    """A page table: single entries, and below them what a run of 512 leaves left."""

    entries: dict[int, int] = field(default_factory=dict)
    run: int | None = None

    def get(self, index: int) -> int:
        if index in self.entries:
            return self.entries[index]
        return 0 if self.run is None else self.run + index * MIB2

    def content(self) -> tuple[object, ...]:
        return (self.run, sorted((i, e) for i, e in self.entries.items() if e))


class Toy:
    """One window on one machine. `events` is what a trace would show; `faults` and `resets` count."""

    def __init__(self, window: ScriptWindow, machine: Machine) -> None:
        self.window, self.machine, self.bug = window, machine, window.bug
        self.variant = VARIANTS[window.variant]
        self.layout = DIRECT_MAPS[self.variant]
        self.seed = self.variant == "seed-2012"
        self.five = window.levels == 5
        self.events: list[tuple[object, ...]] = []
        self.faults = self.resets = self.touches = self.records = self.flag = self.cr2 = 0
        self.pgd: dict[int, int] = {}
        self.dyn = [Table() for _ in range(80)]
        self.tlb: dict[int, int] = {}
        self.final = False
        self._trampoline()
        self.next = 3 if self.five else 2

    @property
    def outcome(self) -> str:
        """How the window ended, in the words of `records.Prediction`."""
        return str(self.events[-1][1])

    # Pointers are table numbers shifted over the flags, MISSING for a place where no table is.
    def _pointer(self, table: int) -> int:
        has_phys_base = self.bug != 3 and not (self.seed and not self.window.mend >> 3 & 1)
        lost = not has_phys_base and self.window.place != LINKED_AT
        return (1 << 40 if lost else 0) | table << 12 | 0x63

    def _follow(self, entry: int) -> Table:
        """As the processor does."""
        return Table() if entry >> 40 & 1 else self.dyn[entry >> 12 & 0xFF]

    def _trampoline(self) -> None:
        at = self.window.place
        upper = at >> 30 & 511
        self.dyn[0].entries = {upper: self._pointer(1), (upper + 1) & 511: self._pointer(1)}
        if self.seed and upper == 511 and not self.window.mend >> 9 & 1:
            del self.dyn[0].entries[0]
        leaves = 512 if self.seed else 1
        self.dyn[1].entries = {(at >> 21) + i & 511: at + i * MIB2 | 0xE3 for i in range(leaves)}
        if self.five:
            self.dyn[2].entries = {0: self._pointer(0), 1: self._pointer(0)}

    def run(self) -> Toy:
        try:
            self._reset()
            for number, step in enumerate(self.window.steps):
                self._step(number, step)
            self.events.append(("end", "done"))
        except Over as over:
            self.events.append(("end", str(over)))
        return self

    def _reset(self) -> None:
        self.resets += 1
        self.pgd = {}
        if self.bug == 14:
            raise Over("triple fault")
        if self.bug != 15:
            self.next = 0
        if self.bug != 13:
            self.tlb = {}

    def _step(self, number: int, step: Step) -> None:
        if step.op in ("digest", "dump"):
            content = [sorted(self.pgd.items()), [t.content() for t in self.dyn[:64]]]
            self.events.append((number, step.op, zlib.crc32(repr(content).encode()), self.next))
            self.records += 1 if step.op == "digest" else 10
        elif step.op == "final":
            self.final, self.tlb = True, {}
            self.records += 1
        else:
            self.touches += 1
            self._access(number, step)

    def _access(self, number: int, step: Step) -> None:
        places = [(step.va, Access.READ if step.access is Access.MOVE else step.access)]
        if step.access is Access.MOVE:
            places.append((step.va_to, Access.WRITE))
        pieces = [(at, access) for va, access in places for at in split(va, step.size)]
        faults = 0
        while True:
            hit = next(((at, access, error) for at, access in pieces if (error := self._translate(at, access))), None)
            if hit is None:
                return
            faults += 1
            self.faults += 1
            at, _, error = hit
            self.tlb.pop(at >> 12, None)
            self.cr2 = self.cr2 if error == "#GP" else at
            if faults <= 16:
                self.events.append((number, "enter", self.cr2, error))
                self.records += 1
            if faults == FAULT_CAP:
                raise Over("livelock")
            if self.seed_like and self.flag == 2:
                raise Over("halt")
            self.flag += 1
            if error == "#GP" or not self._handle(at):
                if not step.fixup:
                    raise Over("halt" if not self.seed_like and self.flag > 2 else "panic")
                self._leave(number, faults)
                return
            self._leave(number, faults)

    @property
    def seed_like(self) -> bool:
        return not self.five

    def _leave(self, number: int, faults: int) -> None:
        if faults <= 16:
            self.events.append((number, "exit", self.next, self.resets if self.seed else 0))
            self.records += 1
        if self.bug != 22:
            self.flag -= 1

    def _translate(self, at: int, access: Access) -> str:
        """Empty if the access goes through, otherwise what the processor says."""
        width = 57 if self.five else 48
        if at >> (width - 1) not in (0, (1 << (65 - width)) - 1):
            return "#GP"
        leaf = self.tlb.get(at >> 12) or self._walk(at)
        if not leaf:
            return "not present"
        impossible = (1 << 52) - (1 << self.machine.maxphyaddr)
        if leaf & (impossible | 0x1FE000 | (0 if self.machine.nx else NX)):
            return "reserved"
        self.tlb[at >> 12] = leaf
        return "forbidden" if access is Access.FETCH and leaf & NX else ""

    def _walk(self, at: int) -> int:
        if self.final:
            physical = self.layout.physical(at)
            return physical // MIB2 * MIB2 | 0xE3 if physical < GIB else 0
        entry = self.pgd.get(at >> (48 if self.five else 39) & 511, 0)
        for shift in (39, 30, 21) if self.five else (30, 21):
            if not entry:
                return 0
            entry = self._follow(entry).get(at >> shift & 511)
        return entry

    def _handle(self, va: int) -> bool:
        pa = self.layout.physical(va)
        if pa >= self.layout.maxmem and self.bug != 20:
            return False
        tests_cr3 = self.bug != 12 and (not self.seed or self.window.mend >> 5 & 1)
        if self.final and tests_cr3:
            return False
        return self._seed(va, pa) if self.seed else self._mainline(va, pa)

    def _flags(self) -> int:
        always = self.bug == 1 or (self.seed and not self.window.mend >> 4 & 1)
        return 0xE3 | (NX if always or self.machine.nx else 0)

    def _take(self, *, zero: bool) -> int:
        if self.next >= len(self.dyn):
            raise Over("wild")
        table, self.next = self.next, self.next + 1
        if zero and self.bug != 18:
            self.dyn[table] = Table()
        return table

    def _seed(self, va: int, pa: int) -> bool:
        pool, slot = self.window.pool, va >> 39 & 511
        if self.pgd.get(slot) and self.next < pool:
            pud = self.dyn[self.pgd[slot] >> 12 & 0xFF]
        else:
            if self.next >= pool - (self.bug != 16):
                self._reset()
            taken = self._take(zero=True)
            self.pgd[slot] = self._pointer(taken)
            pud = self.dyn[taken]
        pmd = self._take(zero=False)
        self.dyn[pmd] = Table(run=(pa if self.bug == 19 else pa // GIB * GIB) | self._flags())
        pud.entries[va >> 30 & 511] = self._pointer(pmd)
        return True

    def _mainline(self, va: int, pa: int) -> bool:
        pool = self.window.pool
        for _ in range(3):
            tables: list[dict[int, int]] = [self.pgd]
            for shift in (48, 39, 30) if self.five else (39, 30):
                above, index = tables[-1], va >> shift & 511
                fresh = self.bug == 24 and shift == 30
                if not above.get(index) or fresh:
                    if self.next >= pool + (self.bug == 16):
                        self._reset()
                        break
                    above[index] = self._pointer(self._take(zero=True))
                below = self.dyn[above[index] >> 12 & 0xFF]
                tables.append(below.entries)
            else:
                leaf = (pa if self.bug == 19 else pa // MIB2 * MIB2) | self._flags()
                if self.bug == 24:
                    start = pa // GIB * GIB | self._flags()
                    below.entries.update({i: start + i * MIB2 for i in range(512)})
                else:
                    tables[-1][va >> 21 & 511] = leaf
                return True
        raise Over("spin")


def split(va: int, size: int) -> list[int]:
    """The first byte of an access on each 4 KiB page that it touches."""
    second = (va + size - 1) >> 12 << 12
    return [va] if second <= va else [va, second]
