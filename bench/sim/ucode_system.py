"""A kernel that has come up, as far as microcode goes: what late loads, processors taken off and brought up, a suspend
and a kexec come to.

To be read beside arch/x86/kernel/cpu/microcode/core.c (reload_store, mc_cpu_starting, mc_cpu_online,
microcode_bsp_resume) and intel.c (apply_microcode_intel, __apply_microcode) of 6.1.192, 6.12.117 and 7.3.4.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from bench.errors import UsageError
from bench.sim.ucode_choose import platform_flags, suits
from bench.sim.ucode_late import PREFIX, LateChoice, LateRules, Running, Walk, asks_for_minimum, choose_late, late_rules
from bench.sim.ucode_load import EarlyLoad, End, LoadOffer, Write
from bench.sim.ucode_loaders import Announcement, Loader
from bench.x86.microcode import HEADER_BYTES, Update, read_update_loosely
from bench.x86.microcode_processor import Act, ProcessorRules, Restart, answer

# Negated by the kernel, and said by init.
EPERM, ENOENT, EIO, EBUSY, EINVAL, EBADFD = 1, 2, 5, 16, 22, 77


class What(StrEnum):
    """Things that are done to a kernel that has come up."""

    LATE = "late"
    OFF = "off"
    ON = "on"
    SUSPEND = "suspend"


@dataclass(frozen=True)
class Deed:
    """One of them. `file` is what lies in /lib/firmware at a late load (None: nothing)."""

    what: What
    processor: int = 0
    file: bytes | None = None


@dataclass(frozen=True)
class Moment:
    """What a deed comes to."""

    error: int
    """Number of the error that init is given; 0: none."""
    lines: tuple[str, ...]
    writes: tuple[Write, ...]
    shown: tuple[tuple[int, int], ...]
    """Processors in /proc/cpuinfo and the revision there, afterwards."""
    runs: tuple[int, ...]
    """What each logical processor runs."""
    taints: bool
    """TAINT_CPU_OUT_OF_SPEC is set by it."""
    end: End = End.BOOTS
    """How the kernel ends by it, if it does."""


class _Outcome(StrEnum):
    """ucode_state."""

    OK = "ok"
    UPDATED = "updated"
    NOT_FOUND = "not found"
    ERROR = "error"


@dataclass
class System:
    """One kernel, from the end of its early loading on. `present` counts all processors, started or not."""

    loader: Loader
    rules: ProcessorRules
    offer: LoadOffer
    early: EarlyLoad
    present: int
    late_built_in: bool = True
    """CONFIG_MICROCODE_LATE_LOADING."""
    _lines: list[str] = field(default_factory=list)
    _writes: list[Write] = field(default_factory=list)
    _ended: End = End.BOOTS

    def __post_init__(self) -> None:
        if self.early.end is not End.BOOTS:
            raise UsageError("a kernel that does not come up does nothing later")
        started = range(self.offer.processors)
        self._late = late_rules(self.loader)
        self._stores = [self.rules.bios_revision] * (self.rules.core(self.present - 1) + 1)
        for core, revision in enumerate(self.offer.running):
            self._stores[core] = revision
        for processor in started:
            self._stores[self.rules.core(processor)] = self.early.runs[processor]
        self._online = set(started)
        self._started = set(started)
        self._known = {p: self.early.shown[p] or 0 for p in started}
        self._shown = dict(self._known)
        self._cache = [_Held(copy) for copy in self.early.kept]
        self._given = _Held(self.early.given) if self.early.given else None
        self._first_has: _Held | None = None
        self._said_early = any(f"{PREFIX}microcode updated early" in line for line in self.early.lines)
        self._said_late: int | None = None
        self._said_signature: int | None = self._shown[max(started)]

    @property
    def runs(self) -> tuple[int, ...]:
        """What each logical processor runs now."""
        return tuple(self._stores[self.rules.core(p)] for p in range(self.present))

    def do(self, deed: Deed) -> Moment:
        """Carry it out."""
        self._lines, self._writes = [], []
        error, taints = 0, False
        match deed.what:
            case What.LATE:
                error, taints = self._load_late(deed.file)
            case What.OFF:
                self._online.discard(deed.processor)
            case What.ON:
                self._start(deed.processor)
            case What.SUSPEND:
                self._suspend()
        shown = tuple((p, self._shown[p]) for p in sorted(self._online))
        return Moment(error, tuple(self._lines), tuple(self._writes), shown, self.runs, taints, self._ended)

    def _say(self, text: str) -> None:
        self._lines.append(PREFIX + text)

    # --- one processor -----------------------------------------------------------------------------------------------

    def _revision(self, processor: int) -> int:
        return self._stores[self.rules.core(processor)]

    def _write(self, processor: int, held: _Held) -> bool:
        """WRMSR 0x79 and a look at the revision."""
        before, act = self._revision(processor), self.rules.act(processor)
        if act is None:
            given = answer(self.rules, held.content, before, data_address=HEADER_BYTES)
            after, why_not = given.revision, given.why_not
        else:
            after, why_not = before, f"processor {processor} is to {act}"
        if act in (Act.HANG, Act.RESET) and self._ended is not End.RESET:
            self._ended = End.HANG if act is Act.HANG else End.RESET
        self._stores[self.rules.core(processor)] = after
        self._writes.append(Write(processor, 0, held.update.revision, before, after, why_not))
        return after == held.update.revision

    def _apply_early(self, processor: int, held: _Held) -> None:
        """apply_microcode_early() of a copy."""
        if self._revision(processor) >= held.update.revision or not self._write(processor, held):
            return
        if self.loader.announcement is Announcement.TO_REVISION and not self._said_early:
            self._said_early = True
            self._say(f"microcode updated early to revision {held.update.revision:#x}, date = {held.update.iso_date}")

    def _find(self, revision: int) -> _Held | None:
        """find_patch(): the first that is kept and newer."""
        flags = platform_flags(self.rules)
        return next(
            (
                held
                for held in self._cache
                if held.update.revision > revision and suits(self.loader, held.update, self.rules.signature, flags)
            ),
            None,
        )

    def _apply_intel(self, processor: int) -> _Outcome:
        """apply_microcode_intel() of 4.16 to 6.6."""
        held = self._find(self._known[processor]) or (self._first_has if processor == 0 else None)
        if held is None:
            return _Outcome.NOT_FOUND
        outcome = _Outcome.OK
        if self._revision(processor) < held.update.revision:
            if not self._write(processor, held):
                if self._ended is not End.BOOTS:
                    return _Outcome.ERROR
                self._say(f"CPU{processor} update to revision 0x{held.update.revision:x} failed")
                return _Outcome.ERROR
            outcome = _Outcome.UPDATED
            if processor == 0 and self._said_late != held.update.revision:
                self._said_late = held.update.revision
                self._say(f"updated to revision 0x{held.update.revision:x}, date = {held.update.iso_date}")
        self._known[processor] = self._shown[processor] = self._revision(processor)
        return outcome

    def _apply_late(self, processor: int, held: _Held) -> _Outcome:
        """apply_microcode_late() of 6.7 and newer."""
        outcome = _Outcome.OK
        if self._revision(processor) < held.update.revision:
            if not self._write(processor, held):
                return _Outcome.ERROR
            outcome = _Outcome.UPDATED
        self._known[processor] = self._shown[processor] = self._revision(processor)
        return outcome

    def _start(self, processor: int) -> None:
        """A processor comes up, for the first time or again. INIT leaves it what it has loaded."""
        if processor in self._online:
            return
        if self._given is not None:
            self._apply_early(processor, self._given)
        self._online.add(processor)
        self._started.add(processor)
        self._shown[processor] = self._known[processor] = self._revision(processor)
        if self._late is LateRules.ALWAYS_UNSAFE:
            self._say_signature(self._shown[processor])
            self._apply_intel(processor)

    def _say_signature(self, revision: int) -> None:
        if self._said_signature != revision:
            self._said_signature = revision
            flags = platform_flags(self.rules)
            self._say(f"sig=0x{self.rules.signature:x}, pf=0x{flags:x}, revision=0x{revision:x}")

    def _suspend(self) -> None:
        """To memory and back: with the power goes what was loaded, and firmware loads its own again."""
        others = sorted(self._online - {0})
        if not Restart.SUSPEND.keeps_updates:
            self._stores = [self.rules.bios_revision] * len(self._stores)
        self._online = {0}
        if self._late is LateRules.ALWAYS_UNSAFE and self._first_has is not None:
            self._apply_intel(0)
        elif self._late is LateRules.ALWAYS_UNSAFE and (held := self._find(self._revision(0))):
            self._apply_early(0, held)
        elif self._late is LateRules.MINIMUM_REVISION and self._given:
            self._apply_early(0, self._given)
        for processor in others:
            self._start(processor)

    # --- a late load -------------------------------------------------------------------------------------------------

    def _primary(self, processor: int) -> int:
        """The first thread that is online of a processor's core."""
        core = self.rules.core(processor)
        return min(p for p in self._online if self.rules.core(p) == core)

    def _load_late(self, file: bytes | None) -> tuple[int, bool]:
        """The error number that the write to the file `reload` has, and whether it taints."""
        if not self.late_built_in or self.early.looked:
            return ENOENT, False
        running = Running(self._known[0], self._shown[0])
        forced = asks_for_minimum(self.loader, self.offer.command_line)
        off = sorted(set(range(self.present)) - self._online)
        if self._late is LateRules.ALWAYS_UNSAFE:
            if any(p % self.rules.siblings == 0 for p in off):
                self._say("Not all CPUs online, aborting microcode update.")
                return EINVAL, True
            choice = choose_late(self.loader, self.rules, file, running)
            self._lines += choice.lines
            return (self._stop_and_load(choice) if choice.end is Walk.CHOSEN else 0), True
        stopped = next((p for p in off if p in self._started and p % self.rules.siblings == 0), None)
        if stopped is not None:
            self._say(f"CPU {stopped} not online, loading aborted")
            return EBUSY, False
        choice = choose_late(self.loader, self.rules, file, running, minimum_forced=forced)
        self._lines += choice.lines
        if choice.end is not Walk.CHOSEN:
            return (ENOENT if choice.end is Walk.NONE else EBADFD), False
        return self._rendezvous(choice)

    def _stop_and_load(self, choice: LateChoice) -> int:
        """microcode_reload_late() of 4.16 to 6.6: all processors stop, the first thread of each core loads."""
        self._first_has = held = _Held(choice.update)
        self._keep(held)
        self._say("Attempting late microcode loading - it is dangerous and taints the kernel.")
        self._say("You should switch to early loading, if possible.")
        old, failed = self._shown[0], False
        online = sorted(self._online)
        for processor in (p for p in online if self._primary(p) == p):
            outcome = self._apply_intel(processor)
            if self._ended is End.RESET:
                return 0
            if outcome is _Outcome.ERROR and self._ended is End.BOOTS:
                self._say(f"Error reloading microcode on CPU {processor}")
            failed |= outcome in (_Outcome.ERROR, _Outcome.NOT_FOUND)
        if self._ended is End.HANG:
            # The first of the others to lose patience: more than one would speak in any order.
            self._say("Timeout while waiting for CPUs rendezvous, remaining: 1")
            self._ended = End.PANIC
            return 0
        for processor in (p for p in online if self._primary(p) != p):
            self._apply_intel(processor)
        if failed:
            self._say(f"Reload failed, current microcode revision: 0x{self._shown[0]:x}")
            return EPERM
        self._say(f"Reload succeeded, microcode revision: 0x{old:x} -> 0x{self._shown[0]:x}")
        return 0

    def _keep(self, held: _Held) -> None:
        """save_microcode_patch()."""
        found = False
        for number, old in enumerate(self._cache):
            if suits(self.loader, held.update, old.update.signature, old.update.platform_flags):
                found = True
                if held.update.revision > old.update.revision:
                    self._cache[number] = self._given = held
        if not found:
            self._cache.append(held)
            self._given = held

    def _rendezvous(self, choice: LateChoice) -> tuple[int, bool]:
        """load_late_stop_cpus() of 6.7 and newer."""
        held, old = _Held(choice.update), self._shown[0]
        if not choice.safe:
            self._say("Late microcode loading without minimal revision check.")
            self._say("You should switch to early loading, if possible.")
        results: dict[int, _Outcome] = {}
        for processor in sorted(self._online, key=lambda p: (self._primary(p) != p, p)):
            first = results.get(self._primary(processor))
            results[processor] = _Outcome.ERROR if first is _Outcome.ERROR else self._apply_late(processor, held)
        if self._ended is not End.BOOTS:
            return 0, False
        counts = [list(results.values()).count(each) for each in (_Outcome.UPDATED, _Outcome.OK, _Outcome.ERROR)]
        updated, siblings, failed = counts
        if not updated:
            if failed:
                self._say(f"update failed: {failed} CPUs failed 0 CPUs timed out")
            return (EIO if failed else 0), False
        self._given = held
        self._say(f"load: updated on {updated} primary CPUs with {siblings} siblings")
        if failed:
            self._say(f"load incomplete. {failed} CPUs timed out or failed")
        self._say(f"revision: 0x{old:x} -> 0x{self._shown[0]:x}")
        return (EIO if failed else 0), not choice.safe or bool(failed)


@dataclass(frozen=True)
class _Held:
    """A copy of an update in the kernel's own memory, which is aligned."""

    content: bytes

    @property
    def update(self) -> Update:
        found = read_update_loosely(self.content)
        assert found is not None, "the sanity check let it through"
        return found
