"""What should happen in a window: the reference for every fault, table and digest of it.

`predict()` is given the stimulus only. It makes each access against the modelled processor, hands what that
raises to the modelled stub and handler, and writes down the events in the order in which the machine reports
them (`bench.wire`): of one step the first FAULTS_SHOWN faults in full, and at fault FAULT_CAP the verdict that
the step will never end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from bench.errors import UsageError
from bench.records import (
    BootData,
    DigestPoint,
    DumpPoint,
    Event,
    EventKind,
    LoadFinal,
    PhaseStep,
    Prediction,
    Stimulus,
    Touch,
    UpdatePoint,
)
from bench.sim import linux_window
from bench.sim.dump import runs
from bench.sim.early_pgtable import EarlyPageTables, Layout, Result
from bench.sim.processor import Processor, Raised, pieces
from bench.sim.variants import Check, Variant, row_of_window
from bench.wire import FAULT_CAP, FAULTS_SHOWN, START_KERNEL_MAP, Access, Outcome, Phase
from bench.x86.fault import GENERAL_PROTECTION, PAGE_FAULT, VECTORS, describe
from bench.x86.paging import EFER_NXE, ENTRIES, LEVEL_NAMES, MASK_64, PHYSICAL_BITS, PTE, SHIFT

OUTCOME_WORDS = {
    Outcome.DONE: "done",
    Outcome.PANIC: "panic",
    Outcome.HALT: "halt",
    Outcome.LIVELOCK: "livelock",
    Outcome.SPIN: "spin",
}
TRIPLE_FAULT = "triple fault"
OPEN = "open"
"""A kernel's window whose rest was not announced: the model says nothing of it."""

# More than this is not one instruction's access.
_ONE_ACCESS_BYTES = 8
_PAGE_BYTES = 1 << SHIFT[PTE]

_SDM_PAGING = "SDM Vol. 3A, Page-Fault Exceptions"
_SDM_CANONICAL = "SDM Vol. 1, Canonical Addressing"


def predict(stimulus: Stimulus, *, quirks: frozenset[str] = frozenset(), choices: tuple[int, ...] = ()) -> Prediction:
    """The events of one window.

    `quirks` are names of `processor.QUIRKS`. `choices` has an alternative (from 0) for each point at which the
    processor is free in the order of two faults, in the order in which the points are met; a point beyond its end
    takes 0, the lower address first. The result lists the points. Raises UsageError for a variant that is not
    known or load addresses that cannot be.
    """
    return _Window(stimulus, quirks, choices).predict()


@dataclass(frozen=True)
class _Fault:
    """An exception that is on its way to the stub."""

    touch: Touch
    raised: Raised
    va: int
    ip: int | None


