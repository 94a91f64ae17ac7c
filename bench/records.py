"""The frozen records that pass between the stages of a run.

inventory -Machine-> images -Image-> flash -> boot -> capture -Capture-> parse -+-Stimulus-> simulate -Prediction-+
                                                                         +-Observation----------------> reconcile
                                                     reconcile -Finding, Verdict-> store -> report
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from pathlib import Path

from bench.hardware import Netboot, PxeLoader, Wiring
from bench.linux import Unpatched
from bench.updates import UpdateOffer
from bench.wire import Access, Phase
from bench.x86.microcode_processor import ProcessorRules

# Name of the payload; an image that is one of its handlers is called PAYLOAD/HANDLER.
PAYLOAD = "early-pf"
# Handlers of the payload.
PAYLOAD_VARIANTS = ("seed-2012", "v3.9", "la57")


class Verdict(StrEnum):
    """KCIDB's six statuses, worst first."""

    FAIL = "FAIL"
    """The kernel (or payload) differs from the reference."""
    ERROR = "ERROR"
    """The test's own part broke."""
    MISS = "MISS"
    """The lab broke before the test could tell."""
    PASS = "PASS"
    DONE = "DONE"
    """A measurement only."""
    SKIP = "SKIP"
    """Does not apply to this machine."""


def worst(verdicts: list[Verdict]) -> Verdict:
    """The verdict of a whole: FAIL over ERROR over MISS over PASS over DONE over SKIP; SKIP if there is none."""
    order = list(Verdict)
    return min(verdicts, key=order.index, default=Verdict.SKIP)


@dataclass(frozen=True)
class HostFiles:
    """What a virtual machine with a disk is started with; made before a run, see `bench.hosts`."""

    disk: Path | None
    """The disk that its own is a copy of."""
    key_file: Path
    """Private key of whoever may log in."""
    host_key: str
    """As in known_hosts."""


SECURE_BOOT_DISK = "uefi-grub-signed"


@dataclass(frozen=True)
class VirtualHost:
    """A virtual machine that is like one in a rack: with a disk, a boot loader, a system of its own, a network card."""

    disk: str
    """Kind of its disk (`bench.images.disk`), or ``none``."""
    boot_methods: tuple[str, ...] = ()
    """Ways to load it, the preferred one first."""
    pxe_loader: PxeLoader = PxeLoader.IPXE
    """What loads the kernel where the network is the way."""
    files: HostFiles | None = None
    """None until they are made."""
    netboot: Netboot = Netboot.ORDER
    """Who has it boot from the network: the firmware's order, network first; or its own system, by BootNext."""

    @property
    def secure_boot(self) -> bool:
        """Whether its firmware starts only what Microsoft's or Debian's key has signed: its boot loader is."""
        return self.disk == SECURE_BOOT_DISK


@dataclass(frozen=True)
class VirtualSpec:
    """How QEMU plays a machine."""

    cpu: str
    """Value for -cpu without properties that are derived from the machine (stepping, phys-bits, nx, la57)."""
    properties: tuple[str, ...] = ()
    """Further -cpu properties, such as ``model=106``."""
    accelerator: str = "tcg"
    processors: int = 1
    packages: bool = False
    """Each processor is in a package of its own: an MP table lists the first one of a package only."""
    firmware: str = "bios"
    """``bios`` or ``uefi``."""
    microcode: ProcessorRules | None = None
    """How its processors take microcode; None: as QEMU does, which ignores updates."""
    host: VirtualHost | None = None
    """Its disk and network; None: QEMU itself loads what is to be run, and nothing else is there."""


@dataclass(frozen=True)
class MsrSite:
    """An instruction of a kernel that reads or writes a model-specific register. `address` is where it was linked."""

    address: int
    write: bool
    code: bytes
    """What lies there."""


