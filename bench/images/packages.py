"""Debian's packages that are taken apart and never installed: the newest of the computer's own release, in a cache."""

from __future__ import annotations

import fcntl
import json
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from bench.cache import cache_folder
from bench.errors import LabError
from bench.images.deb import member_of
from bench.images.kernel_apt import open_apt
from bench.images.kernel_cache import hash_of
from bench.images.kernel_source import sha256_of
from bench.images.kernel_tree import write_whole

_INSTEAD = "put the package's file into {folder}"


def packages_cache() -> Path:
    """``$XDG_CACHE_HOME/bench/packages``, in ``~/.cache`` if that is not set."""
    return cache_folder("packages")


def obtain(names: Iterable[str], cache: Path | None = None) -> dict[str, Path]:
    """Name → file of the packages and of the libraries that they depend on, fetched unless they are there.

    Raises LabError if the mirror fails or does not have one.
    """
    folder = cache or packages_cache()
    folder.mkdir(parents=True, exist_ok=True)
    wanted = sorted(names)
    index = folder / f"{hash_of(wanted)[:16]}.json"
    if listed := _listed(index):
        return listed
    with (folder / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Another run, or another machine's of this one, may have fetched them meanwhile.
        if listed := _listed(index):
            return listed
        found = _fetch(wanted, folder)
        write_whole(index, (json.dumps({name: path.name for name, path in found.items()}, indent=1) + "\n").encode())
    return found


def _listed(index: Path) -> dict[str, Path]:
    """What an index names, if all of it is there; else nothing."""
    try:
        listed = {name: index.parent / file for name, file in json.loads(index.read_bytes()).items()}
    except (OSError, ValueError, AttributeError):
        return {}
    return listed if all(path.is_file() for path in listed.values()) else {}


def _fetch(wanted: Iterable[str], folder: Path) -> dict[str, Path]:
    apt = open_apt(folder / "apt", (), mirror=None, instead=_INSTEAD.format(folder=folder))
    apt.update()
    found: dict[str, Path] = {}
    waiting = list(wanted)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        versions = apt.versions(name)
        if not versions:
            raise LabError(f"the mirror has no package {name}", component="mirror")
        with tempfile.TemporaryDirectory(dir=folder, prefix=".fetching-") as scratch:
            deb = apt.download(name, versions[0], Path(scratch))
            found[name] = deb.rename(folder / deb.name)
        waiting += [each for each in apt.depends(name, versions[0]) if each.startswith(("lib", "zlib"))]
    return found


def identities(debs: dict[str, Path]) -> dict[str, str]:
    """Name → SHA-256 of the file, for the hash of what is made of them."""
    return {name: sha256_of(path) for name, path in sorted(debs.items())}


def files_of(deb: Path) -> Iterator[tuple[str, bytes | str]]:
    """Path without leading ``./`` → content of each file, or the target of a link."""
    with member_of(deb, "data") as members:
        for member in members:
            name = member.name.removeprefix("./")
            if member.issym():
                yield name, member.linkname
            elif member.isreg() and (content := members.extractfile(member)):
                yield name, content.read()
