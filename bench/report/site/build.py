"""Make the site: pages of what the store has, and of each run what its captures have. Only what changed is written."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import shutil
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from bench.errors import UsageError
from bench.records import Machine, Verdict
from bench.report.history import LAB_TROUBLE
from bench.report.regressions import Change
from bench.report.site import pages
from bench.report.site.overview import Overview, overview
from bench.report.site.render import Writer, assets
from bench.store import StoredRun, capture_folder

STATE = ".bench-report.json"
# Run pages that are made at a time by one process, and from how many on it is worth several.
_CHUNK = 8
_WORTH_PROCESSES = 24


@dataclass
class Built:
    """What was done."""

    index: Path
    written: list[str] = field(default_factory=list)
    unchanged: int = 0
    removed: list[str] = field(default_factory=list)
    runs_drawn: int = 0
    """Run pages that were made anew from their captures."""


@dataclass(frozen=True)
class _Job:
    run: StoredRun
    folder: Path | None
    """None: the page says only what the store has."""
    page: str
    key: str


def build(
    results: Path,
    out: Path,
    runs: Sequence[StoredRun],
    changes: Sequence[Change],
    machines: dict[str, Machine],
    *,
    drawn: int = 400,
    jobs: int = 1,
) -> Built:
    """Write the site of `runs` to `out`.

    The captures of the latest `drawn` runs, of every run that a cell shows and of every run that is news are drawn;
    a page that was drawn before stays drawn. Raises UsageError if Jinja2 or Plotly is missing, or if nothing can be
    written.
    """
    built = Built(out / "index.html")
    view = overview(runs, changes, machines)
    try:
        out.mkdir(parents=True, exist_ok=True)
        state = _read_state(out / STATE)
        writer = Writer(out)
        for name, data in assets():
            writer.put(f"assets/{name}", data)
        pages.write_overview_pages(writer, view)
        new_state = _write_runs(writer, built, view, state, results, drawn, jobs)
        _remove_stale(out, writer, new_state, state, built)
        (out / STATE).write_text(json.dumps(new_state, sort_keys=True, separators=(",", ":")))
    except OSError as error:
        raise UsageError(f"{error.filename or out}: the report cannot be written: {error.strerror}") from error
    built.written = writer.written
    built.unchanged += writer.unchanged
    return built


def _write_runs(
    writer: Writer,
    built: Built,
    view: Overview,
    state: dict[str, dict[str, object]],
    results: Path,
    drawn: int,
    jobs: int,
) -> dict[str, dict[str, object]]:
    wanted = _to_draw(view, drawn)
    new_state: dict[str, dict[str, object]] = {}
    todo: list[_Job] = []
    for run in view.by_id.values():
        page = pages.run_page(run)
        before = state.get(page, {})
        folder = capture_folder(results, run.record.capture)
        draw = folder.is_dir() and (run.id in wanted or bool(before.get("drawn")))
        key = _key(run, draw)
        if before.get("key") == key and (writer.out / page).is_file():
            new_state[page] = before
            built.unchanged += len(before.get("files", ()))  # type: ignore[arg-type]
        else:
            todo.append(_Job(run, folder if draw else None, page, key))
    for job, files in _render(writer.out, todo, jobs):
        new_state[job.page] = {"key": job.key, "drawn": job.folder is not None, "files": files}
        writer.written += files
        built.runs_drawn += job.folder is not None
    return new_state


def _to_draw(view: Overview, drawn: int) -> set[int]:
    latest = sorted(view.by_id.values(), key=lambda r: r.id)[-drawn:] if drawn else []
    wanted = {r.id for r in latest} | {cell.shown.id for cell in view.cells.values()}
    wanted |= {c.sample.latest.run for c in view.changes if c.word and c.sample}
    wanted |= {cell.runs[-1].id for cell in view.cells.values() if cell.runs[-1].record.verdict in LAB_TROUBLE}
    return wanted | {r.id for r in view.demonstrations if r.record.verdict is not Verdict.FAIL}


def _render(out: Path, todo: Sequence[_Job], jobs: int) -> Iterable[tuple[_Job, list[str]]]:
    drawn = [j for j in todo if j.folder]
    plain = [j for j in todo if not j.folder]
    if jobs > 1 and len(drawn) >= _WORTH_PROCESSES:
        with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
            chunks = [drawn[i : i + _CHUNK] for i in range(0, len(drawn), _CHUNK)]
            for chunk, files in zip(chunks, pool.map(_render_chunk, [out] * len(chunks), chunks), strict=True):
                yield from zip(chunk, files, strict=True)
    else:
        yield from zip(drawn, _render_chunk(out, drawn), strict=True)
    yield from zip(plain, _render_chunk(out, plain), strict=True)


def _render_chunk(out: Path, jobs: Sequence[_Job]) -> list[list[str]]:
    found = []
    for job in jobs:
        shutil.rmtree(out / "runs" / str(job.run.id), ignore_errors=True)
        found.append(pages.write_run_page(out, job.run, job.folder))
    return found


def _key(run: StoredRun, drawn: bool) -> str:
    """Changes with anything that the run's page is made of: the record, the captures, the code."""
    return hashlib.sha256(f"{_code()} {drawn} {run.manifest} {run.pruned} {run!r}".encode()).hexdigest()[:32]


_code_hash: list[str] = []


def _code() -> str:
    """Hash of all that decides what a page looks like: this package's sources, which judge and draw."""
    if not _code_hash:
        digest = hashlib.sha256()
        package = Path(str(resources.files("bench")))
        for part in ("report", "parse", "sim", "x86", "."):
            for path in sorted((package / part).rglob("*") if part != "." else package.glob("*.py")):
                if path.suffix in (".py", ".j2", ".css", ".js"):
                    digest.update(path.read_bytes())
        _code_hash.append(digest.hexdigest())
    return _code_hash[0]


def _remove_stale(
    out: Path, writer: Writer, new: dict[str, dict[str, object]], old: dict[str, dict[str, object]], built: Built
) -> None:
    """Pages of an earlier build that nothing leads to any more."""
    files = {str(f) for entry in new.values() for f in entry.get("files", ())}  # type: ignore[attr-defined]
    known = {*writer.seen, *files}
    before = {str(f) for entry in old.values() for f in entry.get("files", ())}  # type: ignore[attr-defined]
    there = {
        p.relative_to(out).as_posix()
        for folder in ("models", "images", "compare")
        for p in (out / folder).glob("*.html")
        # A comparison that somebody asked for by name is theirs.
        if not p.name.startswith("asked-")
    }
    for name in sorted((before | there) - known):
        path = out / name
        if path.is_file():
            path.unlink()
            built.removed.append(name)


def _read_state(path: Path) -> dict[str, dict[str, object]]:
    """Of the build before; empty if there was none or it cannot be read, and then everything is made anew."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