@dataclass(frozen=True)
class Machine:
    """A box in the inventory, real or virtual."""

    name: str
    signature: int
    """CPUID leaf 1 EAX."""
    memory_bytes: int
    maxphyaddr: int
    nx: bool
    la57: bool
    serial_url: str = ""
    """pyserial URL; empty for a virtual machine, whose port the bench makes itself."""
    serial_baud: int = 115200
    virtual: VirtualSpec | None = None
    platform_id: int = 0
    allow_beyond_ram: bool = False
    allow_updates: bool = False
    quirks: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    wiring: Wiring = field(default_factory=Wiring)
    """Power, SSH, network of a machine of metal; empty for a virtual one."""

    @property
    def fixed(self) -> bool:
        """Whether memory, processors and firmware are what they are: of metal, or a virtual one with a disk."""
        return self.virtual is None or self.virtual.host is not None

    @property
    def boot_methods(self) -> tuple[str, ...]:
        """Ways to load it, the preferred one first; none where QEMU itself loads what is to be run."""
        host = self.virtual.host if self.virtual is not None else None
        return host.boot_methods if host is not None else self.wiring.boot_methods

    @property
    def model(self) -> str:
        """All machines of one signature, as in microcode file names: ``06-9e-0a``."""
        family = (self.signature >> 8 & 0xF) + (self.signature >> 20 & 0xFF)
        number = (self.signature >> 4 & 0xF) | (self.signature >> 12 & 0xF0)
        return f"{family:02x}-{number:02x}-{self.signature & 0xF:02x}"


# Names of steps of loading: its own system takes images, its boot loader has been proved, …
OWN_SYSTEM_ANSWERS, PROVED = "known-good system answers", "proved"
# … what the machine starts by itself has come up, and so not what was loaded.
KNOWN_GOOD_INSTEAD = "the known-good system came up"
STILL_UP = "the known-good system did not go down"


class LabEventKind(StrEnum):
    """What the lab itself did or saw, beside the bytes. Times are seconds since the capture was opened."""

    LOADING = "loading"
    """A step of the load's way into the machine; `witness` has its name as ``step`` (metal only)."""
    LOADED = "loaded"
    """The next power-on will start what is to be run (metal only)."""
    RESTORED = "restored"
    """The next power-on will start the machine's known-good system again (metal only)."""
    POWER_ON = "power_on"
    FIRST_BYTE = "first_byte"
    MARKER = "marker"
    """The `done` record came."""
    SILENCE = "silence"
    """No byte for the allowed time while power was on and the port open.

    `witness` has the processor's state if the lab can read it: ``processor`` (running, or
    halted with interrupts on or off), ``rip``, ``cr2``, …
    """
    DEADLINE = "deadline"
    """The boot took longer than allowed although bytes kept coming."""
    RESET = "reset"
    """The machine reset itself (virtual: QMP said so; silicon: firmware output appeared again)."""
    MACHINE_LOST = "machine_lost"
    """The machine went away although nobody switched it off (virtual: the QEMU process ended)."""
    PORT_CLOSED = "port_closed"
    PORT_OPENED = "port_opened"
    """It is open; `witness` has the seconds for which it was away (``away``) if it was lost before."""
    PORT_LOST = "port_lost"
    """It closed or broke and is being opened again; bytes may be missing from here to the next `port_opened`."""
    UART = "uart"
    """Errors that the port's driver counted from opening to closing; only where a driver counts."""
    INTERRUPTED = "interrupted"
    POWER_OFF = "power_off"


@dataclass(frozen=True)
class LabEvent:
    """One event with its time and, where there is one, its witness (name → printable value)."""

    kind: LabEventKind
    at_s: float
    offset: int
    """Bytes captured by then."""
    witness: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Capture:
    """The bytes of one boot and what belongs to them; immutable.

    Written by `lab.capture`, read by `parse.capture_file`.
    """

    source: str
    data: bytes
    events: tuple[LabEvent, ...] = ()
    machine: str = ""
    model: str = ""
    image: str = ""
    virtual: bool | None = None
    nonce: int | None = None
    quirks: tuple[str, ...] = ()
    scenarios: Mapping[int, str] = field(default_factory=dict)
    """Window number → name of the scenario it belongs to."""
    script: bytes = b""
    path: Path | None = None
    unpatched: Unpatched | None = None
    """What a kernel without a trace was offered: it is judged by `exceptions`."""
    exceptions: bytes = b""
    """QEMU's log of exceptions, of such a kernel: the part that tells of its early window and of its end."""
    updates: UpdateOffer | None = None
    """What the bench knew of the kernel's microcode loader and of the processors: what they say of it is judged."""
    traced: bool | None = None
    """Of a case of microcode: whether its kernel has the trace. None: nobody has said, as of older captures."""


