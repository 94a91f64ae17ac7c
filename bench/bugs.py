"""The bugs that the payload can build into its handler, to show that the bench finds them.

`firmware-images/payloads/bugs.toml` has a row for each: number, what it does, which variants can have
it; and the scenarios that a machine with a hidden bug is put through. Neither the trace nor the
simulator knows of a bug; its name is looked up after the verdict.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bench.errors import UsageError
from bench.records import Machine

BUGS_FILE = Path("firmware-images/payloads/bugs.toml")


class Bug(BaseModel):
    """One bug."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    number: int = Field(gt=0, lt=256)
    about: str
    variants: tuple[str, ...]
    nx: bool | None = None
    """Set if only machines with (or without) NX can show it."""

    def shows_on(self, machine: Machine, variant: str) -> bool:
        """Whether this machine can show the bug in this variant."""
        if variant not in self.variants or (variant == "la57" and not machine.la57):
            return False
        return self.nx is None or self.nx == machine.nx


class BugTable(BaseModel):
    """The file: the bugs, and the scenarios in which each of them must be found."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scenarios: tuple[str, ...]
    bug: tuple[Bug, ...]

    def pick(self, machine: Machine, draw: int) -> tuple[Bug, str] | None:
        """A (bug, variant) that this machine can show; `draw` selects among them. None if it can show none."""
        possible = [(bug, variant) for bug in self.bug for variant in bug.variants if bug.shows_on(machine, variant)]
        return possible[draw % len(possible)] if possible else None


def load_bugs(root: Path) -> BugTable:
    """The table. Raises UsageError naming the file and the key."""
    path = root / BUGS_FILE
    try:
        table = BugTable.model_validate(tomllib.loads(path.read_text()))
    except (OSError, tomllib.TOMLDecodeError, ValidationError) as error:
        raise UsageError(f"{path}: {error}") from error
    if len({b.number for b in table.bug}) != len(table.bug):
        raise UsageError(f"{path}: a bug number stands twice")
    return table
