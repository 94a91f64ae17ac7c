"""Patch series: ``firmware-images/patches/SERIES/`` with ``NNNN-*.patch`` and ``series.toml``.

A series is chosen for a release by its version ranges, and applied to copies of the files that it touches, never to
the kernel's tree itself.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from bench.errors import UsageError
from bench.images.kernel_description import Release, ReleaseText, parse_release, read_toml, release_text

PATCHES = Path("firmware-images") / "patches"
IMAGE_ID_MACRO = "BENCH_IMAGE_ID"

_STRICT = ConfigDict(extra="forbid", strict=True, frozen=True)
_PATCH_NAME = r"^[0-9]{4}-[A-Za-z0-9._-]+\.patch$"


class PatchRow(BaseModel):
    """A ``[[patch]]``: applied if ``from`` <= release < ``below``."""

    model_config = _STRICT
    file: Annotated[str, StringConstraints(pattern=_PATCH_NAME)]
    from_: Annotated[ReleaseText | None, Field(alias="from")] = None
    below: ReleaseText | None = None

    def fits(self, release: Release) -> bool:
        """Whether `release` is in the range."""
        low = self.from_ is None or parse_release(self.from_) <= release
        return low and (self.below is None or release < parse_release(self.below))


class CopyRow(BaseModel):
    """A ``[[copy]]``: the project's `file` (relative to the series) becomes `to` in the kernel's tree."""

    model_config = _STRICT
    file: str
    to: str


class SeriesFile(BaseModel):
    """A file ``series.toml``."""

    model_config = _STRICT
    about: Annotated[str, StringConstraints(min_length=10)]
    image_id_header: str | None = None
    """A header of this path is written into the tree that defines BENCH_IMAGE_ID, a 64-bit number."""
    patch: list[PatchRow] = []
    copy_: Annotated[list[CopyRow], Field(alias="copy")] = []


@dataclass(frozen=True)
class Patch:
    """A patch of a series, as read."""

    series: str
    file: str
    data: bytes

    @property
    def name(self) -> str:
        """Series and file."""
        return f"{self.series}/{self.file}"

    @property
    def sha256(self) -> str:
        """SHA-256 of the file."""
        return hashlib.sha256(self.data).hexdigest()


@dataclass(frozen=True)
class PatchSet:
    """What several series together do to a tree of one release."""

    patches: tuple[Patch, ...] = ()
    copies: tuple[tuple[str, bytes], ...] = ()
    """Path in the tree, content."""
    image_id_headers: tuple[str, ...] = ()

    def described(self) -> dict[str, object]:
        """For the hash of inputs and the manifest."""
        return {
            "patches": [{"series": p.series, "file": p.file, "sha256": p.sha256} for p in self.patches],
            "copies": [{"to": to, "sha256": hashlib.sha256(data).hexdigest()} for to, data in self.copies],
            "image_id_headers": list(self.image_id_headers),
        }


def load_patches(root: Path, series: Iterable[str], release: Release) -> PatchSet:
    """The patches of `series` for `release`, in order.

    Raises UsageError for a series that does not exist, whose files and table disagree, or which has no patch for
    this release.
    """
    patches: list[Patch] = []
    copies: dict[str, bytes] = {}
    headers: list[str] = []
    for name in series:
        folder = root / PATCHES / name
        if not (folder / "series.toml").is_file():
            known = sorted(str(p.parent.relative_to(root / PATCHES)) for p in (root / PATCHES).rglob("series.toml"))
            raise UsageError(f"no patch series {name!r}; there are: {', '.join(known) or 'none'} ({PATCHES}/)")
        table = read_toml(folder / "series.toml", SeriesFile)
        _same_files(folder, table)
        chosen = [row for row in table.patch if row.fits(release)]
        if table.patch and not chosen:
            ranges = "; ".join(f"{r.file} from {r.from_ or 'any'} to below {r.below or 'any'}" for r in table.patch)
            raise UsageError(f"patch series {name} has nothing for Linux {release_text(release)}: {ranges}")
        patches += [Patch(name, row.file, (folder / row.file).read_bytes()) for row in chosen]
        for row in table.copy_:
            copies[_inside(folder / "series.toml", row.to)] = _content(root, folder, row.file)
        if table.image_id_header:
            headers.append(_inside(folder / "series.toml", table.image_id_header))
    return PatchSet(tuple(patches), tuple(copies.items()), tuple(headers))


def _same_files(folder: Path, table: SeriesFile) -> None:
    listed = [row.file for row in table.patch]
    there = sorted(path.name for path in folder.glob("*.patch"))
    if sorted(listed) != there or listed != sorted(set(listed)):
        raise UsageError(
            f"{folder / 'series.toml'}: patch: must list every .patch of the folder once, in the order of their names; "
            f"it lists {', '.join(listed) or 'none'}, and there are {', '.join(there) or 'none'}"
        )


def _content(root: Path, folder: Path, file: str) -> bytes:
    path = (folder / file).resolve()
    if not path.is_relative_to((root / "firmware-images").resolve()) or not path.is_file():
        raise UsageError(f"{folder / 'series.toml'}: copy: {file!r} is not a file of firmware-images/")
    return path.read_bytes()


def _inside(where: Path, path: str) -> str:
    if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts or not path:
        raise UsageError(f"{where}: {path!r} leaves the kernel's tree")
    return path


def changed_files(
    patches: PatchSet, image_id: int, pristine: Callable[[str], bytes | None]
) -> Mapping[str, bytes | None]:
    """What the files of the tree become that `patches` touch, by path; None for one that goes.

    `pristine` gives an untouched file's content, None if there is none. Raises UsageError with patch, file and hunk
    if one does not apply exactly.
    """
    result: dict[str, bytes | None] = dict(patches.copies)
    for header in patches.image_id_headers:
        text = f"/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */\n#define {IMAGE_ID_MACRO} {image_id:#x}ULL\n"
        result[header] = text.encode()
    with tempfile.TemporaryDirectory(prefix="bench-patch-") as scratch:
        folder = Path(scratch)
        touched: list[str] = []
        for patch in patches.patches:
            for path in touched_files(patch):
                if path in touched:
                    continue
                touched.append(path)
                content = pristine(path)
                if content is not None:
                    (folder / path).parent.mkdir(parents=True, exist_ok=True)
                    (folder / path).write_bytes(content)
            _apply(patch, folder)
        for path in touched:
            result[path] = (folder / path).read_bytes() if (folder / path).is_file() else None
    return result


def touched_files(patch: Patch) -> Sequence[str]:
    """The paths that a patch names, without their first part (``-p1``), each once."""
    found: dict[str, None] = {}
    for before, after in re.findall(rb"^--- (\S+)[^\n]*\n\+\+\+ (\S+)[^\n]*\n@@ ", patch.data, re.MULTILINE):
        for name in (before, after):
            if name != b"/dev/null":
                path = name.decode("utf-8", "backslashreplace").partition("/")[2]
                found[_inside(Path(patch.name), path)] = None
    if not found:
        raise UsageError(f"{PATCHES}/{patch.name}: is not a unified diff")
    return list(found)


def _apply(patch: Patch, folder: Path) -> None:
    done = subprocess.run(
        ["patch", "-p1", "--fuzz=0", "--batch", "--forward", "--no-backup-if-mismatch", "--reject-file=-"],
        cwd=folder, input=patch.data, capture_output=True, check=False, env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
    )  # fmt: skip
    if done.returncode == 0:
        return
    file, trouble = "", ""
    for line in done.stdout.decode(errors="replace").splitlines():
        if named := re.match(r"patching file '?([^' ]+)", line):
            file = named[1]
        elif re.match(r"Hunk #\d+ FAILED|.*can't find file|.*[Oo]nly garbage|.*malformed|Reversed", line):
            trouble = line.rstrip(".")
            break
    said = trouble or (done.stdout + done.stderr).decode(errors="replace").strip()
    raise UsageError(f"patch {PATCHES}/{patch.name} does not apply: {file or 'no file'}: {said}")
