"""The pages' contents: which page shows what. How it looks is in `templates/`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

from bench import manifest
from bench.describe import value_words
from bench.records import Finding, Verdict
from bench.report.comparison import Comparison, Kind, compare_sides
from bench.report.fingerprint import telling
from bench.report.history import LAB_TROUBLE, is_demonstration
from bench.report.regressions import BAD, Word, change_words, counted
from bench.report.site import figures
from bench.report.site.microcode import transitions
from bench.report.site.newest import newest_known
from bench.report.site.overview import Cell, Overview
from bench.report.site.render import Writer, render, slug
from bench.report.site.run_details import Details, details
from bench.store import StoredRun, Transition

MAX_RUNS_LISTED = 3000
MAX_DIFFERENCES = 400
# Every pair of so many images is compared; of more, neighbours by name.
MAX_IMAGES_PAIRED = 5
AROUND = timedelta(days=1)
_WORD_ABOUT = {
    Word.REGRESSION: "passed by the baseline, fails now",
    Word.NEW_FAILURE: "fails now, and no baseline knows that: the test is new, or it fails in another way",
    Word.STILL_FAILING: "failed by the baseline, and fails in the same way",
    Word.UNSTABLE: "passes and fails without a change of the image; the story says how often it passed",
    Word.DISAPPEARED: "in the baseline, but not tried any more, or skipped",
    Word.FIXED: "failed by the baseline, passes now",
    Word.NEW_PASS: "passes now, and no baseline knows it",
    Word.APPEARED: "no baseline knows it, and it neither passes nor fails",
}


def run_page(run: StoredRun) -> str:
    """Path of a run's page."""
    return f"runs/{run.id}.html"


def serial_page(run: StoredRun, boot: int) -> str:
    """Path of the page of a boot's serial log."""
    return f"runs/{run.id}/serial-{boot}.html"


def model_page(model: str) -> str:
    """Path of a CPU model's page."""
    return f"models/{slug(model)}.html"


def image_page(image: str) -> str:
    """Path of an image's page."""
    return f"images/{slug(image)}.html"


def compare_page(left: str, right: str) -> str:
    """Path of the page on which two are compared."""
    return f"compare/{slug(left)}--{slug(right)}.html"


def _side(finding: Finding, which: str) -> str:
    return value_words(finding.field_name, getattr(finding, which))


_FILTERS = (
    ("run_page", run_page),
    ("serial_page", serial_page),
    ("model_page", model_page),
    ("image_page", image_page),
    ("story", change_words),
    ("side", _side),
    ("telling", telling),
)


def write_overview_pages(writer: Writer, view: Overview) -> None:
    """Every page but those of the runs."""
    common = {
        "by_id": view.by_id,
        "verdicts": list(Verdict),
        "news_words": _news_words(view),
        "trouble": view.lab_trouble,
        "trouble_words": _trouble_words(view),
        "trouble_rows": [(c, n, f"run {r.id}, {r.record.started:%Y-%m-%d %H:%M}") for c, n, r in view.lab_trouble],
    }

    def put(name: str, template: str, **values: Any) -> None:
        depth = "../" * name.count("/")
        writer.put(name, render(template, _FILTERS, **{**common, "root": depth, "here": name, **values}))

    bad = [c for c in view.news if c.word in BAD]
    put("index.html", "index.html.j2", **_index(view), bad=bad)
    put("news.html", "news.html.j2", news=view.news, words=list(_WORD_ABOUT.items()))
    every = sorted(view.by_id.values(), key=lambda r: -r.id)
    put("runs.html", "runs.html.j2", runs=every[:MAX_RUNS_LISTED], more=len(every[MAX_RUNS_LISTED:]))
    put("lab.html", "lab.html.j2", **_lab(view))
    rows = transitions(view.runs)
    chart = figures.transition_chart(rows)
    put("microcode.html", "microcode.html.j2", transitions=rows, outcomes=list(Transition), figures=_some(chart))
    for model in view.models:
        put(model_page(model), "model.html.j2", **_model(view, model))
    pairs = _pairs(view)
    for image in view.images:
        put(image_page(image), "image.html.j2", **_image(view, image, pairs))
    for left, right in pairs:
        put(compare_page(left, right), "compare.html.j2", **_compared(compare_sides(view.runs, left, right)))


def write_comparison(out: Path, comparison: Comparison) -> Path:
    """The page of a comparison that was asked for by name; a later build leaves it alone."""
    name = compare_page(comparison.left, comparison.right).replace("compare/", "compare/asked-", 1)
    values = {"root": "../", **_compared(comparison)}
    Writer(out).put(name, render("compare.html.j2", _FILTERS, **values))
    return out / name


