"""What a boot's early microcode loading should do: which update is found, chosen and written, what each processor then
runs, and what the kernel says.

To be read beside load_ucode_bsp, load_ucode_ap, scan_microcode and apply_microcode_early of the releases that
`ucode_loaders` names. The processor's part is `bench.x86.microcode_processor`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from bench.sim.ucode_choose import UpdateFile, choose, platform_flags, read_file, suits
from bench.sim.ucode_loaders import Announcement, Loader, Others
from bench.sim.ucode_scan import CpioData, InitrdReads, Range, find_cpio_data
from bench.updates import Search
from bench.x86.microcode import HEADER_BYTES, Update
from bench.x86.microcode_processor import Act, ProcessorRules, answer
from bench.x86.signature import processor as processor_of

DRIVER_VERSION = "2.2"


@dataclass(frozen=True)
class LoadOffer:
    """What one boot offers the loader."""

    initrd: bytes
    """From its beginning, as far as the search comes."""
    initrd_bytes: int
    phys_initrd: int = 0
    command_line: str = ""
    hypervisor: bool = False
    """CPUID leaf 1 ECX bit 31."""
    processors: int = 1
    running: tuple[int, ...] = ()
    """Revision of each core before the boot, if not the BIOS's: after kexec."""


class End(StrEnum):
    """How the loading of all processors ends."""

    BOOTS = "boots"
    HANG = "hang"
    """A processor does not come back from its write."""
    RESET = "reset"
    PANIC = "panic"
    """Of a late load: the others wait for a processor that does not come back, and then give up."""
    RETRY = "retries for ever"
    """A processor that refuses scans and writes again, without end."""


@dataclass(frozen=True)
class Write:
    """One WRMSR 0x79."""

    processor: int
    offset: int
    """Of the update's header in the initrd."""
    revision: int
    before: int
    after: int
    why_not: str = ""


@dataclass(frozen=True)
class EarlyLoad:
    """The prediction. Lines are the kernel's words, without a time stamp, in their order."""

    looked: str
    """Empty if the loader looked for updates; otherwise why it did not."""
    found: CpioData | None
    accesses: tuple[Range, ...]
    """What the first processor reads of the initrd up to its choice."""
    writes: tuple[Write, ...]
    runs: tuple[int, ...]
    """Revision that each logical processor runs when all have started."""
    shown: tuple[int | None, ...]
    """Revision in /proc/cpuinfo; None for a processor that did not come up."""
    lines: tuple[str, ...]
    end: End
    at: int | None = None
    """The logical processor at which it ended, if it did not boot."""
    searches: tuple[Search, ...] = ()
    """What each run of the loader comes to, a processor that does not come back from its write left out."""
    later: tuple[Search, ...] = ()
    """The same where every processor but the first is then taken off and brought up again, one after the other."""
    kept: tuple[bytes, ...] = ()
    """Updates that the kernel has kept when the initrd is gone."""
    given: bytes = b""
    """That one of them which processors are given that come up later; empty: none."""


def switched_off(loader: Loader, offer: LoadOffer, signature: int) -> str:
    """Why the loader does not look at all; empty if it does. (The bench's processors are all Intel's.)"""
    if processor_of(signature).family < 6:
        return f"family {processor_of(signature).family} is too old"
    if loader.hypervisor_test and offer.hypervisor:
        return "CPUID says that there is a hypervisor"
    words = offer.command_line.split()
    for switch in loader.switches:
        name, _, value = switch.partition("=")
        if value:
            given = [w.removeprefix(f"{name}=") for w in words if w.startswith(f"{name}=")]
            if given and value in given[-1].split(","):
                return f"{name}={given[-1]} is on the command line"
        elif name in words:
            return f"{name} is on the command line"
    return ""


# --- the boot --------------------------------------------------------------------------------------------------------


