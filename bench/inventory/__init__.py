"""The machines of the lab, read from ``inventory/``: TOML files, one machine each, and the table of quirks.

`inventory/README.md` explains every key. Whatever is wrong with a file becomes a UsageError that names
the file, the key and what is allowed; nothing is guessed and nothing unknown is passed over.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from bench.errors import UsageError
from bench.hardware import BootNetwork
from bench.inventory.conflicts import Problem, conflicts, warnings
from bench.inventory.keys import QEMU_CPUS, MachineFile, QuirkRow, QuirksFile, virtual
from bench.inventory.lab_keys import LabFile, network_problems
from bench.inventory.metal import MetalFile, metal
from bench.inventory.reading import read
from bench.inventory.values import UNITS
from bench.records import Machine

__all__ = ["QEMU_CPUS", "UNITS", "Problem", "Survey", "find_root", "load_inventory", "schema", "survey"]


@dataclass(frozen=True)
class Survey:
    """The machines of a folder that could be read, and all that is wrong or doubtful."""

    machines: Mapping[str, Machine]
    problems: tuple[Problem, ...]
    boot_network: BootNetwork | None = None
    """The lab's, if it has one."""

    @property
    def errors(self) -> tuple[Problem, ...]:
        """What keeps the inventory from being used."""
        return tuple(problem for problem in self.problems if problem.error)


def find_root(start: Path | None = None) -> Path:
    """The lab's folder: the nearest folder at or above `start` (default: ``BENCH_ROOT``, or else the working directory)
    that has ``inventory/`` and ``firmware-images/``. Raises UsageError if there is none."""
    named = os.environ.get("BENCH_ROOT") if start is None else None
    places = [Path(named)] if named else [(start or Path.cwd()).absolute(), *(start or Path.cwd()).absolute().parents]
    for place in places:
        if (place / "inventory").is_dir() and (place / "firmware-images").is_dir():
            return place
    where = f"BENCH_ROOT={named} has no" if named else f"neither {places[0]} nor a folder above it has"
    raise UsageError(f"{where} inventory/ and firmware-images/; go to the lab's folder or set BENCH_ROOT to it")


def load_inventory(root: Path) -> dict[str, Machine]:
    """All machines of the lab at `root` by name: the virtual ones, then those of metal, each in order of their names.

    Raises UsageError (file, key, what is allowed) for the first thing that is wrong with a file.
    """
    found = survey(root / "inventory")
    for problem in found.errors:
        raise UsageError(str(problem))
    return dict(found.machines)


def survey(folder: Path) -> Survey:
    """Read ``lab.toml``, ``virtual/*.toml``, ``machines/*.toml`` and ``quirks.toml`` of `folder`."""
    problems: list[Problem] = []
    rows: list[QuirkRow] = []
    machines: dict[Path, Machine] = {}
    if (folder / "quirks.toml").exists():
        with _noting(folder / "quirks.toml", problems):
            rows = read(folder / "quirks.toml", QuirksFile).quirk
    network = _boot_network(folder / "lab.toml", problems)
    for path in sorted((folder / "virtual").glob("*.toml")):
        with _noting(path, problems):
            file = read(path, MachineFile)
            machines[path] = _with_quirks(virtual(path, file), rows)
            machines[path] = replace(machines[path], wiring=replace(machines[path].wiring, mac=file.mac or ""))
    for path in sorted((folder / "machines").glob("*.toml")):
        with _noting(path, problems):
            metal_file = read(path, MetalFile)
            machine = metal(path, metal_file, folder.parent)
            machines[path] = _with_quirks(machine, rows, named=_named(path, metal_file.quirks, rows))
    machines = {path: _on_network(machine, network) for path, machine in machines.items()}
    for path, machine in machines.items():
        problems += [Problem(path, text) for text in _off_network(machine, network)]
    problems += [*_names(machines), *conflicts(machines), *warnings(machines)]
    return Survey({machine.name: machine for machine in machines.values()}, tuple(problems), network)


class _noting:
    """Turns a UsageError into a problem."""

    def __init__(self, path: Path, problems: list[Problem]) -> None:
        self._path, self._problems = path, problems

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, UsageError):
            self._problems.append(Problem(self._path, str(error).removeprefix(f"{self._path}: ")))
            return True
        return False


def _boot_network(path: Path, problems: list[Problem]) -> BootNetwork | None:
    if path.exists():
        with _noting(path, problems):
            table = read(path, LabFile).boot_network
            return table.record() if table else None
    return None


def _on_network(machine: Machine, network: BootNetwork | None) -> Machine:
    if network is None or "pxe" not in machine.wiring.boot_methods:
        return machine
    return replace(machine, wiring=replace(machine.wiring, boot_network=network))


def _off_network(machine: Machine, network: BootNetwork | None) -> list[str]:
    wiring = machine.wiring
    return network_problems(network, mac=wiring.mac, ip=wiring.ip, netboots="pxe" in wiring.boot_methods)


def _names(machines: Mapping[Path, Machine]) -> Iterator[Problem]:
    names: dict[str, Path] = {}
    for path, machine in machines.items():
        if machine.name in names:
            yield Problem(path, f"name: {machine.name!r} is already the name of {names[machine.name]}")
        elif machine.name != path.stem:
            yield Problem(path, f"name: {machine.name!r} is not the file's name; allowed: {path.stem!r}")
        names.setdefault(machine.name, path)


def _named(path: Path, names: Iterable[str], rows: Iterable[QuirkRow]) -> tuple[str, ...]:
    effects = {row.name: row.effect for row in rows}
    for name in names:
        if name not in effects:
            known = ", ".join(effects) or "none"
            raise UsageError(f"{path}: quirks: no row {name!r} in quirks.toml; there are: {known}")
    return tuple(effects[name] for name in names)


def _with_quirks(machine: Machine, rows: Iterable[QuirkRow], *, named: tuple[str, ...] = ()) -> Machine:
    applying = (row.effect for row in rows if row.applies.to(machine))
    return replace(machine, quirks=tuple(dict.fromkeys((*applying, *named))))


def schema(kind: Literal["machines", "virtual", "quirks", "lab"]) -> dict[str, Any]:
    """JSON Schema (2020-12) of a kind of files: ``machines/*.toml``, ``virtual/*.toml``, or the one of that name."""
    models: dict[str, type[BaseModel]] = {
        "machines": MetalFile,
        "virtual": MachineFile,
        "quirks": QuirksFile,
        "lab": LabFile,
    }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | models[kind].model_json_schema()
