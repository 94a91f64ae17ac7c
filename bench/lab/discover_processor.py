"""Which processor a machine has: by CPUID where the system lets itself be asked, else by /proc/cpuinfo.

Sources: SDM Vol. 2A, instruction CPUID (leaves 0, 1, 7, 80000001H, 80000008H); Vol. 4, IA32_PLATFORM_ID (17H).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from bench.x86 import signature as signatures

CPUID, CPUINFO = "CPUID", "/proc/cpuinfo"
PLATFORM_MSR, PLATFORM_FLAGS = "MSR 0x17", "the microcode driver's processor_flags"
_HYPERVISOR, _LA57, _NX = 1 << 31, 1 << 16, 1 << 20


@dataclass(frozen=True)
class Processor:
    """The first logical processor."""

    vendor: str
    name: str
    signature: int
    source: str
    """`CPUID` or `CPUINFO`: what is switched off in the kernel is missing in the latter."""
    count: int
    """Logical processors that are online."""
    hypervisor: bool
    nx: bool
    la57: bool
    maxphyaddr: int
    platform_id: int | None
    """None: neither readable nor told by the microcode driver."""
    platform_source: str
    revision: int | None
    """Of the microcode that runs."""


def read_processor(said: Mapping[str, str]) -> Processor:
    """The processor. Raises UsageError, ValueError or LookupError if the answers make none."""
    info = _cpuinfo(said["cpuinfo"])
    flags = frozenset(info.get("flags", "").split())
    platform, source = _platform(said)
    revision = info.get("microcode")
    leaves = {
        name: _registers(said[f"{name} leaf"]) for name in ("vendor", "signature", "features", "extended", "address")
    }
    first, features, extended, address = (leaves[name] for name in ("signature", "features", "extended", "address"))
    vendor = leaves["vendor"]
    if first is not None and extended is not None and address is not None and vendor is not None:
        signature, by = first[0], CPUID
        hypervisor = bool(first[2] & _HYPERVISOR)
        # Of a leaf above the highest one a processor answers with the highest one's.
        la57 = features is not None and vendor[0] >= 7 and bool(features[2] & _LA57)
        nx, maxphyaddr = bool(extended[3] & _NX), address[0] & 0xFF
    else:
        signature = signatures.signature(*(int(info[key]) for key in ("cpu family", "model", "stepping")))
        by, hypervisor, la57, nx = CPUINFO, "hypervisor" in flags, "la57" in flags, "nx" in flags
        maxphyaddr = int(info["address sizes"].split()[0])
    signatures.processor(signature)
    return Processor(
        vendor=info.get("vendor_id", ""),
        name=info.get("model name", ""),
        signature=signature,
        source=by,
        count=int(said["processors"]),
        hypervisor=hypervisor,
        nx=nx,
        la57=la57,
        maxphyaddr=maxphyaddr,
        platform_id=platform,
        platform_source=source,
        revision=int(revision, 16) if revision else None,
    )


def _cpuinfo(text: str) -> dict[str, str]:
    pairs = (line.partition(":") for line in text.splitlines())
    # A tab before the colon, which is escaped.
    return {key.replace("\\x09", "").strip(): value.strip() for key, _, value in pairs}


def _registers(text: str) -> tuple[int, int, int, int] | None:
    """EAX, EBX, ECX and EDX; None if the leaf could not be read."""
    words = text.split()
    if len(words) != 4:
        return None
    eax, ebx, ecx, edx = (int(word, 16) for word in words)
    return eax, ebx, ecx, edx


def _platform(said: Mapping[str, str]) -> tuple[int | None, str]:
    words = said["platform msr"].split()
    if len(words) == 2:
        (msr,) = struct.unpack("<Q", struct.pack("<2I", *(int(word, 16) for word in words)))
        return signatures.platform_id(msr), PLATFORM_MSR
    if said["platform flags"]:
        # What the driver keeps is `1 << id`.
        ids = signatures.platform_ids(int(said["platform flags"], 16))
        if len(ids) == 1:
            return ids[0], PLATFORM_FLAGS
    return None, ""
