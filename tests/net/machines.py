"""Machines without a disk's system of their own: QEMU with a card on a boot network, behind an entry of metal.

The bench goes the way that it goes with metal: a power switch that is a program, a serial line, a loader.
"""

from __future__ import annotations

import itertools
import select
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from bench.hardware import BootNetwork, CommandSwitch, Cuts, PowerSpec, PxeLoader, Wiring
from bench.inventory import load_inventory
from bench.lab.load import Load
from bench.lab.net.place import Place
from bench.lab.net.segment import Segment, attached
from bench.lab.virtual import HTTP_ONLY, UEFI_FILES, qemu_command
from bench.records import Machine as Entry
from tests.rack.servers import Machine, program, server, wait_for

REPO = Path(__file__).parents[2]
ADDRESSES = ("10.77.0.1/24", "fd77::1/64")
NETWORK = BootNetwork("boot0", ADDRESSES[0])
# What iPXE in the first card's ROM says when it is started, not when the BIOS finds it.
ASKS = b"net0: 52:54:00:77:00:01 using"
DISK_SAYS = "disk: the machine's own system"
ONCE = "once"
"""In the folder of a machine: its next start, and that alone, asks the network first. What a BMC has set."""


def mac(number: int) -> str:
    return f"52:54:00:77:00:{number + 1:02x}"


def disk(path: Path) -> Path:
    """A disk whose boot sector says `DISK_SAYS` on the serial line and halts; for BIOS."""
    code = bytes([
        0xFA, 0x31, 0xC0, 0x8E, 0xD8, 0xBE, 0x21, 0x7C,  # cli; xor ax,ax; mov ds,ax; mov si,0x7c21
        0xAC, 0x84, 0xC0, 0x74, 0x11, 0x88, 0xC4,  # next: lodsb; test al,al; jz end; mov ah,al
        0xBA, 0xFD, 0x03, 0xEC, 0xA8, 0x20, 0x74, 0xFB,  # mov dx,0x3fd; wait: in al,dx; test al,0x20; jz wait
        0xB2, 0xF8, 0x88, 0xE0, 0xEE, 0xEB, 0xEA,  # mov dl,0xf8; mov al,ah; out dx,al; jmp next
        0xF4, 0xEB, 0xFD,  # end: hlt; jmp end
    ])  # fmt: skip
    code = code.ljust(0x21, b"\x90")
    sector = (code + f"\r\n{DISK_SAYS}\r\n".encode() + b"\0").ljust(510, b"\0") + b"\x55\xaa"
    path.write_bytes(sector.ljust(1 << 20, b"\0"))
    return path


@dataclass(frozen=True)
class Box:
    """A machine: as the lab has it, and as the bench knows it."""

    machine: Machine
    entry: Entry


@contextmanager
def box(
    folder: Path, segment: Segment | None, number: int, loader: PxeLoader, *, firmware: str = "bios", rom: bool = True,
    model: str = "haswell", netdev: str = "", serial: str = "", more: Sequence[str] = (), ip: bool = True,
    own_disk: bool = True, card: str = "", disk_first: bool = False,
) -> Iterator[Box]:  # fmt: skip
    """Machine `number` of a segment (or on `netdev`), off. `rom`: its card has iPXE in ROM; else UEFI's driver is used.

    Its line is a socket of its folder, or QEMU's character device `serial`. `own_disk`: one with BIOS has a disk that
    says so. `disk_first`: a BIOS that starts its disk, and the network in the one boot that finds the file `ONCE`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    entry = load_inventory(REPO)[model]
    line, pid_file, start = folder / "serial", folder / "pid", folder / "start"
    if segment is not None and not netdev:
        netdev = segment.netdev(number, "n0")
    card = card or ("virtio-net-pci" if firmware == "uefi" else "e1000")
    words = [
        program("qemu-system-x86_64"), "-nodefaults", "-no-user-config", "-display", "none", "-vga", "none",
        "-monitor", "none", *_board(entry, firmware),
        "-chardev", serial or f"socket,id=s0,path={line},server=off", "-serial", "chardev:s0",
        "-netdev", netdev,
        "-device", f"{card},netdev=n0,mac={mac(number)}" + _place(0, disk_first) + ("" if rom else ",romfile="),
        "-device", "virtio-rng-pci", *_firmware(folder, firmware),
        *(HTTP_ONLY if loader is PxeLoader.UKI_HTTP else ()), *more,
    ]  # fmt: skip
    if firmware == "bios" and own_disk:
        path = disk(folder / "disk")
        words += [
            "-drive",
            f"if=none,id=d0,format=raw,file={path}",
            "-device",
            "ide-hd,drive=d0" + _place(1, disk_first),
        ]
    words += ["-boot", "order=c"] if disk_first else []
    quoted = " ".join(f"'{word}'" for word in words)
    start.write_text(f"#!/bin/sh\ncd {folder}\necho $$ >{pid_file}.new && mv {pid_file}.new {pid_file}\n"
                     f"echo start >>starts\n[ ! -e {ONCE} ] || {{ rm {ONCE}; set -- -boot order=c,once=n; }}\n"
                     f"exec {quoted} \"$@\" 2>>qemu.stderr\n")  # fmt: skip
    start.chmod(0o755)
    machine = Machine(folder, start, pid_file)
    switch = str(machine.switch())
    wiring = Wiring(
        power=PowerSpec(
            CommandSwitch(Cuts.CHASSIS, on=(switch, "on"), off=(switch, "off"), status=(switch, "status")),
            minimum_off_s=0.1,
        ),
        mac=mac(number),
        ip=f"10.77.0.{101 + number}" if ip else "",
        firmware=firmware,
        boot_methods=("pxe",),
        time_to_post_s=15,
        pxe_loader=loader,
        boot_network=NETWORK,
    )
    try:
        yield Box(machine, replace(entry, virtual=None, serial_url=f"listen+unix://{line}", wiring=wiring))
    finally:
        machine.kill()


def _place(number: int, disk_first: bool) -> str:
    """In the firmware's order, which -boot has no part in."""
    return "" if disk_first else f",bootindex={number}"


