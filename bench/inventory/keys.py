"""Keys that every machine's file has, and what QEMU's machines have beside them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, Field, StringConstraints, model_validator

from bench.errors import UsageError
from bench.hardware import Netboot, PxeLoader
from bench.inventory.microcode_keys import MicrocodeTable, processor_rules
from bench.inventory.values import STRICT, Mac, Memory, Name, Signature
from bench.records import Machine, VirtualHost, VirtualSpec
from bench.x86 import signature as signatures
from bench.x86.pc_memory import GIB, low_end, ram_end

# QEMU keeps so much of the address space above RAM for devices and refuses to start if it does not fit
# (7.2, pc machines: the 64-bit PCI hole's default).
_PCI_HOLE_BYTES = 2 * GIB

# Family and model of the processors that QEMU 7.2 can play (`qemu-system-x86_64 -cpu help`, read back with
# query-cpu-model-expansion), as far as this lab uses them.
QEMU_CPUS: Mapping[str, tuple[int, int]] = {
    "core2duo": (6, 15),
    "Conroe": (6, 15),
    "Penryn": (6, 23),
    "Nehalem": (6, 26),
    "Westmere": (6, 44),
    "SandyBridge": (6, 42),
    "IvyBridge": (6, 58),
    "Haswell": (6, 60),
    "Broadwell": (6, 61),
    "Skylake-Client": (6, 94),
    "Skylake-Server": (6, 85),
    "Cascadelake-Server": (6, 85),
    "Cooperlake": (6, 85),
    "Icelake-Server": (6, 134),
    "Denverton": (6, 95),
    "Snowridge": (6, 134),
    "KnightsMill": (6, 133),
}
HostDisk = Literal[
    "bios-grub", "uefi-grub", "uefi-grub-signed", "systemd-boot", "bios-grub-blind", "bios-grub-lvm", "bios-grub-raid",
    "bios-grub-luks", "none",
]  # fmt: skip
HostMethod = Literal["grub", "systemd-boot", "bootnext", "kexec", "pxe"]
_BY_BIOS = ("bios-grub", "bios-grub-blind", "bios-grub-lvm", "bios-grub-raid", "bios-grub-luks")
# What each disk can be started with, and the firmware that it is for.
_METHODS_OF_DISK: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(_BY_BIOS, ("grub", "kexec")),
    "uefi-grub": ("grub", "bootnext", "kexec"),
    "uefi-grub-signed": ("grub", "bootnext", "kexec"),
    "systemd-boot": ("systemd-boot", "bootnext", "kexec"),
    "none": (),
}
_FIRMWARE_OF_DISK = {
    **dict.fromkeys(_BY_BIOS, "bios"),
    "uefi-grub": "uefi", "uefi-grub-signed": "uefi", "systemd-boot": "uefi",
}  # fmt: skip
# -cpu properties that follow from the machine's own keys, so that the two can never disagree.
_DERIVED = {"stepping": "signature", "phys-bits": "maxphyaddr", "nx": "nx", "la57": "la57"}


def _property(value: str) -> str:
    match = re.fullmatch(r"([a-z0-9][a-z0-9._-]*)=([A-Za-z0-9._-]+)", value)
    if not match:
        raise ValueError("not a processor property: name=value, such as hypervisor=off")
    if match[1] in _DERIVED:
        raise ValueError(f"{match[1]} follows from the machine's key {_DERIVED[match[1]]!r}")
    return value


class HostTable(BaseModel):
    """Table ``[virtual.host]``: a disk with a boot loader and a known-good system, and a network card."""

    model_config = STRICT
    disk: Annotated[HostDisk, Field(description="What is on its disk; with none it starts over the network only.")]
    boot_methods: Annotated[list[HostMethod], Field(min_length=1, description="Ways to load it, preferred first.")]
    pxe_loader: Annotated[
        Literal["ipxe", "pxelinux", "grub", "uki", "uki-http"],
        Field(description="What loads the kernel over the network."),
    ] = "ipxe"
    netboot: Annotated[
        Literal["order", "bootnext"], Field(description="Who has it boot from the network: the network is first, or …")
    ] = "order"

    def record(self, path: Path) -> VirtualHost:
        """The record. Raises UsageError for a method that the disk does not have."""
        has = {*_METHODS_OF_DISK[self.disk], "pxe"}
        for method in self.boot_methods:
            if method not in has:
                raise UsageError(
                    f"{path}: virtual.host.boot_methods: {method!r} is not what a disk {self.disk!r} has; "
                    f"allowed: {', '.join(sorted(has))}"
                )
        if self.netboot == "bootnext" and ("pxe" not in self.boot_methods or "bootnext" not in has):
            raise UsageError(
                f"{path}: virtual.host.netboot: 'bootnext' is set by the system on a UEFI machine's disk, for "
                f"boot_methods with 'pxe'"
            )
        return VirtualHost(
            self.disk, tuple(self.boot_methods), PxeLoader(self.pxe_loader), netboot=Netboot(self.netboot)
        )


class VirtualTable(BaseModel):
    """Table ``[virtual]`` of a machine's file."""

    model_config = STRICT
    accelerator: Literal["tcg"] = "tcg"
    cpu: str
    properties: list[Annotated[str, AfterValidator(_property)]] = []
    processors: Annotated[int, Field(ge=1, le=8)] = 1
    firmware: Literal["bios", "uefi"] = "bios"
    microcode: MicrocodeTable | None = None
    host: HostTable | None = None


