"""Kernels: Linux built from a pinned source, a patch series and a minimal configuration.

The same inputs give the same bytes, wherever and whenever they are built. A build is found again by one hash of all
of them (`kernel_cache`); one that was cut off goes on where it stopped.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

from bench.errors import FormatError, LabError, UsageError
from bench.images.kernel_cache import (
    MANIFEST,
    OUTPUTS,
    default_cache,
    hash_of,
    kept_kernels,
    read_manifest,
    write_manifest,
)
from bench.images.kernel_config import Option, check_config, parse_config, read_fragments, render_config
from bench.images.kernel_description import (
    KERNELS,
    KernelDescription,
    PrebuiltDescription,
    load_description,
    parse_release,
)
from bench.images.kernel_image import KernelImage
from bench.images.kernel_make import VARIABLES, Counter, make
from bench.images.kernel_patches import PatchSet, changed_files, load_patches
from bench.images.kernel_prebuilt import find_prebuilt, keep_prebuilt
from bench.images.kernel_source import Source, SourceStore, Wishes, pinned, sha256_of
from bench.images.kernel_tools import COMPILER, TOOLS, Tool, first_line, require_tools
from bench.images.kernel_tree import BuildTree, write_whole

# Raised when this module builds otherwise than before from the same inputs.
RECIPE = 1
_BUILT = {"bzImage": "arch/x86/boot/bzImage", "vmlinux": "vmlinux", "System.map": "System.map", ".config": ".config"}

# Measured with Linux 6.1.192: what it is reckoned with before there is a build to go by.
_OBJECTS = 900
_OBJECT_JOB_S = 0.75
_UNPACK_S = 45
_SOURCE_BYTES = 140 * 10**6
_TREE_BYTES = 1_800 * 10**6


@dataclass(frozen=True)
class BuildProgress:
    """What a build is doing. `done` of `total` objects are compiled; `left_s` is an estimate."""

    image: str
    stage: str
    """plan, wait, fetch, unpack, patch, configure, compile, link or keep."""
    text: str
    elapsed_s: float
    done: int | None = None
    total: int | None = None
    left_s: float | None = None


Tell = Callable[[BuildProgress], None]
_Arguments = ParamSpec("_Arguments")


@dataclass
class _Build:
    """One image on its way."""

    root: Path
    cache: Path
    description: KernelDescription
    series: tuple[str, ...]
    options: dict[str, Option]
    compiler: dict[str, str]
    jobs: int
    tell: Tell
    tools: tuple[Tool, ...]
    name: str
    source: Source
    patches: PatchSet = field(default_factory=PatchSet)
    started_s: float = field(default_factory=time.monotonic)

    def say(self, stage: str, text: str, **numbers: Any) -> None:
        """Progress."""
        self.tell(BuildProgress(self.name, stage, text, time.monotonic() - self.started_s, **numbers))

    def take(self, source: Source) -> None:
        """Build from `source`, with the patches for its release."""
        self.source = source
        self.patches = load_patches(self.root, self.series, parse_release(source.release))

    def tree_inputs(self) -> dict[str, Any]:
        """What a build tree is made for."""
        return {
            "recipe": RECIPE,
            "arch": self.description.arch,
            "release": self.source.release,
            "source": {"kind": self.source.kind, "identity": self.source.identity},
            "config": {
                "base": self.description.config.base,
                "options": {o.name: o.value for o in self.options.values()},
            },
            "compiler": self.compiler,
            "make": dict(VARIABLES),
        }

    def inputs(self) -> dict[str, Any]:
        """All that the outputs depend on."""
        return self.tree_inputs() | self.patches.described()

    @property
    def tree(self) -> BuildTree:
        """Where it is compiled; empty before `unpack`."""
        return BuildTree(self.cache / "trees" / hash_of(self.tree_inputs())[:16])

    def fetch(self, wishes: Wishes) -> SourceStore:
        """The store that has the source now, which may be another than the pinned one if `wishes` allow it."""
        store = SourceStore(self.cache / "sources")
        self.say("fetch", self.source.name)
        self.take(store.obtain(self.description, self.root / KERNELS, wishes))
        if self.source.departure:
            self.say("fetch", self.source.departure)
        return store

    def unpack(self, tree: BuildTree, store: SourceStore) -> None:
        """Fill `tree`, which the caller has locked, with the source, if it is not there."""
        if not tree.linux.is_dir():
            self.say("unpack", self.source.name)
            tree.unpack(store.unpacker(self.source))


def _told_as_the_disks(build: Callable[_Arguments, KernelImage]) -> Callable[_Arguments, KernelImage]:
    """Make a LabError of what the file system refuses while `build` runs."""

    @wraps(build)
    def guarded(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> KernelImage:
        try:
            return build(*args, **kwargs)
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            raise LabError(f"{where}{error.strerror or error}", component="build computer") from error

    return guarded


@_told_as_the_disks
def build_kernel(
    root: Path,
    name: str,
    *,
    extra_series: Sequence[str] = (),
    wishes: Wishes | None = None,
    cache: Path | None = None,
    jobs: int | None = None,
    tell: Tell = lambda _: None,
    tools: tuple[Tool, ...] = TOOLS,
) -> KernelImage:
    """Build the kernel `name` of the project at `root`, or find it built.

    `extra_series` are applied behind the description's own: the image is then called ``NAME+SERIES``. Raises
    UsageError for a wrong description, a missing tool, a patch that does not apply and code that does not compile;
    LabError if mirror, disk or memory failed.
    """
    description, wishes = load_description(root, name), wishes or Wishes()
    if isinstance(description, PrebuiltDescription):
        return _prebuilt(root, description, extra_series, wishes, cache or default_cache(), tell)
    build = prepare(root, name, extra_series, cache, jobs, tell, tools)
    if wishes.file is None and (image := _find(build)):
        return image
    require_tools(tools)
    _plan(build)
    store, tree = build.fetch(wishes), build.tree
    with tree.locked(lambda: build.say("wait", f"another build has {tree.folder}")) as lock:
        return _find(build) or _build_in(build, tree, lock, store)


def _prebuilt(
    root: Path, description: PrebuiltDescription, extra_series: Sequence[str], wishes: Wishes, cache: Path, tell: Tell
) -> KernelImage:
    if extra_series:
        raise UsageError(f"{description.name} is built by its distribution: no series ({extra_series[0]}) can be added")
    name, started_s = description.name, time.monotonic()
    if wishes.file is None and (kept := find_prebuilt(description, cache)):
        return _image(name, *kept, found=True)

    def say(stage: str, text: str) -> None:
        tell(BuildProgress(name, stage, text, time.monotonic() - started_s))

    return _image(name, *keep_prebuilt(description, root / KERNELS, cache, wishes, say), found=False)


def prepare(
    root: Path, name: str, extra_series: Sequence[str], cache: Path | None, jobs: int | None, tell: Tell,
    tools: tuple[Tool, ...] = TOOLS,
) -> _Build:  # fmt: skip
    """Read all that is asked for; nothing is fetched or built."""
    require_tools(COMPILER)
    description = load_description(root, name)
    if not isinstance(description, KernelDescription):
        raise UsageError(f"{name} is built by its distribution, not here")
    source, series = pinned(description), (*description.series, *extra_series)
    return _Build(
        root, cache or default_cache(), description, series,
        options=read_fragments(root, description.config.fragments),
        compiler={"gcc": first_line("gcc"), "ld": first_line("ld")},
        jobs=jobs or os.cpu_count() or 1, tell=tell, tools=tools,
        name="+".join((name, *extra_series)), source=source,
        patches=load_patches(root, series, parse_release(source.release)),
    )  # fmt: skip


def _find(build: _Build) -> KernelImage | None:
    folder = build.cache / hash_of(build.inputs())
    manifest = _readable(folder)
    if manifest is None:
        instead = SourceStore(build.cache / "sources").consented(build.source)
        if instead is None:
            return None
        build.take(instead)
        return _find(build)
    # prune keeps what was used last.
    os.utime(folder / MANIFEST)
    return _image(build.name, folder, manifest, found=True)


def _readable(folder: Path) -> dict[str, Any] | None:
    """The manifest of a built kernel; None if there is none, or none that can be read: then it is built again."""
    try:
        return read_manifest(folder)
    except FormatError:
        return None


def find_kernel(
    root: Path, name: str, *, extra_series: Sequence[str] = (), cache: Path | None = None
) -> KernelImage | None:
    """The kernel `name` (with `extra_series` behind its own) if it is built; None if it is not."""
    description = load_description(root, name)
    if isinstance(description, PrebuiltDescription):
        kept = find_prebuilt(description, cache or default_cache())
        return _image(name, *kept, found=True) if kept else None
    return _find(prepare(root, name, extra_series, cache, None, lambda _: None))


def _image(name: str, folder: Path, manifest: dict[str, Any], *, found: bool) -> KernelImage:
    return KernelImage(
        name=name,
        folder=folder,
        release=manifest["release"],
        image_id=int(manifest["image_id"], 16),
        sha256=manifest["outputs"]["bzImage"]["sha256"],
        found=found,
    )


def _plan(build: _Build) -> None:
    """Say what is ahead, and refuse if the disk is too small for it."""
    try:
        build.cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        where = "set XDG_CACHE_HOME to a folder that can be written"
        raise UsageError(f"{build.cache}: {error.strerror}: {where}") from error
    tree = build.tree
    objects, object_job_s = _experience(build)
    fetched = SourceStore(build.cache / "sources").path(build.source).exists()
    unpacked = tree.linux.is_dir()
    there = objects_in(tree)
    need = (0 if fetched else _SOURCE_BYTES) + (0 if unpacked else _TREE_BYTES)
    left_s = (0 if unpacked else _UNPACK_S) + max(0, objects - there) * object_job_s / build.jobs
    free = shutil.disk_usage(build.cache).free
    steps = "" if fetched else f"fetch {_SOURCE_BYTES / 10**6:.0f} MB, "
    steps += "" if unpacked else f"unpack {_TREE_BYTES / 10**9:.1f} GB, "
    steps += f"compile about {max(0, objects - there)} objects" if there < objects else "compile what has changed"
    build.say(
        "plan",
        f"{steps} with {build.jobs} jobs: about {left_s / 60:.0f} min; {need / 10**9:.1f} GB of {free / 10**9:.0f} GB "
        f"free in {build.cache}",
        total=objects,
        left_s=left_s,
    )
    if need > free:
        raise UsageError(
            f"{build.name} needs {need / 10**9:.1f} GB in {build.cache}, and {free / 10**9:.1f} GB are free: make room "
            "(bench images prune), or set XDG_CACHE_HOME to a larger disk"
        )


def _experience(build: _Build) -> tuple[int, float]:
    """Objects of a whole build and seconds an object takes one job, by the newest kernel of this description."""
    before = [k.manifest for k in kept_kernels(build.cache) if k.name.split("+")[0] == build.description.name]
    whole = [m for m in before if m["compiled"] >= 0.9 * m["objects"]]
    objects = before[-1]["objects"] if before else _OBJECTS
    if not whole or not whole[-1]["compiled"]:
        return objects, _OBJECT_JOB_S
    last = whole[-1]
    return objects, last["compile_s"] * last["jobs"] / last["compiled"]


def objects_in(tree: BuildTree) -> int:
    """Compiled files in a tree."""
    # os.walk passes over folders that another build removes meanwhile.
    return sum(name.endswith(".o") for _, _, names in os.walk(tree.linux) for name in names)


def _build_in(build: _Build, tree: BuildTree, lock: int, store: SourceStore) -> KernelImage:
    build.unpack(tree, store)
    if tree.interrupted.exists():
        dropped = tree.drop_unfinished()
        build.say("unpack", f"going on with a build that was cut off ({dropped} unfinished files removed)")
    inputs = build.inputs()
    digest = hash_of(inputs)
    changed = changed_files(build.patches, int(digest[:16], 16), tree.pristine)
    written = tree.write(changed)
    build.say("patch", f"{len(build.patches.patches)} patches, {len(written)} files of the tree changed")
    tree.log.write_bytes(b"")
    tree.interrupted.touch()
    _configure(build, tree, lock, [p for p in changed if "Kconfig" in Path(p).name])
    counter, compile_s = _compile(build, tree, lock)
    tree.interrupted.unlink()
    build.say("keep", str(build.cache / digest))
    manifest = {
        "name": build.name,
        "hash": digest,
        "image_id": digest[:16],
        "about": build.description.about,
        "release": build.source.release,
        "source": build.source.described(),
        "series": list(build.series),
        "fragments": build.description.config.fragments,
        "inputs": inputs,
        "tree": tree.folder.name,
        "objects": objects_in(tree),
        "compiled": counter.objects,
        "compile_s": round(compile_s, 1),
        "jobs": build.jobs,
        "built": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    return _image(build.name, *_keep(build, tree, digest, manifest), found=False)


def _configure(build: _Build, tree: BuildTree, lock: int, kconfig_files: list[str]) -> None:
    """Make ``.config`` from the base and the fragments; all that neither names stays off."""
    stamp = hash_of([(path, sha256_of(tree.linux / path)) for path in kconfig_files if (tree.linux / path).is_file()])
    done = tree.folder / "configured"
    if done.is_file() and done.read_text() == stamp:
        return
    build.say("configure", f"{build.description.config.base} and {', '.join(build.description.config.fragments)}")
    config, base, whole = tree.linux / ".config", tree.folder / "base.config", tree.folder / "whole.config"
    if not base.is_file():
        # tiny.config is merged into whatever .config there is.
        config.unlink(missing_ok=True)
        make(tree.linux, [build.description.config.base], log=tree.log, keep=lock)
        write_whole(base, config.read_bytes())
    options = parse_config(base.read_text()) | {o.name: o.value for o in build.options.values()}
    write_whole(whole, render_config(options).encode())
    make(tree.linux, ["allnoconfig"], log=tree.log, keep=lock, variables=(("KCONFIG_ALLCONFIG", str(whole)),))
    check_config(build.options, parse_config(config.read_text()), build.source.release)
    write_whole(done, stamp.encode())


def _compile(build: _Build, tree: BuildTree, lock: int) -> tuple[Counter, float]:
    total, object_job_s = _experience(build)
    there = objects_in(tree)
    begun = time.monotonic()

    def tick(counter: Counter) -> None:
        done = there + counter.objects
        seconds = time.monotonic() - begun
        each_s = seconds / counter.objects if counter.objects > 50 else object_job_s / build.jobs
        if done < total:
            build.say("compile", counter.newest, done=done, total=total, left_s=(total - done) * each_s)
        else:
            build.say("compile", counter.newest or "what has changed", done=done)

    tick(Counter())
    counter = make(tree.linux, ["bzImage"], log=tree.log, keep=lock, jobs=build.jobs, tick=tick)
    return counter, time.monotonic() - begun


def _keep(build: _Build, tree: BuildTree, digest: str, manifest: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
    """Copy the outputs into the cache; the folder gets its name when all of it is there."""
    folder, unfinished = build.cache / digest, build.cache / f".keeping-{digest}"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    for name in OUTPUTS:
        source = tree.linux / _BUILT[name]
        if not source.is_file():
            raise LabError(f"make ended well but left no {source}", component="build computer")
        shutil.copyfile(source, unfinished / name)
    write_manifest(unfinished, manifest)
    # What was half removed has no manifest any more.
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)
    return folder, read_manifest(folder)
