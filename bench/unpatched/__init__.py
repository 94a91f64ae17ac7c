"""A kernel without a trace, held against the reference by what QEMU's log of exceptions alone shows.

Predicted from image, machine and loader: boot_params, the command line, the initrd, the tables that
early_ioremap_init() walks, the BIOS data area. Read off the log, because nothing else tells: where the kernel put
itself (CR3, IDT) and what the processor was set to (CR4, EFER). **Replayed**, never called predicted: pages that the
kernel takes for its final tables, the direct map's base once the kernel has moved it, and under UEFI what its stub
chose; only a fault that can be such a thing is replayed, all others have to be predicted. The log does not show what
the handler made of a fault: entries and counters are not compared.
"""

from __future__ import annotations

from bench.unpatched.judge import judge_log, judge_unpatched
from bench.unpatched.offer import CONSOLE, describe_boot
from bench.unpatched.pv_domain import judge_pv_domain
from bench.unpatched.verdict import UnpatchedVerdict, fault_rows, scenario_result

__all__ = [
    "CONSOLE",
    "UnpatchedVerdict",
    "describe_boot",
    "fault_rows",
    "judge_log",
    "judge_pv_domain",
    "judge_unpatched",
    "scenario_result",
]
