"""A virtual processor that takes microcode: plays MSR 0x17, 0x79 and 0x8B of a QEMU machine over its gdb stub.

QEMU accepts and ignores WRMSR 0x79, and shows a revision and platform id that never change. Here hardware breakpoints
stand on each RDMSR and WRMSR of the kernel's microcode code; at a stop the processor's part is played, by the rules of
`bench.x86.microcode_processor`, and the instruction is stepped over. The kernel is not changed and sees nothing of it.
That proves the loader, not the processor.

With KASLR the kernel lies elsewhere: a watchpoint on the direct map stops at its first use, in copy_bootdata and before
the loader, and from then on the kernel's own bytes tell by how much it was moved. Whether CPUID was executed
between the write of 0 to MSR 0x8B and the read cannot be seen.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.errors import LabError
from bench.lab.gdb_remote import COMPONENT, GdbRemote, Gone, Stop
from bench.records import MsrSite
from bench.x86.microcode import HEADER_BYTES, read_update_loosely
from bench.x86.microcode_processor import (
    IA32_BIOS_SIGN_ID,
    IA32_BIOS_UPDT_TRIG,
    IA32_PLATFORM_ID,
    Act,
    Cores,
    Restart,
    answer,
)

RECORD = "microcode.jsonl"
# PAGE_OFFSET before kernel_randomize_memory: 4.20 and newer, older, five levels; one of them is used.
DIRECT_MAPS = (0xFFFF888000000000, 0xFFFF880000000000, 0xFF11000000000000)
ALIGNMENT = 2 << 20
SLIDES = range(0, 1 << 30, ALIGNMENT)
_PLATFORM_ID_SHIFT = 18  # of EDX: bits 52:50 of the register
_BREAKPOINT = 5  # SIGTRAP
_INSTRUCTION_BYTES = 2
# Larger than any update; a header that claims more is none.
_UPDATE_BYTES = 16 << 20
# mov dx, 0xcf9; mov al, 6; out dx, al; hlt: the chipset's reset, as if WRMSR had caused it.
_RESET_CODE = bytes.fromhex("66baf90cb006eef4")


@dataclass(frozen=True)
class Written:
    """One WRMSR 0x79 that a processor has seen."""

    at_s: float
    """Seconds since the machine was let run."""
    processor: int
    address: int
    """Of the data, as it was in EDX:EAX."""
    revision: int | None
    """The header's, if there was one."""
    before: int
    after: int
    why_not: str = ""


