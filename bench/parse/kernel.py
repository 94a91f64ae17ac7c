"""Logs of any Linux kernel → what the kernel itself said of fatal early exceptions and of Intel microcode.

Works on the bytes of any text: a serial capture, ``dmesg``, a journal, a mail, a forum's page. What cannot be read with
certainty is refused or given with fewer fields; it is never guessed.

`kernel_panic` has the table of the forms of ``PANIC: early exception``; `kernel_microcode.ROWS` has each text about
microcode with its releases. The events, a closed list:

| event | said when | releases (borders between long-term releases are approximate) |
|---|---|---|
| `driver_banner`, `driver_removed` | the driver comes and goes; no numbers | 2.4 … 6.6; 2.4 … 2.6.27 |
| `updated_early` | updated before the console exists: `cpu` up to 4.9, `from` from 6.3 on, `to`, `date` | 3.9 … 6.6 |
| `current_revision` | `to`: what runs | 6.7 … |
| `updated_early_from` | `from`: what ran before the early update | 6.7 … |
| `signature` | `sig`, `pf`, `to`; `cpu` up to 4.8 | 2.6.28 … 6.2 |
| `already_current` | nothing newer is in the file | 2.6.5 … 2.6.9 |
| `late_updated` | updated by the driver on a running system: `to`, mostly `date`, some `from`, `cpu` | 2.4 … |
| `late_failed` | the processor refused revision `to` | 2.4 … 6.6 |
| `late_attempted`, `late_unchecked`, `early_advised` | warnings; no numbers | 5.15 …; 6.7 …; 4.14 … |
| `reload_completed`, `reload_succeeded`, `reload_failed` | summary of a late load: `to`, some `from` | 4.17 … 6.6 |
| `load_counted`, `load_incomplete`, `load_aborted` | how many processors took part; some `cpu` | 4.16 … |
| `min_revision_missing`, `min_revision_unmet` | late load without a minimal revision, or `from` is below it | 6.7 … |
| `min_revision_needed` | the minimal revision for a late load is `to` | 6.7 … |
| `staging_enabled`, `staged`, `staging_failed` | staging: revision `to`, or `cpu` | 7.x |
| `erratum` | an update is not made: late (`from` runs) or at all (`to` skipped) | 4.15 … |
| `file_refused` | the file is malformed; no numbers | 2.6.28 … |
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from bench.parse.kernel_microcode import Microcode, MicrocodeReader
from bench.parse.kernel_panic import EarlyException, read_panic
from bench.parse.kernel_text import Log

KernelThing = EarlyException | Microcode

_WORTH_READING = re.compile(rb"PANIC|[Mm]icrocode|error! ")
_WORTH_READING_QUOTED = re.compile(_WORTH_READING.pattern + rb"|=\r?\n")
"""In quoted-printable the word itself may be broken."""


def read_kernel_log(data: bytes) -> Iterator[KernelThing]:
    """Everything of that kind that `data` says, in order."""
    log = Log(data)
    microcode = MicrocodeReader(log)
    seen = -1
    for word in (_WORTH_READING_QUOTED if log.is_quoted else _WORTH_READING).finditer(log.data):
        line = log.line_of(word.start())
        if line == seen:
            continue
        seen = line
        thing = read_panic(log, line) or microcode.read(line)
        if thing:
            yield thing


def as_json(thing: KernelThing) -> dict[str, Any]:
    """The JSON object. Selector and addresses as hex digits, all else as numbers; null where the text has none."""
    if isinstance(thing, EarlyException):
        return {
            "kind": "early_exception",
            "line": thing.line,
            "span": list(thing.span),
            "vector": thing.vector,
            "cs": thing.cs,
            "ip": thing.ip,
            "symbol": thing.symbol,
            "error": thing.error,
            "cr2": thing.cr2,
            "truncated": thing.truncated,
            "intact": thing.intact,
        }
    return {
        "kind": "microcode",
        "event": thing.event,
        "line": thing.line,
        "span": list(thing.span),
        "cpu": thing.cpu,
        "from": thing.before,
        "to": thing.after,
        "date": thing.date,
        "sig": thing.sig,
        "pf": thing.pf,
    }


def in_words(thing: KernelThing) -> str:
    """One line for people: ``early exception: vector 14, IP 10:ffffffff81d1e014, error 0x0, CR2 0x0``."""
    if isinstance(thing, Microcode):
        numbers = {"cpu": thing.cpu, "from": thing.before, "to": thing.after, "sig": thing.sig, "pf": thing.pf}
        words = [
            f"{name} {value}" if name == "cpu" else f"{name} {value:#x}"
            for name, value in numbers.items()
            if value is not None
        ]
        return f"microcode {thing.event}: " + ", ".join([*words, *([thing.date] if thing.date else [])])
    vector = "?" if thing.vector is None else str(thing.vector)
    if thing.printed_vector != thing.vector and thing.printed_vector is not None:
        vector += f" (printed {thing.printed_vector:#x})"
    error = "?" if thing.error is None else f"{thing.error:#x}"
    where = thing.symbol or thing.ip or "?"
    text = f"early exception: vector {vector}, IP {thing.cs or '?'}:{where}, error {error}, CR2 {thing.cr2 or '?'}"
    return text + "; cut" * thing.truncated + "".join(f"; {each}" for each in thing.why)
