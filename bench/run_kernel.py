"""One machine, one real kernel: every boot plan that applies, each boot judged by its one window.

The stages are those of `run`: offer, boot, judge, store. A kernel that dies is no reason to boot again: each boot is a
window of its own, and the next one starts from power-off.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from bench.errors import LabError
from bench.images.microcode_package import find_package
from bench.images.msr_sites import find_msr_sites
from bench.images.newest_update import Newest, update_for
from bench.initrd import early_cpio, init_cpio
from bench.judge import Judgement
from bench.lab.boot import Limits, Load, Progress, boot
from bench.lab.flash.kexec import RESETS_NOTHING, KexecLoader
from bench.records import MsrSite, worst
from bench.run import (
    INTERRUPTED,
    KernelOrder,
    RunResult,
    blamed,
    cut_short,
    in_order,
    judge_folders,
    new_folder,
    question_witness,
)
from bench.scenarios import KernelBoot, Skip, expand_boots
from bench.script import render
from bench.sim.variants import EARLY_DYNAMIC_PAGE_TABLES
from bench.unpatched import CONSOLE, describe_boot
from bench.update_safety import require_allowed, require_fallback
from bench.updates import NOTHING, PLAYED, SILICON, UpdateOffer
from bench.x86.early_cpio import UCODE_PATH, build

# As much of what is compressed as the microcode loader may look at, and more.
_SEARCHED_BYTES = 128

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
    """Carry out one order.

    What the lab fails at is in the result: MISS, with what was seen. Raises UsageError for what cannot be run so.
    """
    started, clock = datetime.now(UTC), time.monotonic()
    boots, skipped = offer(order)
    fittings = _fit(order, boots)
    folder = new_folder(results / "captures", started, order.machine.name, order.label)
    captured: list[Path] = []
    window, cut = 0, None
    for number, each in enumerate(boots, start=1):
        here = folder / f"boot-{number}"
        try:
            _boot(order, each, fittings, window, here, limits, progress, cancel)
        except LabError as error:
            cut = blamed(error)
            break
        window += each.windows
        captured.append(here)
        if cancel is not None and cancel.is_set():
            cut = INTERRUPTED
            break
    judgement = judged(captured)
    # Without a trace the log is no second witness: it is what the boots are judged by.
    witnessed, objection = question_witness(captured) if order.witness and order.kernel.traced else (0, None)
    scenarios = in_order(order.names, judgement, skipped, objection)
    if cut:
        asked: Counter[str] = Counter()
        for each in boots:
            asked[each.plan] += each.windows
        scenarios = cut_short(scenarios, judgement, asked, cut)
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
        details=order.kernel.details,
    )


@dataclass(frozen=True)
class _Fittings:
    """What the boots of an order have in common."""

    sites: tuple[MsrSite, ...] | None
    """Where the kernel is played to, if the machine's processors take microcode."""
    newest: Newest | None
    """The update of the boots that have one."""


