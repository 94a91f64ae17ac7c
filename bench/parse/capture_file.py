"""Captures as they lie on disk → `Capture` records.

Three forms are read:

* a boot folder, as `lab.capture` writes it: ``serial.bin``, ``capture.json``, ``events.jsonl``, ``script.txt``;
  and of a kernel without a trace ``exceptions.log``;
* a packed capture, one file: the line ``bench-capture 1``, then lines ``meta {json}``, ``event {json}``,
  ``script N`` and ``exceptions N`` followed by N bytes and a line feed, and last ``serial N`` followed by the N raw
  bytes;
* anything else: a raw serial log, without knowledge of machine and lab.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench.errors import FormatError, UsageError
from bench.linux import unpatched_from_json
from bench.parse.early_window import telling_part
from bench.records import Capture, LabEvent, LabEventKind
from bench.updates import offer_from_json

MAGIC = b"bench-capture 1\n"
SCHEMA = 1
_LOG_HEAD_BYTES, _LOG_TAIL_BYTES = 16 << 20, 1 << 16


def read_captures(path: Path) -> list[Capture]:
    """All boots under `path`: a file, a boot folder, or a run folder with boot folders in it (in order).

    Raises UsageError if there is nothing to read, FormatError (with the offset) for a broken file.
    """
    if path.is_dir():
        if (path / "serial.bin").exists():
            return [_read_folder(path)]
        boots = sorted((p.parent for p in path.glob("boot-*/serial.bin")), key=_in_order)
        if not boots:
            raise UsageError(f"{path}: no capture in this folder (looked for serial.bin and boot-*/serial.bin)")
        return [_read_folder(p) for p in boots]
    if not path.exists():
        raise UsageError(f"{path}: no such file or folder")
    data = path.read_bytes()
    if data.startswith(MAGIC):
        return [unpack(data, source=str(path))]
    if not data:
        raise UsageError(f"{path}: the file is empty")
    return [Capture(source=str(path), data=data, path=path)]


def _in_order(boot: Path) -> tuple[int, str]:
    """Boots by number; what else a folder is called comes behind: the second boot of a case is ``boot-7-again``."""
    rest = boot.name.removeprefix("boot-")
    digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
    return int(digits or 0), rest[len(digits) :]


def pack(capture: Capture) -> bytes:
    """The one-file form; `unpack(pack(c))` gives the same capture but for `source` and `path`."""
    out = bytearray(MAGIC)
    out += b"meta " + _json(_meta(capture)) + b"\n"
    for event in capture.events:
        row = {"kind": event.kind, "at_s": event.at_s, "offset": event.offset, "witness": dict(event.witness)}
        out += b"event " + _json(row) + b"\n"
    if capture.script:
        out += b"script %d\n" % len(capture.script) + capture.script + b"\n"
    if capture.exceptions:
        out += b"exceptions %d\n" % len(capture.exceptions) + capture.exceptions + b"\n"
    out += b"serial %d\n" % len(capture.data) + capture.data
    return bytes(out)


def unpack(data: bytes, *, source: str) -> Capture:
    """Read the one-file form. Raises FormatError with the byte offset."""
    meta: dict[str, Any] = {}
    events: list[LabEvent] = []
    script = exceptions = b""
    at = len(MAGIC)
    while at < len(data):
        end = data.find(b"\n", at)
        end = len(data) if end < 0 else end
        word, _, rest = data[at:end].partition(b" ")
        if word == b"meta":
            meta = _object(rest, source, at)
        elif word == b"event":
            events.append(_event(_object(rest, source, at), source, at))
        elif word in (b"script", b"exceptions", b"serial"):
            if not rest.isdigit() or end + 1 + int(rest) > len(data):
                raise FormatError(f"{word.decode()} says {rest!r} bytes, the file has fewer", source=source, offset=at)
            body = data[end + 1 : end + 1 + int(rest)]
            if word == b"serial":
                return _capture(source, body, meta, events, script, exceptions, Path(source), at)
            if word == b"script":
                script = body
            else:
                exceptions = body
            end += 1 + int(rest)
        else:
            raise FormatError(
                f"expected meta, event, script, exceptions or serial, found {word[:20]!r}", source=source, offset=at
            )
        at = end + 1
    raise FormatError("the file ends before its serial part", source=source, offset=len(data))


def _read_folder(folder: Path) -> Capture:
    meta_path, events_path, script_path = (folder / n for n in ("capture.json", "events.jsonl", "script.txt"))
    meta = _object(meta_path.read_bytes(), str(meta_path), 0) if meta_path.exists() else {}
    events = []
    if events_path.exists():
        offset = 0
        for line in events_path.read_bytes().splitlines(keepends=True):
            if line.strip():
                events.append(_event(_object(line, str(events_path), offset), str(events_path), offset))
            offset += len(line)
    script = script_path.read_bytes() if script_path.exists() else b""
    log_path = folder / "exceptions.log"
    exceptions = telling_part(_read_some(log_path)) if meta.get("unpatched") and log_path.exists() else b""
    data = (folder / "serial.bin").read_bytes()
    return _capture(str(folder), data, meta, events, script, exceptions, folder, 0)


def _read_some(path: Path) -> bytes:
    """A log as far as it can matter: of a livelock's gigabytes, the begin and the end."""
    with path.open("rb") as file:
        head = file.read(_LOG_HEAD_BYTES)
        end = file.seek(0, 2)
        file.seek(max(len(head), end - _LOG_TAIL_BYTES))
        return head + file.read()


