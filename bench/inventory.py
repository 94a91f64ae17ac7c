"""The machines of the lab, read from ``inventory/``: TOML files, one machine each, and the table of quirks.

`inventory/README.md` explains every key. Whatever is wrong with a file becomes a UsageError that names
the file, the key and what is allowed; nothing is guessed and nothing unknown is passed over.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from bench.errors import UsageError
from bench.records import Machine, VirtualSpec
from bench.x86 import signature as signatures
from bench.x86.pc_memory import GIB, low_end, ram_end

UNITS = {"MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
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
# -cpu properties that follow from the machine's own keys, so that the two can never disagree.
_DERIVED = {"stepping": "signature", "phys-bits": "maxphyaddr", "nx": "nx", "la57": "la57"}


def _memory_bytes(value: object) -> int:
    match = re.fullmatch(r"([0-9]+) ?([A-Za-z]*)", value) if isinstance(value, str) else None
    if match is None or match[2] not in UNITS:
        raise ValueError(f'not a memory size: a whole number and a unit ({", ".join(UNITS)}), such as "8 GiB"')
    size = int(match[1]) * UNITS[match[2]]
    if size < 64 * UNITS["MiB"]:
        raise ValueError("less than 64 MiB, in which a payload, its script and firmware do not fit")
    return size


def _signature(value: object) -> int:
    try:
        if isinstance(value, str):
            return signatures.parse_model(value)
        if isinstance(value, int) and not isinstance(value, bool):
            signatures.processor(value)
            return value
    except UsageError as error:
        raise ValueError(f"impossible signature: {error}") from error
    raise ValueError(
        'not a signature: CPUID leaf 1 EAX such as 0x000906ea, or family-model-stepping such as "06-9e-0a"'
    )


def _mac(value: str) -> str:
    digits = value.lower()
    if not re.fullmatch(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", digits):
        raise ValueError("not a MAC address: six pairs of hexadecimal digits with colons, such as 52:54:00:12:34:56")
    if int(digits[:2], 16) & 1:
        raise ValueError("a group address (bit 0 of the first byte is set), which no machine has")
    if digits == "00:00:00:00:00:00":
        raise ValueError("all zero, which no machine has")
    return digits


def _property(value: str) -> str:
    match = re.fullmatch(r"([a-z0-9][a-z0-9._-]*)=([A-Za-z0-9._-]+)", value)
    if not match:
        raise ValueError("not a processor property: name=value, such as hypervisor=off")
    if match[1] in _DERIVED:
        raise ValueError(f"{match[1]} follows from the machine's key {_DERIVED[match[1]]!r}")
    return value


Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,40}$")]
_STRICT = ConfigDict(extra="forbid", strict=True)


class VirtualTable(BaseModel):
    """Table ``[virtual]`` of a machine's file."""

    model_config = _STRICT
    accelerator: Literal["tcg"] = "tcg"
    cpu: str
    properties: list[Annotated[str, AfterValidator(_property)]] = []


class MachineFile(BaseModel):
    """A file ``inventory/virtual/NAME.toml``."""

    model_config = _STRICT
    name: Name
    signature: Annotated[int, BeforeValidator(_signature)]
    platform_id: Annotated[int, Field(ge=0, le=7)] = 0
    memory: Annotated[int, BeforeValidator(_memory_bytes)]
    maxphyaddr: Annotated[int, Field(ge=32, le=52)]
    nx: bool = True
    la57: bool = False
    mac: Annotated[str, AfterValidator(_mac)] | None = None
    allow_beyond_ram: bool = False
    allow_updates: bool = False
    tags: list[Name] = []
    virtual: VirtualTable


class QuirkApplies(BaseModel):
    """What a quirk applies to: machines that equal every key that is given, of which there is at least one."""

    model_config = _STRICT
    accelerator: Literal["tcg"] | None = None
    signature: Annotated[int, BeforeValidator(_signature)] | None = None

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

    model_config = _STRICT
    name: Name
    effect: Literal["qemu-tcg-rsvd-without-p"]
    applies: QuirkApplies
    source: Annotated[str, StringConstraints(min_length=10)]


class QuirksFile(BaseModel):
    """``inventory/quirks.toml``."""

    model_config = _STRICT
    quirk: list[QuirkRow] = []


_Model = TypeVar("_Model", bound=BaseModel)


