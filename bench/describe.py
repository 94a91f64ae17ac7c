"""Events, entries and divergences in the words that a kernel developer would use."""

from __future__ import annotations

from collections.abc import Iterable

from bench.records import (
    BootData,
    DigestPoint,
    Divergence,
    DumpPoint,
    Event,
    EventKind,
    Finding,
    LoadFinal,
    PhaseStep,
    Step,
    Touch,
    UpdatePoint,
    Window,
)
from bench.wire import START_KERNEL_MAP, Access, Outcome, Phase

FIELD_WORDS: dict[str, str] = {
    "kind": "what happened",
    "step": "the step in which it happened",
    "vector": "vector",
    "error": "error code",
    "cr2": "CR2",
    "ip": "instruction address",
    "next": "next_early_pgt",
    "resets": "early_pgt_resets",
    "flag": "early_recursion_flag",
    "pgd": "top-level entry",
    "p4d": "P4D entry",
    "pud": "PUD entry",
    "pmd": "PMD entry",
    "left": "level at which the walk leaves the kernel image",
    "crc": "digest of the top table and the pool",
    "faults": "number of exceptions entered",
    "exits": "number of exceptions left",
    "outcome": "outcome",
    "table": "table",
    "index": "index of the first entry",
    "count": "number of entries",
    "entry": "first entry",
    "stride": "stride",
}
PHASE_WORDS: dict[int, str] = {
    Phase.COPY: "copy_bootdata()",
    Phase.EXERCISE: "the exerciser",
    Phase.UCODE: "load_ucode_bsp()",
    Phase.SETUP: "setup_arch()",
    Phase.MAPPING: "init_mem_mapping()",
    Phase.FINAL: "the end of init_mem_mapping()",
}
_ENTRY_FIELDS = ("pgd", "p4d", "pud", "pmd", "entry")
_WIDE = (*_ENTRY_FIELDS, "cr2", "stride")

# Bits of a page-table entry, SDM volume 3, chapter "Paging", figure "Formats of CR3 and Paging-Structure Entries".
_ENTRY_BITS = {0: "P", 1: "RW", 2: "US", 3: "PWT", 4: "PCD", 5: "A", 6: "D", 7: "PSE", 8: "G", 63: "NX"}
_PHYS_MASK = 0x000F_FFFF_FFFF_F000


def printable(text: str) -> str:
    """`text` with every control character escaped: bytes from a machine must not drive a terminal."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def entry_words(entry: int) -> str:
    """``0x…: phys 0x… P RW A D PSE NX``, or ``0 (empty)``."""
    if entry == 0:
        return "0 (empty)"
    bits = " ".join(name for bit, name in _ENTRY_BITS.items() if entry >> bit & 1)
    return f"0x{entry:016x} (phys 0x{entry & _PHYS_MASK:x}, {bits or 'no bits'})"


def value_words(name: str, value: int | str | None) -> str:
    """A field's value as it is written in a report."""
    if value is None:
        return "nothing"
    if isinstance(value, str):
        return value
    if name in _ENTRY_FIELDS:
        return entry_words(value)
    if name == "ip":
        return f"0x{(value + START_KERNEL_MAP) & 0xFFFFFFFFFFFFFFFF:016x}"
    if name in _WIDE:
        return f"0x{value:016x}"
    if name == "crc":
        return f"0x{value:08x}"
    if name == "kind":
        return EventKind(value).name
    if name == "outcome":
        return Outcome(value).name if value in list(Outcome) else str(value)
    return f"0x{value:x}" if name in ("error", "vector") else str(value)


def step_words(step: Step | None) -> str:
    """What a step does, such as ``step 4 (read of 8 bytes at 0xffff888000000000)``."""
    match step:
        case None:
            return "before the first step"
        case Touch(access=Access.MOVE):
            move = f"move of {step.size} bytes from 0x{step.va:016x} to 0x{step.va_to:016x}"
            return f"step {step.step} ({move})"
        case Touch(access=Access.FETCH):
            return f"step {step.step} (fetch at 0x{step.va:016x})"
        case Touch():
            return f"step {step.step} ({step.access.name.lower()} of {step.size} bytes at 0x{step.va:016x})"
        case LoadFinal():
            return f"step {step.step} (loading the final tables)"
        case DigestPoint():
            return f"step {step.step} (digest)"
        case UpdatePoint():
            return f"step {step.step} (offering an update)"
        case DumpPoint():
            return f"step {step.step} (dump)"
        case BootData() | PhaseStep():
            return PHASE_WORDS.get(step.step, f"phase {step.step}")


