"""The line of a fatal early exception, in each form that x86-64 kernels have given it, held against what follows it.

| releases | form |
|---|---|
| 2.6.10 … 2.6.23 | ``PANIC: early exception rip %lx error %lx cr2 %lx`` |
| 2.6.24 … 4.5 | ``PANIC: early exception %02lx rip %lx:%lx error %lx cr2 %lx`` |
| 4.6 … | ``PANIC: early exception 0x%02x IP %lx:%lx error %lx cr2 0x%lx`` |

(arch/x86_64/kernel/head.S, arch/x86/kernel/head_64.S, arch/x86/mm/extable.c.) Where a tool has put a symbol in the
place of the instruction address (``IP 0010:strlen+0x4/0x30``), the symbol is given and no address.

A CR2 of 5 to 15 digits that begins as kernel addresses do is taken for one whose end is lost (`truncated`), unless the
register dump has it too.

4.14 … 5.9, page fault that the early handler rejects: the stub keeps the vector in a register that the call may
change, and what is printed is the low half of the leaf that was not made: (CR2 & 0xffe00000) + 0xe3. Where CR2 says
that this is so, `vector` is 14 and `printed_vector` what stands there. When the kernel has moved its direct map
(CONFIG_RANDOMIZE_MEMORY), bits 30 and 31 of CR2 no longer tell: then `vector` is None.

Legal although they look wrong: a vector that pushes an error code with the frame one slot off
(``08 rip 246:10 error ffffffff813175e7``: an interrupt without an error code came through that gate, so CS is RFLAGS,
RIP is CS, error is RIP); before 2.6.24 the same for every exception without an error code (``rip 10``); CS 60 of a
32-bit kernel; CS e030 of a Xen PV kernel, with anything in its upper half.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from bench.parse.kernel_form import SYMBOL, Form, Reading, State, compile_form, is_certain, is_finished, read_form
from bench.parse.kernel_text import Log, Text, before, is_printk, quotes
from bench.x86.fault import GENERAL_PROTECTION, PAGE_FAULT, VECTORS, PageFault, pushes_error

HEAD = "PANIC: early exception"
_OLDEST = compile_form(HEAD + " rip {ip:ip} error {error:hex} cr2 {cr2:hex}")
_OLD = compile_form(HEAD + " {vector:vec} rip {cs:cs}:{ip:ip} error {error:hex} cr2 {cr2:hex}")
_NEW = compile_form(HEAD + " 0x{vector:vec} IP {cs:cs}:{ip:ip} error {error:hex} cr2 0x{cr2:hex}")

KERNEL_CS, KERNEL_CS_32, XEN_PV_CS = 0x10, 0x60, 0xE030
NMI = 2
_VECTORS = range(0x20)
_IMAGE = range(0xFFFFFFFF80000000, 0xFFFFFFFFC0000000)
_LEAF_FLAGS = 0xE3
_INSTRUCTION_BYTES_MAX = 15
_PAGE = 0x1000
# What a page fault can report at CPL 0 on these tables. QEMU's TCG leaves P out of reserved-bit faults; bit 31 is
# AMD's RMP violation under SEV-SNP.
_ERROR_BITS = PageFault.P | PageFault.W | PageFault.RSVD | PageFault.ID | 1 << 31
_SELECTOR_BITS = 0xFFFF
_FREE_ERRORS = frozenset({29, 30})
"""#VC and #SX: the error code is the hypervisor's own."""

_QUOTATION = "\"'`("
_DUMP_LINES = 60


@dataclass(frozen=True)
class EarlyException:
    """One such line. What the text has not, or not with certainty, is None."""

    line: int
    """From 1."""
    span: tuple[int, int]
    """Bytes of the statement, line ends and marks inside a wrapped one included."""
    vector: int | None
    cs: str | None
    """Hex digits, as are `ip` and `cr2`, without 0x."""
    ip: str | None
    symbol: str | None
    """``name+0xoffset/0xsize``, if that stands in the place of the instruction address."""
    error: int | None
    cr2: str | None
    truncated: bool
    """The line ends before the statement does, or may do so."""
    intact: bool
    """Nothing that is printed contradicts anything else. Where nothing can, a wrong digit leaves it so."""
    printed_vector: int | None
    """The number in the vector's place."""
    why: tuple[str, ...] = ()
    """The contradictions."""


def read_panic(log: Log, line: int) -> EarlyException | None:
    """The statement on this line, or None if there is none that can be trusted."""
    text = log.clean(line)
    at = len(before(text.text))
    spliced = False
    if not text.text.startswith(HEAD, at):
        at = text.text.find(HEAD)
        spliced = True
        # Early output does not wait for the end of a line that printk has begun; people quote it, but not so.
        if at < 1 or not is_printk(before(text.text)) or text.text[at - 1] in _QUOTATION:
            return None
    text, reading, truncated = _best(log, text, at)
    if spliced and (reading.state is not State.WHOLE or reading.rest or reading.wrong):
        return None
    if (not reading.values and text.terminated) or reading.says_nothing:
        return None
    if reading.stop <= at:
        reading.stop = len(text.text.rstrip())
    return _judged(log, line, text, at, reading, truncated)


