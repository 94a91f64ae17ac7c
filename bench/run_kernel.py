"""One machine, one real kernel: every boot plan that applies, each boot judged by its one window.

The stages are those of `run`: offer, boot, judge, store. A kernel that dies is no reason to boot again: each boot is a
window of its own, and the next one starts from power-off.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from bench.initrd import early_cpio
from bench.judge import Judgement
from bench.lab.boot import Limits, Load, Progress, boot
from bench.records import Machine, worst
from bench.run import KernelOrder, RunResult, in_order, judge_folders, new_folder, question_witness
from bench.scenarios import KernelBoot, Skip, expand_boots
from bench.script import render

# The handler by the kernel's release, the first row that is not above it; names of `wire.VARIANTS`.
HANDLERS: tuple[tuple[tuple[int, int], str], ...] = (((7, 0), "v7.3"), ((5, 10), "v6.1"), ((4, 14), "v4.x"))


def run_kernel(
    order: KernelOrder,
    *,
    results: Path,
    limits: Limits,
    judged: Callable[[Sequence[Path]], Judgement] = judge_folders,
    progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
) -> RunResult:
    """Carry out one order. Raises LabError or UsageError only if nothing could be started at all."""
    started, clock = datetime.now(UTC), time.monotonic()
    boots, skipped = offer(order)
    folder = new_folder(results / "captures", started, order.machine.name, order.label)
    captured: list[Path] = []
    for number, each in enumerate(boots):
        here = folder / f"boot-{number + 1}"
        _boot(order, each, number, here, limits, progress, cancel)
        captured.append(here)
        if cancel is not None and cancel.is_set():
            break
    judgement = judged(captured)
    witnessed, objection = question_witness(captured) if order.witness else (0, None)
    scenarios = in_order(order.names, judgement, skipped, objection)
    return RunResult(
        order=order,
        judgement=judgement,
        scenarios=scenarios,
        verdict=worst([s.verdict for s in scenarios]),
        seconds=round(time.monotonic() - clock, 2),
        folder=folder,
        image_sha256=order.kernel.sha256,
        started=started,
        witnessed=witnessed,
    )


def handler_of(release: str) -> str:
    """The handler variant of a kernel release such as ``6.1.192``."""
    major, minor = (int(part) for part in release.split(".")[:2])
    return next(variant for since, variant in HANDLERS if since <= (major, minor))


def offer(order: KernelOrder) -> tuple[tuple[KernelBoot, ...], dict[str, str]]:
    """The boots, and skipped plan → reason."""
    variant = handler_of(order.kernel.release)
    boots: list[KernelBoot] = []
    skipped: dict[str, str] = {}
    for plan in order.plans:
        expanded = expand_boots(plan, order.machine, variant)
        if isinstance(expanded, Skip):
            skipped[plan.name] = expanded.reason
        else:
            boots += expanded
    return tuple(boots), skipped


def patience(machine: Machine, limits: Limits) -> Limits:
    """UEFI firmware takes longer than SeaBIOS to come to the kernel, many times so while exceptions are logged."""
    if machine.virtual is None or machine.virtual.firmware == "bios":
        return limits
    return replace(limits, first_byte_s=max(limits.first_byte_s, 180.0), total_s=max(limits.total_s, 300.0))


def _boot(
    order: KernelOrder,
    each: KernelBoot,
    number: int,
    folder: Path,
    limits: Limits,
    progress: Callable[[Progress], None] | None,
    cancel: threading.Event | None,
) -> None:
    nonce = secrets.randbits(64) | 1  # zero stands for "not known yet"
    machine = each.machine
    meta = {
        "machine": machine.name,
        "model": machine.model,
        "image": order.image,
        "virtual": machine.virtual is not None,
        "nonce": f"{nonce:x}",
        "quirks": list(machine.quirks),
        "scenarios": {str(number): each.plan},
        "kernel_sha256": order.kernel.sha256,
        "command_line": each.command_line,
    }
    script = render((each.script,), nonce=nonce) if each.script else b""
    initrd = early_cpio(script, filler_bytes=each.filler_bytes) if each.with_initrd else b""
    command_line = f"{each.command_line}{' bench.script' if script else ''} bench.nonce={nonce:x}".strip()
    load = Load(order.kernel.kernel, initrd, command_line)
    limits = patience(machine, limits)
    boot(machine, load, folder, meta=meta, limits=limits, witness=order.witness, progress=progress, cancel=cancel)
