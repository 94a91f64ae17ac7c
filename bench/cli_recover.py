"""`bench recover`: a machine that does not come back, brought back."""

from __future__ import annotations

import json as jsons
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli_health import AcceptDrift, Json, MachineName, Results, Wait, at_hand
from bench.cli_rescue import rescuable
from bench.describe import printable
from bench.errors import UsageError
from bench.terminal import note, say

if TYPE_CHECKING:
    from bench.rescue.findings import Found
    from bench.rescue.visit import Visit


def recover(
    machine: MachineName,
    accept_drift: AcceptDrift = False,
    rescue: Annotated[
        bool, typer.Option("--rescue", help="Boot the rescue system over the network, and say what the disks hold.")
    ] = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="With --rescue: leave it up, and print the command to log in.")
    ] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="With --rescue: withdraw what a run has left in its boot loaders.")
    ] = False,
    wait: Wait = 0,
    results: Results = None,
    json: Json = False,
) -> int:
    """Bring a machine back to its known-good system: off, on, what a run has left on it withdrawn, then examined.

    If its own switch is not enough, its mains are taken away. What even that does not mend, a person has to look at:
    --rescue starts a system from the network, which writes to no disk, and says what is there and what is wrong with
    it.
    """
    from bench.recovery import recover as bring_back

    if (keep or repair) and not rescue:
        raise UsageError(f"--{'keep' if keep else 'repair'} goes with --rescue")
    if rescue and accept_drift:
        raise UsageError("--accept-drift is for the machine's own system, and --rescue does not start that")
    if rescue:
        return _rescue(machine, results, wait, keep=keep, mend=repair, json=json)
    with at_hand(machine, results, purpose="bench recover", wait=wait, json=json) as here:
        found = bring_back(
            here.machine,
            here.health,
            here.folder,
            power=here.power,
            accept_drift=accept_drift,
            told=here.told,
            rescue=here.rescue,
        )
    if json:
        say(jsons.dumps({"ok": found.ok, "capture": str(here.folder), **asdict(found)}, indent=2))
    elif found.ok:
        say(f"{machine}: back, and online; captured in {here.folder}")
    else:
        say(f"{machine}: not back. Its serial line: bench console {machine}, or {here.folder}")
        say("See inventory/RACK.md, Surprises. A system that does not start any more is mended at the machine, or from")
        say(f"the network if it starts from there: bench recover {machine} --rescue")
    return 0 if found.ok else 3


def _rescue(name: str, results: Path | None, wait: float, *, keep: bool, mend: bool, json: bool) -> int:
    from bench.rescue.visit import visit

    with rescuable(name, results, purpose="bench recover", wait=wait, json=json) as here:
        if keep and here.loader is not None:
            raise UsageError(f"{name}: a virtual machine goes with the bench that plays it: there is nothing to keep")
        telling = note if not json else lambda _: None
        came = visit(
            here.machine,
            here.system,
            here.folder,
            power=here.power,
            loader=here.loader,
            keep=keep,
            mend=mend,
            told=telling,
        )
    if json:
        say(jsons.dumps(_as_json(here.folder, came), indent=2))
    else:
        _say(name, here.folder, came)
    return 3 if came.found.troubles else 0


def _say(name: str, folder: Path, came: Visit) -> None:
    for line in told(came.found):
        say(printable(line))
    for one in came.repaired:
        say(f"done    {printable(one)} withdrawn")
    for trouble in came.found.troubles:
        say(f"WRONG   {printable(trouble)}")
    for start in came.found.whole:
        say(f"whole   {printable(start)}")
    if not came.found.whole:
        say("No disk has a boot loader whose entries can be started, as far as the bench knows.")
    if came.way_in:
        say(f"{name}: up until it is switched off (bench power {name} off), and whose it is: bench lock take {name}")
        say(came.way_in)
    else:
        say(f"{name}: off; captured in {folder}")


def _as_json(folder: Path, came: Visit) -> dict[str, object]:
    found = came.found
    return {
        "ok": not found.troubles,
        "capture": str(folder),
        "kernel": came.kernel,
        "serial_line_is_its": came.heard,
        "times": came.times,
        "way_in": came.way_in or None,
        "repaired": list(came.repaired),
        "troubles": list(found.troubles),
        "whole": list(found.whole),
        **asdict(found),
    }


def told(found: Found) -> list[str]:
    """What there is, a line each."""
    secure = f", Secure Boot {'ON' if found.secure_boot else 'off'}" if found.firmware == "uefi" else ""
    lines = [f"firmware {found.firmware}{secure}; " + ", ".join(f"{k} {v}" for k, v in found.facts.items())]
    if found.boot_order:
        lines.append(f"boot order {', '.join(found.boot_order)}")
    if not found.disks:
        lines.append("no disk")
    for disk in found.disks:
        lines.append(f"disk {disk.name}: {_size(disk.size_bytes)} {disk.model} {disk.table or 'no partitions'}")
        for volume in disk.volumes:
            what = ", ".join(text for text in (volume.kind or "unknown", volume.label, volume.system) if text)
            lines.append(f"  {volume.name}: {_size(volume.size_bytes)}, {what}")
            if volume.not_read:
                lines.append(f"    not looked into: {volume.not_read}")
            lines += [f"    {program}" for program in volume.programs]
            for loader in volume.loaders:
                lines.append(f"    {loader.kind} in {loader.folder}")
                for start in loader.starts:
                    files = ", ".join(f"{file.path} ({file.trouble or file.checked})" for file in start.files)
                    lines.append(f"      {start.title!r}: {files}")
    return lines


def _size(size: int) -> str:
    return f"{size / (1 << 30):.1f} GiB" if size >= 1 << 30 else f"{size / (1 << 20):.1f} MiB"