def _board(entry: Entry, firmware: str) -> list[str]:
    """Processor and memory as the bench itself gives them to QEMU for this machine; firmware speaks on the line."""
    command = qemu_command(entry, Load(Path("k"), b"", ""), serial_path=Path("s"), witness=False)
    wanted = {"-accel", "-machine", "-cpu", "-smp", "-object", "-m"}
    pairs = dict(pair for pair in itertools.pairwise(command) if pair[0] in wanted)
    pairs["-machine"] += ",graphics=off"
    pairs["-cpu"] += ",hypervisor=off"
    if firmware == "uefi":
        pairs["-machine"] = pairs["-machine"].replace("pc,", "q35,", 1)
    return [word for pair in pairs.items() for word in pair]


def _firmware(folder: Path, firmware: str) -> list[str]:
    if firmware == "bios":
        return []
    code, template = (next(path for path in paths if path.is_file()) for paths in UEFI_FILES)
    variables = folder / "vars.fd"
    shutil.copyfile(template, variables)
    return [
        *("-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={code}"),
        *("-drive", f"if=pflash,unit=1,format=raw,file={variables}"),
    ]


class Line:
    """The far end of a machine's serial line while no boot of the bench listens."""

    def __init__(self, path: Path) -> None:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._path = path
        path.unlink(missing_ok=True)
        self._listener.bind(str(path))
        self._listener.listen(4)
        self.data = b""

    def until(self, text: str, patience_s: float = 240) -> bytes:
        """All that was said up to `text`; the test's own deadline is its only clock."""
        deadline = time.monotonic() + patience_s
        readers: list[socket.socket] = [self._listener]
        while text.encode() not in self.data:
            assert time.monotonic() < deadline, f"no {text!r} within {patience_s} s: {self.data[-1500:]!r}"
            for ready in select.select(readers, [], [], 0.5)[0]:
                if ready is self._listener:
                    readers.append(self._listener.accept()[0])
                    continue
                data = ready.recv(65536)
                self.data += data
                if not data:
                    readers.remove(ready)
        for one in readers[1:]:
            one.close()
        return self.data

    def close(self) -> None:
        self._listener.close()
        self._path.unlink(missing_ok=True)


def starts_its_disk(one: Box) -> bytes:
    """Power the machine up with nobody from the bench at work, and see its own system; what it said until then."""
    line = Line(one.machine.folder / "serial")
    try:
        subprocess.run([one.machine.folder / "switch", "on"], check=True)
        return line.until(DISK_SAYS)
    finally:
        one.machine.kill()
        line.close()


@contextmanager
def site_server(segment: Segment, port: int, log: Path, pool: str = "10.77.0.150,10.77.0.160") -> Iterator[Place]:
    """A site's own DHCP server, which knows nothing of us, on a computer of its own."""
    machine, switch = segment.socket_pair(port)
    with attached(["10.77.0.2/24"], [(str(machine), str(switch))]) as place:
        command = [
            *place.prefix, program("dnsmasq"), "--no-daemon", "--log-facility=-", "--conf-file=/dev/null", "--port=0",
            f"--interface={place.interface}", "--bind-interfaces", "--leasefile-ro", "--no-ping",
            f"--dhcp-range={pool},255.255.255.0,1h",
        ]  # fmt: skip
        with server(command, log):
            wait_for(lambda: "bound exclusively" in log.read_text(), "the site's DHCP server starts")
            yield place
