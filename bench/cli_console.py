"""`bench console`: a machine's serial line, live; read-only unless asked, and always logged."""

from __future__ import annotations

import os
import secrets
import select
import sys
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.terminal import note

if TYPE_CHECKING:
    from bench.lab.capture import CaptureWriter

LEAVE = b"\x1d"  # Ctrl-]
TICK_S = 0.1
# A port that goes away while somebody watches is worth a longer wait than during a run.
RECONNECT_S = 600.0


def console(
    machine: Annotated[str, typer.Argument(help="Machine of the inventory.")],
    write: Annotated[
        bool, typer.Option("--write", help="Send what is typed. Without it nothing is ever sent.")
    ] = False,
    cycle: Annotated[
        bool, typer.Option("--cycle", help="Switch the machine off and on, once its line is open.")
    ] = False,
    raw: Annotated[bool, typer.Option("--raw", help="Show control sequences to the terminal as they come.")] = False,
    seconds: Annotated[float | None, typer.Option("--for", min=0, help="Leave after so many seconds.")] = None,
    wait: Annotated[float, typer.Option(min=0, help="Wait so long for whoever uses the machine, in seconds.")] = 0,
    results: Annotated[Path | None, typer.Option(help="Where the log goes (default: results/).")] = None,
) -> int:
    """Watch a machine's serial line. Leave with Ctrl-C, or with Ctrl-] if --write sends what is typed.

    The machine is ours meanwhile, since a port has one reader: runs and `bench power` wait, and a machine that runs has
    no console. --cycle shows a start from its first byte.
    """
    from bench.cli_power import ask
    from bench.errors import UsageError
    from bench.inventory import find_root, load_inventory
    from bench.lab.capture import CaptureWriter
    from bench.lab.power.choose import power_of
    from bench.leases import lease

    root = find_root()
    machines = load_inventory(root)
    if machine not in machines:
        raise UsageError(f"no machine {machine!r}; there are: {', '.join(machines)}")
    chosen = machines[machine]
    if not chosen.serial_url:
        raise UsageError(f"{machine}: a virtual machine has a serial line only while a run has it")
    power = power_of(chosen, ask=ask if sys.stdin.isatty() else None) if cycle else None
    where = results or root / "results"
    now = datetime.now(UTC)
    folder = where / "consoles" / f"{now:%Y-%m-%d}" / f"{now:%H%M%S}-{machine}-{secrets.token_hex(2)}"
    info = {"machine": machine, "model": chosen.model, "console": "read and write" if write else "read-only"}
    with (
        lease(chosen, where, purpose="bench console", wait_s=wait, waiting=note),
        CaptureWriter(
            folder, url=chosen.serial_url, info=info, baud=chosen.serial_baud, reconnect_s=RECONNECT_S
        ) as capture,
    ):
        how = "Ctrl-] leaves" if write and sys.stdin.isatty() else "Ctrl-C leaves"
        note(f"{chosen.serial_url} at {chosen.serial_baud} baud, {info['console']}; {how}; logged in {folder}")
        if power:
            note(f"off and on: {', '.join(f'{name} {told}' for name, told in power.cycle().items())}")
        with _keyboard(write):
            _attend(capture, write=write, raw=raw, seconds=seconds)
    note(f"{capture.size} bytes; logged in {folder}")
    return 0


def _attend(capture: CaptureWriter, *, write: bool, raw: bool, seconds: float | None) -> None:
    seen, begun, typing = 0, time.monotonic(), write
    while seconds is None or time.monotonic() - begun < seconds:
        try:
            capture.wait_change(seen, timeout_s=0 if typing else TICK_S)
            if typing and select.select([sys.stdin], [], [], TICK_S / 5)[0]:
                keys = os.read(sys.stdin.fileno(), 1024)
                typing = bool(keys)  # a pipe may end; the line goes on
                keys, leave, _ = keys.partition(LEAVE)
                if keys:
                    capture.port.send(keys)
                if leave:
                    return
        except KeyboardInterrupt:
            return
        size = capture.size
        if size > seen:
            data = capture.read(seen, size)
            seen = size
            sys.stdout.buffer.write(data if raw else shown(data))
            sys.stdout.buffer.flush()
        elif capture.port_closed:
            note(f"the port closed: {capture.port_closed}")
            return


def shown(data: bytes) -> bytes:
    """What a terminal may be shown of a machine's bytes: printable ASCII, tabs and line ends; the rest as ``\\xNN``."""
    keep = set(range(0x20, 0x7F)) | set(b"\t\r\n")
    return b"".join(bytes([byte]) if byte in keep else b"\\x%02x" % byte for byte in data)


@contextmanager
def _keyboard(write: bool) -> Iterator[None]:
    """Keys one by one and unseen, as the machine's own echo shows them; only with --write on a terminal."""
    if not (write and sys.stdin.isatty()):
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    tty.setraw(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
