"""`bench inventory schema` and `check`."""

from __future__ import annotations

import json as jsons
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from bench.terminal import say


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
