"""Small Linux systems made of Debian's packages: a kernel as it is shipped, and an initramfs of a few programs.

Kept in ``$XDG_CACHE_HOME/bench/systems/<hash of all inputs>/``: ``vmlinuz``, ``initrd`` and ``manifest.json``. No key
is part of them: `keys_archive` makes the archive that goes behind the initrd.
"""

from __future__ import annotations

import gzip
import io
import posixpath
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.cache import cache_folder
from bench.errors import FormatError, LabError
from bench.images.kernel import build_kernel
from bench.images.kernel_cache import (
    MANIFEST,
    Checked,
    Removable,
    default_cache,
    folder_bytes,
    hash_of,
    read_manifest,
    verify,
    write_manifest,
)
from bench.images.kernel_description import PrebuiltDescription, load_description
from bench.images.kernel_source import Source, SourceStore, pinned, sha256_of
from bench.images.kernel_tree import write_whole
from bench.images.packages import files_of, identities, obtain
from bench.initrd import FOLDER, LINK, PROGRAM, REGULAR, entry

OUTPUTS = ("vmlinuz", "initrd")
LOADER = "ld-linux-x86-64.so.2"
_LIBRARIES = "lib/x86_64-linux-gnu"
_FOLDERS = frozenset({"proc", "sys", "dev", "tmp", "run", "var/log", "boot", "mnt"})
# What every system has beside its own files.
_ACCOUNTS: Mapping[str, bytes] = {
    "etc/passwd": b"root::0:0:root:/root:/bin/sh\n",
    "etc/group": b"root:x:0:\n",
    "etc/shadow": b"root:*:1:0:99999:7:::\n",
    "etc/shells": b"/bin/sh\n",
    "etc/nsswitch.conf": b"passwd: files\ngroup: files\n",
}

Tree = Mapping[str, bytes | str]
"""Path → content of a file, or the target of a link."""


@dataclass(frozen=True)
class SmallSystem:
    """What a system is made of."""

    name: str
    recipe: int
    """Raised when other files than before are made of the same packages."""
    sources: Path
    """Folder of its scripts, in the project."""
    scripts: Mapping[str, str]
    """Path in the system → file of `sources`; all of them are programs."""
    kernel: str
    """One of the kernels that are taken as Debian ships them."""
    packages: tuple[str, ...]
    programs: Mapping[str, tuple[str, ...]]
    """Path in the system → places in the packages; the first that is there counts."""
    applets: tuple[str, ...]
    """Of busybox."""
    modules: Mapping[str, tuple[str, ...]]
    """What `place_modules` goes by."""
    place_modules: Callable[[Path, Mapping[str, tuple[str, ...]]], dict[str, bytes | str]]
    """From the kernel's package and `modules`, the files of modules and their lists."""


@dataclass(frozen=True)
class BuiltSystem:
    """A built system. Its initrd lacks the keys: see `keys_archive`."""

    kernel: Path
    initrd: Path
    identity: str
    """Hash of all that went into it."""


def systems_cache() -> Path:
    """``$XDG_CACHE_HOME/bench/systems``, in ``~/.cache`` if that is not set."""
    return cache_folder("systems")


def build_system(root: Path, system: SmallSystem, *, cache: Path | None = None) -> BuiltSystem:
    """Build `system` of the project at `root`, or find it built. Equal input gives equal bytes.

    Raises LabError if the mirror fails, FormatError if a package is not what it was.
    """
    debs = obtain(system.packages)
    kernel = build_kernel(root, system.kernel)
    source, kernel_deb = _kernel_package(root, system.kernel)
    inputs = _inputs(root, system, debs, kernel.sha256)
    identity = hash_of(inputs)
    folder = (cache or systems_cache()) / identity
    if not (folder / MANIFEST).is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".building-") as scratch:
            unfinished = Path(scratch) / "system"
            unfinished.mkdir()
            shutil.copyfile(kernel.kernel, unfinished / "vmlinuz")
            write_whole(unfinished / "initrd", _initrd(root, system, debs, kernel_deb))
            manifest = {"name": system.name, "hash": identity, "release": kernel.release,
                        "source": source.described(), "inputs": inputs,
                        "built": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}  # fmt: skip
            write_manifest(unfinished, manifest, OUTPUTS)
            shutil.rmtree(folder, ignore_errors=True)
            unfinished.rename(folder)
    return _built(folder, identity)