@dataclass
class _Boot:
    """One boot as it goes on: processor after processor."""

    loader: Loader
    rules: ProcessorRules
    offer: LoadOffer
    stores: list[int]
    file: UpdateFile
    warning: str = ""
    """What each search of the initrd says of the file's name."""
    cached: tuple[int, Update] | None = None
    """What processors that start later take without scanning."""
    writes: list[Write] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    ended: tuple[End, int] | None = None
    lost: set[int] = field(default_factory=set)
    """Processors that the kernel does without."""
    searches: list[Search] = field(default_factory=list)
    file_offset: int = 0
    """Of the file in the initrd."""

    def running(self, processor: int) -> int:
        return self.stores[self.rules.core(processor)]

    def search(self) -> None:
        """The initrd is searched for the file."""
        self.lines += [self.warning] if self.warning else []

    def choose(self, processor: int) -> tuple[int, Update] | None:
        if processor == 0 or self.loader.others is not Others.SAVED_LIST:
            self.search()
        chosen, said = choose(self.loader, self.file, self.rules, self.running(processor))
        self.lines += [line for line in said if line not in self.lines]
        return chosen

    def apply(self, processor: int, offset: int, update: Update, *, copied: bool = False) -> bool:
        """apply_microcode_early: False if the processor did not take it. A copy of it, in memory of the kernel's own,
        is aligned."""
        before = self.running(processor)
        if before >= update.revision:
            return True
        act = self.rules.act(processor)
        after, why_not = before, ""
        if act is None:
            copied = copied or (processor > 0 and self.loader.others is Others.WHAT_THE_FIRST_LOADED)
            address = (0 if copied else self.offer.phys_initrd + offset) + HEADER_BYTES
            content = self.offer.initrd[offset : offset + update.total_size]
            given = answer(self.rules, content, before, data_address=address)
            after, why_not = given.revision, given.why_not
        else:
            why_not = f"processor {processor} is to {act}"
        self.stores[self.rules.core(processor)] = after
        self.writes.append(Write(processor, offset, update.revision, before, after, why_not))
        if act is Act.HANG and processor and not self.loader.waits_for_others:
            self.lost.add(processor)
            return False
        if act in (Act.HANG, Act.RESET):
            self.ended = (End.HANG if act is Act.HANG else End.RESET), processor
            return False
        if after != update.revision:
            return False
        self.announce(processor, update, before)
        return True

    def announce(self, processor: int, update: Update, before: int) -> None:
        """Each text is printed once a boot, but 3.9's."""
        prefix = self.loader.prefix
        match self.loader.announcement:
            case Announcement.EACH_PROCESSOR:
                text = f"{prefix}CPU{processor} microcode updated early to revision {update.revision:#x}"
                self.lines.append(f"{text}, date = {update.iso_date}")
            case Announcement.TO_REVISION:
                self._once("microcode updated early to", f"revision {update.revision:#x}, date = {update.iso_date}")
            case Announcement.FROM_TO:
                text = f"{before:#x} -> {update.revision:#x}, date = {update.iso_date}"
                self._once("updated early:", text)
            case Announcement.CURRENT_AND_FROM:
                pass

    def _once(self, start: str, rest: str) -> None:
        if not any(line.startswith(f"{self.loader.prefix}{start}") for line in self.lines):
            self.lines.append(f"{self.loader.prefix}{start} {rest}")

    def saved(self) -> tuple[int, Update] | None:
        """The update that an early_initcall keeps for the others: the last of the revision that runs now."""
        self.search()
        running, flags = self.running(0), platform_flags(self.rules)
        same = [
            (offset, update)
            for offset, update in self.file.updates
            if update.revision == running and suits(self.loader, update, self.rules.signature, flags)
        ]
        return same[-1] if same else None

    def kept(self) -> tuple[int, Update] | None:
        """The update that a processor is given which comes up when the initrd is gone: a copy."""
        if self.loader.others is Others.WHAT_THE_FIRST_LOADED:
            return self.cached
        if not self.file.updates or self.loader.others is Others.SAVED_LIST:
            return None
        return self.cache()[1]

    def cache(self) -> tuple[list[tuple[int, Update]], tuple[int, Update] | None]:
        """What 4.10 to 6.6 save, save_microcode_patch() up to the first update that is bad: for each signature the
        newest; and of those the last that was saved or replaced, which is given out. (An update that replaces none and
        is not newer changes nothing.)"""
        saved: list[tuple[int, Update]] = []
        given: tuple[int, Update] | None = None
        flags = platform_flags(self.rules)
        for offset, update in self.file.updates:
            if not suits(self.loader, update, self.rules.signature, flags):
                continue
            same = [
                number
                for number, (_, old) in enumerate(saved)
                if suits(self.loader, update, old.signature, old.platform_flags)
            ]
            newer = [number for number in same if update.revision > saved[number][1].revision]
            for number in newer:
                saved[number] = offset, update
            if not same:
                saved.append((offset, update))
            if newer or not same:
                given = offset, update
        return saved, given

    def copies(self) -> tuple[bytes, ...]:
        """All that is kept when the initrd is gone."""
        kept = self.kept()
        if kept is None:
            return ()
        held = [kept] if self.loader.others is Others.WHAT_THE_FIRST_LOADED else self.cache()[0]
        return tuple(self.offer.initrd[offset : offset + update.total_size] for offset, update in held)

    def copy_given(self) -> bytes:
        """What a processor that comes up later is given; empty: nothing."""
        kept = self.kept()
        return self.offer.initrd[kept[0] : kept[0] + kept[1].total_size] if kept else b""

    def search_of(
        self, processor: int, before: int, chosen: tuple[int, Update] | None, *, copied: bool = False
    ) -> Search | None:
        """What one run of the loader came to; None if the processor, or the machine, did not come back from it."""
        if (self.ended and self.ended[0] is not End.RETRY) or processor in self.lost:
            return None
        after = self.running(processor)
        if chosen is None:
            return Search(processor, before, 0, 0, 0, 0, after)
        offset, update = chosen
        place = 0 if copied else offset - self.file_offset
        return Search(processor, before, place, update.signature, update.platform_flags, update.revision, after)

    def note(self, processor: int, before: int, chosen: tuple[int, Update] | None, *, copied: bool = False) -> None:
        """Keep it."""
        search = self.search_of(processor, before, chosen, copied=copied)
        self.searches += [search] if search else []

    def again(self) -> Iterator[Search]:
        """Every processor but the first is taken off and brought up again."""
        kept = self.kept()
        for processor in range(1, self.offer.processors):
            if self.ended or processor in self.lost:
                return
            before = self.running(processor)
            if kept:
                self.apply(processor, *kept, copied=True)
            search = self.search_of(processor, before, kept, copied=True)
            if search is None:
                return
            yield search

    def start(self, processor: int) -> None:
        """A processor that is not the first one starts."""
        before = self.running(processor)
        self._start(processor)
        copied = self.loader.others is Others.WHAT_THE_FIRST_LOADED
        self.note(processor, before, self.cached, copied=copied)

    def _start(self, processor: int) -> None:
        others = self.loader.others
        if others is Others.SAVED_LIST:
            chosen = self.choose(processor)
            if chosen:
                self.apply(processor, *chosen)
            return
        if self.cached is None and others is not Others.WHAT_THE_FIRST_LOADED:
            self.cached = self.choose(processor)
        if self.cached is None or self.apply(processor, *self.cached) or self.ended:
            return
        if others is Others.SCAN_AND_RETRY:
            self.cached = self.choose(processor)
            if self.cached:
                self.ended = End.RETRY, processor


