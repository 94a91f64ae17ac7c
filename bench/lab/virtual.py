"""A virtual machine behind the interface of a real one: QEMU plays what the inventory says.

Gives `lab.boot` a serial URL to listen on and a power switch. Nothing of the host's configuration is used
and no device is there but the processor, memory, the firmware's minimum and one 16550 at 0x3f8.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from bench.errors import LabError, UsageError
from bench.lab.load import Load
from bench.lab.power import Incident, IncidentKind
from bench.lab.power.qemu import HALTED_FOR_GOOD, QemuPower
from bench.lab.scratch import scratch
from bench.lab.virtual_cpu import VirtualProcessors
from bench.records import Machine, VirtualSpec
from bench.x86.microcode_processor import Cores, Restart
from bench.x86.pc_memory import ram_end

PROGRAM = "qemu-system-x86_64"
EXCEPTIONS = "exceptions.log"
# The initrd of a boot whose capture keeps only a part of it; removed at power-off.
INITRD = "initrd.img"
# The firmware's code and the template of its variables, by distribution.
UEFI_FILES = (
    (
        Path("/usr/share/OVMF/OVMF_CODE_4M.fd"),
        Path("/usr/share/OVMF/OVMF_CODE.fd"),
        Path("/usr/share/edk2/ovmf/OVMF_CODE.fd"),
    ),
    (
        Path("/usr/share/OVMF/OVMF_VARS_4M.fd"),
        Path("/usr/share/OVMF/OVMF_VARS.fd"),
        Path("/usr/share/edk2/ovmf/OVMF_VARS.fd"),
    ),
)
# OVMF's switches that have it start from its card by HTTP at once, and not after its time-outs of PXE.
HTTP_ONLY = tuple(
    word for one in ("IPv4", "IPv6") for word in ("-fw_cfg", f"name=opt/org.tianocore/{one}PXESupport,string=n")
)
# With Microsoft's and Debian's keys in its variables; it wants a chipset with system management mode.
SECURE_FILES = (
    (Path("/usr/share/OVMF/OVMF_CODE_4M.secboot.fd"), Path("/usr/share/OVMF/OVMF_CODE.secboot.fd")),
    (Path("/usr/share/OVMF/OVMF_VARS_4M.ms.fd"), Path("/usr/share/OVMF/OVMF_VARS.ms.fd")),
)
# From here on the SMBIOS 2 tables, one record for each 16 GiB, outgrow their 64 KiB.
BIG_MEMORY_BYTES = 1 << 40
# sizeof(sockaddr_un.sun_path) is 108 with the terminating zero.
SUN_PATH_BYTES = 107
# OVMF takes 4 s alone on a core.
UEFI_POST_S = 300.0
_PREFIX = "bench-lab-"


@dataclass(frozen=True)
class VirtualRig:
    """A virtual machine's two ends: where its serial line comes in, and its power."""

    serial_url: str
    power: QemuPower
    processors: VirtualProcessors | None = None
    """What plays their microcode, if the inventory asks for that."""


@contextmanager
def rig(machine: Machine, load: Load, folder: Path, *, witness: bool) -> Iterator[VirtualRig]:
    """Prepare `machine`, still off. Removes its sockets afterwards; files that tell of the boot stay in `folder`.

    Expects the initrd as ``script.txt`` in `folder` by the time of power-on. With `witness` QEMU logs
    every exception to ``exceptions.log`` there.
    """
    with socket_folder() as sockets:
        path, stub = sockets / "serial", sockets / "gdb"
        command = qemu_command(machine, load, serial_path=path, witness=witness)
        processors = _processors(machine, load, folder)
        power = QemuPower(command, folder)
        if processors is not None:
            command += ["-chardev", f"socket,id=gdb,path={_escape(stub)},server=on,wait=off", "-gdb", "chardev:gdb"]
            power = QemuPower(
                command, folder, before_run=lambda: _attach(processors, stub), suspended=processors.suspended
            )
            processors.hangs = lambda which: _note_still(power, which)
            processors.give_up = lambda why: power.note(Incident(IncidentKind.LOST, {"virtual processors": why}))
        try:
            if load.offer is not None:
                folder.mkdir(parents=True, exist_ok=True)
                (folder / INITRD).write_bytes(load.initrd)
            yield VirtualRig(f"fifo://{quote(str(path))}", power, processors)
        finally:
            if processors is not None:
                processors.close()
            power.off()
            (folder / INITRD).unlink(missing_ok=True)


def _processors(machine: Machine, load: Load, folder: Path) -> VirtualProcessors | None:
    """What plays the microcode of `machine`'s processors, if they take any and the image is known to load some."""
    spec = machine.virtual
    if spec is None or spec.microcode is None or load.msr_sites is None:
        return None
    cores = load.cores or Cores(spec.microcode, spec.processors)
    # QEMU is started anew: whatever a boot before has loaded is gone with the power.
    cores.restart(Restart.POWER_CYCLE)
    slide = None if load.may_lie_elsewhere else 0
    return VirtualProcessors(cores, load.msr_sites, ram_end(machine.memory_bytes), folder, slide=slide)


