"""The dependency rule: imports point down, never sideways; and who alone may do what.

Read from the source with `ast`, imports inside functions included.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "bench"


@dataclass(frozen=True)
class Layer:
    """Modules (or packages) of one height. Those of a lower layer may be imported, and `peers` of the same one."""

    units: frozenset[str]
    peers: bool


def layer(*units: str, peers: bool = False) -> Layer:
    return Layer(frozenset(units), peers)


# From the top down. A module in none of them is a violation: give it a place.
LAYERS = (
    layer(
        *(
            "__main__",
            "cli",
            "cli_console",
            "cli_flash",
            "cli_health",
            "cli_images",
            "cli_inventory",
            "cli_kernels",
            "cli_lock",
        ),
        *(
            "cli_matrix",
            "cli_microcode",
            "cli_orders",
            "cli_plan",
            "cli_netboot",
            "cli_recover",
            "cli_rescue",
            "cli_night",
            "cli_power",
            "cli_report",
            "cli_results",
            "cli_run",
            "cli_summary",
            "cli_systems",
            "cli_watch",
        ),
        *("journal", "progress", "status", "terminal"),
        peers=True,
    ),
    layer("batch", "pytest_plugin"),
    layer("microcode", "run_kernel"),
    layer("run"),
    layer("recovery", "report"),
    layer("discovered", "judge", "doctor", "health", "hosts", "leases"),
    layer("early_load", "rescue", "unpatched", "update_safety", "update_steps"),
    layer("endings"),
    layer("bios_microcode", "loading", "obedience", "outcome"),
    layer("bugs", "images", "inventory", "lab", "parse", "reconcile", "scenarios", "sim", "store", "witness"),
    layer(
        "cache",
        "describe",
        "hardware",
        "initrd",
        "linux",
        "manifest",
        "owners",
        "records",
        "script",
        "uki",
        "updates",
        "wire",
        peers=True,
    ),
    layer("x86"),
    layer("errors"),
)
COMMAND_LINE = LAYERS[0].units
STANDARD_LIBRARY_ONLY = frozenset().union(*(low.units for low in LAYERS[-3:]))

# Whoever imports it, beside these units, breaks the rule.
ONLY: dict[str, frozenset[str]] = {
    "pandas": frozenset({"reconcile", "report"}),
    "sqlalchemy": frozenset({"store", "leases", "health"}),
    "alembic": frozenset({"store"}),
    "jinja2": frozenset({"report"}),
    "plotly": frozenset({"report"}),
    "pyarrow": frozenset({"report"}),
    "sqlite3": frozenset(),
    "serial": frozenset({"lab"}),
    "paramiko": frozenset({"lab"}),
    "qemu": frozenset({"lab"}),
    "socket": frozenset({"lab"}),
    "asyncio": frozenset({"lab"}),
    # doctor asks programs for their version and runs apt-get; images runs compilers. Neither touches a machine.
    "subprocess": frozenset({"lab", "doctor", "images"}),
    "typer": COMMAND_LINE,
    "rich": COMMAND_LINE,
}

# Files that may name sys.stdout or sys.stderr although they are not the command line.
MAY_NAME_STREAMS = {
    "wire.py": "prints the C header when it is run as a program",
    "doctor/install.py": "hands its standard error to apt-get",
    "lab/power/bmc_child.py": "is a program of its own, which answers on standard output",
    "lab/urls/sol_child.py": "is a program of its own, whose output is the serial line's",
    "lab/power/die_with_parent.py": "is a program of its own, started in front of QEMU",
}

# Slow to import, so `bench --help` and the tab key do not wait for them.
HEAVY = frozenset(
    {
        "alembic",
        "jinja2",
        "numpy",
        "paramiko",
        "pandas",
        "plotly",
        "pyarrow",
        "pydantic",
        "qemu",
        "rich.live",
        "serial",
        "sqlalchemy",
    }
)


# --- the rule --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Import:
    """`name` is imported at `line` of `path`; `early` if that happens when the module itself is imported."""

    path: str
    line: int
    name: str
    early: bool


def imports(package: Path, path: Path) -> Iterator[Import]:
    """What the module at `path` imports, relative imports made absolute."""
    where = path.relative_to(package)
    parents = [package.name, *where.parts[:-1]]

    def walk(node: ast.AST, early: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(str(where), child.lineno, alias.name, early)
            elif isinstance(child, ast.ImportFrom):
                base = parents[: len(parents) + 1 - child.level] if child.level else []
                name = ".".join([*base, *([child.module] if child.module else [])])
                if name == package.name:
                    for alias in child.names:
                        yield Import(str(where), child.lineno, f"{name}.{alias.name}", early)
                else:
                    yield Import(str(where), child.lineno, name, early)
            else:
                inner = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                typing = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
                yield from walk(child, early and not inner and not typing)

    yield from walk(ast.parse(path.read_text()), True)


def unit_of(where: str) -> str:
    return Path(where).parts[0].removesuffix(".py")


def sources(package: Path) -> list[Path]:
    return sorted(path for path in package.rglob("*.py") if path != package / "__init__.py")


def height(unit: str) -> int | None:
    return next((len(LAYERS) - n for n, each in enumerate(LAYERS) if unit in each.units), None)


def violations(package: Path) -> list[str]:
    """Every breach of the rule in `package`, as "file:line: what"."""
    return [
        *(
            f"{path.relative_to(package)}: has no place in LAYERS"
            for path in sources(package)
            if _homeless(package, path)
        ),
        *(said for path in sources(package) for one in imports(package, path) if (said := _import_breach(one))),
        *(said for path in sources(package) for said in _stream_breaches(package, path)),
    ]


def _homeless(package: Path, path: Path) -> bool:
    return height(unit_of(str(path.relative_to(package)))) is None


def _import_breach(one: Import) -> str | None:
    importer, top = unit_of(one.path), one.name.split(".")[0]
    if top == "bench":
        imported = one.name.split(".")[1] if "." in one.name else importer
        here, there = height(importer), height(imported)
        if imported == importer or here is None or there is None or there < here:
            return None
        if there == here and LAYERS[len(LAYERS) - here].peers:
            return None
        where = "beside" if there == here else "above"
        return f"{one.path}:{one.line}: {importer} imports {imported}, which is {where} it"
    if importer in STANDARD_LIBRARY_ONLY and top not in sys.stdlib_module_names:
        return f"{one.path}:{one.line}: {importer} uses the standard library only, not {top}"
    if top in ONLY and importer not in ONLY[top]:
        return f"{one.path}:{one.line}: {importer} may not import {top}"
    return None


def _stream_breaches(package: Path, path: Path) -> Iterator[str]:
    where = str(path.relative_to(package))
    if unit_of(where) in COMMAND_LINE:
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("print", "input"):
            yield f"{where}:{node.lineno}: {node.func.id}(): only the command line speaks"
        stream = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
        if stream in ("sys.stdout", "sys.stderr", "sys.stdin") and where not in MAY_NAME_STREAMS:
            yield f"{where}:{node.lineno}: {stream}: only the command line speaks"


def loaded_with(package: Path, module: str) -> dict[str, str]:
    """Everything outside the package that importing `module` brings in, with the file that does."""
    found: dict[str, str] = {}
    waiting, seen = [module], set()
    while waiting:
        name = waiting.pop()
        path = _file_of(package, name)
        if path is None or path in seen:
            continue
        seen.add(path)
        for one in imports(package, path):
            if not one.early:
                continue
            if one.name.split(".")[0] == package.name:
                inner = one.name.split(".")[1:]
                waiting += [".".join(inner[: n + 1]) for n in range(len(inner))]
            else:
                found.setdefault(one.name.split(".")[0], one.path)
    return found


def _file_of(package: Path, module: str) -> Path | None:
    base = package.joinpath(*module.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


# --- what holds of bench ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_imports_point_down_and_each_library_stays_with_its_unit() -> None:
    assert violations(PACKAGE) == []


def test_the_tables_name_nothing_that_is_gone() -> None:
    units = {unit_of(str(path.relative_to(PACKAGE))) for path in sources(PACKAGE)}
    assert frozenset().union(*(each.units for each in LAYERS)) - units == set()
    assert [name for name in MAY_NAME_STREAMS if not (PACKAGE / name).is_file()] == []


def test_the_command_line_loads_nothing_heavy() -> None:
    loaded = loaded_with(PACKAGE, "cli")
    assert {name: where for name, where in loaded.items() if name in HEAVY} == {}


@pytest.mark.slow
def test_the_interpreter_agrees_that_nothing_heavy_is_loaded() -> None:
    program = "import sys, bench.cli; print(*sorted(sys.modules), sep='\\n')"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=PACKAGE.parent, capture_output=True, text=True, check=True
    )
    assert HEAVY & set(done.stdout.split()) == set()


# --- what the check itself can see -----------------------------------------------------------------------------------

PLANTED = [
    ("sim/engine.py", "from bench.parse.lines import Stretch", "sim imports parse, which is beside it"),
    ("sim/engine.py", "from bench import store", "sim imports store, which is beside it"),
    ("lab/boot.py", "def f():\n    import bench.reconcile", "lab imports reconcile, which is beside it"),
    ("lab/boot.py", "from ..run import run", "lab imports run, which is above it"),
    ("records.py", "from bench.parse import lines", "records imports parse, which is above it"),
    ("report/page.py", "from bench.cli import app", "report imports cli, which is above it"),
    ("x86/paging.py", "import numpy as np", "x86 uses the standard library only, not numpy"),
    ("parse/lines.py", "import pandas.core", "parse may not import pandas"),
    ("run.py", "from sqlalchemy import select", "run may not import sqlalchemy"),
    ("sim/engine.py", "import subprocess", "sim may not import subprocess"),
    ("run.py", "if True:\n    import serial", "run may not import serial"),
    ("judge.py", "print('so')", "print(): only the command line speaks"),
    ("judge.py", "import sys\nsys.stderr.write('so')", "sys.stderr: only the command line speaks"),
    ("utils.py", "", "has no place in LAYERS"),
]


@pytest.mark.parametrize(("file", "source", "said"), PLANTED)
def test_a_planted_violation_is_found(tmp_path: Path, file: str, source: str, said: str) -> None:
    package = tmp_path / "bench"
    path = package / file
    path.parent.mkdir(parents=True)
    path.write_text(source)
    (found,) = violations(package)
    assert found.startswith(file) and found.endswith(said)


def test_what_the_rule_allows_is_not_reported(tmp_path: Path) -> None:
    package = tmp_path / "bench"
    for file, source in {
        "sim/engine.py": "from bench.sim.variants import V\nfrom .tables import T\nfrom bench.x86.paging import P",
        "script.py": "from bench.wire import Access",
        "reconcile.py": "import pandas as pd",
        "lab/port.py": "import serial, socket, subprocess",
        "run.py": "from bench import judge\nfrom bench.lab.boot import boot",
        "cli.py": "import typer\nprint('yes')",
    }.items():
        (package / file).parent.mkdir(parents=True, exist_ok=True)
        (package / file).write_text(source)
    assert violations(package) == []


def test_a_heavy_import_is_found_through_the_modules_between(tmp_path: Path) -> None:
    package = tmp_path / "bench"
    (package / "report").mkdir(parents=True)
    (package / "cli.py").write_text("from bench.report.rows import rows\ndef f():\n    import numpy")
    (package / "report" / "__init__.py").write_text("import sqlalchemy")
    (package / "report" / "rows.py").write_text(
        "import typing\nif typing.TYPE_CHECKING:\n    import serial\nimport pandas"
    )
    loaded = loaded_with(package, "cli")
    assert {name: loaded.get(name) for name in HEAVY if name in loaded} == {
        "pandas": str(Path("report/rows.py")),
        "sqlalchemy": str(Path("report/__init__.py")),
    }