class MachineKeys(BaseModel):
    """What every machine's file has."""

    model_config = STRICT
    name: Name
    signature: Signature
    platform_id: Annotated[int, Field(ge=0, le=7)] = 0
    memory: Memory
    maxphyaddr: Annotated[int, Field(ge=32, le=52)]
    nx: bool = True
    la57: bool = False
    mac: Mac | None = None
    allow_beyond_ram: bool = False
    allow_updates: bool = False
    tags: list[Name] = []


class MachineFile(MachineKeys):
    """A file ``inventory/virtual/NAME.toml``."""

    virtual: VirtualTable


class QuirkApplies(BaseModel):
    """What a quirk applies to: machines that equal every key that is given, of which there is at least one."""

    model_config = STRICT
    accelerator: Literal["tcg"] | None = None
    signature: Signature | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError(f"at least one of {', '.join(type(self).model_fields)} is required")
        return self

    def to(self, machine: Machine) -> bool:
        """Whether the quirk applies to `machine`."""
        accelerator = machine.virtual.accelerator if machine.virtual else None
        return self.accelerator in (None, accelerator) and self.signature in (None, machine.signature)


class QuirkRow(BaseModel):
    """A ``[[quirk]]`` of ``inventory/quirks.toml``."""

    model_config = STRICT
    name: Name
    effect: Literal["qemu-tcg-rsvd-without-p"]
    applies: QuirkApplies
    source: Annotated[str, StringConstraints(min_length=10)]


class QuirksFile(BaseModel):
    """``inventory/quirks.toml``."""

    model_config = STRICT
    quirk: list[QuirkRow] = []


def virtual(path: Path, file: MachineFile) -> Machine:
    """The machine of a file, without quirks. Raises UsageError (file, key) if QEMU cannot play it."""
    _check_processor(path, file)
    _check_memory(path, file)
    spec, table = file.virtual, file.virtual.microcode
    rules = None
    if table is not None:
        rules = processor_rules(
            path, table, signature=file.signature, platform_id=file.platform_id, processors=spec.processors
        )
    if spec.host is not None and spec.firmware != (wanted := _FIRMWARE_OF_DISK.get(spec.host.disk, spec.firmware)):
        raise UsageError(f"{path}: virtual.firmware: {spec.firmware!r}: a disk {spec.host.disk!r} is for {wanted!r}")
    if spec.host is not None and (wanted := PxeLoader(spec.host.pxe_loader).firmware) not in ("", spec.firmware):
        raise UsageError(f"{path}: virtual.host.pxe_loader: {spec.host.pxe_loader!r} needs firmware = {wanted!r}")
    return Machine(
        name=file.name,
        signature=file.signature,
        memory_bytes=file.memory,
        maxphyaddr=file.maxphyaddr,
        nx=file.nx,
        la57=file.la57,
        virtual=VirtualSpec(
            spec.cpu,
            tuple(spec.properties),
            spec.accelerator,
            processors=spec.processors,
            firmware=spec.firmware,
            microcode=rules,
            host=spec.host.record(path) if spec.host is not None else None,
        ),
        platform_id=file.platform_id,
        allow_beyond_ram=file.allow_beyond_ram,
        allow_updates=file.allow_updates,
        tags=tuple(file.tags),
    )


def _check_processor(path: Path, file: MachineFile) -> None:
    """The signature must be what QEMU's processor will say."""
    cpu = file.virtual.cpu
    if cpu not in QEMU_CPUS:
        raise UsageError(f"{path}: virtual.cpu: {cpu!r} is not known; allowed: {', '.join(QEMU_CPUS)}")
    wanted = signatures.processor(file.signature)
    family, model = QEMU_CPUS[cpu]
    given = dict(text.split("=", 1) for text in file.virtual.properties)
    try:
        family, model = int(given.get("family", family)), int(given.get("model", model))
    except ValueError as error:
        raise UsageError(f"{path}: virtual.properties: family and model are decimal numbers: {error}") from error
    if (wanted.family, wanted.model) != (family, model):
        raise UsageError(
            f"{path}: signature: impossible: {wanted} is family {wanted.family} model {wanted.model}, "
            f"but virtual.cpu {cpu!r} has family {family} model {model}; allowed: {family:02x}-{model:02x}-00 to "
            f'{family:02x}-{model:02x}-0f, or virtual.properties = ["model={wanted.model}"]'
        )


def _check_memory(path: Path, file: MachineFile) -> None:
    end = ram_end(file.memory)
    if file.memory > low_end(file.memory):
        end += _PCI_HOLE_BYTES
    if end > 1 << file.maxphyaddr:
        raise UsageError(
            f"{path}: memory: does not fit: with the space that the chipset keeps for devices it ends at {end:#x}, "
            f"and maxphyaddr = {file.maxphyaddr} ends at {1 << file.maxphyaddr:#x}"
        )