@dataclass(frozen=True)
class BootFacts:
    """What `begin` said: load addresses and processor facts. Same names as the fields of `wire.KINDS["begin"]`."""

    window: int
    variant: str
    mend: int
    pool: int
    levels: int
    signature: int
    nx: bool
    la57: bool
    maxphyaddr: int
    hypervisor: int
    efer: int
    cr2: int
    cr3: int
    cr4: int
    phys_base: int
    page_offset: int
    phys_text: int
    phys_end: int
    phys_top: int
    phys_dynamic: int
    phys_kernel: int
    image: int = 0
    platform_id: int = 0
    revision: int = 0
    hypervisor_bit: bool = False
    """CPUID leaf 1 ECX bit 31."""
    phys_level3: int = 0
    """Linux: level3_kernel_pgt."""
    phys_fixmap: int = 0
    """Linux: the fixmap entry that early_ioremap_init() writes."""
    real_mode_data: int = 0
    """Linux: boot_params as the loader left it; physical."""

    @property
    def is_linux(self) -> bool:
        """A real kernel's window: only a kernel's `begin` tells of level3_kernel_pgt."""
        return self.phys_level3 != 0


@dataclass(frozen=True)
class Touch:
    """An access that is about to be made, known without looking at any fault.

    `step` is the number of the step in its window; in a kernel's window the phase (`wire.Phase`).
    More than 8 bytes are read or written upwards by several instructions.
    """

    step: int
    access: Access
    va: int
    size: int
    va_to: int = 0
    fixup: bool = False
    ip: int | None = None
    """Offset of the instruction from the kernel map's base, if it was announced."""
    replayed: bool = False
    """True if it was inferred from the fault itself: such a fault is replayed, not predicted."""
    about: str = ""
    """What it is for, in words."""


@dataclass(frozen=True)
class BootData:
    """A kernel has copied what its loader left: physical addresses and sizes, as `boot` says them."""

    initrd: int
    initrd_bytes: int
    real_mode_data: int
    command_line_at: int
    """0 if there is none."""
    command_line: str = ""
    pool: int = 0
    """Tables that the handler may use from here on; 0: as before."""
    step: int = int(Phase.COPY)


@dataclass(frozen=True)
class PhaseStep:
    """A kernel's window enters a phase: `step` is its number in `wire.Phase`."""

    step: int
    page_offset: int = 0
    """PAGE_OFFSET from here on; 0: as before."""
    pool: int = 0
    """Tables that the handler may use from here on; 0: as before."""


@dataclass(frozen=True)
class LoadFinal:
    """The final tables are loaded: they map [0, span_bytes) of the direct map and nothing else of it.

    With a span of 0, a kernel's: what they map is not the model's business, and nothing is touched behind it.
    """

    step: int
    phys_top: int
    span_bytes: int


@dataclass(frozen=True)
class DigestPoint:
    """The machine digests its tables here; the model does the same."""

    step: int


@dataclass(frozen=True)
class DumpPoint:
    """The machine dumps its tables here."""

    step: int


@dataclass(frozen=True)
class UpdatePoint:
    """The machine offers its processor an update of microcode here."""

    step: int


Step = Touch | LoadFinal | DigestPoint | DumpPoint | UpdatePoint | BootData | PhaseStep


@dataclass(frozen=True)
class Stimulus:
    """What the machine was offered in one window. All that the simulator may see."""

    facts: BootFacts
    steps: tuple[Step, ...]
    initrd_head: bytes = b""
    """A kernel's initrd up to the end of its uncompressed part."""


class EventKind(IntEnum):
    """The kinds of events that are predicted and observed."""

    ENTER = 0
    EXIT = 1
    DIGEST = 2
    CAP = 3
    SPIN = 4
    FATAL = 5
    DUMP = 6
    END = 7