def write_run_page(out: Path, run: StoredRun, folder: Path | None) -> list[str]:
    """A run's page and, if there are captures, its serial logs and files; the paths below `out`."""
    found = details(folder) if folder else None
    files = [run_page(run)]
    writer = Writer(out)
    for boot in found.boots if found else ():
        name = serial_page(run, boot.number)
        matters = next((x.number for x in boot.lines if x.grave), None)
        values: dict[str, Any] = {"run": run, "boot": boot, "matters": matters, "root": "../../"}
        writer.put(name, render("serial.html.j2", _FILTERS, **values))
        here = f"runs/{run.id}/boot-{boot.number}"
        writer.put(f"{here}.serial.bin", boot.capture.data)
        writer.put(f"{here}.capture", boot.packed)
        files += [name, f"{here}.serial.bin", f"{here}.capture"]
    values = {
        "run": run,
        "d": found,
        "absent": _absent(run),
        "demonstration": is_demonstration(run.record),
        "figures": list(found.figures) if found else [],
        "facts": list(_run_facts(run, found)),
        "replay": run.record.capture,
        "root": "../",
    }
    writer.put(files[0], render("run.html.j2", _FILTERS, **values))
    return files


def _absent(run: StoredRun) -> str:
    if run.pruned:
        return f"Its captures were removed on {run.pruned:%Y-%m-%d} to make room; what was found stays."
    return "Its captures are not drawn here: they are not there, or older than those that are (bench report --drawn N)."


def _run_facts(run: StoredRun, found: Details | None) -> Iterator[tuple[str, str]]:
    record = run.record
    yield "signature", f"0x{record.signature:08x}"
    yield "image SHA-256", record.image_sha256
    yield from sorted(record.details.items())
    yield from found.facts if found else ()
    yield "captures", record.capture
    if run.manifest:
        yield f"SHA-256 of {manifest.NAME}", run.manifest


def _index(view: Overview) -> dict[str, Any]:
    cells = list(view.cells.values())
    counts = Counter(cell.verdict for cell in cells)
    machines = {r.record.machine for r in view.runs}
    failing = counts[Verdict.FAIL]
    passing = counts[Verdict.PASS]
    trouble = sum(n for _, n, _ in view.lab_trouble)
    share = f"{100 * trouble / len(view.runs):.1f} % of all" if view.runs else ""
    rows = []
    for model in view.models:
        of = {cell.image: cell for cell in view.of_model(model)}
        names = sorted({r.record.machine for cell in of.values() for r in cell.runs})
        latest = next(iter(of.values())).runs[-1].record
        text = " ".join([model, *names, f"0x{latest.signature:08x}"]).lower()
        row = {"model": model, "machines": names, "virtual": latest.virtual, "text": text}
        rows.append({**row, "cells": [of.get(image) for image in view.images]})
    demonstrations = []
    for model in sorted({r.record.model for r in view.demonstrations}):
        runs = [r for r in view.demonstrations if r.record.model == model]
        caught = sum(r.record.verdict is Verdict.FAIL for r in runs)
        demonstrations.append((model, caught, len(runs), runs[-1]))
    return {
        "tiles": [
            ("CPU models", len(view.models), f"{len(machines)} machines"),
            ("images", len(view.images), ""),
            ("runs", len(view.by_id), ""),
            ("cells pass", passing, f"of {len(cells)}"),
            ("cells fail", failing, ""),
            ("runs spoiled by the lab", trouble, share),
        ],
        "images": view.images,
        "rows": rows,
        "demonstrations": demonstrations,
    }


def _news_words(view: Overview) -> str:
    known = sum(c.known is not None for c in view.changes)
    if not known:
        return "There are no baselines yet: `bench results bless` makes them, and then news shows here."
    same = sum(c.word is None for c in view.changes)
    return f"{counted(view.changes) or 'Nothing new'}; {same} tests without news."


def _trouble_words(view: Overview) -> str:
    n = sum(count for _, count, _ in view.lab_trouble)
    return f"{n} of {len(view.runs)} runs came to no verdict because the lab or the test’s own part broke."


def _lab(view: Overview) -> dict[str, Any]:
    of = Counter(r.record.machine for r in view.runs)
    spoiled = [r for r in view.runs if r.record.verdict in LAB_TROUBLE]
    bad = Counter(r.record.machine for r in spoiled)
    latest = []
    for run in reversed(spoiled[-100:]):
        finding = next((f for s in run.record.scenarios if s.verdict in LAB_TROUBLE for f in s.findings), None)
        words = ""
        if finding:
            witness = ", ".join(f"{k} {v}" for k, v in finding.witness.items())
            words = f"{finding.component}: {finding.summary}" + (f" ({witness})" if witness else "")
        latest.append((run, words))
    by_machine = [(m, f"{n} of {of[m]}", f"{100 * n / of[m]:.1f} %") for m, n in bad.most_common()]
    return {"by_machine": by_machine, "latest": latest}


