"""The pool of page tables over the faults of a window: which table each took, which it walked, where it began anew."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bench.records import Event, EventKind, Window
from bench.report.site.figures import MAX_POINTS, Figure

# EARLY_DYNAMIC_PAGE_TABLES, the same in every release.
POOL_MAX = 64
FREE, UPPER, LEAF, NEW = 0, 1, 2, 3
_ROLE_OF = {"pgd": UPPER, "p4d": UPPER, "pud": LEAF}
_ROLE_NAMES = ("free", "upper", "PMD", "new")
_COLOURS = ("var:--surface", "var:--accent", "var:--pool-leaf", "var:--pool-new")
_ADDRESS = 0x000F_FFFF_FFFF_F000


@dataclass(frozen=True)
class Use:
    """The pool when a fault had been handled."""

    taken: int
    """next_early_pgt."""
    reset: bool
    """The pool was set back in this fault."""
    roles: tuple[int, ...]
    """FREE, UPPER, LEAF or NEW for each of the 64 tables."""
    walked: dict[str, int]
    """Entry → table of the pool that it points to."""


def uses(window: Window) -> Iterator[Use]:
    """The pool after each fault that the handler returned from.

    Mainline has no counter of resets. One shows where the index fell, or where it stayed although a GiB was mapped that
    had not been since the last one.
    """
    roles = [FREE] * POOL_MAX
    mapped: set[int] = set()
    before = 0
    cr2 = 0
    for event in window.observation.events:
        if event.kind is EventKind.ENTER:
            cr2 = event.cr2 or 0
        if event.kind is not EventKind.EXIT or event.next is None:
            continue
        taken = min(event.next, POOL_MAX)
        reset = taken < before or (taken == before > 0 and bool(event.pmd) and cr2 >> 30 not in mapped)
        if reset:
            roles, mapped, before = [FREE] * POOL_MAX, set(), 0
        if event.pmd:
            mapped.add(cr2 >> 30)
        walked = _walked(window, event)
        for slot in range(before, taken):
            roles[slot] = LEAF
        for name, slot in walked.items():
            roles[slot] = _ROLE_OF[name]
        shown = tuple(NEW if before <= slot < taken else role for slot, role in enumerate(roles))
        yield Use(taken, reset, shown, walked)
        before = taken


def _walked(window: Window, event: Event) -> dict[str, int]:
    base = window.stimulus.facts.phys_dynamic
    entries = {name: getattr(event, name) or 0 for name in _ROLE_OF}
    slots = {name: ((entry & _ADDRESS) - base) >> 12 for name, entry in entries.items() if entry}
    return {name: slot for name, slot in slots.items() if 0 <= slot < POOL_MAX}


def size_of(window: Window) -> int:
    """Tables that the handler may use in the window: as `begin` says, or a kernel's later steps."""
    said = [step.pool for step in window.stimulus.steps if getattr(step, "pool", 0)]  # type: ignore[union-attr]
    return int(said[-1] if said else window.stimulus.facts.pool)


def pool(window: Window) -> Figure | None:
    """The chart; None if the window has no fault that was handled."""
    found = list(uses(window))
    if not found:
        return None
    shown = found[:MAX_POINTS]
    size = size_of(window)
    # A few tables more than were used: 64 rows would make a small pool a line at the bottom.
    top = min(POOL_MAX, max(8, 2 + max(u.taken for u in shown)))
    resets = [number for number, use in enumerate(shown) if use.reset]
    shapes: list[dict[str, Any]] = [_line(n - 0.5, -0.5, n - 0.5, top - 0.5, "var:--fail", "dot") for n in resets]
    if size <= top:
        shapes.append(_line(-0.5, size - 0.5, len(shown) - 0.5, size - 0.5, "var:--ink", "dash"))
    layout = {
        "xaxis": {"title": {"text": "fault that was handled"}},
        "yaxis": {"title": {"text": "table of the pool"}, "range": [-0.5, top - 0.5], "dtick": 8 if top > 16 else 1},
        "shapes": shapes,
    }
    end = "the dashed line is its end, " if size <= top else ""
    about = (
        f"Which tables of the pool each fault of window {window.number} took and walked. The pool has {size}; {end}"
        f"dotted lines are resets ({len(resets)})."
    )
    rows: list[tuple[str, ...]] = [
        (
            str(number),
            str(use.taken),
            ", ".join(f"{name} points to {slot}" for name, slot in use.walked.items()) or "no table of the pool",
            "reset" if use.reset else "",
        )
        for number, use in enumerate(shown)
    ]
    heads = ("fault", "next_early_pgt", "tables", "")
    title = f"The pool in window {window.number}"
    left = len(found) - len(shown)
    return Figure("pool", title, about, [_heatmap(shown, top)], layout, heads, rows, 140 + 16 * max(12, top), left)


def _heatmap(shown: list[Use], top: int) -> dict[str, Any]:
    """A cell of role r has the middle of the rth quarter of the scale."""
    quarters = [[at, colour] for i, colour in enumerate(_COLOURS) for at in (i / 4, (i + 1) / 4)]
    return {
        "type": "heatmap",
        "z": [[use.roles[slot] + 0.5 for use in shown] for slot in range(top)],
        "zmin": 0,
        "zmax": 4,
        "colorscale": quarters,
        "xgap": 1,
        "ygap": 1,
        "hovertemplate": "fault %{x}, table %{y}<extra></extra>",
        "colorbar": {"tickvals": [0.5, 1.5, 2.5, 3.5], "ticktext": list(_ROLE_NAMES), "len": 0.9},
    }


def _line(x0: float, y0: float, x1: float, y1: float, colour: str, dash: str) -> dict[str, Any]:
    line = {"color": colour, "width": 2 if dash == "dot" else 1, "dash": dash}
    return {"type": "line", "x0": x0, "y0": y0, "x1": x1, "y1": y1, "line": line}
