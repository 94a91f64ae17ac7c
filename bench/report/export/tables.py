"""One row a scenario of a run, as a pandas table: CSV for a spreadsheet, Parquet for an archive."""

from __future__ import annotations

import io
from collections.abc import Iterable

import pandas as pd

from bench.describe import printable
from bench.errors import UsageError
from bench.report.fingerprint import fingerprint_of, telling
from bench.report.history import is_demonstration
from bench.store import StoredRun

COLUMNS = (
    "run", "started", "machine", "model", "signature", "image", "image_sha256", "virtual", "demonstration",
    "run_verdict", "run_seconds", "scenario", "verdict", "windows", "predicted", "replayed", "resets", "digests",
    "component", "field", "fingerprint", "summary", "capture",
)  # fmt: skip
# A spreadsheet takes a cell that begins so for a formula.
_FORMULA = ("=", "+", "-", "@")


def table(runs: Iterable[StoredRun]) -> pd.DataFrame:
    """Columns COLUMNS; `started` is a time in UTC, numbers are int64, the rest text and booleans."""
    rows = []
    for run in runs:
        r = run.record
        for s in r.scenarios:
            first = telling(s)
            component, name = (first.component, first.field_name) if first else ("", "")
            rows.append(
                (
                    run.id, r.started, r.machine, r.model, f"0x{r.signature:08x}", r.image, r.image_sha256, r.virtual,
                    is_demonstration(r), str(r.verdict), r.seconds, s.scenario, str(s.verdict), s.windows, s.predicted,
                    s.replayed, s.resets, s.digests, component, name, fingerprint_of(s),
                    printable(first.summary if first else s.reason), r.capture,
                )
            )  # fmt: skip
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    frame["started"] = pd.to_datetime(frame["started"], utc=True)
    return frame


def csv(runs: Iterable[StoredRun]) -> bytes:
    """With a head line; text that a spreadsheet would run begins with an apostrophe."""
    frame = table(runs)
    for column in ("machine", "image", "scenario", "component", "summary"):
        frame[column] = [f"'{t}" if t.startswith(_FORMULA) else printable(t) for t in frame[column]]
    frame["started"] = frame["started"].map(lambda t: t.isoformat())
    return bytes(frame.to_csv(index=False, lineterminator="\n").encode("utf-8", "backslashreplace"))


def parquet(runs: Iterable[StoredRun]) -> bytes:
    """Raises UsageError if pyarrow is not installed."""
    out = io.BytesIO()
    try:
        table(runs).to_parquet(out, engine="pyarrow", index=False)
    except ImportError as error:
        raise UsageError("Parquet needs pyarrow: pip install 'bench[parquet]', or ./setup") from error
    return out.getvalue()
