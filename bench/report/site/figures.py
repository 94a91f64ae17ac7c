"""Charts as Plotly figures in plain dictionaries, each with its data as a table.

Colours are names of the style sheet's custom properties (``var:--pass``): the script beside the pages puts in the
values of the theme that is on, so that a figure is the same in both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from bench.describe import printable
from bench.records import Capture, EventKind, Verdict, Window
from bench.report.site.microcode import Row
from bench.store import StoredRun

VERDICT_COLOUR = {
    Verdict.PASS: "var:--pass", Verdict.FAIL: "var:--fail", Verdict.MISS: "var:--lab", Verdict.ERROR: "var:--lab",
    Verdict.DONE: "var:--quiet", Verdict.SKIP: "var:--quiet",
}  # fmt: skip
_MARKERS = {Verdict.PASS: "circle", Verdict.FAIL: "x", Verdict.MISS: "triangle-up", Verdict.ERROR: "diamond",
            Verdict.DONE: "square", Verdict.SKIP: "circle-open"}  # fmt: skip
# Points of a chart, and rows of its table. More would neither be seen nor read.
MAX_POINTS = 1500
# EARLY_DYNAMIC_PAGE_TABLES, the same in every release.
POOL_MAX = 64


@dataclass(frozen=True)
class Figure:
    """A chart. `data` and `layout` are Plotly's; `rows` has all that is drawn."""

    name: str
    title: str
    about: str
    """What is to be seen in it, in a sentence; also its description for a screen reader."""
    data: list[dict[str, Any]]
    layout: dict[str, Any]
    heads: tuple[str, ...]
    rows: list[tuple[str, ...]]
    height: int = 320
    left_out: int = field(default=0)
    """Points beyond MAX_POINTS, which are in neither chart nor table."""


def _label(text: str) -> str:
    """Plotly takes labels for a kind of HTML."""
    return escape(printable(text), quote=False)


def trend(name: str, runs: Sequence[StoredRun], *, by: str) -> Figure | None:
    """Verdicts over time, a line for each image or model (`by`); None for a single run."""
    runs = runs[-MAX_POINTS:]
    if len(runs) < 2:
        return None
    data = []
    for verdict in Verdict:
        of = [r for r in runs if r.record.verdict is verdict]
        if of:
            data.append(
                {
                    "type": "scatter", "mode": "markers", "name": str(verdict),
                    "x": [r.record.started.isoformat() for r in of],
                    "y": [_label(getattr(r.record, by)) for r in of],
                    "text": [_label(f"run {r.id}, {r.record.machine}: {r.record.verdict}") for r in of],
                    "hoverinfo": "x+text",
                    "marker": {"color": VERDICT_COLOUR[verdict], "symbol": _MARKERS[verdict], "size": 10},
                }
            )  # fmt: skip
    lines = len({getattr(r.record, by) for r in runs})
    rows: list[tuple[str, ...]] = [
        (f"{r.record.started:%Y-%m-%d %H:%M}", str(r.id), r.record.machine, r.record.image, str(r.record.verdict))
        for r in runs
    ]
    layout = {
        "xaxis": {"title": {"text": "started (UTC)"}},
        "yaxis": {"type": "category", "automargin": True, "categoryorder": "category descending"},
    }
    about = "Each mark is a run; a cross failed, a triangle or diamond is the lab's own trouble."
    heads = ("started", "run", "machine", "image", "verdict")
    return Figure(name, "Verdicts over time", about, data, layout, heads, rows, height=150 + 34 * lines)