class _Window:
    """One window while it runs."""

    def __init__(self, stimulus: Stimulus, quirks: frozenset[str], choices: tuple[int, ...]) -> None:
        facts = stimulus.facts
        if not 32 <= facts.maxphyaddr <= PHYSICAL_BITS:
            raise UsageError(f"a processor has 32 to {PHYSICAL_BITS} physical address bits, not {facts.maxphyaddr}")
        self.stimulus = stimulus
        self.steps = stimulus.steps
        self.boot = next((step for step in stimulus.steps if isinstance(step, BootData)), None)
        self.nx = facts.nx
        self.variant: Variant = row_of_window(facts.variant, facts.levels, facts.mend)
        layout = Layout(
            facts.phys_text,
            facts.phys_end,
            facts.phys_top,
            facts.phys_dynamic,
            facts.phys_kernel,
            facts.phys_base,
        )
        page_offset = self.variant.page_offset if self.variant.sets_page_offset else facts.page_offset
        self.tables = EarlyPageTables(self.variant, facts.pool, layout, page_offset=page_offset, nx=facts.nx)
        self.processor = Processor(
            self.tables,
            maxphyaddr=facts.maxphyaddr,
            nxe=bool(facts.efer & EFER_NXE),
            cr2=facts.cr2,
            quirks=quirks,
        )
        self.given = choices
        self.met: list[tuple[int, int]] = []
        self.events: list[Event] = []
        self.early_recursion_flag = 0
        self.faults = 0
        self.exits = 0
        self.over = False

    def predict(self) -> Prediction:
        self.tables.startup_64()
        if self.processor.raises(self.tables.layout.phys_text, Access.FETCH):
            # No IDT yet: the jump to high addresses is made from a page that the trampoline does not map.
            return Prediction((), TRIPLE_FAULT, 0)
        self.tables.reset_early_page_tables()
        make: dict[type, Callable[..., None]] = {
            Touch: self._touch,
            LoadFinal: self._load_final,
            DigestPoint: self._digest,
            DumpPoint: self._dump,
            UpdatePoint: self._update,
            BootData: self._boot_data,
            PhaseStep: self._phase,
        }
        is_linux = self.stimulus.facts.is_linux
        if is_linux:
            self._make_all(linux_window.copied(self.stimulus.facts, self.boot, self.tables.page_offset))
        for step in self.steps:
            if self.over:
                break
            make[type(step)](step)
        if not self.over and (not is_linux or any(isinstance(step, LoadFinal) for step in self.steps)):
            self._end(Outcome.DONE, "all steps were made")
        if not self.over:
            return Prediction(tuple(self.events), OPEN, self.tables.early_pgt_resets - 1, tuple(self.met))
        last = self.events[-1].outcome
        word = OUTCOME_WORDS[Outcome(last if last is not None else Outcome.DONE)]
        return Prediction(tuple(self.events), word, self.tables.early_pgt_resets - 1, tuple(self.met))

    # Steps

    def _boot_data(self, step: BootData) -> None:
        """What it tells of was copied before it was said."""
        self.tables.pool = step.pool or self.tables.pool

    def _phase(self, step: PhaseStep) -> None:
        """What a kernel touches in a phase by its own nature; announced touches follow."""
        self.tables.page_offset = step.page_offset or self.tables.page_offset
        self.tables.pool = step.pool or self.tables.pool
        facts, offset = self.stimulus.facts, self.tables.page_offset
        if step.step == Phase.UCODE and self.boot:
            self._make_all(linux_window.microcode_scan(facts, self.boot, self.stimulus.initrd_head, offset))
        elif step.step == Phase.SETUP:
            self._make_all(linux_window.set_up(facts, offset))

    def _make_all(self, touches: Iterable[Touch]) -> None:
        for touch in touches:
            if self.over:
                return
            self._touch(touch)

    def _touch(self, touch: Touch) -> None:
        """One access, or as many as a longer range takes: one a page, upwards."""
        if touch.size <= _ONE_ACCESS_BYTES or touch.access in (Access.FETCH, Access.MOVE):
            self._access(touch)
            return
        at, end = touch.va, touch.va + touch.size
        while at < end and not self.over:
            self._access(replace(touch, va=at & MASK_64, size=1))
            at = (at | _PAGE_BYTES - 1) + 1

    def _access(self, touch: Touch) -> None:
        """Make an access, again after each fault, until it goes through, is given up or ends the window."""
        count = 0
        while not self.over:
            fault = self._first_fault(touch)
            if fault is None:
                return
            count += 1
            self.faults += 1
            if fault.raised.vector == PAGE_FAULT:
                self.processor.cr2 = fault.va
            if count == FAULT_CAP:
                self._cap(fault)
            elif not self._raise(fault, shown=count <= FAULTS_SHOWN):
                return

    def _load_final(self, step: LoadFinal) -> None:
        if step.span_bytes == 0:
            self.processor.leave_early_tables(step.phys_top)
            return
        self.processor.load_final(step.phys_top, step.span_bytes, nx=self.nx)

    def _digest(self, step: DigestPoint) -> None:
        why = f"early_top_pgt and the pool as {self.variant.name} has left them"
        crc, next_ = self.tables.digest(), self.tables.next_early_pgt
        self.events.append(Event(EventKind.DIGEST, step.step, crc=crc, next=next_, why=why))

    def _update(self, step: UpdatePoint) -> None:
        """Its update lies in the window image's own page, which is mapped: no fault."""

    def _dump(self, step: DumpPoint) -> None:
        entries = self.tables.entries
        for table in range(len(entries) // ENTRIES):
            name = f"table {table - 1} of the pool" if table else "the top table"
            why = f"{name} as {self.variant.name} has left it"
            for index, count, entry, stride in runs(entries[table * ENTRIES : (table + 1) * ENTRIES]):
                self.events.append(
                    Event(
                        EventKind.DUMP,
                        step.step,
                        table=table,
                        index=index,
                        count=count,
                        entry=entry,
                        stride=stride,
                        why=why,
                    )
                )

    # Faults

    def _first_fault(self, touch: Touch) -> _Fault | None:
        """What the processor raises for the instruction as the tables are now, None if it goes through."""
        if touch.access is Access.MOVE:
            # The source is read before the destination is written.
            accesses = [(touch.va, Access.READ), (touch.va_to, Access.WRITE)]
        else:
            accesses = [(touch.va, touch.access)]
        size = 1 if touch.access is Access.FETCH else max(touch.size, 1)
        for va, access in accesses:
            raised = [(at, what) for at in pieces(va, size) if (what := self.processor.raises(at, access))]
            if raised:
                at, what = raised[self._choose(len(raised))]
                return _Fault(touch, what, at, _ip(touch, at, what))
        return None

    def _choose(self, alternatives: int) -> int:
        """Which of several faults of one access comes first: the processor is free, the caller has decided."""
        if alternatives == 1:
            return 0
        point = len(self.met)
        self.met.append((len(self.events), alternatives))
        return min(self.given[point], alternatives - 1) if point < len(self.given) else 0

    def _raise(self, fault: _Fault, *, shown: bool) -> bool:
        """Enter the stub with a fault, leave it if it returns. True if the instruction is to be made again."""
        touch = fault.touch
        if shown:
            why = _why_raised(fault, self.processor.levels)
            self._event(EventKind.ENTER, fault, why, vector=fault.raised.vector)
        outcome, retry, why = self._stub(fault)
        if outcome is None:
            self.exits += 1
            # A kernel's trace is written inside the stub, the payload's when the stub has done all of its work.
            flag = self.early_recursion_flag if self.stimulus.facts.is_linux else self.early_recursion_flag - 1
            self.early_recursion_flag -= 1
            if shown:
                self._exit(touch, why, flag)
            return retry
        if outcome is Outcome.PANIC:
            flag = self.early_recursion_flag
            vector = fault.raised.vector if self.variant.stub.vector_survives else None
            self._event(EventKind.FATAL, fault, why, vector=vector, flag=flag)
        elif outcome is Outcome.SPIN:
            self.events.append(Event(EventKind.SPIN, touch.step, why=why, replayed=touch.replayed))
        self._end(outcome, why)
        return False

    def _stub(self, fault: _Fault) -> tuple[Outcome | None, bool, str]:
        """Go through the checks of the variant's stub: how it ends the window (None: it returns), whether the
        instruction is made again, and why."""
        stub = self.variant.stub
        why = f"{VECTORS[fault.raised.vector].mnemonic} is not the handler's"
        for check in stub.order:
            if check is Check.COUNT:
                self.early_recursion_flag += 1
            elif check is Check.HALT_IF_FLAG and self.early_recursion_flag >= stub.flag_limit:
                return Outcome.HALT, False, f"early_recursion_flag is {self.early_recursion_flag}: silent halt"
            elif check is Check.PAGE_FAULT and fault.raised.vector == PAGE_FAULT:
                result, why = self._handle(fault.va)
                if result is Result.MAPPED:
                    return None, True, why
                if result is Result.SPINS:
                    return Outcome.SPIN, False, why
            elif check is Check.EXCEPTION_TABLE and fault.touch.fixup:
                return None, False, f"{why}; the exception table has an entry for the instruction"
        return Outcome.PANIC, False, f"{why}; no entry in the exception table: PANIC"

    def _handle(self, va: int) -> tuple[Result, str]:
        """Call the handler: its result, and what it did in words."""
        tables, variant = self.tables, self.variant
        resets = tables.early_pgt_resets
        in_use = self.processor.early_tables_in_use
        result = tables.early_make_pgtable(va, early_tables_in_use=in_use)
        physaddr = va - tables.page_offset & MASK_64
        if result is Result.REJECTED:
            if physaddr >= variant.maxmem:
                why = f"{va:#x} - PAGE_OFFSET is {physaddr:#x}, not below MAXMEM {variant.maxmem:#x}: rejected"
            else:
                why = "CR3 is no longer early_top_pgt: rejected"
        elif result is Result.SPINS:
            why = f"a pool of {tables.pool} is too small for one address: reset and goto again without end"
        else:
            taken = f"took {', '.join(map(str, tables.taken))} of the pool" if tables.taken else "took no table"
            reset = f"pool of {tables.pool} used up: reset, " if tables.early_pgt_resets != resets else ""
            why = f"{reset}{taken}, mapped {variant.leaf_span >> 20} MiB at {physaddr & -variant.leaf_span:#x}"
        return result, f"{why} (early_make_pgtable, {variant.name})"

    # Events

    def _event(
        self,
        kind: EventKind,
        fault: _Fault,
        why: str,
        *,
        vector: int | None = None,
        flag: int | None = None,
        faults: int | None = None,
        counters: bool = False,
    ) -> None:
        """An event that reports the fault itself."""
        touch = fault.touch
        self.events.append(
            Event(
                kind,
                touch.step,
                ip=fault.ip,
                cr2=self.processor.cr2,
                vector=vector,
                error=fault.raised.error,
                flag=flag,
                faults=faults,
                next=self.tables.next_early_pgt if counters else None,
                resets=self._resets() if counters else None,
                why=why,
                replayed=touch.replayed,
            )
        )

    def _exit(self, touch: Touch, why: str, flag: int) -> None:
        walk = self.processor.walk(self.processor.cr2)
        self.events.append(
            Event(
                EventKind.EXIT,
                touch.step,
                next=self.tables.next_early_pgt,
                resets=self._resets(),
                flag=flag,
                pgd=walk.pgd,
                p4d=walk.p4d,
                pud=walk.pud,
                pmd=walk.pmd,
                left=walk.left,
                why=why,
                replayed=touch.replayed,
            )
        )

    def _cap(self, fault: _Fault) -> None:
        why = f"the instruction has faulted {FAULT_CAP} times and the tables never let it through: livelock"
        last = f"{why}; last {_why_raised(fault, self.processor.levels)}"
        self._event(EventKind.CAP, fault, last, faults=FAULT_CAP, counters=True)
        self._end(Outcome.LIVELOCK, why)

    def _end(self, outcome: Outcome, why: str) -> None:
        # Where the watchdog interrupts an endless loop, next_early_pgt is anything.
        exact = outcome is not Outcome.SPIN
        self.over = True
        self.events.append(
            Event(
                EventKind.END,
                outcome=int(outcome),
                faults=self.faults,
                exits=self.exits,
                next=self.tables.next_early_pgt if exact else None,
                resets=self._resets() if exact else None,
                why=why,
            )
        )

    def _resets(self) -> int | None:
        return self.tables.early_pgt_resets if self.variant.counts_resets else None


def _ip(touch: Touch, at: int, raised: Raised) -> int | None:
    """Where the instruction pointer stands, as an offset from START_KERNEL_MAP modulo 2^64; None if that is open."""
    if touch.access is not Access.FETCH:
        return touch.ip
    if raised.vector == GENERAL_PROTECTION:
        # Intel raises #GP at the CALL, AMD and QEMU at its target.
        return None
    return at - START_KERNEL_MAP & MASK_64


def _why_raised(fault: _Fault, levels: int) -> str:
    """The fault in words, with the manual's section."""
    raised = fault.raised
    about = f"{fault.touch.about}; " if fault.touch.about else ""
    if raised.vector == GENERAL_PROTECTION:
        return (
            f"{about}#GP: {fault.va:#x} is not canonical with {levels} levels; CR2 keeps its value ({_SDM_CANONICAL})"
        )
    level = f" at its {LEVEL_NAMES[raised.level]} entry" if raised.level else ""
    if raised.level == levels:
        level = " at its top-level entry"
    return f"{about}#PF: {describe(raised.error)}, {fault.va:#x}{level} ({_SDM_PAGING})"