def predict_early(loader: Loader, rules: ProcessorRules, offer: LoadOffer) -> EarlyLoad:
    """Every processor's early load, from the first one's to the last one's start.

    The kernel may live on behind a failure: only a hang, a reset or an endless loop ends the boot here. Raises
    UsageError if the search leaves the part of the initrd that `offer` has.
    """
    cores = rules.core(offer.processors - 1) + 1
    stores = list(offer.running) or [rules.bios_revision] * cores
    off = switched_off(loader, offer, rules.signature)
    if off:
        runs = tuple(stores[rules.core(p)] for p in range(offer.processors))
        return EarlyLoad(off, None, (), (), runs, runs, (), End.BOOTS)
    initrd = InitrdReads(offer.initrd, offer.initrd_bytes, offer.phys_initrd)
    found = None
    if offer.initrd_bytes:
        found = find_cpio_data(initrd, extra_bytes=loader.extra_bytes, long_compare=loader.long_compare)
    file = read_file(loader, initrd, found) if found and found.size else UpdateFile()
    boot = _Boot(loader, rules, offer, stores, file, found.warning if found else "")
    boot.file_offset = found.offset if found else 0
    first_before = boot.running(0)
    chosen = boot.choose(0)
    loaded = chosen is not None and boot.apply(0, *chosen)
    boot.note(0, first_before, chosen)
    if loaded and boot.writes and loader.others is Others.WHAT_THE_FIRST_LOADED:
        boot.cached = boot.saved()
    shown: list[int | None] = [boot.running(0)]
    for processor in range(1, offer.processors):
        if boot.ended:
            break
        boot.start(processor)
        shown.append(None if processor in boot.lost else boot.running(processor))
    return _ended(boot, found, list(initrd.ranges), shown, first_before)


def _ended(
    boot: _Boot, found: CpioData | None, accesses: list[Range], shown: list[int | None], first_before: int
) -> EarlyLoad:
    runs = tuple(boot.running(p) for p in range(boot.offer.processors))
    end, at = boot.ended or (End.BOOTS, None)
    if end is End.BOOTS and boot.loader.others in (Others.SCAN, Others.SCAN_AND_RETRY):
        boot.search()  # an initcall keeps an update for processors that come later
    lines = list(boot.lines)
    if boot.loader.announcement is Announcement.CURRENT_AND_FROM:
        # Read again when the driver starts.
        shown = [None if p in boot.lost else revision for p, revision in enumerate(runs)]
    if end is End.BOOTS:
        lines += _driver_lines(boot, shown, first_before)
    writes, searches = tuple(boot.writes), tuple(boot.searches)
    kept, given = boot.copies(), boot.copy_given()
    later = tuple(boot.again()) if end is End.BOOTS else ()
    return EarlyLoad(
        "", found, tuple(accesses), writes, runs, tuple(shown), tuple(lines), end, at, searches, later, kept, given
    )


def _driver_lines(boot: _Boot, shown: Sequence[int | None], first_before: int) -> Iterator[str]:
    """What the driver says when it starts, and init is near."""
    if boot.loader.announcement is Announcement.CURRENT_AND_FROM:
        first = next((w for w in boot.writes if w.processor == 0 and w.after == w.revision), None)
        yield f"microcode: Current revision: 0x{first.after if first else first_before:08x}"
        if first:
            yield f"microcode: Updated early from: 0x{first_before:08x}"
        return
    if "signature" in boot.loader.driver_lines:
        before: int | None = None
        for revision in shown:
            if revision is not None and revision != before:
                flags = platform_flags(boot.rules)
                yield f"microcode: sig=0x{boot.rules.signature:x}, pf=0x{flags:x}, revision=0x{revision:x}"
            before = revision
    if "banner" in boot.loader.driver_lines:
        yield f"microcode: Microcode Update Driver: v{DRIVER_VERSION}."
