"""The inventory entry of a machine that described itself, as TOML; what it cannot know stands in comments with TODO.

Texts that came from the machine are escaped already: printable ASCII, so that none ends a comment or a string.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from typing import TYPE_CHECKING

from bench.bios_microcode import INTEL, Told, bios_revision
from bench.errors import UsageError
from bench.hardware import Netboot, SshAccess, Wiring
from bench.x86 import signature as signatures
from bench.x86.pc_memory import GIB, MIB, ram_end, usable_ram

if TYPE_CHECKING:
    from bench.lab.discover import Discovery
    from bench.lab.discover_serial import Heard
    from bench.lab.discover_wires import Card

NO_NAME = "(none)"
"""What Linux calls a machine that nobody has named."""
COM1 = 0x3F8
"""Where the payload's trace comes out unless it is told otherwise."""
# Firmware keeps a part of the memory for itself; what a map says is rounded up to this.
_STEP_BYTES = 128 * MIB
_COMMENT_COLUMNS = 116
_LOOPBACK = ("127.", "::1")
# Firmware of UEFI has maps of dozens of ranges.
_RANGES = 12


def name_of(host_name: str) -> str:
    """A machine's name made of its host name. Raises UsageError if nothing is left of it."""
    name = re.sub(r"[^a-z0-9]+", "-", host_name.lower().split(".")[0]).strip("-")[:40].rstrip("-")
    if not name or host_name == NO_NAME:
        raise UsageError(f"the machine calls itself {host_name!r}, which is no name for the inventory: give --name")
    return name


