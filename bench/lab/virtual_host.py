"""A virtual machine that is like one in a rack: disk, boot loader, a system that answers SSH, a network card.

`plugged` is the rack: it gives the machine a copy of its disk, variables of its firmware, a serial line that outlives
power cycles, an address, and a switch. From there on everything goes the way of a machine of metal.
"""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

from bench.errors import LabError, UsageError
from bench.hardware import Netboot, PowerSpec, ProcessSwitch, PxeLoader, SshAccess
from bench.lab.power.process import ProcessDevice
from bench.lab.power.switched import SwitchedPower
from bench.lab.virtual import HTTP_ONLY, firmware_files, machine_options, socket_folder
from bench.records import HostFiles, Machine, VirtualHost

# A process has no capacitors.
MINIMUM_OFF_S = 0.1
# From power-on to the boot loader: SeaBIOS takes 2 s, OVMF 4 s alone on a core, and there may be others.
POST_S = {"bios": 20.0, "uefi": 45.0}
MAC = "52:54:00:be:c4:01"
_COPY_BYTES = 1 << 20


@dataclass(frozen=True)
class Plugged:
    """A machine in the rack, off. `machine` has its wiring, its serial URL and its switch's limits."""

    machine: Machine
    power: SwitchedPower
    device: ProcessDevice
    disk: Path | None
    """Its own disk; nobody else writes to it while it is on."""


@contextmanager
def plugged(machine: Machine, folder: Path, *, network: Sequence[str] | None = None) -> Iterator[Plugged]:
    """The rack for `machine` (`virtual.host` with its files); off and gone at the end. QEMU's words stay in `folder`.

    `network`: QEMU's options for its card's other end, whose id is ``net``; by default a network of its own, in which
    a port of this computer's loopback leads to its SSH. With `network` it has a card on each of the two. Raises
    UsageError, LabError.
    """
    spec = machine.virtual
    host = spec.host if spec is not None else None
    if spec is None or host is None or host.files is None:
        raise UsageError(f"{machine.name}: has no [virtual.host], or its disk was not made")
    folder.mkdir(parents=True, exist_ok=True)
    with socket_folder() as own:
        disk = _own_disk(host.files, own)
        files = firmware_files(secure_boot=host.secure_boot) if spec.firmware == "uefi" else None
        port = _free_port()
        access = SshAccess("127.0.0.1", "root", host.files.host_key, port, str(host.files.key_file))
        mac = machine.wiring.mac or MAC
        to_ssh = f"restrict=on,hostfwd=tcp:127.0.0.1:{port}-:22"
        first: tuple[str, ...] = ()
        if network is None:
            network = ("-netdev", f"user,id=net,{to_ssh}")
        else:
            first = ("-netdev", f"user,id=ssh,{to_ssh}", "-device", "virtio-net-pci,netdev=ssh,romfile=")
        command = [
            *machine_options(machine),
            *("-chardev", f"pipe,id=serial,path={own / 'serial'}", "-serial", "chardev:serial"),
            *(_disk_options(disk) if disk is not None else ()),
            *(_firmware_options(files[0], Path(shutil.copyfile(files[1], own / "variables"))) if files else ()),
            *first,
            *network,
            *("-device", _card(host, spec.firmware, mac)),
            *("-device", "virtio-rng-pci"),
            *(HTTP_ONLY if (host.pxe_loader, host.netboot) == (PxeLoader.UKI_HTTP, Netboot.ORDER) else ()),
        ]
        device = ProcessDevice(command, folder)
        power_spec = PowerSpec(ProcessSwitch(), minimum_off_s=MINIMUM_OFF_S, answer_s=60.0, settle_s=60.0)
        wiring = replace(
            machine.wiring,
            power=power_spec,
            ssh=access,
            mac=mac,
            firmware=spec.firmware,
            boot_methods=host.boot_methods,
            time_to_post_s=POST_S[spec.firmware],
        )
        wired = replace(machine, serial_url=f"fifo://{quote(str(own / 'serial'))}", wiring=wiring)
        try:
            yield Plugged(wired, SwitchedPower(device, power_spec), device, disk)
        finally:
            device.close()


def _own_disk(files: HostFiles, own: Path) -> Path | None:
    """A sparse copy, so that what one run does to it no other sees."""
    if files.disk is None:
        return None
    target = own / "disk"
    with files.disk.open("rb") as source, target.open("wb") as out:
        while block := source.read(_COPY_BYTES):
            if any(block):
                out.write(block)
            else:
                out.seek(len(block), os.SEEK_CUR)
        out.truncate(files.disk.stat().st_size)
    return target


def _disk_options(disk: Path) -> list[str]:
    # What the guest has synced survives the end of QEMU's process, as it survives a power cut on metal.
    return ["-drive", f"if=none,id=disk,format=raw,file={disk}", "-device", "virtio-blk-pci,drive=disk,bootindex=2"]


def _firmware_options(code: Path, variables: Path) -> list[str]:
    return [
        *("-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={code}"),
        *("-drive", f"if=pflash,unit=1,format=raw,file={variables}"),
    ]


def _card(host: VirtualHost, firmware: str, mac: str) -> str:
    """The network card. It starts from the network, before the disk, only if that is a way to load the machine; iPXE in
    its ROM goes before UEFI's own driver, so it has one only where iPXE is wanted."""
    card = f"virtio-net-pci,netdev=net,mac={mac}"
    if "pxe" not in host.boot_methods:
        return f"{card},romfile="
    own_driver = firmware == "uefi" and host.pxe_loader is not PxeLoader.IPXE
    place = 3 if host.netboot is Netboot.BOOTNEXT else 1
    return f"{card},bootindex={place}" + (",romfile=" if own_driver else "")


def _free_port() -> int:
    try:
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            port: int = one.getsockname()[1]
            return port
    except OSError as error:
        raise LabError(f"no port of the loopback is free: {error}", component="bench") from error
