"""Kernels as a distribution ships them: fetched, unpacked without being installed, kept like those that are built here.

They have no trace. Their symbols come from the kernel's own table, so that they can be judged by QEMU's log of
exceptions (`bench.unpatched`).
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.errors import FormatError, UsageError
from bench.images.bzimage import read_boot_header, require_64_bit, unpack_kernel
from bench.images.deb import architecture, boot_files
from bench.images.kallsyms import read_kallsyms, render_system_map
from bench.images.kernel_cache import MANIFEST, hash_of, read_manifest, write_manifest
from bench.images.kernel_description import (
    WHY_NOT_32_BIT,
    PrebuiltDescription,
    parse_release,
    release_text,
)
from bench.images.kernel_source import Source, SourceStore, Wishes, pinned, sha256_of
from bench.images.kernel_tree import write_whole

# Raised when this module makes other files than before from the same package.
RECIPE = 1
_NEEDS_BYTES = 250 * 10**6
Say = Callable[[str, str], None]


def release_of_package(deb: Path) -> str:
    """The release of the kernel in a binary package, by the kernel's own words."""
    said = read_boot_header(boot_files(deb)["vmlinuz"], str(deb)).version
    # Debian's kernels call themselves by their ABI; the release stands behind its name.
    match = re.search(r"Debian (\d+\.\d+\.\d+)", said)
    try:
        return release_text(parse_release(match[1] if match else said))
    except ValueError as error:
        raise FormatError(f"its kernel calls itself {said!r}: no release in it", source=str(deb)) from error


def find_prebuilt(description: PrebuiltDescription, cache: Path) -> tuple[Path, dict[str, Any]] | None:
    """Folder and manifest of the kernel, if it is kept already."""
    source = pinned(description)
    instead = SourceStore(cache / "sources").consented(source)
    for each in (source, instead):
        folder = cache / hash_of(_inputs(each)) if each else None
        if folder and (folder / MANIFEST).is_file():
            # prune keeps what was used last.
            os.utime(folder / MANIFEST)
            return folder, read_manifest(folder)
    return None


def keep_prebuilt(
    description: PrebuiltDescription, base: Path, cache: Path, wishes: Wishes, say: Say
) -> tuple[Path, dict[str, Any]]:
    """Fetch the package and keep what is in it. `base` is what relative paths start from.

    Raises UsageError for a package that is not the pinned one or is for another processor, LabError if mirror or disk
    failed, FormatError for one that cannot be read.
    """
    cache.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(cache).free
    say(
        "plan",
        f"fetch {pinned(description).name} and unpack it: {_NEEDS_BYTES / 10**9:.2f} GB of {free / 10**9:.0f} GB",
    )
    if free < _NEEDS_BYTES:
        raise UsageError(f"{cache}: {free / 10**9:.2f} GB are free, {_NEEDS_BYTES / 10**9:.2f} GB are needed")
    store = SourceStore(cache / "sources")
    say("fetch", pinned(description).name)
    source = store.obtain(description, base, wishes, release_of=release_of_package)
    if source.departure:
        say("fetch", source.departure)
    inputs = _inputs(source)
    folder = cache / hash_of(inputs)
    if (folder / MANIFEST).is_file():
        return folder, read_manifest(folder)
    deb = store.path(source)
    if sha256_of(deb) != source.identity:
        deb.unlink()
        raise UsageError(f"{deb}: had changed since it was fetched and was removed; build again to fetch it")
    unfinished = _unfinished(cache, folder.name)
    try:
        header = _unpack(deb, source, unfinished, say)
        write_manifest(unfinished, _manifest(description, source, inputs, header))
        # What was half removed has no manifest any more.
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder, read_manifest(folder)


def _unfinished(cache: Path, digest: str) -> Path:
    """A new folder of our own; what killed builds of the same kernel left an hour ago is removed."""
    for old in cache.glob(f".keeping-{digest}-*"):
        if time.time() - old.stat().st_mtime > 3600:
            shutil.rmtree(old, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(dir=cache, prefix=f".keeping-{digest}-"))
    folder.chmod(0o755)
    return folder


def _inputs(source: Source) -> dict[str, Any]:
    return {
        "recipe": RECIPE,
        "prebuilt": True,
        "release": source.release,
        "source": {"kind": source.kind, "identity": source.identity},
    }


def _unpack(deb: Path, source: Source, folder: Path, say: Say) -> dict[str, Any]:
    """Write the four files of a kernel into `folder`; what the kernel's header says."""
    if (given := architecture(deb)) != "amd64":
        raise UsageError(f"{source.name} is for {given}: {WHY_NOT_32_BIT if given == 'i386' else 'not for x86-64'}")
    say("unpack", source.name)
    files = boot_files(deb)
    header = read_boot_header(files["vmlinuz"], source.name)
    elf = unpack_kernel(files["vmlinuz"], header, source.name)
    require_64_bit(elf, source.name)
    say("symbols", f"of {header.version.split(' ', maxsplit=1)[0]}, out of its own table")
    contents = {
        "bzImage": files["vmlinuz"],
        "vmlinux": elf,
        "System.map": render_system_map(read_kallsyms(elf, source.name)).encode("latin-1"),
        ".config": files["config"],
    }
    for name, content in contents.items():
        write_whole(folder / name, content)
    return asdict(header)


def _manifest(
    description: PrebuiltDescription, source: Source, inputs: dict[str, Any], header: dict[str, Any]
) -> dict[str, Any]:
    digest = hash_of(inputs)
    return {
        "name": description.name,
        "hash": digest,
        "image_id": digest[:16],
        "about": description.about,
        "release": source.release,
        "source": source.described(),
        "series": [],
        "fragments": [],
        "inputs": inputs,
        "header": header,
        # Nothing is compiled; the keys are those of every kernel.
        "tree": "",
        "objects": 0,
        "compiled": 0,
        "compile_s": 0.0,
        "jobs": 0,
        "built": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