@dataclass
class VirtualProcessors:
    """Plays all processors of one machine from `attach` until its end. `folder` gets the record of every write."""

    cores: Cores
    sites: Sequence[MsrSite]
    memory_end: int
    """Physical address behind the machine's memory."""
    folder: Path
    writes: list[Written] = field(default_factory=list)
    trouble: LabError | None = None
    """Why it could not go on playing."""
    give_up: Callable[[str], None] = lambda _: None
    """Called with the reason, from another thread, when there is trouble: the machine stands still for good."""
    hangs: Callable[[frozenset[int]], None] = lambda _: None
    """Called with all processors that do not come back, when there is one more; the machine is stopped meanwhile."""
    slide: int | None = None
    """By how much the kernel was moved; None: not known yet."""

    def __post_init__(self) -> None:
        self._hung: set[int] = set()
        self._remote: GdbRemote | None = None
        self._thread: threading.Thread | None = None
        self._by_address: Mapping[int, MsrSite] = {}

    def attach(self, path: Path) -> None:
        """Connect to the stub of a machine that is stopped and has not run yet. Raises LabError."""
        remote = self._remote = GdbRemote(path)
        if self.slide is None:
            for base in DIRECT_MAPS:
                remote.set_read_watchpoint(base, self.memory_end)
        else:
            self._watch_sites(remote, self.slide)
        self._thread = threading.Thread(target=self._play, name="virtual processors", daemon=True)

    def start(self) -> None:
        """Begin to wait for stops; the machine is let run afterwards."""
        assert self._thread is not None
        self._began_s = time.monotonic()
        self._thread.start()

    def close(self) -> None:
        """End it."""
        if self._remote is not None:
            self._remote.close()
        if self._thread is not None and self._thread.is_alive():
            self._thread.join(5)

    def suspended(self) -> None:
        """The machine is suspended to memory. Called from another thread, while the machine stands still."""
        self.cores.restart(Restart.SUSPEND)

    # --- the thread --------------------------------------------------------------------------------------------------

    def _play(self) -> None:
        assert self._remote is not None
        remote = self._remote
        try:
            while True:
                stop = remote.wait_stop()
                if stop.signal != _BREAKPOINT:
                    continue  # paused from outside, or at its end: whoever did that goes on
                remote.select(stop.thread)
                if self.slide is None:
                    self._find_kernel(remote)
                else:
                    self._stopped(remote, stop)
                remote.resume(frozenset(self._hung), threads=self.cores.processors)
        except Gone:
            pass
        except LabError as error:
            self.trouble = error
        except Exception as error:
            self.trouble = LabError(f"the virtual processors broke: {error!r}", component="virtual processors")
        if self.trouble is not None:
            self.give_up(str(self.trouble))

    def _find_kernel(self, remote: GdbRemote) -> None:
        """The direct map is used for the first time: by how much has the kernel been moved?"""
        for slide in SLIDES:
            if all(remote.read(site.address + slide, len(site.code)) == site.code for site in self.sites):
                break
        else:
            raise LabError(
                "the kernel's microcode code is not where its symbols say, moved or not: is this image the one that "
                "was booted?",
                component=COMPONENT,
            )
        self.slide = slide
        for base in DIRECT_MAPS:
            remote.clear_read_watchpoint(base, self.memory_end)
        self._watch_sites(remote, slide)

    def _watch_sites(self, remote: GdbRemote, slide: int) -> None:
        self._by_address = {site.address + slide: site for site in self.sites}
        for address in self._by_address:
            remote.set_breakpoint(address)

    def _stopped(self, remote: GdbRemote, stop: Stop) -> None:
        registers = remote.registers()
        site = self._by_address.get(registers["rip"])
        if site is None:
            return
        if remote.read(registers["rip"], len(site.code)) != site.code:
            self._let_qemu(remote, stop.thread, registers["rip"])  # other code, before ours was there
            return
        processor, msr = stop.thread - 1, registers["rcx"] & 0xFFFFFFFF
        if site.write and msr == IA32_BIOS_UPDT_TRIG:
            address = (registers["rdx"] & 0xFFFFFFFF) << 32 | registers["rax"] & 0xFFFFFFFF
            if self._written(remote, processor, address):
                return
        elif site.write and msr == IA32_BIOS_SIGN_ID:
            pass  # what is written is what CPUID replaces by the revision
        elif not site.write and msr == IA32_BIOS_SIGN_ID:
            self._read_is(remote, self.cores.of(processor))
        elif not site.write and msr == IA32_PLATFORM_ID:
            self._read_is(remote, self.cores.rules.platform_id << _PLATFORM_ID_SHIFT)
        else:
            self._let_qemu(remote, stop.thread, registers["rip"])
            return
        remote.set_register("rip", registers["rip"] + _INSTRUCTION_BYTES)

    @staticmethod
    def _read_is(remote: GdbRemote, high: int) -> None:
        remote.set_register("rax", 0)
        remote.set_register("rdx", high)

    @staticmethod
    def _let_qemu(remote: GdbRemote, thread: int, address: int) -> None:
        """Another register of the processor: QEMU's own part."""
        remote.clear_breakpoint(address)
        remote.step(thread)
        remote.set_breakpoint(address)

    def _written(self, remote: GdbRemote, processor: int, address: int) -> bool:
        """An update is written; whether the processor does not come back from that."""
        rules = self.cores.rules
        before, act = self.cores.of(processor), rules.act(processor)
        content = _update_at(remote, address - HEADER_BYTES)
        header = read_update_loosely(content) if content else None
        if act is not None:
            after, why_not = before, f"processor {processor} is to {act}"
        elif content is None:
            after, why_not = before, "its pages are not present"
        else:
            given = answer(rules, content, before, data_address=address)
            after, why_not = given.revision, given.why_not
        self.cores.load(processor, after)
        revision = header.revision if header else None
        seconds = round(time.monotonic() - self._began_s, 3)
        self._note(Written(seconds, processor, address, revision, before, after, why_not))
        if act is Act.HANG:
            self._hung.add(processor + 1)
            self.hangs(frozenset(thread - 1 for thread in self._hung))
        elif act is Act.RESET:
            here = remote.registers()["rip"]
            remote.clear_breakpoint(here)
            remote.write(here, _RESET_CODE)
        return act in (Act.HANG, Act.RESET)

    def _note(self, written: Written) -> None:
        self.writes.append(written)
        with (self.folder / RECORD).open("a", encoding="utf-8") as record:
            record.write(json.dumps(vars(written)) + "\n")


def _update_at(remote: GdbRemote, address: int) -> bytes | None:
    """The update that lies there in the guest, or as much of it as its header if that is none."""
    head = remote.read(address, HEADER_BYTES)
    if head is None:
        return None
    data_size, total_size = int.from_bytes(head[28:32], "little"), int.from_bytes(head[32:36], "little")
    size = total_size if data_size else 2048
    if not HEADER_BYTES <= size <= _UPDATE_BYTES:
        return head
    return remote.read(address, size)
