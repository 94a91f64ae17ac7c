"""CPUID signatures and platform flags.

A signature is CPUID leaf 1 EAX, as it also stands in the header of a microcode update:

    31..28   27..20            19..16          15..14   13..12   11..8    7..4    3..0
    reserved extended family   extended model  reserved type     family   model   stepping

Source: SDM Vol. 2A, instruction CPUID, "Version Information Returned by CPUID in EAX", and SDM Vol. 3A,
"Microcode Update Facilities" (processor signature, processor flags, IA32_PLATFORM_ID).
"""

from __future__ import annotations

import re
from typing import NamedTuple

from bench.errors import UsageError

# Families whose model number takes its upper digit from the extended model.
FAMILIES_WITH_EXTENDED_MODEL = frozenset({0x6, 0xF})
# The family field from which on the extended family is added.
FAMILY_EXTENDED = 0xF
FAMILY_MAX = FAMILY_EXTENDED + 0xFF
# Type field: 0 original, 1 OverDrive, 2 dual processor; 3 is reserved.
TYPE_RESERVED = 3
_RESERVED_BITS = 0xF000_C000

# IA32_PLATFORM_ID (MSR 0x17), bits 52:50.
PLATFORM_IDS = range(8)
_PLATFORM_ID_SHIFT = 50


class Processor(NamedTuple):
    """The numbers by which software calls a processor: display family, display model, stepping."""

    family: int
    model: int
    stepping: int

    def __str__(self) -> str:
        """As in the names of microcode files: ``06-9e-0a``."""
        return f"{self.family:02x}-{self.model:02x}-{self.stepping:02x}"


def impossible(signature: int) -> str:
    """Why no Intel processor can have this signature, in one sentence; empty if one can."""
    if not 0 < signature < 1 << 32:
        return f"a signature is a nonzero number of 32 bits, not {signature:#x}"
    if signature & _RESERVED_BITS:
        return f"bits {signature & _RESERVED_BITS:#010x} of signature {signature:#010x} are reserved and always zero"
    family = signature >> 8 & 0xF
    if signature >> 12 & 3 == TYPE_RESERVED:
        return f"processor type 3 (bits 13:12 of {signature:#010x}) is reserved"
    if not family:
        return f"family 0 (bits 11:8 of {signature:#010x}) does not exist"
    if family != FAMILY_EXTENDED and signature >> 20 & 0xFF:
        return f"family {family:#x} has no extended family, but bits 27:20 of {signature:#010x} are not zero"
    if family not in FAMILIES_WITH_EXTENDED_MODEL and signature >> 16 & 0xF:
        return f"family {family:#x} has no extended model, but bits 19:16 of {signature:#010x} are not zero"
    return ""


def processor(signature: int) -> Processor:
    """Family, model and stepping of a signature. Raises UsageError if it is impossible, and says why."""
    why = impossible(signature)
    if why:
        raise UsageError(why)
    family = signature >> 8 & 0xF
    model = signature >> 4 & 0xF
    if family in FAMILIES_WITH_EXTENDED_MODEL:
        model |= signature >> 12 & 0xF0
    if family == FAMILY_EXTENDED:
        family += signature >> 20 & 0xFF
    return Processor(family, model, signature & 0xF)


def signature(family: int, model: int, stepping: int, *, kind: int = 0) -> int:
    """CPUID leaf 1 EAX of display family, display model and stepping; `kind` is the type field (0: original).

    Raises UsageError for numbers that have no signature.
    """
    if not 1 <= family <= FAMILY_MAX:
        raise UsageError(f"family {family:#x} is not between 0x1 and {FAMILY_MAX:#x}")
    if not 0 <= stepping <= 0xF:
        raise UsageError(f"stepping {stepping:#x} is not between 0x0 and 0xf")
    base = min(family, FAMILY_EXTENDED)
    highest = 0xFF if base in FAMILIES_WITH_EXTENDED_MODEL else 0xF
    if not 0 <= model <= highest:
        raise UsageError(f"model {model:#x} of family {family:#x} is not between 0x0 and {highest:#x}")
    value = (family - base) << 20 | (model & 0xF0) << 12 | kind << 12 | base << 8 | (model & 0xF) << 4 | stepping
    why = impossible(value)
    if why:
        raise UsageError(why)
    return value


_MODEL_NAME = re.compile(r"([0-9a-f]{2,3})-([0-9a-f]{2})-([0-9a-f]{2})")


def parse_model(text: str) -> int:
    """The signature of ``06-9e-0a`` (family-model-stepping, as microcode files are named).

    Raises UsageError if the text is not of this form or names an impossible processor.
    """
    match = _MODEL_NAME.fullmatch(text)
    if not match:
        raise UsageError(f"{text!r} is not family-model-stepping in lower-case hexadecimal, such as 06-9e-0a")
    return signature(int(match[1], 16), int(match[2], 16), int(match[3], 16))


def platform_id(msr: int) -> int:
    """The platform id, 0 to 7, in IA32_PLATFORM_ID (MSR 0x17)."""
    return msr >> _PLATFORM_ID_SHIFT & 7


def platform_flag(number: int) -> int:
    """The bit by which update headers mean platform id `number`. Raises UsageError if it is not 0 to 7."""
    if number not in PLATFORM_IDS:
        raise UsageError(f"a platform id is 0 to 7, not {number}")
    return 1 << number


def platform_ids(flags: int) -> tuple[int, ...]:
    """The platform ids that the flags of an update header name. Raises UsageError beyond 8 bits."""
    if not 0 <= flags < 1 << len(PLATFORM_IDS):
        raise UsageError(f"platform flags have 8 bits, not {flags:#x}")
    return tuple(number for number in PLATFORM_IDS if flags >> number & 1)
