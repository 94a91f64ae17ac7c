"""A summary in Markdown for a forge's comment: what is new, what fails, and all cells in a fold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bench.describe import printable
from bench.records import Verdict
from bench.report.export import latest_of_each
from bench.report.fingerprint import telling
from bench.report.history import LAB_TROUBLE, is_demonstration
from bench.report.regressions import BAD, Change, change_words, counted
from bench.store import StoredRun

# Forges cut comments off, or refuse them, from 64 KiB on.
_CHARACTERS = 60_000
_ROWS = 40


def markdown(runs: Sequence[StoredRun], changes: Sequence[Change]) -> str:
    """Text from machines stands in code spans, so that it mentions nobody and draws nothing."""
    text = "\n".join(_lines([r for r in runs if not is_demonstration(r.record)], changes)) + "\n"
    if len(text) <= _CHARACTERS:
        return text
    # In the fold at the end, which is the longest part, nothing is lost that the report does not have.
    return text[: text.rfind("\n", 0, _CHARACTERS)] + "\n\n</details>\n\nCut here; `bench report` has all of it.\n"


def _lines(runs: Sequence[StoredRun], changes: Sequence[Change]) -> Iterator[str]:
    latest = latest_of_each(runs)
    verdicts = [r.record.verdict for r in latest]
    counts = ", ".join(f"{verdicts.count(v)} {v}" for v in Verdict if v in verdicts) or "no run"
    bad = [c for c in changes if c.word in BAD]
    yield f"## bench: {counts}"
    yield ""
    if any(c.known for c in changes):
        yield f"Against the baselines: {counted(changes) or 'nothing new'}."
        yield ""
    if bad:
        yield from _table(
            ("what", "machine", "image", "scenario", "story"),
            [(str(c.word), c.test.machine, c.test.image, c.test.scenario, change_words(c)) for c in bad],
        )
    failing = [r for r in latest if r.record.verdict is Verdict.FAIL]
    if failing and not bad:
        yield from _table(("fails", "image", "run", "finding"), [_run_row(r) for r in failing])
    trouble = [r for r in latest if r.record.verdict in LAB_TROUBLE]
    if trouble:
        yield f"The lab kept {len(trouble)} of {len(latest)} from a verdict; that counts against no kernel."
        yield ""
        yield from _table(("machine", "image", "run", "what broke"), [_run_row(r) for r in trouble])
    yield "<details><summary>All machines and images</summary>"
    yield ""
    rows = [
        (
            r.record.machine,
            r.record.model,
            r.record.image,
            str(r.record.verdict),
            "virtual" if r.record.virtual else "silicon",
        )
        for r in latest
    ]
    yield from _table(("machine", "model", "image", "verdict", "kind"), rows, limit=len(rows))
    yield "</details>"


def _run_row(run: StoredRun) -> tuple[str, ...]:
    worst = next((s for s in run.record.scenarios if s.verdict is run.record.verdict and s.findings), None)
    finding = telling(worst) if worst else None
    words = f"{finding.component}: {finding.summary}" if finding else ""
    return run.record.machine, run.record.image, str(run.id), words


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], limit: int = _ROWS) -> Iterator[str]:
    yield "| " + " | ".join(heads) + " |"
    yield "|" + "---|" * len(heads)
    for row in rows[:limit]:
        yield "| " + " | ".join(_cell(value) for value in row) + " |"
    if len(rows) > limit:
        yield ""
        yield f"{len(rows) - limit} more."
    yield ""


def _cell(text: str) -> str:
    """A code span: no mention, link, picture or tag; a bar would end the cell even there."""
    text = printable(text).replace("`", "'").replace("|", "¦").strip()
    return f"`{text[:300]}`" if text else ""