def memory_of(found: Discovery) -> tuple[int, str]:
    """Size of the RAM in bytes, and who says so."""
    mapped = sum(map(len, found.ram))
    if found.installed_bytes and mapped <= found.installed_bytes:
        return found.installed_bytes, "what the firmware's DMI table says is plugged in"
    if not mapped:
        raise UsageError("neither DMI nor a memory map can be read: log in as root, or write the entry by hand")
    rounded = -(-mapped // _STEP_BYTES) * _STEP_BYTES
    return rounded, "TODO check: no DMI table, so the memory map's RAM, rounded up to 128 MiB"


def card_of(found: Discovery) -> Card | None:
    """The card by which SSH came in; without an address of it the only one that is up."""
    reached = [card for card in found.cards if found.reached_at in card.addresses]
    up = [card for card in found.cards if card.state == "up"]
    if reached:
        return reached[0]
    return up[0] if len(up) == 1 else None


def entry(
    found: Discovery,
    access: SshAccess,
    *,
    name: str,
    on: date,
    heard: Sequence[Heard],
    baud: int,
    rescue: Wiring | None = None,
) -> str:
    """The file's text. `access` is the way in that was used; `heard` what became of the serial ports, if asked.
    `rescue`: what told was the rescue system, and the machine is wired for the network so."""
    parts = (
        _head(found, access, name, on),
        _processor(found),
        _memory(found),
        _network(found, access),
        _boot(found) if rescue is None else _network_boot(found, rescue),
        _microcode(found),
        _policy(),
        _serial(found, heard, baud),
        _power(),
        _ssh(access) if rescue is None else _no_ssh(),
    )
    return "\n".join("".join(f"{line}\n" for line in part) for part in parts)


def _comment(text: str) -> Iterator[str]:
    """`text` as lines of a comment."""
    line = "#"
    for word in text.split():
        if len(line) + 1 + len(word) > _COMMENT_COLUMNS and line != "#":
            yield line
            line = "#  "
        line += f" {word}"
    yield line


def _text(value: str) -> str:
    """A TOML string: JSON's escapes are TOML's too."""
    return json.dumps(value)


def _flag(value: bool) -> str:
    return "true" if value else "false"


def _head(found: Discovery, access: SshAccess, name: str, on: date) -> Iterator[str]:
    who = access.host if found.host_name in ("", NO_NAME, access.host) else f"{found.host_name} ({access.host})"
    yield from _comment(f"{who}, as it described itself over SSH on {on}: `bench inventory discover`.")
    yield from _comment("What it cannot know is marked TODO; wirings to copy from are in examples/machines/.")
    for label in ("system", "board", "bios"):
        rest = [
            found.names[key] for key in found.names if key.split()[0] == label or (label, key) == ("system", "product")
        ]
        if rest:
            yield from _comment(f"{label}: {', '.join(rest)}")
    yield f"name = {_text(name)}"


def _processor(found: Discovery) -> Iterator[str]:
    cpu = found.processor
    model = signatures.processor(cpu.signature)
    yield from _comment(f"{cpu.name or 'processor'}; logical processors: {cpu.count}; by {cpu.source}")
    if cpu.hypervisor:
        yield from _comment("It runs under a hypervisor: this is no silicon, whatever its name says.")
    if cpu.vendor != INTEL:
        yield from _comment(f"Its vendor is {cpu.vendor}: predictions and microcode here are for {INTEL}.")
    plain = signatures.signature(*model) == cpu.signature
    written = _text(str(model)) if plain else f"0x{cpu.signature:08x}"
    yield f"signature = {written}  # 0x{cpu.signature:08x}"
    if cpu.platform_id is None:
        yield from _comment("TODO platform_id: MSR 0x17 cannot be read (module msr, root); needed for microcode")
    else:
        yield f"platform_id = {cpu.platform_id}  # {cpu.platform_source}"
    yield f"maxphyaddr = {cpu.maxphyaddr}"
    yield f"nx = {_flag(cpu.nx)}"
    yield f"la57 = {_flag(cpu.la57)}"


def _memory(found: Discovery) -> Iterator[str]:
    size, source = memory_of(found)
    for span in found.ram[:_RANGES]:
        yield f"# RAM by the memory map: {_span(span)} ({len(span) / MIB:.1f} MiB)"
    if len(found.ram) > _RANGES:
        yield f"# … and {len(found.ram) - _RANGES} more, up to {found.ram[-1].stop - 1:#x}"
    holes = [hole for span in usable_ram(size) for hole in holes_in(span, found.ram)] if found.ram else []
    if holes:
        places = ", ".join(map(_span, holes[:_RANGES])) + (", …" if len(holes) > _RANGES else "")
        yield from _comment(
            f"The bench takes it for a PC that has RAM there too, which its map has not: {places}. "
            "What the map does not call RAM the payload refuses to touch."
        )
    if ram_end(size) > 1 << found.processor.maxphyaddr:
        yield from _comment("TODO memory: more than maxphyaddr reaches; the entry will not be accepted")
    yield f"memory = {_text(_size(size))}  # {source}"


def holes_in(span: range, ram: Iterable[range]) -> Iterator[range]:
    """The parts of `span` that lie in none of `ram`, which is in rising order."""
    at = span.start
    for each in ram:
        if each.stop > at and each.start < span.stop:
            if each.start > at:
                yield range(at, each.start)
            at = each.stop
    if at < span.stop:
        yield range(at, span.stop)


def _span(span: range) -> str:
    return f"{span.start:#x} to {span.stop - 1:#x}"


def _size(size: int) -> str:
    return f"{size // GIB} GiB" if size % GIB == 0 else f"{-(-size // MIB)} MiB"


def _network(found: Discovery, access: SshAccess) -> Iterator[str]:
    chosen = card_of(found)
    for card in found.cards:
        where = ", ".join(card.addresses) or "no address"
        yield from _comment(f"{card.name}: {card.mac}, {card.driver or 'no driver'}, {card.state}, {where}")
    if chosen is None:
        yield from _comment("TODO mac: which of these the bench shall know it by is not clear")
    else:
        yield f"mac = {_text(chosen.mac)}  # {chosen.name}"
    if found.reached_at == access.host and not access.host.startswith(_LOOPBACK):
        yield f"ip = {_text(found.reached_at)}"
    else:
        seen = found.reached_at or "an address that its SSH server does not tell"
        yield from _comment(f'TODO ip: reached as {access.host}, which it sees as {seen}; ip = "…" if that is its own')


def _boot(found: Discovery) -> Iterator[str]:
    system, methods = found.system, found.methods
    yield f"firmware = {_text('uefi' if system.uefi else 'bios')}"
    if system.uefi:
        yield from _comment(f"Secure Boot: {'ON' if system.secure_boot else 'off'}")
    yield from _comment(f"Started by: {methods.loader}")
    for reason in methods.in_the_way:
        yield from _comment(f"TODO before anything can be flashed: {reason}")
    for name, reasons in methods.refused.items():
        yield from _comment(f"not {name}: {'; '.join(reasons)}")
    yield from _comment("That the loader really starts an entry only once is proved before the first flash.")
    yield from _comment("TODO pxe: whether firmware starts from the network cannot be seen from here; add it if so.")
    yield f"boot_methods = [{', '.join(map(_text, methods.usable))}]"


def _network_boot(found: Discovery, wiring: Wiring) -> Iterator[str]:
    yield f"firmware = {_text('uefi' if found.system.uefi else 'bios')}"
    if found.system.uefi:
        yield from _comment(f"Secure Boot: {'ON' if found.system.secure_boot else 'off'}")
    yield from _comment("It was the rescue system that told this, from memory: what a system on its disk could start")
    yield from _comment("only that system can tell; bench recover NAME --rescue says what is on its disks.")
    yield 'boot_methods = ["pxe"]'
    yield f"pxe_loader = {_text(wiring.pxe_loader.value)}"
    if wiring.netboot is not Netboot.ORDER:
        yield f"netboot = {_text(wiring.netboot.value)}"
    yield 'known_good = "rescue"  # TODO take it out if it has a system of its own, and give [ssh]'


_BIOS_WORDS = {
    Told.SAME: "This system's log has no update of it: it is the BIOS's own, unless the system was started by kexec.",
    Told.KNOWN: "This system has updated it; the BIOS's own is {own}.",
    Told.HIDDEN: "This system has updated it, which hides the BIOS's own: TODO boot with dis_ucode_ldr to see that.",
    Told.UNKNOWN: "This system may have updated it (its log no longer reaches back to the start): TODO boot with "
    "dis_ucode_ldr to see the BIOS's own.",
}


def _microcode(found: Discovery) -> Iterator[str]:
    running = found.processor.revision
    if running is None:
        yield from _comment("Microcode: the kernel shows no revision.")
        return
    words = f"Microcode: revision 0x{running:08x} runs."
    if found.processor.vendor == INTEL:
        bios = bios_revision(found.kernel_log, running)
        own = "" if bios.revision is None else f"0x{bios.revision:08x}"
        words += " " + _BIOS_WORDS[bios.told].format(own=own)
    yield from _comment(words)


def _policy() -> Iterator[str]:
    yield from _comment("TODO policy, both false unless you say otherwise:")
    yield "# allow_updates = true     # microcode updates may be sent to it"
    yield "# allow_beyond_ram = true  # it is a sacrifice: addresses that are not RAM may be touched"


def _serial(found: Discovery, heard: Sequence[Heard], baud: int) -> Iterator[str]:
    ports = {port.name: port for port in found.ports}
    for port in found.ports:
        where = f"I/O port {port.io_port:#x}" if port.io_port else "no I/O ports: the payload cannot use it"
        yield from _comment(f"{port.name}: {where}")
    for one in heard:
        result = f"heard on {', '.join(one.urls)}" if one.urls else "heard nowhere"
        yield from _comment(f"{one.name}: {result}{f'; {one.trouble}' if one.trouble else ''}")
    wired = [one for one in heard if len(one.urls) == 1 and ports[one.name].io_port]
    if not wired:
        why = "which cable is whose cannot be known: --probe-serial --serial-url URL" if not heard else "see above"
        yield from _comment(f"TODO [serial]: {why}")
        yield "# [serial]"
        yield '# url = "…"'
        return
    first = wired[0]
    io_port = ports[first.name].io_port
    if io_port != COM1:
        yield from _comment(
            f"TODO the payload speaks at {COM1:#x}, this cable is at {io_port:#x}: bench.uart={io_port:#x}"
        )
    yield "[serial]"
    yield f"url = {_text(first.urls[0])}  # {first.name}"
    yield f"baud = {baud}"


def _power() -> Iterator[str]:
    yield from _comment("TODO [power]: no machine knows its outlet or its BMC's address.")
    yield "# [power]"
    yield '# backend = "…"'


def _no_ssh() -> Iterator[str]:
    yield from _comment("No [ssh]: the keys of the rescue system are made for each boot.")


def _ssh(access: SshAccess) -> Iterator[str]:
    yield "[ssh]"
    yield f"host = {_text(access.host)}"
    if access.port != 22:
        yield f"port = {access.port}"
    yield f"user = {_text(access.user)}"
    if access.key_file:
        yield f"key_file = {_text(access.key_file)}"
    yield f"host_key = {_text(' '.join(access.host_key.split()[:2]))}"
