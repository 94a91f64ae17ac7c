"""A machine that does just what the reference says, spoken in the wire's terms.

It gives the tests true captures without a virtual machine; what it says is then damaged or edited.
"""

from __future__ import annotations

from collections.abc import Iterable

from bench import wire
from bench.records import (
    BootFacts,
    Capture,
    DigestPoint,
    DumpPoint,
    Event,
    EventKind,
    LoadFinal,
    Prediction,
    Step,
    Stimulus,
    Touch,
)
from bench.sim.predict import predict
from bench.wire import Access

NONCE = 0x1122334455667788
FIRMWARE = b"SeaBIOS (version 1.16.2)\r\nBooting from ROM..\r\n"

_RECORD_OF = {
    EventKind.EXIT: ("x", ("next", "resets", "flag", "pgd", "p4d", "pud", "pmd", "left")),
    EventKind.DIGEST: ("digest", ("step", "crc", "next")),
    EventKind.DUMP: ("dump", ("step", "table", "index", "count", "entry", "stride")),
    EventKind.CAP: ("cap", ("step", "faults", "next", "resets", "ip", "cr2", "error")),
    EventKind.SPIN: ("spin", ("step", "ip", "next", "resets", "flag")),
    EventKind.FATAL: ("fatal", ("vector", "ip", "cr2", "error", "flag")),
    EventKind.END: ("end", ("outcome", "faults", "exits", "touches", "next", "resets")),
}


def facts(variant: str = "v3.9", *, pool: int = 64, window: int = 0, place: int = 0x1000000, **other: int) -> BootFacts:
    """Boot facts of a plausible payload at `place`."""
    five = variant == "la57"
    values: dict[str, int] = {
        "signature": 0x50654,
        "maxphyaddr": 46,
        "hypervisor": 0,
        "efer": 0xD01,
        "cr2": 0,
        "cr3": place + 0x10000,
        "cr4": 0x10A0 if five else 0xA0,
        "mend": 0,
        "levels": 5 if five else 4,
    } | other
    return BootFacts(
        window=window,
        variant=variant,
        pool=pool,
        nx=True,
        la57=five,
        phys_base=(place - 0x1000000) % 2**64,
        page_offset=0xFF11000000000000 if five else 0xFFFF880000000000,
        phys_text=place,
        phys_end=place + 0xA0000,
        phys_top=place + 0x10000,
        phys_dynamic=place + 0x20000,
        phys_kernel=place + 0x11000,
        **values,
    )


def reads(f: BootFacts, physical: Iterable[int]) -> tuple[Step, ...]:
    """Reads of 8 bytes at these physical addresses, then a digest."""
    steps: list[Step] = [Touch(n, Access.READ, f.page_offset + p, 8) for n, p in enumerate(physical)]
    return (*steps, DigestPoint(len(steps)))


class Voice:
    """Writes records with running sequence numbers."""

    def __init__(self, nonce: int = NONCE) -> None:
        self.data = bytearray(FIRMWARE)
        self.seq = 0
        self.nonce = nonce

    def say(self, kind: str, *, under: int | None = None, **fields: int | str) -> None:
        self.data += wire.encode(self.seq, kind, fields, nonce=self.nonce if under is None else under)
        self.seq += 1

    def window(self, stimulus: Stimulus, events: Iterable[Event]) -> None:
        """begin … end of one window, as the events have it."""
        f = stimulus.facts
        names = {x.name for x in wire.KINDS["begin"].fields}
        values = {n: v for n in names if isinstance(v := getattr(f, n, None), int)}
        values |= {"wire": wire.WIRE_VERSION, "variant": wire.VARIANTS.index(f.variant)}
        values["features"] = f.nx << wire.Feature.NX | f.la57 << wire.Feature.LA57
        self.say("begin", under=0, **values)
        self.say("boot", nonce=self.nonce)
        rest = list(events)
        touches = 0
        for step in stimulus.steps:
            touches += isinstance(step, Touch)
            self._announce(step)
            while rest and rest[0].step == step.step and rest[0].kind is not EventKind.END:
                self._event(rest.pop(0))
        for event in rest:
            self._event(event, touches)

    def _announce(self, step: Step) -> None:
        match step:
            case Touch():
                self.say(
                    "touch",
                    step=step.step,
                    access=int(step.access),
                    va=step.va,
                    va_to=step.va_to,
                    size=step.size,
                    fixup=int(step.fixup),
                    ip=step.ip or 0,
                )
            case LoadFinal():
                self.say("final", step=step.step, phys_top=step.phys_top, span=step.span_bytes)
            case DigestPoint() | DumpPoint():
                pass

    def _event(self, event: Event, touches: int = 0) -> None:
        if event.kind is EventKind.ENTER:
            values = {"ip": event.ip or 0, "cr2": event.cr2 or 0, "error": event.error or 0}
            if event.vector == 14:
                self.say("pf", **values)
            else:
                self.say("ex", vector=event.vector or 0, **values)
            return
        kind, names = _RECORD_OF[event.kind]
        values = {n: getattr(event, n, None) or 0 for n in names}
        if "touches" in values:
            values["touches"] = touches
        self.say(kind, **values)


def faithful(*stimuli: Stimulus, quirks: frozenset[str] = frozenset()) -> bytes:
    """The serial bytes of a boot in which every window goes as predicted."""
    voice = Voice()
    for stimulus in stimuli:
        voice.window(stimulus, predict(stimulus, quirks=quirks).events)
    voice.say("done", windows=len(stimuli))
    return bytes(voice.data)


def capture(data: bytes, **other: object) -> Capture:
    """A capture of these bytes, with this module's nonce."""
    return Capture(source="synthetic", data=data, nonce=NONCE, **other)  # type: ignore[arg-type]


def prediction(stimulus: Stimulus) -> Prediction:
    """The model's word on a stimulus."""
    return predict(stimulus)