def find_system(system: SmallSystem, *, cache: Path | None = None) -> tuple[BuiltSystem, dict[str, Any]] | None:
    """The newest build of `system` that is there, and its manifest; no package is fetched for it."""
    found = []
    for path in (cache or systems_cache()).glob(f"*/{MANIFEST}"):
        try:
            manifest = read_manifest(path.parent)
        except FormatError:
            continue
        if manifest["name"] == system.name:
            found.append((manifest["built"], path.parent, manifest))
    if not found:
        return None
    _, folder, manifest = max(found, key=lambda each: (each[0], each[1]))
    return _built(folder, folder.name), manifest


def manifest_of(built: BuiltSystem) -> dict[str, Any]:
    """All that went into a system and came out. Raises FormatError if that cannot be read."""
    return read_manifest(built.kernel.parent)


def verify_systems(names: Sequence[str] = (), cache: Path | None = None) -> list[Checked]:
    """`kernel_cache.verify` for systems; those of before there were manifests are passed over."""
    checked = verify(cache or systems_cache(), names)
    return [each for each in checked if (each.folder / MANIFEST).is_file()]


def removable_systems(cache: Path | None = None) -> list[Removable]:
    """Every build but the newest of its name, and what has no manifest that can be read."""
    folders = [path for path in sorted((cache or systems_cache()).glob("*")) if len(path.name) == 64 and path.is_dir()]
    newest: dict[str, tuple[str, Path]] = {}
    for folder in folders:
        try:
            manifest = read_manifest(folder)
        except FormatError:
            continue
        newest[manifest["name"]] = max(newest.get(manifest["name"], ("", folder)), (manifest["built"], folder))
    kept = {folder for _, folder in newest.values()}
    return [Removable(folder, "system", folder_bytes(folder)) for folder in folders if folder not in kept]


def _built(folder: Path, identity: str) -> BuiltSystem:
    return BuiltSystem(folder / "vmlinuz", folder / "initrd", identity)


def _inputs(root: Path, system: SmallSystem, debs: dict[str, Path], kernel: str) -> dict[str, Any]:
    folder = root / system.sources
    return {
        "system": system.name,
        "recipe": system.recipe,
        "packages": identities(debs),
        "kernel": kernel,
        "scripts": {path: sha256_of(folder / name) for path, name in sorted(system.scripts.items())},
        "programs": {path: list(places) for path, places in system.programs.items()},
        "applets": list(system.applets),
        "modules": {name: list(modules) for name, modules in system.modules.items()},
    }


def keys_archive(*, host_key: bytes, authorized_keys: Iterable[str], more: Mapping[str, bytes] | None = None) -> bytes:
    """What goes behind the initrd: dropbear's host key (see `dropbear_key`), who may log in, and `more` files."""
    files = {
        "etc/dropbear/dropbear_ed25519_host_key": host_key,
        "root/.ssh/authorized_keys": "".join(f"{key}\n" for key in authorized_keys).encode(),
        **(more or {}),
    }
    out = io.BytesIO()
    for folder, mode in (("etc", 0o755), ("etc/dropbear", 0o700), ("root", 0o700), ("root/.ssh", 0o700)):
        out.write(entry(folder, mode=0o040000 | mode))
    for name, data in files.items():
        out.write(entry(name, data, mode=0o100600))
    out.write(entry("TRAILER!!!", mode=0))
    return out.getvalue()


def dropbear_key(private: bytes, public: bytes) -> bytes:
    """An Ed25519 key (32 bytes each) as dropbear keeps it: two SSH strings (dropbear, src/ed25519.c)."""
    kind = b"ssh-ed25519"
    return b"".join(len(text).to_bytes(4, "big") + text for text in (kind, private + public))


