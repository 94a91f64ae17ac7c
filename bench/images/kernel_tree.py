"""Build trees: the unpacked source of a kernel, compiled in place and kept, at a path that does not change.

There is one for each source, configuration and compiler. Patches come and go in it: only files whose content changes
are written, so that make compiles no more than it must.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_ABSENT = "absent.json"


@dataclass(frozen=True)
class BuildTree:
    """A folder with ``linux/`` (the tree), ``pristine/`` (files as they were before a patch changed them), ``lock``
    and ``build.log``."""

    folder: Path

    @property
    def linux(self) -> Path:
        """The kernel's own top folder."""
        return self.folder / "linux"

    @property
    def log(self) -> Path:
        """Everything that make said in the last build."""
        return self.folder / "build.log"

    @property
    def interrupted(self) -> Path:
        """Exists while make runs, and after one that did not come to its end."""
        return self.folder / "running"

    @contextlib.contextmanager
    def locked(self, waiting: Callable[[], None] = lambda: None) -> Iterator[int]:
        """Hold the tree alone; `waiting` is called once if another process has it.

        Gives the lock's descriptor: whoever inherits it holds the lock too, so that a make which outlives us keeps
        the tree until it has ended.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waiting()
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield descriptor
        finally:
            os.close(descriptor)

    def unpack(self, unpacker: Callable[[Path], None]) -> None:
        """Fill ``linux/`` if it is not there. `unpacker` is given an empty folder; one that was cut off counts not."""
        if self.linux.is_dir():
            return
        unfinished = self.folder / "linux.unpacking"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        unpacker(unfinished)
        unfinished.rename(self.linux)

    def pristine(self, path: str) -> bytes | None:
        """The content of `path` before any patch; None if there was no such file. Remembers it."""
        kept = self.folder / "pristine" / path
        if kept.is_file():
            return kept.read_bytes()
        absent = self._absent()
        source = self.linux / path
        if path in absent or not source.is_file():
            if path not in absent:
                write_whole(self.folder / _ABSENT, json.dumps([*absent, path]).encode())
            return None
        content = source.read_bytes()
        write_whole(kept, content, source.stat().st_mode)
        return content

    def _absent(self) -> list[str]:
        path = self.folder / _ABSENT
        return list(json.loads(path.read_text())) if path.is_file() else []

    def write(self, changed: Mapping[str, bytes | None]) -> list[str]:
        """Make every file what `changed` says, and all others pristine. Returns the paths that were written."""
        for path in changed:
            self.pristine(path)
        folder = self.folder / "pristine"
        kept = [p.relative_to(folder).as_posix() for p in sorted(folder.rglob("*")) if p.is_file()]
        written = []
        for path in (*kept, *self._absent()):
            wanted = changed[path] if path in changed else self.pristine(path)
            target = self.linux / path
            before = target.read_bytes() if target.is_file() else None
            if wanted == before:
                continue
            if wanted is None:
                target.unlink()
            else:
                mode = folder / path
                write_whole(target, wanted, mode.stat().st_mode if mode.is_file() else 0o644)
            written.append(path)
        return written

    def drop_unfinished(self) -> int:
        """After a make that was killed: remove what a command had not finished to write.

        Kbuild notes the command of each file in ``.NAME.cmd`` when the command has ended, so a file that is newer
        than its note may be half of one. Returns how many files went.
        """
        dropped = 0
        for note in self.linux.rglob(".*.cmd"):
            target = note.with_name(note.name.removeprefix(".").removesuffix(".cmd"))
            if target.is_file() and target.stat().st_mtime_ns > note.stat().st_mtime_ns:
                target.unlink()
                dropped += 1
        return dropped


def write_whole(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write `data` so that a reader, or the next run after a crash, sees all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".writing-")
    try:
        with os.fdopen(descriptor, "wb") as out:
            out.write(data)
        Path(name).chmod(mode & 0o777)
        Path(name).rename(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
