"""Machines of metal: files ``machines/NAME.toml``, and the record that each becomes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import parse_qs, quote, urlencode, urlsplit

from pydantic import Field

from bench.errors import UsageError
from bench.hardware import (
    AfterPowerLoss,
    CommandSwitch,
    Cuts,
    IpmiSwitch,
    ManualSwitch,
    Netboot,
    OwnSystem,
    PduSwitch,
    PowerSpec,
    PxeLoader,
    RedfishSwitch,
    SshAccess,
    Wiring,
)
from bench.inventory.keys import MachineKeys
from bench.inventory.power_keys import IpmiPower, PowerTable, SshTable, Table, WakePower
from bench.inventory.values import Ip, Name, Seconds, SerialUrl
from bench.records import Machine
from bench.x86.pc_memory import ram_end

# The one-shot of a boot loader on the machine's disk, of UEFI or of a running kernel; the network; or a medium that
# starts the same program every time.
BootMethod = Literal["grub", "systemd-boot", "bootnext", "kexec", "pxe", "loaded"]


class SerialTable(Table):
    """Table ``[serial]``."""

    url: Annotated[SerialUrl, Field(description="Device by its path, rfc2217://, socket:// or ipmi-sol://.")]
    baud: Annotated[int, Field(ge=300, le=4_000_000)] = 115200


class MetalFile(MachineKeys):
    """A file ``inventory/machines/NAME.toml``: a machine of metal."""

    ip: Ip | None = None
    firmware: Literal["bios", "uefi"] | None = None
    boot_methods: list[BootMethod] = Field([], description="Ways to load it, the preferred one first.")
    time_to_post_s: Annotated[
        Seconds | None, Field(description="Power-on to the boot loader; `bench health` learns how long at most.")
    ] = None
    netboot: Netboot = Field(Netboot.ORDER, strict=False, description="Who has it boot from the network.")
    pxe_loader: PxeLoader = Field(PxeLoader.IPXE, strict=False, description="What its firmware loads then.")
    secure_boot: Annotated[bool, Field(description="Its firmware starts signed programs only.")] = False
    known_good: OwnSystem = Field(
        OwnSystem.DISK, strict=False, description="Where its own system is; rescue: it has none, one comes by network."
    )
    quirks: list[Name] = Field([], description="Names of rows of quirks.toml, beside those that apply.")
    serial: SerialTable
    power: PowerTable | None = None
    ssh: SshTable | None = None


def metal(path: Path, file: MetalFile, root: Path) -> Machine:
    """The machine of a file. Raises UsageError (file, key) for what no single key can be blamed for."""
    ssh = file.ssh.record() if file.ssh else None
    power = _power(path, file, ssh)
    if ram_end(file.memory) > 1 << file.maxphyaddr:
        raise UsageError(f"{path}: memory: does not fit: RAM ends above what maxphyaddr = {file.maxphyaddr} reaches")
    _keep_secrets_outside(path, file, root)
    _check_netboot(path, file, power)
    _check_own_system(path, file)
    return Machine(
        name=file.name,
        signature=file.signature,
        memory_bytes=file.memory,
        maxphyaddr=file.maxphyaddr,
        nx=file.nx,
        la57=file.la57,
        serial_url=_serial_url(path, file),
        serial_baud=file.serial.baud,
        platform_id=file.platform_id,
        allow_beyond_ram=file.allow_beyond_ram,
        allow_updates=file.allow_updates,
        tags=tuple(file.tags),
        wiring=Wiring(
            power=power,
            ssh=ssh,
            mac=file.mac or "",
            ip=file.ip or "",
            firmware=file.firmware or "",
            boot_methods=tuple(file.boot_methods),
            time_to_post_s=file.time_to_post_s,
            netboot=file.netboot,
            pxe_loader=file.pxe_loader,
            secure_boot=file.secure_boot,
            known_good=file.known_good,
        ),
    )


def _power(path: Path, file: MetalFile, ssh: SshAccess | None) -> PowerSpec | None:
    table = file.power
    if table is None:
        return None
    if isinstance(table, WakePower):
        if ssh is None:
            raise UsageError(f"{path}: power: wake-on-lan switches off over SSH: a table [ssh] is required")
        if not (table.mac or file.mac):
            raise UsageError(f"{path}: power.mac: missing: wake-on-lan needs it, here or as the machine's own key mac")
        spec = table.spec(table.record(file.mac or "", ssh))
    else:
        spec = table.spec(table.record())
    if spec.ac is not None and isinstance(spec.ac, CommandSwitch | ManualSwitch) and spec.ac.cuts is not Cuts.AC:
        raise UsageError(f'{path}: power.ac.cuts: {spec.ac.cuts.value!r}: what stands in [power.ac] cuts "ac"')
    cuts_ac = isinstance(spec.switch, PduSwitch) or (
        isinstance(spec.switch, CommandSwitch | ManualSwitch) and spec.switch.cuts is Cuts.AC
    )
    if cuts_ac and spec.ac is not None:
        raise UsageError(f"{path}: power.ac: the switch of [power] cuts the mains already")
    if cuts_ac and spec.after_power_loss is AfterPowerLoss.OFF:
        raise UsageError(
            f"{path}: power.after_power_loss: 'off': the machine would stay off when its outlet is switched on; "
            'set its firmware to "on" or "last", or make the chassis\' switch [power] and the outlet [power.ac]'
        )
    return spec


def _check_netboot(path: Path, file: MetalFile, power: PowerSpec | None) -> None:
    """Boot loader, firmware and whoever selects the network have to fit."""
    if "pxe" not in file.boot_methods:
        return
    needs = {Netboot.IPMI: IpmiSwitch, Netboot.REDFISH: RedfishSwitch}.get(file.netboot)
    if needs is not None and not (power and isinstance(power.switch, needs)):
        raise UsageError(f"{path}: netboot: {file.netboot.value!r} is the BMC of [power], whose backend is another")
    wanted = file.pxe_loader.firmware
    if wanted and file.firmware != wanted:
        raise UsageError(f"{path}: pxe_loader: {file.pxe_loader.value!r} needs firmware = {wanted!r}")
    if file.netboot is Netboot.BOOTNEXT:
        if file.firmware != "uefi":
            raise UsageError(f"{path}: netboot: 'bootnext' is UEFI's: it needs firmware = 'uefi'")
        if file.ssh is None:
            raise UsageError(f"{path}: netboot: 'bootnext' is set by the machine's own system: it needs [ssh]")
    if file.secure_boot:
        raise UsageError(
            f"{path}: secure_boot: boot_methods has 'pxe', and this firmware starts signed programs only; what the "
            "bench offers is not signed: switch Secure Boot off in the firmware's setup"
        )


def _check_own_system(path: Path, file: MetalFile) -> None:
    """A machine without a system of its own is started over the network, and keeps nothing on a disk."""
    if file.known_good is not OwnSystem.RESCUE:
        return
    if "pxe" not in file.boot_methods:
        raise UsageError(f"{path}: known_good: 'rescue' comes over the network: boot_methods needs 'pxe'")
    others = [method for method in file.boot_methods if method not in ("pxe", "loaded")]
    if others:
        raise UsageError(
            f"{path}: boot_methods: {others[0]!r} is started by a system on the machine's disk, and known_good = "
            "'rescue' says that it has none"
        )


def _serial_url(path: Path, file: MetalFile) -> str:
    """The URL; what a bare ``ipmi-sol://`` leaves out is the BMC's of ``[power]``."""
    url = urlsplit(file.serial.url)
    if url.scheme != "ipmi-sol":
        return file.serial.url
    names = parse_qs(url.query)
    if url.hostname:
        if not url.username or len(names) != 1 or not set(names) <= {"password_env", "password_file"}:
            form = "ipmi-sol://USER@HOST?password_env=NAME (or password_file=PATH)"
            raise UsageError(f"{path}: serial.url: {file.serial.url!r} is not of the form {form}, or bare: ipmi-sol://")
        return file.serial.url
    if not isinstance(file.power, IpmiPower):
        raise UsageError(f"{path}: serial.url: a bare ipmi-sol:// is the BMC of [power], whose backend is not ipmi")
    bmc = file.power
    where = {"password_env": bmc.password_env} if bmc.password_env else {"password_file": bmc.password_file or ""}
    return f"ipmi-sol://{quote(bmc.user)}@{bmc.host}:{bmc.port}?{urlencode(where)}"


def _keep_secrets_outside(path: Path, file: MetalFile, root: Path) -> None:
    files = {"ssh.key_file": file.ssh.key_file if file.ssh else ""}
    if file.power is not None:
        files["power.password_file"] = getattr(file.power, "password_file", None) or ""
        for key, table in (("power.ssh", file.power), ("power.ac.ssh", file.power.ac)):
            way = getattr(table, "ssh", None)
            files[f"{key}.key_file"] = way.key_file if way else ""
    for key, name in files.items():
        if not name:
            continue
        if not name.startswith(("/", "~/")):
            raise UsageError(f"{path}: {key}: {name!r} is relative: begin it with / or ~/")
        if Path(name).expanduser().resolve().is_relative_to(root.resolve()):
            raise UsageError(f"{path}: {key}: {name} lies in the repository, where a secret has no place")