def _kernel_package(root: Path, kernel: str) -> tuple[Source, Path]:
    description = load_description(root, kernel)
    assert isinstance(description, PrebuiltDescription)
    store, wanted = SourceStore(default_cache() / "sources"), pinned(description)
    source = store.consented(wanted) or wanted
    return source, store.path(source)


def _initrd(root: Path, system: SmallSystem, debs: Mapping[str, Path], kernel_deb: Path) -> bytes:
    there: dict[str, bytes | str] = {}
    for deb in debs.values():
        there |= dict(files_of(deb))
    tree: dict[str, bytes | str] = {
        path: (root / system.sources / name).read_bytes() for path, name in system.scripts.items()
    }
    tree |= _ACCOUNTS
    tree |= programs_of(system, there)
    tree |= system.place_modules(kernel_deb, system.modules)
    return archive(tree, {*system.programs, *system.scripts})


def programs_of(system: SmallSystem, there: Tree) -> dict[str, bytes | str]:
    """The programs out of the packages' files, busybox's names, and the libraries that they need."""
    found: dict[str, bytes | str] = {}
    for target, places in system.programs.items():
        content = next((there[place] for place in places if isinstance(there.get(place), bytes)), None)
        if content is None:
            raise FormatError(
                f"none of {', '.join(places)} is in Debian's packages any more", source=str(system.sources)
            )
        found[target] = content
    found |= {f"bin/{name}": "busybox" for name in system.applets}
    libraries = _by_name(there)
    waiting = [data for data in found.values() if isinstance(data, bytes)]
    while waiting:
        for name in _needed(waiting.pop()):
            if f"{_LIBRARIES}/{name}" in found or name == LOADER:
                continue
            if name not in libraries:
                raise LabError(f"no package that those of {system.name} depend on has {name}", component="build")
            found[f"{_LIBRARIES}/{name}"] = libraries[name]
            waiting.append(libraries[name])
    found[f"lib64/{LOADER}"] = libraries[LOADER]
    return found


def _by_name(there: Tree) -> dict[str, bytes]:
    """Library's name → content, links followed."""
    found: dict[str, bytes] = {}
    for path in there:
        content, place = there[path], path
        for _ in range(8):
            if isinstance(content, bytes):
                break
            place = posixpath.normpath(posixpath.join(posixpath.dirname(place), content)).lstrip("/")
            content = there.get(place, there.get(place.removeprefix("usr/"), there.get(f"usr/{place}", "")))
        name = posixpath.basename(path)
        if ".so" in name and isinstance(content, bytes):
            found.setdefault(name, content)
    return found


def _needed(program: bytes) -> list[str]:
    from elftools.elf.dynamic import DynamicSection
    from elftools.elf.elffile import ELFFile

    if program[:4] != b"\x7fELF":
        return []
    sections = (s for s in ELFFile(io.BytesIO(program)).iter_sections() if isinstance(s, DynamicSection))
    tags = (tag for section in sections for tag in section.iter_tags())
    return [str(tag.needed) for tag in tags if tag.entry.d_tag == "DT_NEEDED"]  # type: ignore[attr-defined]


def archive(tree: Tree, programs: Iterable[str]) -> bytes:
    """An initramfs of `tree`, compressed, with the folders that it needs. Equal input gives equal bytes."""
    runnable = frozenset(programs)
    folders = {posixpath.dirname(name) for name in tree} | _FOLDERS
    for folder in list(folders):
        while folder := posixpath.dirname(folder):
            folders.add(folder)
    out = io.BytesIO()
    for folder in sorted(folders - {""}):
        out.write(entry(folder, mode=FOLDER))
    for name in sorted(tree):
        content = tree[name]
        if isinstance(content, str):
            out.write(entry(name, content.encode(), mode=LINK))
        else:
            out.write(entry(name, content, mode=PROGRAM if name in runnable or ".so" in name else REGULAR))
    out.write(entry("TRAILER!!!", mode=0))
    return gzip.compress(out.getvalue(), compresslevel=1, mtime=0)