def boot_timeline(number: int, capture: Capture, chunks: Sequence[tuple[float, int]]) -> Figure | None:
    """Bytes over the time of a boot, and what the lab did and saw; None if neither was recorded."""
    if not chunks and not capture.events:
        return None
    step = max(1, len(chunks) // MAX_POINTS + (len(chunks) % MAX_POINTS > 0)) if chunks else 1
    kept = [*chunks[::step], *chunks[-1:]]
    data: list[dict[str, Any]] = [
        {"type": "scatter", "mode": "lines", "name": "bytes", "x": [t for t, _ in kept], "y": [n for _, n in kept],
         "line": {"color": "var:--accent", "shape": "hv"}},
        {"type": "scatter", "mode": "markers", "name": "lab",
         "x": [e.at_s for e in capture.events], "y": [e.offset for e in capture.events],
         "text": [str(e.kind).replace("_", " ") for e in capture.events], "hoverinfo": "x+text",
         "marker": {"color": "var:--lab", "size": 11, "symbol": "diamond"}},
    ]  # fmt: skip
    rows: list[tuple[str, ...]] = [
        (
            f"{e.at_s:.3f}",
            str(e.kind).replace("_", " "),
            str(e.offset),
            ", ".join(f"{k} {v}" for k, v in e.witness.items()),
        )
        for e in capture.events
    ]
    rows += [(f"{t:.3f}", "bytes so far", str(n), "") for t, n in kept[:: max(1, len(kept) // 40)]]
    rows.sort(key=lambda r: float(r[0]))
    layout = {
        "xaxis": {"title": {"text": "seconds since the capture was opened"}},
        "yaxis": {"title": {"text": "bytes"}},
    }
    about = "Bytes that had come from the serial line, with what the lab did and saw."
    heads = ("seconds", "what", "bytes", "witness")
    return Figure(f"boot-{number}", f"Boot {number}", about, data, layout, heads, rows, height=260)


FREE, UPPER, LEAF, NEW = 0, 1, 2, 3
_ROLES = ("free", "upper table (PUD or P4D)", "PMD table", "taken in this fault")


def pool(window: Window) -> Figure | None:
    """The 64 tables of the pool over the faults of a window; None if it has no fault that was handled."""
    facts = window.stimulus.facts
    exits = [e for e in window.observation.events if e.kind is EventKind.EXIT and e.next is not None][:MAX_POINTS]
    if not exits:
        return None
    roles = [FREE] * POOL_MAX
    columns: list[list[int]] = []
    rows: list[tuple[str, ...]] = []
    resets: list[int] = []
    before = 0
    for number, event in enumerate(exits):
        taken = min(event.next or 0, POOL_MAX)
        if taken <= before and event.pgd and before:
            resets.append(number)
            roles = [FREE] * POOL_MAX
            before = 0
        column = list(roles)
        tables = {"pgd": UPPER, "p4d": UPPER, "pud": LEAF}
        said = {}
        for name, role in tables.items():
            slot = ((getattr(event, name) or 0) & 0x000F_FFFF_FFFF_F000) - facts.phys_dynamic >> 12
            if getattr(event, name) and 0 <= slot < POOL_MAX:
                roles[slot] = role
                column[slot] = NEW if before <= slot < taken else role
                said[name] = slot
        for slot in range(before, taken):
            column[slot] = NEW
            roles[slot] = roles[slot] or LEAF
        columns.append(column)
        slots = ", ".join(f"{name} in {slot}" for name, slot in said.items())
        rows.append(
            (str(number), str(taken), slots or "no table of the pool", "reset" if number in resets[-1:] else "")
        )
        before = taken
    # A window with a small pool touches nothing beyond it: two free tables are drawn there, to show just that.
    top = min(POOL_MAX, max(facts.pool, *(e.next or 0 for e in exits)) + 2)
    colours = ("var:--surface", "var:--accent", "var:--pool-leaf", "var:--pool-new")
    scale = [[at, colour] for i, colour in enumerate(colours) for at in (i / 4, (i + 1) / 4)]
    data = [
        {"type": "heatmap", "z": [list(line) for line in zip(*columns, strict=True)], "zmin": 0, "zmax": 4,
         "colorscale": scale, "xgap": 1, "ygap": 1, "hovertemplate": "fault %{x}, table %{y}<extra></extra>",
         "colorbar": {"tickvals": [0.5, 1.5, 2.5, 3.5], "ticktext": ["free", "upper", "PMD", "new"], "len": 0.9},
         "zsmooth": False}
    ]  # fmt: skip
    # A cell of role r has the middle of its quarter of the scale.
    data[0]["z"] = [[v + 0.5 for v in line] for line in data[0]["z"]]  # type: ignore[attr-defined]
    shapes = [
        {"type": "line", "x0": n - 0.5, "x1": n - 0.5, "y0": -0.5, "y1": top - 0.5,
         "line": {"color": "var:--fail", "width": 2, "dash": "dot"}}
        for n in resets
    ]  # fmt: skip
    shapes.append({"type": "line", "x0": -0.5, "x1": len(exits) - 0.5, "y0": facts.pool - 0.5, "y1": facts.pool - 0.5,
                   "line": {"color": "var:--ink", "width": 1, "dash": "dash"}})  # fmt: skip
    layout = {
        "xaxis": {"title": {"text": "fault that was handled"}, "constrain": "domain"},
        "yaxis": {"title": {"text": "table of the pool"}, "range": [-0.5, top - 0.5], "dtick": 8 if top > 16 else 1},
        "shapes": shapes,
    }
    about = (
        f"Which tables of the pool each fault of window {window.number} used; the dashed line is the end of this "
        f"window's pool ({facts.pool}), dotted lines are resets ({len(resets)})."
    )
    heads = ("fault", "next_early_pgt", "tables", "")
    return Figure("pool", f"The pool in window {window.number}", about, data, layout, heads, rows, height=460)


def faults(windows: Sequence[Window]) -> Figure | None:
    """Physical address of each page fault of the direct map, in order; None if there is none."""
    points = []
    beyond = 0
    for window in windows:
        facts = window.stimulus.facts
        for event in window.observation.events:
            if event.kind is EventKind.ENTER and event.vector == 14 and event.cr2 is not None:
                phys = event.cr2 - facts.page_offset & 0xFFFF_FFFF_FFFF_FFFF
                if phys < 1 << 52:
                    points.append((window.number, event, phys))
                else:
                    beyond += 1
    if not points:
        return None
    shown = points[:MAX_POINTS]
    data = [
        {"type": "scatter", "mode": "markers", "name": "page faults", "x": list(range(len(shown))),
         "y": [phys / 2**30 for _, _, phys in shown],
         "text": [f"window {w}, step {e.step}: 0x{phys:x}" for w, e, phys in shown], "hoverinfo": "text",
         "marker": {"color": [w % 2 for w, _, _ in shown], "size": 6,
                    "colorscale": [[0, "var:--accent"], [1, "var:--pool-leaf"]]}}
    ]  # fmt: skip
    rows: list[tuple[str, ...]] = [
        (str(n), str(w), str(e.step), f"0x{e.cr2 or 0:016x}", f"0x{phys:x}", f"0x{e.error or 0:x}")
        for n, (w, e, phys) in enumerate(shown)
    ]
    layout = {
        "xaxis": {"title": {"text": "fault"}},
        "yaxis": {"title": {"text": "physical address (GiB)"}, "rangemode": "tozero"},
    }
    about = (
        "Where in physical memory the page faults of the run fell, in their order; the two colours tell neighbouring "
        f"windows apart. {beyond} faults outside the direct map are not drawn."
    )
    heads = ("fault", "window", "step", "CR2", "physical address", "error code")
    left = len(points) - len(shown)
    return Figure("faults", "Faults over physical address", about, data, layout, heads, rows, left_out=left)


def transition_chart(rows: Sequence[Row]) -> Figure | None:
    """Share of boots that were updated, with its interval; None if no boot was observed."""
    seen = [r for r in rows if r.observed][:60]
    if not seen:
        return None
    to = ["none" if r.offered is None else f"0x{r.offered:x}" for r in seen]
    names = [
        f"{r.latest.record.model}/{r.flags:x} 0x{r.before:x}→{offered} {r.image}"
        for r, offered in zip(seen, to, strict=True)
    ]
    shares = [r.updated / r.observed for r in seen]
    data = [
        {"type": "scatter", "mode": "markers", "name": "updated", "x": shares, "y": [_label(name) for name in names],
         "marker": {"color": "var:--accent", "size": 9},
         "error_x": {"type": "data", "symmetric": False, "color": "var:--quiet",
                     "array": [r.interval[1] - s for r, s in zip(seen, shares, strict=True)],
                     "arrayminus": [s - r.interval[0] for r, s in zip(seen, shares, strict=True)]}}
    ]  # fmt: skip
    table: list[tuple[str, ...]] = [
        (name, f"{r.updated} of {r.observed}", f"{r.interval[0]:.3f}", f"{r.interval[1]:.3f}")
        for name, r in zip(names, seen, strict=True)
    ]
    layout = {
        "xaxis": {"title": {"text": "share of observed boots that were updated"}, "range": [-0.02, 1.02]},
        "yaxis": {"type": "category", "automargin": True, "autorange": "reversed"},
    }
    about = "The mark is the share, the bar its 95 % interval: short only where there were many boots."
    heads = ("transition", "updated", "from", "to")
    return Figure(
        "transitions", "Updated boots", about, data, layout, heads, table, 140 + 26 * len(seen), len(rows) - len(seen)
    )
