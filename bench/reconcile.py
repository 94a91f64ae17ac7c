"""Predicted events beside observed events: the first divergent event and field of each window.

Both sides become tables with one row an event; pandas joins them on (window, event number), numpy
compares the joined rows, all fields at once. A field is compared where both sides have a number,
outside the bits that the prediction leaves free.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from operator import attrgetter

import numpy as np
import numpy.typing as npt
import pandas as pd

from bench.records import EVENT_FIELDS, Comparison, Divergence, Event, EventKind, Prediction, Window

# Compared in this order within an event: a missing fault shows first as another kind or another step.
COMPARED: tuple[str, ...] = ("kind", "step", *EVENT_FIELDS)
_COLUMN = {name: number for number, name in enumerate(COMPARED)}
_fields = attrgetter(*COMPARED)


@dataclass(frozen=True)
class EventTable:
    """Events of several windows. Row i of all three belongs together."""

    index: pd.DataFrame
    """Columns window, event (number in its window) and row (i), all int64."""
    values: npt.NDArray[np.uint64]
    """Shape (rows, len(COMPARED)); 0 where the side says nothing."""
    given: npt.NDArray[np.bool_]
    """Same shape: whether the side says anything."""


def event_table(sides: Iterable[tuple[int, Iterable[Event]]]) -> EventTable:
    """Events of several windows as a table."""
    rows = [(window, number, event) for window, events in sides for number, event in enumerate(events)]
    fields = np.empty((len(rows), len(COMPARED)), dtype=object)
    for i, (_, _, event) in enumerate(rows):
        fields[i] = _fields(event)
    index = pd.DataFrame(
        {
            "window": np.array([r[0] for r in rows], dtype=np.int64),
            "event": np.array([r[1] for r in rows], dtype=np.int64),
            "row": np.arange(len(rows), dtype=np.int64),
        }
    )
    given = ~pd.isna(fields)
    values = np.where(given, fields, 0).astype(np.uint64)
    return EventTable(index, values, given)


def reconcile(windows: Mapping[int, Window], predictions: Mapping[int, Prediction]) -> dict[int, Comparison]:
    """Compare every window with its prediction.

    A window that was cut by damage, or whose machine died, is compared up to its last true event:
    what should have followed is the caller's question, because only the lab knows why it stopped.
    """
    predicted = event_table((n, predictions[n].events) for n in windows)
    observed = event_table((n, w.observation.events) for n, w in windows.items())
    joined = predicted.index.merge(observed.index, on=["window", "event"], how="outer", suffixes=("_p", "_o"))
    joined = joined.sort_values(["window", "event"], kind="stable", ignore_index=True)
    only_predicted = joined["row_o"].isna().to_numpy()
    only_observed = joined["row_p"].isna().to_numpy()
    complete = joined["window"].map({n: w.observation.complete for n, w in windows.items()}).to_numpy(dtype=bool)
    both = ~only_predicted & ~only_observed
    left = joined["row_p"].to_numpy()[both].astype(np.int64)
    right = joined["row_o"].to_numpy()[both].astype(np.int64)

    constrained = ~_free(predictions, windows, predicted.values.shape)[left]
    unequal = (predicted.values[left] ^ observed.values[right]) & constrained != 0
    differs = np.zeros((len(joined), len(COMPARED) + 2), dtype=bool)
    differs[both, :-2] = unequal & predicted.given[left] & observed.given[right]
    differs[:, -2] = only_predicted & complete
    differs[:, -1] = only_observed

    names = (*COMPARED, "missing", "extra")
    divergent: dict[int, tuple[int, str]] = {}
    places = joined[["window", "event"]].to_numpy(dtype=np.int64)
    for row in np.flatnonzero(differs.any(axis=1)):
        window, event = places[row]
        divergent.setdefault(int(window), (int(event), names[int(np.argmax(differs[row]))]))
    return {n: _comparison(w, predictions[n], divergent.get(n)) for n, w in windows.items()}


def _free(
    predictions: Mapping[int, Prediction], windows: Iterable[int], shape: tuple[int, ...]
) -> npt.NDArray[np.uint64]:
    """Masks of the bits that the predictions leave to the processor, by row and column of their table."""
    free = np.zeros(shape, dtype=np.uint64)
    row = 0
    for window in windows:
        for event in predictions[window].events:
            for name, mask in event.free.items():
                free[row, _COLUMN[name]] = mask
            row += 1
    return free


def _comparison(window: Window, prediction: Prediction, divergent: tuple[int, str] | None) -> Comparison:
    seen = window.observation.events
    equal = len(seen) if divergent is None else divergent[0]
    enters = [e for e in prediction.events[:equal] if e.kind is EventKind.ENTER]
    replayed = sum(e.replayed for e in enters)
    divergence = None
    if divergent:
        number, name = divergent
        divergence = Divergence(
            number,
            name,
            prediction.events[number] if number < len(prediction.events) else None,
            seen[number] if number < len(seen) else None,
        )
    digests = sum(e.kind is EventKind.DIGEST for e in seen[:equal])
    return Comparison(divergence, equal, len(enters) - replayed, replayed, digests)