@dataclass(frozen=True)
class Event:
    """One event of a window, predicted or observed.

    A field that is None is not constrained (prediction) or was not said (observation); the two are
    compared only where both are numbers. All values are unsigned 64-bit.
    """

    kind: EventKind
    step: int | None = None
    vector: int | None = None
    error: int | None = None
    cr2: int | None = None
    ip: int | None = None
    next: int | None = None
    resets: int | None = None
    flag: int | None = None
    pgd: int | None = None
    p4d: int | None = None
    pud: int | None = None
    pmd: int | None = None
    left: int | None = None
    crc: int | None = None
    faults: int | None = None
    exits: int | None = None
    outcome: int | None = None
    table: int | None = None
    index: int | None = None
    count: int | None = None
    entry: int | None = None
    stride: int | None = None
    # Beside the compared fields:
    free: Mapping[str, int] = field(default_factory=dict)
    """Prediction: field → mask of bits that the processor is free to set."""
    why: str = ""
    """Prediction: the rule that made it, with its source."""
    replayed: bool = False
    """Prediction: made from a replayed touch."""
    seq: int | None = None
    """Observation: sequence number of the record."""
    span: tuple[int, int] | None = None
    """Observation: byte range of the record in the capture."""


EVENT_FIELDS: tuple[str, ...] = (
    "vector", "error", "cr2", "ip", "next", "resets", "flag", "pgd", "p4d", "pud", "pmd", "left", "crc",
    "faults", "exits", "outcome", "table", "index", "count", "entry", "stride",
)  # fmt: skip


@dataclass(frozen=True)
class Prediction:
    """What the model says of one window."""

    events: tuple[Event, ...]
    outcome: str
    """``done``, ``panic``, ``halt``, ``livelock``, ``spin`` or ``triple fault``."""
    resets: int
    """Resets of the pool, the initial one not counted."""
    choices: tuple[tuple[int, int], ...] = ()
    """(event number, number of alternatives) wherever the processor is free in the order of two faults."""


@dataclass(frozen=True)
class Damage:
    """A place where the serial line cannot be trusted. Never a kernel's fault."""

    span: tuple[int, int]
    why: str


@dataclass(frozen=True)
class Observation:
    """What the machine did in one window: its events up to the first damage."""

    events: tuple[Event, ...]
    complete: bool
    """True if the window's `end` was read."""
    damage: tuple[Damage, ...] = ()

    @property
    def outcome(self) -> int | None:
        """How the window ended, as its `end` has it (`wire.Outcome`); None: that was not read."""
        return self.events[-1].outcome if self.complete else None


@dataclass(frozen=True)
class Window:
    """One window of a capture: what was offered and what was done, cut at the first damage."""

    number: int
    span: tuple[int, int]
    stimulus: Stimulus
    observation: Observation
    announced: int | None = None
    """How many of the stimulus's steps the machine announced, if not all of them."""


@dataclass(frozen=True)
class Divergence:
    """The first difference in a window. `predicted` or `observed` is None where one side has no such event."""

    event: int
    field_name: str
    """``kind``, ``step`` or one of EVENT_FIELDS, or ``missing`` (the machine did less) or ``extra`` (it did more)."""
    predicted: Event | None
    observed: Event | None


@dataclass(frozen=True)
class Comparison:
    """How one window compares."""

    divergence: Divergence | None
    events_equal: int
    """Events before the first divergence."""
    faults_predicted: int
    """Page faults and other exceptions among them that were predicted …"""
    faults_replayed: int
    """… and those that could only be replayed."""
    digests_equal: int


@dataclass(frozen=True)
class Finding:
    """The first divergence of a window, or what the lab got wrong."""

    component: str
    """``handler``, ``serial line``, ``power``, ``port``, ``machine``, ``payload``, ``script`` or ``bench``."""
    summary: str
    """One sentence in a kernel developer's words."""
    window: int | None = None
    event: int | None = None
    """Number of the event in its window."""
    step: int | None = None
    field_name: str = ""
    expected: int | str | None = None
    observed: int | str | None = None
    why: str = ""
    witness: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ScenarioResult:
    """The verdict on one scenario of one run; a row of `bench run --json`."""

    scenario: str
    verdict: Verdict
    windows: int = 0
    predicted: int = 0
    """Fault events that were predicted and agreed."""
    replayed: int = 0
    resets: int = 0
    digests: int = 0
    findings: tuple[Finding, ...] = ()
    reason: str = ""
    """Why it was skipped or missed."""
