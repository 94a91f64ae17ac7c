"""Predicted events beside observed events: the first divergent event and field of each window.

Both sides become pandas tables with one row an event and one nullable UInt64 column a field; they are
joined on (window, event number). A field is compared where both sides have a number, outside the bits
that the prediction leaves free.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from bench.records import EVENT_FIELDS, Comparison, Divergence, Event, EventKind, Prediction, Window

# Compared in this order within an event: a missing fault shows first as another kind or another step.
COMPARED: tuple[str, ...] = ("kind", "step", *EVENT_FIELDS)


def event_table(sides: Iterable[tuple[int, Iterable[Event]]]) -> pd.DataFrame:
    """Events of several windows as a table.

    Columns: window and event (int64), then COMPARED (UInt64, missing where the side says nothing).
    """
    rows = [(window, number, event) for window, events in sides for number, event in enumerate(events)]
    columns: dict[str, object] = {
        "window": np.array([r[0] for r in rows], dtype=np.int64),
        "event": np.array([r[1] for r in rows], dtype=np.int64),
    }
    for name in COMPARED:
        values = np.zeros(len(rows), dtype=np.uint64)
        missing = np.ones(len(rows), dtype=bool)
        for i, (_, _, event) in enumerate(rows):
            value = getattr(event, name)
            if value is not None:
                values[i] = value
                missing[i] = False
        columns[name] = pd.arrays.IntegerArray(values, missing)
    return pd.DataFrame(columns)


def reconcile(windows: Mapping[int, Window], predictions: Mapping[int, Prediction]) -> dict[int, Comparison]:
    """Compare every window with its prediction.

    A window that was cut by damage, or whose machine died, is compared up to its last true event:
    what should have followed is the caller's question, because only the lab knows why it stopped.
    """
    predicted = event_table((n, predictions[n].events) for n in windows)
    observed = event_table((n, w.observation.events) for n, w in windows.items())
    joined = predicted.merge(observed, on=["window", "event"], how="outer", suffixes=("_p", "_o"), indicator=True)
    joined = joined.sort_values(["window", "event"], kind="stable", ignore_index=True)
    _release_free_bits(joined, predictions)

    differs = pd.DataFrame(
        {
            name: (joined[f"{name}_p"] != joined[f"{name}_o"]).fillna(False).astype(bool) & (joined["_merge"] == "both")
            for name in COMPARED
        }
    )
    cut = joined["window"].map({n: not w.observation.complete for n, w in windows.items()}).astype(bool)
    differs["missing"] = (joined["_merge"] == "left_only") & ~cut
    differs["extra"] = joined["_merge"] == "right_only"

    first = joined.loc[differs.any(axis=1)].groupby("window").head(1)
    divergent = {
        int(window): (int(event), _first(differs, row))
        for row, window, event in zip(first.index, first["window"].array, first["event"].array, strict=True)
    }
    return {n: _comparison(w, predictions[n], divergent.get(n)) for n, w in windows.items()}


def _first(differs: pd.DataFrame, row: int) -> str:
    flags = differs.loc[row].to_numpy()
    return str(differs.columns[int(np.argmax(flags))])


def _release_free_bits(joined: pd.DataFrame, predictions: Mapping[int, Prediction]) -> None:
    """Clear, on both sides, the bits that a prediction leaves to the processor."""
    free = {
        (window, number): event.free
        for window, prediction in predictions.items()
        for number, event in enumerate(prediction.events)
        if event.free
    }
    if not free:
        return
    keys = zip(joined["window"], joined["event"], strict=True)
    for row, key in enumerate(keys):
        for name, mask in free.get((int(key[0]), int(key[1])), {}).items():
            for column in (f"{name}_p", f"{name}_o"):
                joined.loc[[row], column] = joined.loc[[row], column] & (~mask & 0xFFFFFFFFFFFFFFFF)


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
