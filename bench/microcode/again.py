"""A case that was booted once, judged again, by the prediction that its folder keeps and what the boot left there."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from bench.errors import FormatError
from bench.microcode.later import due_in, hold_boot, verdict_of
from bench.microcode.observe import Difference, Observed
from bench.microcode.story import Story
from bench.parse.capture_file import read_captures
from bench.records import Verdict
from bench.sim.ucode_load import EarlyLoad

META = "capture.json"


@dataclass(frozen=True)
class Rejudged:
    """One boot of a case."""

    folder: Path
    case: str
    image: str
    machine: str
    model: str
    verdict: Verdict
    why: str
    """What is to blame where the verdict is the lab's; else empty."""
    predicted: Story | EarlyLoad
    observed: Observed
    differences: Sequence[Difference]


def case_folders(path: Path) -> list[Path]:
    """Folders of boots of cases at or under `path`; empty: it holds something else."""
    if not path.is_dir():
        return []
    return [meta.parent for meta in sorted(path.rglob(META)) if _case_of(meta)]


def judge_again(path: Path) -> Iterator[Rejudged]:
    """Every boot of a case at or under `path`. Raises FormatError, which names the file."""
    for folder in case_folders(path):
        yield _judge(folder)


def _case_of(meta: Path) -> str:
    try:
        return str(json.loads(meta.read_bytes()).get("case", ""))
    except (OSError, ValueError, AttributeError):
        return ""


def _judge(folder: Path) -> Rejudged:
    meta = json.loads((folder / META).read_bytes())
    try:
        story = TypeAdapter(Story).validate_python(meta.get("prediction"))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in ("prediction", *first["loc"]))
        raise FormatError(
            f"no prediction that can be read: {first['msg']}", source=f"{folder / META}: {where}"
        ) from None
    (capture,) = read_captures(folder)
    seen, found, damage = hold_boot(story, capture, folder)
    verdict, why = verdict_of(seen, found, damage)
    return Rejudged(
        folder,
        str(meta["case"]),
        capture.image,
        capture.machine,
        capture.model,
        verdict,
        why,
        due_in(story, folder),
        seen,
        tuple(found),
    )
