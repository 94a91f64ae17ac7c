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


_BOOT_COLOURS = ("var:--accent", "var:--pool-leaf", "var:--pool-new", "var:--quiet")


def boots(captures: Sequence[Capture], chunks: Sequence[Sequence[tuple[float, int]]]) -> Figure | None:
    """Bytes over the time of each boot, and what the lab did and saw; None if neither was recorded."""
    data: list[dict[str, Any]] = []
    rows: list[tuple[str, ...]] = []
    for number, (capture, came) in enumerate(zip(captures, chunks, strict=True), start=1):
        kept = [*came[:: len(came) // MAX_POINTS + 1], *came[-1:]]
        colour = _BOOT_COLOURS[(number - 1) % len(_BOOT_COLOURS)]
        if kept:
            data.append(
                {"type": "scatter", "mode": "lines", "name": f"boot {number}", "x": [t for t, _ in kept],
                 "y": [n for _, n in kept], "line": {"color": colour, "shape": "hv"}}
            )  # fmt: skip
        if capture.events:
            words = [str(e.kind).replace("_", " ") for e in capture.events]
            data.append(
                {"type": "scatter", "mode": "markers", "name": f"lab, boot {number}",
                 "x": [e.at_s for e in capture.events], "y": [e.offset for e in capture.events],
                 "text": [f"boot {number}: {w}" for w in words], "hoverinfo": "x+text", "showlegend": number == 1,
                 "marker": {"color": "var:--lab", "size": 9, "symbol": "diamond"}}
            )  # fmt: skip
        told = [(f"{t:.3f}", "bytes so far", str(n), "") for t, n in kept[:: len(kept) // 40 + 1]]
        told += [
            (f"{e.at_s:.3f}", word, str(e.offset), ", ".join(f"{k} {v}" for k, v in e.witness.items()))
            for e, word in zip(capture.events, words if capture.events else (), strict=True)
        ]
        rows += [(str(number), *row) for row in sorted(told, key=lambda row: float(row[0]))]
    if not data:
        return None
    layout = {
        "xaxis": {"title": {"text": "seconds since the capture was opened"}},
        "yaxis": {"title": {"text": "bytes"}},
    }
    about = "Bytes that had come from the serial line, with what the lab did and saw (diamonds)."
    heads = ("boot", "seconds", "what", "bytes", "witness")
    title = "Timeline of the boot" if len(captures) == 1 else f"Timeline of {len(captures)} boots"
    return Figure("boot", title, about, data, layout, heads, rows)


# Labels of the axis, in bytes.
_SIZES = {1 << 20: "1 MiB", 1 << 24: "16 MiB", 1 << 30: "1 GiB", 1 << 34: "16 GiB", 1 << 40: "1 TiB",
          1 << 46: "64 TiB", 1 << 52: "4 PiB"}  # fmt: skip


def faults(windows: Sequence[Window]) -> Figure | None:
    """Physical address of each page fault of the direct map, in order; None if there is none."""
    points = []
    beyond = 0
    for window in windows:
        highest = 1 << (52 if window.stimulus.facts.levels == 5 else 46)  # MAXMEM
        for event in window.observation.events:
            if event.kind is EventKind.ENTER and event.vector == 14 and event.cr2 is not None:
                phys = event.cr2 - _page_offset(window, event.step) & 0xFFFF_FFFF_FFFF_FFFF
                if phys < highest:
                    points.append((window.number, event, phys))
                else:
                    beyond += 1
    if not points:
        return None
    shown = points[:MAX_POINTS]
    data = [
        {"type": "scatter", "mode": "markers", "name": "page faults", "x": list(range(len(shown))),
         "y": [max(phys, 1 << 20) for _, _, phys in shown],
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
        "yaxis": {
            "title": {"text": "physical address"},
            "type": "log",
            "tickvals": list(_SIZES),
            "ticktext": list(_SIZES.values()),
        },
    }
    outside = f" {beyond} faults outside the direct map are not drawn." if beyond else ""
    about = (
        "Where in physical memory the page faults of the run fell, in their order; what is below 1 MiB is drawn there. "
        f"The two colours tell neighbouring windows apart.{outside}"
    )
    heads = ("fault", "window", "step", "CR2", "physical address", "error code")
    left = len(points) - len(shown)
    return Figure("faults", "Faults over physical address", about, data, layout, heads, rows, left_out=left)


def _page_offset(window: Window, step: int | None) -> int:
    """PAGE_OFFSET at a step: as `begin` says, or as a kernel has moved it since."""
    base = window.stimulus.facts.page_offset
    for each in window.stimulus.steps:
        if step is not None and each.step <= step:
            base = getattr(each, "page_offset", 0) or base
    return base


def transition_chart(rows: Sequence[Row]) -> Figure | None:
    """Share of boots that were updated, with its interval; None if no boot was observed."""
    seen = [r for r in rows if r.observed][:60]
    if not seen:
        return None
    to = ["none" if r.offered is None else f"0x{r.offered:x}" for r in seen]
    kinds = ["virtual" if r.virtual else "silicon" for r in seen]
    names = [
        f"{r.latest.record.model}/{r.flags:x} {kind} 0x{r.before:x}→{offered} {r.image}"
        for r, kind, offered in zip(seen, kinds, to, strict=True)
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
