"""`bench inventory schema`, `check` and `discover`."""

from __future__ import annotations

import json as jsons
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.cli_rescue import Stranger
from bench.hardware import PxeLoader as Pxe
from bench.terminal import complain, note, say

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.hardware import SshAccess, Wiring
    from bench.lab.discover import Discovery
    from bench.lab.discover_serial import Heard
    from bench.lab.ssh import Ssh


class Firmware(StrEnum):
    """How a machine starts."""

    BIOS = "bios"
    UEFI = "uefi"


class Kind(StrEnum):
    """Kinds of files."""

    MACHINES = "machines"
    VIRTUAL = "virtual"
    QUIRKS = "quirks"
    LAB = "lab"


def schema(
    kind: Annotated[Kind, typer.Argument(help="Files of this folder, quirks.toml or lab.toml.")] = Kind.MACHINES,
) -> int:
    """Print the JSON Schema of the inventory's files, for editors and generators."""
    from bench.inventory import schema as schema_of

    say(jsons.dumps(schema_of(kind.value), indent=2))
    return 0


def check(
    folder: Annotated[Path | None, typer.Argument(help="Another folder than the lab's inventory/.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on standard output, nothing else.")] = False,
) -> int:
    """Say all that is wrong or doubtful: mistakes, two machines on one port, outlet, MAC or address, frail names.

    Ends with 2 if something is wrong, with 0 if it is only doubtful.
    """
    from bench.errors import UsageError
    from bench.inventory import find_root, survey

    where = folder or find_root() / "inventory"
    if not where.is_dir():
        raise UsageError(f"{where}: no such folder")
    found = survey(where)
    if json:
        rows = [{"file": str(p.path), "problem": p.text, "error": p.error} for p in found.problems]
        say(jsons.dumps({"machines": list(found.machines), "problems": rows}, indent=2))
    else:
        for problem in found.problems:
            say(f"{'ERROR' if problem.error else 'warning':7}  {problem}")
        count = len(found.machines)
        doubts = len(found.problems) - len(found.errors)
        say(f"{count} machine{'s' * (count != 1)}, {len(found.errors)} wrong, {doubts} doubtful")
    return 2 if found.errors else 0