def _best(log: Log, text: Text, at: int) -> tuple[Text, Reading, bool]:
    """The line alone if it is whole, else with the lines behind it if that makes it so, else as much as there is."""
    parts = _form(text.text, at)
    alone = read_form(parts, text.text, at)
    open_end = alone.open is not None and not alone.rest and log.may_go_on(text)
    if alone.state is not State.CUT and not open_end:
        return text, alone, False
    for whole, breaks in log.joined(text):
        parts = _form(whole.text, at)
        reading = read_form(parts, whole.text, at)
        good = reading.state is State.WHOLE and not reading.rest and not reading.wrong
        good = good and not (reading.open and log.may_go_on(whole)) and is_certain(reading, whole.text, breaks)
        if good and _plausible(reading):
            return whole, reading, False
    if alone.open:
        alone.values.pop(alone.open, None)
    return text, alone, True


def _form(text: str, at: int) -> Form:
    after = text[at + len(HEAD) :]
    return _OLDEST if after.startswith(" r") else _NEW if after.startswith(" 0x") else _OLD


def _plausible(reading: Reading) -> bool:
    return _is_canonical(int(reading.values["cr2"], 16))


def _judged(log: Log, line: int, text: Text, at: int, reading: Reading, truncated: bool) -> EarlyException:
    values = dict(reading.values)
    why = [f"{name}: not as the kernel prints it" for name in reading.wrong]
    if reading.state is State.BROKEN:
        why.append("other text stands inside the statement")
    if reading.rest:
        why.append("other text stands behind the statement")
        if reading.open is None and not is_finished("hex", values.get("cr2", "")):
            values.pop("cr2", None)
    ip, symbol = _address(values.get("ip"))
    cs = values.get("cs")
    if cs and len(cs) > 1 and cs.startswith("0"):
        cs = cs.lstrip("0") or "0"
        if symbol is None:
            cs, why = None, [*why, "cs: leading zeros"]
    dump = _dump(log, text.last)
    if _lost_digits(values.get("cr2"), dump):
        values.pop("cr2")
        truncated = True
    cr2 = values.get("cr2")
    error = _number(values.get("error"))
    printed = _number(values.get("vector"))
    new = _form(text.text, at) is _NEW
    vector, excuse = _vector(printed, cr2, new=new)
    if excuse:
        why.append(excuse)
    seen = _Seen(vector, _number(cs), _number(ip), error, _number(cr2), new)
    why += [*_illegal(seen), *_dump_says(dump, seen, symbol)]
    return EarlyException(
        line=log.number(line),
        span=text.span(at, reading.stop),
        vector=vector,
        cs=cs,
        ip=ip,
        symbol=symbol,
        error=error,
        cr2=cr2,
        truncated=truncated,
        intact=not why,
        printed_vector=printed,
        why=tuple(why),
    )


def _number(digits: str | None) -> int | None:
    return None if digits is None else int(digits, 16)


def _address(word: str | None) -> tuple[str | None, str | None]:
    """Instruction address and symbol."""
    if word is None:
        return None, None
    found = re.fullmatch(rf"(?:0x)?([0-9a-f]+)(?: \(({SYMBOL})\))?|\[<([0-9a-f]+)>\](?: ({SYMBOL}))?", word)
    if found:
        return found[1] or found[3], found[2] or found[4]
    return None, word.split(" (")[0]


def _lost_digits(cr2: str | None, dump: str) -> bool:
    """Whether the end of `cr2` seems to be lost: it begins as an address of 16 digits does, and nothing confirms it."""
    if cr2 is None or not 4 < len(cr2) < 16 or not cr2.startswith("ffff"):
        return False
    found = _DUMP_CR2.search(dump)
    return found is None or int(found[1], 16) != int(cr2, 16)


def _vector(printed: int | None, cr2: str | None, *, new: bool) -> tuple[int | None, str]:
    """The vector that the printed number means, and what is wrong with it if something is."""
    if printed is None or printed in _VECTORS:
        return printed, ""
    if new and printed & 0x1FFFFF == _LEAF_FLAGS and printed >> 32 == 0:
        if cr2 is None:
            return None, ""
        leaf = (int(cr2, 16) & 0xFFE00000) + _LEAF_FLAGS
        if printed == leaf:
            return PAGE_FAULT, ""
        if printed & 0x3FFFFFFF == leaf & 0x3FFFFFFF:
            return None, ""
    return printed, f"vector {printed:#x} does not exist"


@dataclass(frozen=True)
class _Seen:
    vector: int | None
    cs: int | None
    ip: int | None
    error: int | None
    cr2: int | None
    new: bool