def _capture(
    source: str,
    data: bytes,
    meta: dict[str, Any],
    events: list[LabEvent],
    script: bytes,
    exceptions: bytes,
    path: Path,
    offset: int,
) -> Capture:
    if meta and meta.get("schema") != SCHEMA:
        raise FormatError(f"schema {meta.get('schema')!r}, this bench reads {SCHEMA}", source=source, offset=offset)
    try:
        return Capture(
            source=source,
            data=data,
            events=tuple(events),
            machine=str(meta.get("machine", "")),
            model=str(meta.get("model", "")),
            image=str(meta.get("image", "")),
            virtual=meta.get("virtual"),
            nonce=int(meta["nonce"], 16) if meta.get("nonce") else None,
            quirks=tuple(meta.get("quirks", ())),
            scenarios={int(k): str(v) for k, v in meta.get("scenarios", {}).items()},
            script=script,
            path=path,
            unpatched=unpatched_from_json(meta["unpatched"], source) if meta.get("unpatched") else None,
            exceptions=exceptions,
            updates=offer_from_json(meta["updates"], source) if meta.get("updates") else None,
            traced=meta.get("traced"),
        )
    except (TypeError, ValueError, AttributeError) as error:
        raise FormatError(f"the capture's description is malformed: {error}", source=source, offset=offset) from error


def _meta(capture: Capture) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "machine": capture.machine,
        "model": capture.model,
        "image": capture.image,
        "virtual": capture.virtual,
        "nonce": "" if capture.nonce is None else f"{capture.nonce:x}",
        "quirks": list(capture.quirks),
        "scenarios": {str(k): v for k, v in capture.scenarios.items()},
        **({"unpatched": capture.unpatched.as_json()} if capture.unpatched else {}),
        **({"updates": capture.updates.as_json()} if capture.updates else {}),
        **({} if capture.traced is None else {"traced": capture.traced}),
    }


def _event(row: dict[str, Any], source: str, offset: int) -> LabEvent:
    try:
        witness = {str(k): str(v) for k, v in row.get("witness", {}).items()}
        return LabEvent(LabEventKind(row["kind"]), float(row["at_s"]), int(row["offset"]), witness)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise FormatError(f"malformed event: {error}", source=source, offset=offset) from error


def _object(text: bytes, source: str, offset: int) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise FormatError(f"not JSON: {error}", source=source, offset=offset) from error
    if not isinstance(value, dict):
        raise FormatError("not a JSON object", source=source, offset=offset)
    return value


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=True, sort_keys=True, separators=(",", ":")).encode()