def discover(
    host: Annotated[str, typer.Argument(help="Name or address of the machine, whose Linux answers SSH.")],
    host_key: Annotated[
        str, typer.Option("--host-key", help="Its host key, type and key; without it the key that it shows is printed.")
    ] = "",
    user: Annotated[str, typer.Option(help="Who logs in; only root can read all.")] = "root",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Of its SSH server.")] = 22,
    key_file: Annotated[str, typer.Option("--key-file", help="Private key (default: the agent's).")] = "",
    name: Annotated[str, typer.Option(help="Of the entry (default: --output's, or the machine's own).")] = "",
    output: Annotated[Path | None, typer.Option(help="File to write; it must not exist (default: print it).")] = None,
    probe_serial: Annotated[
        bool, typer.Option("--probe-serial", help="Send a word out of each of its serial ports, and listen.")
    ] = False,
    serial_url: Annotated[
        list[str] | None, typer.Option("--serial-url", help="Listen here (may be repeated); with --probe-serial.")
    ] = None,
    baud: Annotated[int, typer.Option(min=300, max=4_000_000, help="Speed of the probe.")] = 115200,
    rescue: Annotated[
        bool, typer.Option("--rescue", help="HOST is a machine's name: boot the rescue system on it over the network.")
    ] = False,
    mac: Annotated[str, typer.Option(help="With --rescue: of a machine that is not in the inventory yet.")] = "",
    ip: Annotated[str, typer.Option(help="With --mac: the address to give it, if the boot network has no pool.")] = "",
    firmware: Annotated[Firmware | None, typer.Option(help="With --mac (default: either).")] = None,
    pxe_loader: Annotated[Pxe, typer.Option("--pxe-loader", help="With --mac: what its firmware loads.")] = Pxe.IPXE,
    results: Annotated[Path | None, typer.Option(help="With --rescue: where captures are (default: results/).")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on standard output, nothing else.")] = False,
) -> int:
    """Ask a machine over SSH what it is, and write its inventory entry; what it cannot know is marked TODO there.

    With --rescue a machine that has no system is asked, by one that is booted over the network; it is off afterwards.
    One that is not in the inventory yet, known by its --mac, is switched by whoever types this.
    """
    import re

    from bench.discovered.entry import name_of
    from bench.errors import UsageError
    from bench.hardware import SshAccess
    from bench.inventory.values import NAME_PATTERN
    from bench.lab.discover import discover as ask
    from bench.lab.ssh import Ssh

    urls = serial_url or []
    if bool(urls) != probe_serial:
        raise UsageError("--probe-serial and --serial-url URL go together: one sends, the other listens")
    if output is not None and output.exists():
        raise UsageError(f"{output}: exists already; nothing is overwritten")
    chosen = name or (output.stem if output is not None else "")
    if chosen and not re.fullmatch(NAME_PATTERN, chosen):
        raise UsageError(f"{chosen!r} is no machine's name: lower-case letters, digits and hyphens, at most 41")
    if (mac or ip or firmware) and not (rescue and mac):
        raise UsageError("--mac goes with --rescue, and --ip and --firmware go with --mac")
    if rescue:
        if host_key or key_file or port != 22:
            raise UsageError("--host-key, --key-file and --port are for a system of its own: --rescue makes its keys")
        stranger = Stranger(mac, ip, firmware or "", pxe_loader) if mac else None
        with _rescued(host, results, stranger, quiet=json) as (ssh, access, wiring):
            found = ask(ssh, boot=RESCUE_BOOT)
            heard = _probe(ssh, found, urls, baud) if probe_serial else ()
        return _shown(found, heard, access, chosen or host, baud, output, json=json, rescue=wiring)
    if not host_key:
        raise UsageError(_unpinned(host, port))
    if key_file and not key_file.startswith("~/"):
        key_file = str(Path(key_file).absolute())
    access = SshAccess(host, user, host_key, port, key_file)
    with Ssh(access) as ssh:
        found = ask(ssh)
        heard = _probe(ssh, found, urls, baud) if probe_serial else ()
    return _shown(found, heard, access, chosen or name_of(found.host_name), baud, output, json=json)


# A file system of the rescue system's own: it has no /boot.
RESCUE_BOOT = "/run"


@contextmanager
def _rescued(
    name: str, results: Path | None, stranger: Stranger | None, *, quiet: bool
) -> Iterator[tuple[Ssh, SshAccess, Wiring]]:
    """A machine that runs the rescue system; off at the end."""
    from bench.cli_rescue import rescuable
    from bench.rescue.session import rescued
    from bench.rescue.visit import captured

    told = (lambda _: None) if quiet else note
    with (
        rescuable(name, results, purpose="bench inventory discover", wait=0, json=quiet, stranger=stranger) as here,
        captured(here.machine, here.folder) as capture,
        rescued(here.machine, here.system, here.power, capture, loader=here.loader, told=told) as there,
    ):
        yield there.ssh, there.access, here.machine.wiring


def _shown(
    found: Discovery,
    heard: tuple[Heard, ...],
    access: SshAccess,
    name: str,
    baud: int,
    output: Path | None,
    *,
    json: bool,
    rescue: Wiring | None = None,
) -> int:
    """Write or print the entry."""
    from bench.discovered.entry import entry
    from bench.errors import UsageError

    text = entry(found, access, name=name, on=datetime.now(UTC).date(), heard=heard, baud=baud, rescue=rescue)
    if output is not None:
        try:
            with output.open("x") as file:
                file.write(text)
        except OSError as error:
            raise UsageError(f"{output}: {error.strerror}") from error
    if json:
        say(jsons.dumps(_as_json(found, heard, text, output), indent=2))
    elif output is None:
        say(text.removesuffix("\n"))
    else:
        todo = text.count("TODO")
        say(f"{output}: {todo} things to fill in or decide (TODO); then bench inventory check")
    return 0


def _unpinned(host: str, port: int) -> str:
    from bench.lab.discover_key import shown_key

    shown = shown_key(host, port)
    return (
        f"{host}: no host key is pinned, so nobody was logged in. It shows {shown.fingerprint}: compare that at the "
        "machine's own console (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub, or another type's; ssh-keyscan shows "
        f"the others), and if it is the same:\n  --host-key '{shown.key}'"
    )


def _probe(ssh: Ssh, found: Discovery, urls: list[str], baud: int) -> tuple[Heard, ...]:
    from bench.lab.discover_serial import Ears, probe

    with Ears(urls, baud=baud) as ears:
        heard = probe(ssh, [port.name for port in found.ports], ears, baud=baud)
        for url, why in ears.lost().items():
            complain(f"{url}: {why}")
    return heard


def _as_json(found: Discovery, heard: tuple[Heard, ...], text: str, output: Path | None) -> dict[str, Any]:
    from dataclasses import asdict

    cpu, methods = asdict(found.processor), found.methods
    return {
        "entry": text,
        "output": str(output) if output else None,
        "host_name": found.host_name,
        "processor": cpu,
        "installed_bytes": found.installed_bytes,
        "ram": [[span.start, span.stop] for span in found.ram],
        "names": dict(found.names),
        "cards": [asdict(card) for card in found.cards],
        "reached_at": found.reached_at,
        "firmware": "uefi" if found.system.uefi else "bios",
        "secure_boot": found.system.secure_boot,
        "loader": methods.loader,
        "boot_methods": list(methods.usable),
        "refused": {name: list(why) for name, why in methods.refused.items()},
        "in_the_way": list(methods.in_the_way),
        "ports": [asdict(port) for port in found.ports],
        "heard": [asdict(one) for one in heard],
    }