def _illegal(seen: _Seen) -> list[str]:
    """What cannot be, by the rules of the processor and of these kernels."""
    if _frame_is_off(seen):
        return []
    why = []
    small = seen.ip is None or seen.ip < 1 << 32
    if seen.cs is not None and not (
        seen.cs == KERNEL_CS or (seen.cs == KERNEL_CS_32 and small) or seen.cs & 0xFFFF == XEN_PV_CS
    ):
        why.append(f"CS {seen.cs:#x} is not the kernel's")
    why += [
        f"{name} {value:#x} is not canonical"
        for name, value in (("IP", seen.ip), ("CR2", seen.cr2))
        if value is not None and not _is_canonical(value)
    ]
    if seen.new and seen.vector == NMI:
        why.append("an NMI is ignored by these kernels")
    why += _illegal_error(seen)
    return why + _illegal_ip(seen)


def _frame_is_off(seen: _Seen) -> bool:
    """An error code was expected and none pushed: the whole frame is one slot off."""
    if seen.ip != KERNEL_CS or seen.error is None or not (seen.error in _IMAGE or seen.error >> 31 == 1):
        return False
    if seen.vector is None and seen.cs is None:
        return True
    return seen.vector is not None and pushes_error(seen.vector) and seen.cs is not None and bool(seen.cs & 2)


def _illegal_error(seen: _Seen) -> list[str]:
    error, vector = seen.error, seen.vector
    if error is None or vector in _FREE_ERRORS:
        return []
    if vector is None:
        return [] if error <= _SELECTOR_BITS else [f"error code {error:#x} belongs to no exception"]
    if vector == PAGE_FAULT:
        if error & ~_ERROR_BITS or (error & PageFault.ID and error & PageFault.W):
            return [f"error code {error:#x} cannot come from a page fault at CPL 0"]
        fetched = seen.ip is None or seen.cr2 is None or seen.ip <= seen.cr2 < seen.ip + _INSTRUCTION_BYTES_MAX
        if error & PageFault.ID and not fetched:
            return ["the error code says instruction fetch, CR2 is not where instructions were fetched"]
        return []
    if vector in VECTORS and not pushes_error(vector) and error:
        return [f"vector {vector} has no error code, {error:#x} is printed"]
    return [] if error <= _SELECTOR_BITS else [f"error code {error:#x} is no selector"]


def _illegal_ip(seen: _Seen) -> list[str]:
    """Code runs from the kernel's image; what fails elsewhere is the fetch itself, or a jump that cannot be made."""
    if seen.ip is None or seen.ip in _IMAGE or seen.cs == KERNEL_CS_32:
        return []
    if seen.vector in (None, 8, GENERAL_PROTECTION) or seen.cr2 is None or seen.ip <= seen.cr2 < seen.ip + _PAGE:
        return []
    return [f"IP {seen.ip:#x} is outside the kernel's image"]


def _is_canonical(address: int) -> bool:
    """With five levels; with four, fewer are."""
    return address >> 56 in (0, 0xFF)


def _dump(log: Log, last: int) -> str:
    """The lines behind the statement, up to the next one or the next boot, without marks of mail."""
    lines = []
    for line in range(last + 1, min(last + 1 + _DUMP_LINES, len(log))):
        text = log.clean(line).text
        if HEAD in text or "Linux version " in text:
            break
        lines.append(text[len(quotes(text)) :])
    return "\n".join(lines)


_DUMP_RIP = re.compile(rf"\bRIP: ([0-9a-f]{{4}}):(?:\[<([0-9a-f]{{16}})>\]\s+\[<[0-9a-f]{{16}}>\] )?({SYMBOL})?")
_DUMP_ERROR = re.compile(r"\bORIG_RAX:\s+([0-9a-f]{16})(?![0-9a-f])")
_DUMP_CS = re.compile(r"\bCS:  ([0-9a-f]{4,9}) DS:")
_DUMP_CR2 = re.compile(r"\bCR2: ([0-9a-f]{16}|[0-9a-f]{8}) CR3:")
_TRACE = re.compile(r"\[<([0-9a-f]{16})>\]")


def _dump_says(dump: str, seen: _Seen, symbol: str | None) -> list[str]:
    """Where the register dump or the call trace contradicts the line."""
    why = []
    rip, error, cs, cr2 = (form.search(dump) for form in (_DUMP_RIP, _DUMP_ERROR, _DUMP_CS, _DUMP_CR2))
    for found, value, name in ((error, seen.error, "error code"), (cr2, seen.cr2, "CR2")):
        if found and value is not None and int(found[1], 16) != value:
            why.append(f"{name}: the register dump says {found[1]}")
    for found in (rip, cs):
        if found and seen.cs is not None and (int(found[1], 16) ^ seen.cs) & 0xFFFF:
            why.append(f"CS: the register dump says {found[1]}")
    if rip and rip[2] and seen.ip is not None and int(rip[2], 16) != seen.ip:
        why.append(f"IP: the register dump says {rip[2]}")
    if rip and rip[3] and symbol and "+" in symbol and "+" in rip[3] and rip[3] != symbol:
        why.append(f"IP: the register dump says {rip[3]}")
    if seen.ip is not None and not rip:
        digits = f"{seen.ip:016x}"
        trace = _TRACE.findall(dump)
        near = [other for other in trace if sum(a != b for a, b in zip(other, digits, strict=True)) == 1]
        if near and digits not in trace:
            why.append(f"IP: the call trace has {near[0]}, one digit away")
    return why