def _fit(order: KernelOrder, boots: Sequence[KernelBoot]) -> _Fittings:
    played = order.machine.virtual is not None and order.machine.virtual.microcode is not None
    updating = any(each.with_update for each in boots)
    if updating and order.machine.virtual is None:
        require_allowed(order.machine)
        require_fallback(order.machine)
    return _Fittings(
        find_msr_sites(order.kernel.folder) if played else None,
        update_for(order.machine, find_package()) if updating else None,
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
        elif order.machine.boot_methods == (KexecLoader.name,) and any(each.with_update for each in expanded):
            skipped[plan.name] = RESETS_NOTHING
        elif not order.kernel.traced and any(_needs_trace(each) for each in expanded):
            skipped[plan.name] = f"{order.kernel.name} has no trace: its window can only be watched, at its first boot"
        else:
            boots += expanded
    return tuple(boots), skipped


def _needs_trace(each: KernelBoot) -> bool:
    """Whether something is done in the window or behind it that only the trace patch, or a look at it, makes use of."""
    return bool(each.script or each.init) or each.pool != EARLY_DYNAMIC_PAGE_TABLES or each.kexec is not None


def patience(each: KernelBoot, limits: Limits) -> Limits:
    """UEFI firmware takes longer than SeaBIOS to come to the kernel, many times so while exceptions are logged. What is
    done behind the start has processors wait for each other, which takes emulated ones of a loaded computer long."""
    machine = each.machine
    if each.init:
        limits = replace(limits, silence_s=max(limits.silence_s, 40.0), total_s=max(limits.total_s, 300.0))
    if machine.virtual is None or machine.virtual.firmware == "bios":
        return limits
    return replace(limits, first_byte_s=max(limits.first_byte_s, 180.0), total_s=max(limits.total_s, 300.0))


def _boot(
    order: KernelOrder,
    each: KernelBoot,
    fittings: _Fittings,
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
        "scenarios": {str(number + n): each.plan for n in range(each.windows)},
        "kernel_sha256": order.kernel.sha256,
        "command_line": each.command_line,
    }
    newest = fittings.newest if each.with_update else None
    if order.kernel.traced:
        meta["updates"] = _update_offer(order, each).as_json()
    if newest:
        meta["update"] = {"revision": f"{newest.revision:#010x}", "source": newest.source}
    script = render((each.script,), nonce=nonce) if each.script else b""
    load = _load(order, each, script, newest, nonce)
    load = replace(load, msr_sites=fittings.sites, updates=newest is not None)
    if not order.kernel.traced:
        load = replace(load, command_line=f"{CONSOLE} {load.command_line}")
        told = describe_boot(order.kernel, machine, load.command_line, load.initrd, handler_of(order.kernel.release))
        meta["unpatched"] = told.as_json()
    limits = patience(each, limits)
    boot(machine, load, folder, meta=meta, limits=limits, witness=order.witness, progress=progress, cancel=cancel)


def _update_offer(order: KernelOrder, each: KernelBoot) -> UpdateOffer:
    virtual = each.machine.virtual
    rules = virtual.microcode if virtual else None
    takes = SILICON if virtual is None else (PLAYED if rules else NOTHING)
    return UpdateOffer(order.kernel.release, virtual.processors if virtual else None, takes, rules, _tasks(each))


def _tasks(each: KernelBoot) -> tuple[str, ...]:
    return (*each.init, *(["kexec"] if each.kexec is not None else []))


def _load(order: KernelOrder, each: KernelBoot, script: bytes, newest: Newest | None, nonce: int) -> Load:
    """Kernel, command line and initrd; behind the initrd's head, which the model is shown, what init needs."""
    words = [each.command_line, *(["bench.script"] if script else []), f"bench.nonce={nonce:x}"]
    tasks = _tasks(each)
    updates = build({UCODE_PATH: newest.data}) if newest else b""
    head = early_cpio(script, updates, filler_bytes=each.filler_bytes) if each.with_initrd else b""
    if not tasks:
        return Load(order.kernel.kernel, head, " ".join(words).strip())
    files = {}
    if each.kexec is not None:
        files["kexec/kernel"] = order.kernel.kernel.read_bytes()
        files["kexec/cmdline"] = " ".join(words).strip().encode()
        files["kexec/place"] = b"%x" % each.kexec
        if head:
            files["kexec/initrd"] = head
    init = ["bench.done=init", "console=ttyS0", "rdinit=/init"]
    if each.machine.virtual:
        # On a busy computer the emulated timer is late, and the kernel panics over it.
        init.append("no_timer_check")
    # The kernel looks for the compressed part at a multiple of 4.
    head += bytes(-len(head) % 4)
    initrd = head + init_cpio(order.init.read_bytes(), tasks, files)
    # The loader's search ends at the first byte that is compressed.
    offer = initrd[: len(head) + _SEARCHED_BYTES]
    return Load(order.kernel.kernel, initrd, " ".join([*words, *init]).strip(), offer=offer)