def event_words(event: Event | None) -> str:
    """One event on one line."""
    match event:
        case None:
            return "nothing"
        case Event(kind=EventKind.ENTER, vector=14):
            return f"page fault, CR2 0x{event.cr2 or 0:016x}, error code 0x{event.error or 0:x}"
        case Event(kind=EventKind.ENTER):
            return f"exception 0x{event.vector or 0:x}, error code 0x{event.error or 0:x}"
        case Event(kind=EventKind.EXIT):
            return "return from the handler, " + _fields(event, ("next", "pgd", "p4d", "pud", "pmd"))
        case Event(kind=EventKind.DIGEST):
            return f"digest {value_words('crc', event.crc)}"
        case Event(kind=EventKind.CAP):
            return f"livelock: {event.faults} faults in one step, all at CR2 0x{event.cr2 or 0:016x}"
        case Event(kind=EventKind.SPIN):
            return "endless loop inside the handler"
        case Event(kind=EventKind.FATAL):
            return f"PANIC: early exception 0x{event.vector or 0:02x}, CR2 0x{event.cr2 or 0:016x}"
        case Event(kind=EventKind.DUMP):
            return "dump, " + _fields(event, ("table", "index", "count", "entry"))
        case _:
            return f"end of the window: {value_words('outcome', event.outcome)}"


def _fields(event: Event, names: Iterable[str]) -> str:
    parts = ((FIELD_WORDS[n], value_words(n, getattr(event, n))) for n in names if getattr(event, n) not in (None, 0))
    return ", ".join(f"{word} {value}" for word, value in parts) or "all zero"


def step_of(window: Window, number: int | None) -> Step | None:
    """The step of this number, if the window has it."""
    return next((s for s in window.stimulus.steps if s.step == number), None)


def where_words(window: Window, number: int | None) -> str:
    """The step of this number in words; a kernel's are its phases."""
    if window.stimulus.facts.is_linux and number is not None:
        return PHASE_WORDS.get(number, f"phase {number}")
    return step_words(step_of(window, number))


def describe_next(window: Window, event: Event) -> str:
    """What the model expects next, with the step in which it expects it."""
    if event.step is None:
        return event_words(event)
    return f"{event_words(event)} in {where_words(window, event.step)}"


def describe_divergence(window: Window, divergence: Divergence) -> Finding:
    """The finding of a window whose events differ from the model's."""
    predicted, observed = divergence.predicted, divergence.observed
    name = divergence.field_name
    step = (observed or predicted or Event(EventKind.END)).step
    expected: int | str | None
    seen: int | str | None
    if name in ("kind", "step", "missing", "extra"):
        expected, seen = event_words(predicted), event_words(observed)
        summary = _sequence_summary(window, predicted, observed)
        if predicted is not None and predicted.step is not None:
            step = predicted.step if _is_missing_fault(predicted, observed) else step
    else:
        expected, seen = getattr(predicted, name), getattr(observed, name)
        where = where_words(window, step)
        summary = (
            f"{FIELD_WORDS[name]} is {value_words(name, seen)}, the model has {value_words(name, expected)}, in {where}"
        )
    return Finding(
        component="handler",
        summary=summary,
        window=window.number,
        event=divergence.event,
        step=step,
        field_name=name,
        expected=expected,
        observed=seen,
        why=predicted.why if predicted else "",
        witness={} if observed is None or observed.seq is None else {"record": f"{observed.seq:#x}"},
    )


def _is_missing_fault(predicted: Event | None, observed: Event | None) -> bool:
    if predicted is None or predicted.kind is not EventKind.ENTER:
        return False
    if observed is None or observed.kind is not EventKind.ENTER:
        return True
    # Both are faults: the one that comes in the earlier step is the odd one out.
    return (observed.step or 0) > (predicted.step or 0)


def _sequence_summary(window: Window, predicted: Event | None, observed: Event | None) -> str:
    """The two sides are different things, not two values of one thing."""
    if predicted is not None and _is_missing_fault(predicted, observed):
        where = where_words(window, predicted.step)
        return f"a fault is missing: {event_words(predicted)} was due in {where}, next came {event_words(observed)}"
    if observed is not None and observed.kind is EventKind.ENTER:
        where = where_words(window, observed.step)
        due = f"the model has {describe_next(window, predicted)} next" if predicted else "the model has nothing more"
        return f"a fault too many: {event_words(observed)} in {where}; {due}"
    if observed is None and predicted is not None:
        return f"the machine stopped short: due next was {describe_next(window, predicted)}"
    where = where_words(window, observed.step if observed else None)
    return f"{event_words(observed)} where the model has {event_words(predicted)}, {where}"