def find_root(start: Path | None = None) -> Path:
    """The lab's folder: ``BENCH_ROOT``, or the nearest folder at or above `start` (default: the working directory)
    that has ``inventory/`` and ``firmware-images/``. Raises UsageError if there is none."""
    named = os.environ.get("BENCH_ROOT")
    places = [Path(named)] if named else [(start or Path.cwd()).absolute(), *(start or Path.cwd()).absolute().parents]
    for place in places:
        if (place / "inventory").is_dir() and (place / "firmware-images").is_dir():
            return place
    where = f"BENCH_ROOT={named} has" if named else f"neither {places[0]} nor a folder above it has"
    raise UsageError(f"{where} no inventory/ and firmware-images/; go to the lab's folder or set BENCH_ROOT to it")


def load_inventory(root: Path) -> dict[str, Machine]:
    """All machines of the lab at `root` by name, in order of their names.

    Raises UsageError (file, key, what is allowed) for the first thing that is wrong with a file.
    """
    folder = root / "inventory"
    quirks = _read(folder / "quirks.toml", QuirksFile).quirk if (folder / "quirks.toml").exists() else []
    files = {path: _read(path, MachineFile) for path in sorted((folder / "virtual").glob("*.toml"))}
    _refuse_duplicates(files)
    machines = (_machine(path, file, quirks) for path, file in files.items())
    return {machine.name: machine for machine in machines}


def _read(path: Path, model: type[_Model]) -> _Model:
    try:
        return model.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: not TOML: {error}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from error
    except ValidationError as error:
        raise UsageError(f"{path}: {_words(error, model)}") from error


def _words(error: ValidationError, model: type[BaseModel]) -> str:
    """The first of pydantic's complaints: key, value and what is allowed."""
    # A misspelt key is both unknown and missing: the first of the two says more.
    first = min(error.errors(include_url=False), key=lambda one: one["type"] != "extra_forbidden")
    where = [part for part in first["loc"] if part != "str"]
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in where).lstrip(".")
    match first["type"]:
        case "extra_forbidden":
            return f"{key}: unknown key; allowed here: {', '.join(_keys(model, where[:-1]))}"
        case "missing":
            return f"{key}: missing; it is required"
        case "string_pattern_mismatch":
            return f"{key}: {first['input']!r} is not lower-case letters, digits and hyphens (at most 41)"
        case "value_error":
            return f"{key}: {first['input']!r}: {first['ctx']['error']}"
        case _:
            return f"{key}: {first['input']!r}: {first['msg']}"


def _keys(model: type[BaseModel], where: Iterable[int | str]) -> list[str]:
    """The keys of the table at `where` in a file of `model`."""
    tables: dict[str, type[BaseModel]] = {"virtual": VirtualTable, "quirk": QuirkRow, "applies": QuirkApplies}
    for part in where:
        model = tables[part] if isinstance(part, str) else model
    return list(model.model_fields)


def _refuse_duplicates(files: Mapping[Path, MachineFile]) -> None:
    names: dict[str, Path] = {}
    macs: dict[str, Path] = {}
    for path, file in files.items():
        if file.name in names:
            raise UsageError(f"{path}: name: {file.name!r} is already the name of {names[file.name]}")
        names[file.name] = path
        if file.mac is not None:
            if file.mac in macs:
                raise UsageError(f"{path}: mac: {file.mac} is already the MAC of {macs[file.mac]}")
            macs[file.mac] = path
    for path, file in files.items():
        if file.name != path.stem:
            raise UsageError(f"{path}: name: {file.name!r} is not the file's name; allowed: {path.stem!r}")


def _machine(path: Path, file: MachineFile, quirks: Iterable[QuirkRow]) -> Machine:
    _check_processor(path, file)
    _check_memory(path, file)
    machine = Machine(
        name=file.name,
        signature=file.signature,
        memory_bytes=file.memory,
        maxphyaddr=file.maxphyaddr,
        nx=file.nx,
        la57=file.la57,
        virtual=VirtualSpec(file.virtual.cpu, tuple(file.virtual.properties), file.virtual.accelerator),
        platform_id=file.platform_id,
        allow_beyond_ram=file.allow_beyond_ram,
        allow_updates=file.allow_updates,
        tags=tuple(file.tags),
    )
    fields: dict[str, Any] = vars(machine) | {"quirks": tuple(row.effect for row in quirks if row.applies.to(machine))}
    return Machine(**fields)


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
