"""The manifest of a run's folder: the hash of every file of its captures, written once, right after the run.

``manifest.json`` lists each file under the folder with its size and SHA-256; its own hash goes into the store. So
`check` can tell a file that was edited, lost or added later, and an edited manifest as well.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from bench.errors import FormatError

NAME = "manifest.json"
SCHEMA = 1
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Entry:
    """One file of a run's folder."""

    path: str
    """Below the folder, with ``/``."""
    size_bytes: int
    sha256: str


def seal(folder: Path) -> str:
    """Write the manifest of `folder` and return its SHA-256. A folder that has one keeps it.

    Raises OSError if the folder cannot be read or written.
    """
    path = folder / NAME
    if not path.exists():
        text = _render(entries_of(folder))
        beside = path.with_suffix(".part")
        beside.write_text(text)
        beside.replace(path)
    return sha256_of(path)


def entries_of(folder: Path) -> list[Entry]:
    """What lies in `folder` now, in order of path, the manifest itself left out."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name not in (NAME, "manifest.part"))
    return [Entry(p.relative_to(folder).as_posix(), p.stat().st_size, sha256_of(p)) for p in files]


def read(folder: Path) -> list[Entry]:
    """The entries of the folder's manifest. Raises FormatError if it is none, OSError if it cannot be read."""
    path = folder / NAME
    try:
        value = json.loads(path.read_bytes())
        if value["schema"] != SCHEMA:
            raise FormatError(f"schema {value['schema']!r}, this bench reads {SCHEMA}", source=str(path))
        return [Entry(str(row["path"]), int(row["bytes"]), str(row["sha256"])) for row in value["files"]]
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(f"not a manifest: {error}", source=str(path)) from error


def differences(folder: Path, sealed: str) -> list[str]:
    """What is wrong with `folder`, a sentence each; `sealed` is the manifest's hash as the store has it."""
    try:
        if sha256_of(folder / NAME) != sealed:
            return [f"{folder / NAME}: is not the manifest that the store knows"]
        written = {e.path: e for e in read(folder)}
        found = {e.path: e for e in entries_of(folder)}
    except (OSError, FormatError) as error:
        return [f"{folder}: {error}"]
    complaints = [f"{folder / path}: is gone" for path in written if path not in found]
    complaints += [f"{folder / path}: was added after the run" for path in found if path not in written]
    for path, entry in written.items():
        now = found.get(path, entry)
        if now != entry:
            size = (
                f" ({entry.size_bytes} bytes then, {now.size_bytes} now)" if now.size_bytes != entry.size_bytes else ""
            )
            complaints.append(f"{folder / path}: was changed after the run{size}")
    return complaints


def sha256_of(path: Path) -> str:
    """Of a file's content, as hexadecimal text."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _render(entries: list[Entry]) -> str:
    rows = [{"path": e.path, "bytes": e.size_bytes, "sha256": e.sha256} for e in entries]
    return json.dumps({"schema": SCHEMA, "files": rows}, indent=1) + "\n"
