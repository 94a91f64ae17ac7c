"""Records about microcode in a boot: what the bench knows of it before, what the trace tells, and what came of it.

What is known before is kept with a capture (`as_json`), so that it can be judged years later without the image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.errors import FormatError
from bench.x86.microcode_processor import Act, ProcessorRules

# Of a processor whose part nobody plays: QEMU's takes no update and shows one revision for ever.
PLAYED, NOTHING, SILICON = "played", "nothing", "silicon"


@dataclass(frozen=True)
class UpdateOffer:
    """What one boot's machine and kernel are to the loader, beside what the boot itself says."""

    release: str
    """The kernel's, which decides the generation of its loader: ``6.1.192``."""
    processors: int | None
    """How many come up; None: nobody has said."""
    takes: str
    """``played``: by `rules`; ``nothing``: QEMU's; ``silicon``: by the manual, siblings unknown."""
    rules: ProcessorRules | None = None
    tasks: tuple[str, ...] = ()
    """What init does; without any the boot ends with the window."""

    def as_json(self) -> dict[str, Any]:
        """For ``capture.json``."""
        rules = self.rules
        return {
            "release": self.release,
            "processors": self.processors,
            "takes": self.takes,
            "tasks": list(self.tasks),
            **({"rules": _rules_as_json(rules)} if rules else {}),
        }


def _rules_as_json(rules: ProcessorRules) -> dict[str, Any]:
    return {
        "signature": rules.signature,
        "platform_id": rules.platform_id,
        "bios_revision": rules.bios_revision,
        "siblings": rules.siblings,
        "refuses": sorted(rules.refuses),
        "takes_older": rules.takes_older,
        "acts": [[processor, str(act)] for processor, act in rules.acts],
    }


def offer_from_json(row: Mapping[str, Any], source: str) -> UpdateOffer:
    """What `as_json` wrote. Raises FormatError."""
    try:
        rules = row.get("rules")
        if row["takes"] not in (PLAYED, NOTHING, SILICON) or (row["takes"] == PLAYED) != (rules is not None):
            raise ValueError(f"takes {row['takes']!r} with rules {rules!r}")
        return UpdateOffer(
            release=str(row["release"]),
            processors=None if row["processors"] is None else int(row["processors"]),
            takes=row["takes"],
            rules=_rules_from_json(rules) if rules is not None else None,
            tasks=tuple(str(task) for task in row["tasks"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(f"what the capture says of microcode is malformed: {error!r}", source=source) from error


def _rules_from_json(row: Mapping[str, Any]) -> ProcessorRules:
    return ProcessorRules(
        signature=int(row["signature"]),
        platform_id=int(row["platform_id"]),
        bios_revision=int(row["bios_revision"]),
        siblings=int(row["siblings"]),
        refuses=frozenset(int(revision) for revision in row["refuses"]),
        takes_older=bool(row["takes_older"]),
        acts=tuple((int(processor), Act(act)) for processor, act in row["acts"]),
    )


@dataclass(frozen=True)
class Search:
    """One run of the early loader on one processor: a ``ucode`` record, predicted or read.

    A record without an update has zeros from `offset` to `revision`; so has a copy of one, of which only `offset` is
    zero.
    """

    processor: int
    before: int
    offset: int
    """Of the chosen update's header in its file, in bytes."""
    signature: int
    flags: int
    revision: int
    after: int
    seq: int | None = None
    """Of the record that was read."""
    span: tuple[int, int] | None = None

    @property
    def chosen(self) -> bool:
        """Whether there was an update to choose."""
        return bool(self.signature or self.revision)


SEARCH_FIELDS = ("processor", "before", "offset", "signature", "flags", "revision", "after")


@dataclass(frozen=True)
class Transition:
    """What came of an update that one processor of one boot was offered; a row of the transition matrix.

    `outcome` is in the words of the store: ``updated``, ``refused``, ``silent hang``, ``reboot loop``,
    ``not observable`` or ``forbidden``.
    """

    boot: int
    processor: int
    flags: int
    before: int
    offered: int
    after: int | None
    outcome: str