@dataclass(frozen=True)
class _Story:
    """A cell that wants attention, with what tells whose fault it is."""

    cell: Cell
    others: list[Cell]
    around: list[StoredRun]


def _model(view: Overview, model: str) -> dict[str, Any]:
    cells = view.of_model(model)
    runs = sorted((r for cell in cells for r in cell.runs), key=lambda r: (r.record.started, r.id))
    stories = []
    for cell in cells:
        if cell.verdict is Verdict.FAIL or cell.marks:
            shown = cell.shown
            around = [
                r
                for r in runs
                if r.record.machine == shown.record.machine
                and r.id != shown.id
                and abs(r.record.started - shown.record.started) <= AROUND
            ]
            others = [c for c in view.of_image(cell.image) if c.model != model]
            stories.append(_Story(cell, others, around[:20]))
    chart = figures.trend("trend", runs, by="image")
    return {
        "model": model,
        "virtual": runs[-1].record.virtual,
        "facts": list(_model_facts(view, runs)),
        "news": [c for c in view.news if any(c in cell.changes for cell in cells)],
        "cells": cells,
        "figures": _some(chart),
        "stories": stories,
        "runs": runs[::-1][:MAX_RUNS_LISTED],
    }


def _model_facts(view: Overview, runs: list[StoredRun]) -> Iterator[tuple[str, str]]:
    names = sorted({r.record.machine for r in runs})
    yield "signature", f"0x{runs[-1].record.signature:08x}"
    yield "stepping", str(runs[-1].record.signature & 0xF)
    known = [view.machines[n] for n in names if n in view.machines]
    for name, text in (
        ("platform flags", {f"0x{1 << m.platform_id:x}" for m in known}),
        ("MAXPHYADDR", {str(m.maxphyaddr) for m in known}),
        ("NX", {"yes" if m.nx else "no" for m in known}),
        ("LA57", {"yes" if m.la57 else "no" for m in known}),
        ("memory", {f"{m.memory_bytes / 2**30:g} GiB" for m in known}),
        ("quirks", {q for m in known for q in m.quirks}),
    ):
        if text:
            yield name, ", ".join(sorted(text))
    for virtual, kind in ((False, "silicon"), (True, "virtual")):
        rows = [m for r in runs if r.record.virtual is virtual for m in r.record.microcode]
        if rows:
            newest = max((m.offered for m in rows if m.offered is not None), default=None)
            last = rows[-1].before if rows[-1].after is None else rows[-1].after
            yield f"microcode in use ({kind})", f"0x{last:08x}"
            yield f"newest that was offered ({kind})", "none" if newest is None else f"0x{newest:08x}"
    for platform in sorted({m.platform_id for m in known}):
        record = runs[-1].record
        if best := newest_known(view.package, record.model, record.signature, 1 << platform):
            yield f"newest known for flags 0x{1 << platform:x}", best
    yield "machines", ", ".join(names)


def _image(view: Overview, image: str, pairs: list[tuple[str, str]]) -> dict[str, Any]:
    cells = view.of_image(image)
    runs = sorted((r for cell in cells for r in cell.runs), key=lambda r: (r.record.started, r.id))
    builds: dict[str, list[StoredRun]] = {}
    for run in runs:
        builds.setdefault(run.record.image_sha256, []).append(run)
    rows = [
        (
            sha,
            f"{of[0].id} ({of[0].record.started:%Y-%m-%d})",
            f"{of[-1].id} ({of[-1].record.started:%Y-%m-%d})",
            len(of),
        )
        for sha, of in reversed(builds.items())
    ]
    facts = [("latest build", runs[-1].record.image_sha256), *sorted(runs[-1].record.details.items())]
    compared = [(b if a == image else a, compare_page(a, b)) for a, b in pairs if image in (a, b)]
    return {
        "image": image,
        "facts": facts,
        "pairs": compared,
        "news": [c for c in view.news if c.test.image == image],
        "cells": cells,
        "figures": _some(figures.trend("trend", runs, by="model")),
        "builds": rows[:200],
    }


def _pairs(view: Overview) -> list[tuple[str, str]]:
    images = view.images
    if len(images) <= MAX_IMAGES_PAIRED:
        return list(combinations(images, 2))
    return list(pairwise(images))


def _compared(comparison: Comparison) -> dict[str, Any]:
    shown = comparison.differences[:MAX_DIFFERENCES]
    # What is compared is in the heads already.
    common = {Kind.IMAGE: ["machine"], Kind.MACHINE: ["image"], Kind.DATE: ["machine", "image"], Kind.RUN: []}
    return {
        "c": comparison,
        "common": common[comparison.kind],
        "shown": shown,
        "more": len(comparison.differences) > len(shown),
    }


def _some(*charts: figures.Figure | None) -> list[figures.Figure]:
    return [c for c in charts if c]
