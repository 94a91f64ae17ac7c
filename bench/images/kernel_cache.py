"""Built kernels in ``$XDG_CACHE_HOME/bench/kernels/``: manifests, what is intact, what may go.

```
<hash of all inputs>/   bzImage vmlinux System.map .config manifest.json
sources/<its hash>      fetched packages, archives and git commits
trees/<key>/            unpacked and compiled trees (kernel_tree)
```
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.cache import cache_folder
from bench.errors import FormatError
from bench.images.kernel_source import sha256_of
from bench.images.kernel_tree import write_whole

MANIFEST = "manifest.json"
SCHEMA = 1
OUTPUTS = ("bzImage", "vmlinux", "System.map", ".config")
_SEAL = "sha256_of_the_rest"


def default_cache() -> Path:
    """``$XDG_CACHE_HOME/bench/kernels``, in ``~/.cache`` if that is not set."""
    return cache_folder("kernels")


def hash_of(inputs: object) -> str:
    """SHA-256 of anything that JSON can say."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@dataclass(frozen=True)
class Kept:
    """A kernel in the cache."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def name(self) -> str:
        """The image's name, with the series that were added to it."""
        return str(self.manifest["name"])

    @property
    def used_s(self) -> float:
        """When it was last built or asked for (seconds since 1970)."""
        return (self.folder / MANIFEST).stat().st_mtime

    @property
    def output_bytes(self) -> int:
        """Size of all files."""
        return folder_bytes(self.folder)


def write_manifest(folder: Path, manifest: dict[str, Any], names: Sequence[str] = OUTPUTS) -> None:
    """Write the manifest with SHA-256 and size of every output, and a seal over itself."""
    outputs = {n: {"sha256": sha256_of(folder / n), "bytes": (folder / n).stat().st_size} for n in names}
    whole = {"schema": SCHEMA, **manifest, "outputs": outputs}
    write_whole(folder / MANIFEST, (json.dumps(whole | {_SEAL: hash_of(whole)}, indent=2) + "\n").encode())


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest in `folder`. Raises FormatError if it is absent, not JSON or not as it was written."""
    path = folder / MANIFEST
    try:
        whole = json.loads(path.read_text(encoding="utf-8"))
        seal = whole.pop(_SEAL)
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise FormatError(f"is not a manifest: {error}", source=str(path)) from error
    if seal != hash_of(whole):
        raise FormatError("is not as it was written", source=str(path))
    return dict(whole)


def kept_kernels(cache: Path) -> list[Kept]:
    """The kernels in the cache whose manifest can be read, the oldest first."""
    found = []
    for folder in sorted(_kernel_folders(cache)):
        with contextlib.suppress(FormatError):
            found.append(Kept(folder, read_manifest(folder)))
    return sorted(found, key=lambda kept: kept.used_s)


def _kernel_folders(cache: Path) -> Iterator[Path]:
    for folder in cache.glob("*"):
        if len(folder.name) == 64 and folder.is_dir():
            yield folder


@dataclass(frozen=True)
class Checked:
    """A kernel that was looked at; `troubles` names each file that is not as its manifest says."""

    folder: Path
    name: str
    files: int
    troubles: tuple[str, ...]


def verify(cache: Path, names: Sequence[str] = ()) -> list[Checked]:
    """Hash every output again, of all kernels in the cache or of those called one of `names`."""
    results = []
    for folder in sorted(_kernel_folders(cache)):
        try:
            manifest = read_manifest(folder)
        except FormatError as error:
            if not names:
                results.append(Checked(folder, "?", 1, (str(error),)))
            continue
        if names and manifest["name"] not in names:
            continue
        troubles = [*_file_troubles(folder, manifest["outputs"])]
        if manifest["hash"] != folder.name or hash_of(manifest["inputs"]) != folder.name:
            troubles.append(f"{folder / MANIFEST}: its inputs have another hash than the folder's name")
        results.append(Checked(folder, manifest["name"], len(manifest["outputs"]) + 1, tuple(troubles)))
    return results


def _file_troubles(folder: Path, outputs: dict[str, dict[str, Any]]) -> Iterator[str]:
    for name, said in outputs.items():
        path = folder / name
        if not path.is_file():
            yield f"{path}: is missing"
            continue
        found = sha256_of(path)
        if found != said["sha256"]:
            size = path.stat().st_size
            length = "" if size == said["bytes"] else f" ({size} bytes, not {said['bytes']})"
            yield f"{path}: has changed{length}: SHA-256 is {found}, not {said['sha256']}"


@dataclass(frozen=True)
class Removable:
    """Something in the cache that no newest image needs."""

    path: Path
    what: str
    size_bytes: int


def removable(cache: Path) -> list[Removable]:
    """What `prune` would remove: every kernel but the newest of its name, and the trees and sources that none of
    those needs. A tree in which a build runs is not among them."""
    newest = {kept.name: kept for kept in kept_kernels(cache)}
    folders = {kept.folder for kept in newest.values()}
    trees = {kept.manifest["tree"] for kept in newest.values()}
    sources = {kept.manifest["source"]["identity"] for kept in newest.values()}
    found: list[tuple[Path, str]] = []
    for folder in sorted(_kernel_folders(cache)):
        if folder not in folders:
            found.append((folder, "kernel"))
    for tree in sorted((cache / "trees").glob("*")):
        if tree.name not in trees and not _in_use(tree):
            found.append((tree, "build tree"))
    for source in sorted((cache / "sources").glob("*")):
        if source.suffix != ".in-place" and source.stem not in sources and source.name != "apt":
            found.append((source, "source"))
    return [Removable(path, what, folder_bytes(path)) for path, what in found]


def _in_use(tree: Path) -> bool:
    try:
        descriptor = os.open(tree / "lock", os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def remove(items: Sequence[Removable]) -> None:
    """Remove what `removable` named. A kernel's manifest goes first, so that what is half removed is not found."""
    for item in items:
        if item.path.is_dir():
            (item.path / MANIFEST).unlink(missing_ok=True)
            shutil.rmtree(item.path)
        else:
            item.path.unlink(missing_ok=True)


def folder_bytes(path: Path) -> int:
    """Disk space of a file or of all files below a folder."""
    paths = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file() and not p.is_symlink()]
    return sum(each.stat().st_blocks * 512 for each in paths)