def _note_still(power: QemuPower, hung: frozenset[int]) -> None:
    """A processor does not come back, and the machine is stopped: if no other can go on either, the boot is over."""
    others = power.processors().items()
    if others and all(state == HALTED_FOR_GOOD for number, state in others if number not in hung):
        those = ", ".join(map(str, sorted(hung)))
        limit = f"processor {those} does not come back from its write, all others are {HALTED_FOR_GOOD}"
        power.note(Incident(IncidentKind.STILL, {"limit": limit}))


def _attach(processors: VirtualProcessors, stub: Path) -> None:
    processors.attach(stub)
    processors.start()


def machine_options(machine: Machine) -> list[str]:
    """QEMU with the processor, memory and chipset of `machine` and nothing else. Raises UsageError if it is not
    virtual."""
    spec = machine.virtual
    if spec is None:
        raise UsageError(f"{machine.name}: not a virtual machine")
    cpu = ",".join(
        (
            spec.cpu,
            f"stepping={machine.signature & 0xF}",
            f"phys-bits={machine.maxphyaddr}",
            f"nx={_on(machine.nx)}",
            f"la57={_on(machine.la57)}",
            *spec.properties,
        )
    )
    secure = spec.host is not None and spec.host.secure_boot
    chipset = "q35,smm=on" if secure else "pc"
    options = f"{chipset},memory-backend=memory,usb=off,vmport=off,hpet=off"
    if machine.memory_bytes >= BIG_MEMORY_BYTES:
        options += ",smbios-entry-point-type=64"
    return [
        *(PROGRAM, "-nodefaults", "-no-user-config", "-display", "none", "-monitor", "none"),
        *("-accel", spec.accelerator, "-machine", options, "-cpu", cpu, "-smp", _processors_option(spec)),
        # Not reserved: a page costs nothing until the guest touches it.
        *("-object", f"memory-backend-ram,id=memory,size={machine.memory_bytes},reserve=off"),
        *("-m", f"{machine.memory_bytes >> 20}M"),
        # So that it could sleep, OVMF keeps the MiB behind 8 MiB for itself, where kernels and windows may be loaded.
        *(("-global", f"{'ICH9-LPC' if secure else 'PIIX4_PM'}.disable_s3=1") if spec.firmware == "uefi" else ()),
        *(("-global", "driver=cfi.pflash01,property=secure,value=on") if secure else ()),
    ]


def qemu_command(machine: Machine, load: Load, *, serial_path: Path, witness: bool) -> list[str]:
    """QEMU's command line for `machine` with `load`, to be run in the boot's folder. Raises UsageError."""
    command = [
        *machine_options(machine),
        *("-chardev", f"pipe,id=serial,path={_escape(serial_path)}", "-serial", "chardev:serial"),
        *("-kernel", str(load.kernel.absolute()), "-append", load.command_line),
    ]
    if machine.virtual is not None and machine.virtual.firmware == "uefi":
        command += _uefi_options()
    if load.initrd:
        command += ["-initrd", "script.txt" if load.offer is None else INITRD]
    if witness:
        command += ["-d", "int", "-D", EXCEPTIONS]
    return command


def firmware_files(*, secure_boot: bool = False) -> tuple[Path, Path]:
    """Code of UEFI firmware and the template of its variables. Raises LabError if it is not installed."""
    files = SECURE_FILES if secure_boot else UEFI_FILES
    code, variables = (next((p for p in paths if p.is_file()), None) for paths in files)
    if code is None or variables is None:
        raise LabError(
            "no UEFI firmware for virtual machines is installed: bench doctor --install, or apt-get install ovmf",
            component="QEMU",
            witness=f"neither of {', '.join(map(str, files[0]))}",
        )
    return code, variables


def post_s(machine: Machine) -> float:
    """How long the firmware of `machine` may be silent, seconds: generous, since many may start at once, and many times
    as long while exceptions are logged."""
    return UEFI_POST_S if machine.virtual is not None and machine.virtual.firmware == "uefi" else 0.0


def _uefi_options() -> list[str]:
    """Firmware of UEFI; its variables are forgotten at power-off."""
    code, variables = firmware_files()
    return [
        *("-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={code}"),
        *("-drive", f"if=pflash,unit=1,format=raw,snapshot=on,file={variables}"),
    ]


def _processors_option(spec: VirtualSpec) -> str:
    """Processors, and which of them are siblings where their microcode is played."""
    # A boot plan may have fewer processors than the inventory: one alone has no sibling.
    siblings = spec.microcode.siblings if spec.microcode and spec.processors > 1 else 1
    if siblings > 1:
        return f"{spec.processors},sockets=1,threads={siblings}"
    return f"{spec.processors},sockets={spec.processors}" if spec.packages else str(spec.processors)


def _on(value: bool) -> str:
    return "on" if value else "off"


def _escape(path: Path) -> str:
    return str(path).replace(",", ",,")


@contextmanager
def socket_folder() -> Iterator[Path]:
    """A folder that only we may enter, with a name short enough for a unix socket's address."""
    for parent in (Path(tempfile.gettempdir()), Path("/tmp")):
        if len(os.fsencode(parent)) + len(f"/{_PREFIX}12345678/serial") <= SUN_PATH_BYTES:
            with scratch(_PREFIX, parent) as folder:
                yield folder
            return
    raise LabError("no folder with a name short enough for a unix socket", component="bench")
