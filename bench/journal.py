"""What a `bench run` was asked for and what of it is done, so that it can go on where it stopped.

One file a run of the command, ``results/journal/DATE-TIME-XXXX.jsonl``: a line that says what was asked for, then one
for each order that has come to an end, on disk before it is told. A run that comes to its end removes its file: what
lies there was broken off, by Ctrl-C, a crash or a loss of power.
"""

from __future__ import annotations

import json
import os
import secrets
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from bench.errors import FormatError, UsageError

FOLDER = "journal"
SCHEMA = 1


@dataclass(frozen=True)
class Ended:
    """An order that has come to an end."""

    name: str
    image_sha256: str
    verdict: str
    text: str


@dataclass(frozen=True)
class Unfinished:
    """A run that was broken off."""

    path: Path
    started: str
    """Local time, for people."""
    asked: Mapping[str, Any]
    """Options of the command."""
    total: int
    ended: tuple[Ended, ...] = ()


class Journal:
    """The file of one run of the command, open. `resumed`: it goes on with that one's file."""

    def __init__(self, results: Path, asked: Mapping[str, Any], total: int, *, resumed: Unfinished | None = None):
        self._lock = threading.Lock()
        folder = results / FOLDER
        self.path = (
            resumed.path if resumed else folder / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}.jsonl"
        )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file: BinaryIO = self.path.open("ab")
        except OSError as error:
            raise UsageError(f"{error.filename or folder}: cannot be written: {error.strerror}") from error
        if resumed is None:
            started = time.strftime("%Y-%m-%d %H:%M:%S")
            self._write({"schema": SCHEMA, "started": started, "asked": dict(asked), "total": total})

    def ended(self, one: Ended) -> None:
        """An order has come to its end; from any thread."""
        with self._lock:
            self._write(vars(one))

    def _write(self, row: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(row).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self, *, whole: bool) -> None:
        """`whole`: all that was asked for has come to its end, and there is nothing to go on with."""
        self._file.close()
        if whole:
            self.path.unlink(missing_ok=True)


def latest(results: Path) -> Unfinished:
    """The last run that was broken off. Raises UsageError if there is none, FormatError if its file is damaged."""
    paths = sorted((results / FOLDER).glob("*.jsonl"))
    if not paths:
        raise UsageError(f"{results / FOLDER}: no run was broken off: nothing to go on with")
    return _read(paths[-1])


def _read(path: Path) -> Unfinished:
    lines = path.read_bytes().split(b"\n")
    # The last line may have been cut by what ended the run; the order of that line is simply run again.
    lines.pop()
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
            if number == 1 and rows[0]["schema"] != SCHEMA:
                raise ValueError(f"schema {rows[0]['schema']!r}, this bench reads {SCHEMA}")
            if number > 1:
                Ended(**rows[-1])
        except (ValueError, KeyError, TypeError) as error:
            words = f"line {number}: no journal of a run: {error}; remove it to begin anew"
            raise FormatError(words, source=str(path)) from error
    if not rows:
        raise FormatError("no journal of a run: empty; remove it to begin anew", source=str(path))
    head, ended = rows[0], tuple(Ended(**row) for row in rows[1:])
    return Unfinished(path, head["started"], head["asked"], head["total"], ended)
