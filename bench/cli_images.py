"""`bench images`: build what is booted on machines, and look after what was built."""

from __future__ import annotations

import json as jsons
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.errors import UsageError
from bench.terminal import note, say

if TYPE_CHECKING:
    from bench.images import KernelImage
    from bench.images.kernel import BuildProgress
    from bench.images.kernel_source import Wishes

app = typer.Typer(no_args_is_help=True, help="What is booted on machines.")

Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output, nothing else.")]
Names = Annotated[list[str] | None, typer.Argument(help="Images (default: all).", metavar="[NAME]...")]
PAYLOAD, RESCUE = "payload", "rescue"
LOG_INTERVAL_S = 15.0


@app.command("build")
def build(
    names: Annotated[
        list[str] | None, typer.Argument(help="payload (the default), rescue, or kernels.", metavar="[NAME]...")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Payload, rescue system and every kernel.")] = False,
    compiler: Annotated[str, typer.Option(help="gcc or clang, for the payload.")] = "gcc",
    series: Annotated[
        list[str] | None, typer.Option("--with", help="One more patch series on the kernel (may be repeated).")
    ] = None,
    source: Annotated[
        Path | None, typer.Option(help="Package or archive with the kernel's source, in place of the mirror's.")
    ] = None,
    accept_newer: Annotated[
        bool, typer.Option("--accept-newer", help="Take another release of the series if the pinned one is gone.")
    ] = False,
    mirror: Annotated[str | None, typer.Option(help="Address of a mirror of Debian, if this is not one.")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Compilers at a time (default: one a processor).")] = None,
    json: Json = False,
) -> int:
    """Build images, or find them in the cache."""
    from bench.images.kernel_description import load_descriptions
    from bench.images.kernel_source import Wishes
    from bench.inventory import find_root

    root = find_root()
    wanted = [PAYLOAD, *load_descriptions(root), RESCUE] if every else names or [PAYLOAD]
    if (series or source) and (len(wanted) != 1 or wanted[0] in (PAYLOAD, RESCUE)):
        raise UsageError("--with and --source are for one kernel: name it")
    wishes = Wishes(file=source, accept_newer=accept_newer, mirror=mirror)
    for name in wanted:
        if name == PAYLOAD:
            row = _payload(root, compiler)
        elif name == RESCUE:
            row = _rescue(root, wishes, quiet=json)
        else:
            row = _kernel(root, name, series or [], wishes, jobs, json)
        say(jsons.dumps(row) if json else "\n".join(f"{k:9} {v}" for k, v in row.items()))
    return 0


def _payload(root: Path, compiler: str) -> dict[str, Any]:
    from bench.images import build_payload

    image = build_payload(root, compiler=compiler)
    return {
        "image": PAYLOAD,
        "kernel": str(image.kernel),
        "image_id": f"{image.image_id:016x}",
        "sha256": image.sha256,
    }


def _rescue(root: Path, wishes: Wishes, *, quiet: bool) -> dict[str, Any]:
    from bench.images.rescue import SYSTEM, build_rescue
    from bench.images.small_system import manifest_of

    # Its kernel by the wishes that are for kernels: a mirror, or a newer release in place of one that is gone.
    build_with_progress(root, SYSTEM.kernel, [], wishes, quiet=quiet)
    if not quiet:
        note(f"{RESCUE}: out of Debian's packages {', '.join(SYSTEM.packages)}")
    image = build_rescue(root)
    manifest = manifest_of(image)
    return {
        "image": RESCUE,
        "kernel": str(image.kernel),
        "initrd": str(image.initrd),
        "release": manifest["release"],
        "source": manifest["source"]["name"],
        "sha256": manifest["outputs"]["initrd"]["sha256"],
    }


def build_with_progress(
    root: Path, name: str, series: list[str], wishes: Wishes | None = None, jobs: int | None = None, *, quiet: bool
) -> KernelImage:
    """Build a kernel, or find it built, and say on standard error how it is getting on."""
    from bench.images.kernel import build_kernel

    progress = _Progress(quiet=quiet)
    try:
        return build_kernel(root, name, extra_series=series, wishes=wishes, jobs=jobs, tell=progress)
    finally:
        progress.close()


def _kernel(root: Path, name: str, series: list[str], wishes: Wishes, jobs: int | None, quiet: bool) -> dict[str, Any]:
    image = build_with_progress(root, name, series, wishes, jobs, quiet=quiet)
    manifest = image.manifest
    row = {"image": image.name, "kernel": str(image.kernel), "image_id": f"{image.image_id:016x}"}
    row |= {"sha256": image.sha256, "release": image.release, "source": manifest["source"]["name"]}
    if departure := manifest["source"]["departure"]:
        row["departure"] = departure
    return row | {"built": "found" if image.found else "now"}


class _Progress:
    """A line that is written over on a terminal; elsewhere a line a stage, and one each 15 s within it."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._live = sys.stderr.isatty()
        self._stage = ""
        self._told_s = 0.0
        self._width = 0

    def __call__(self, progress: BuildProgress) -> None:
        """News of the build."""
        fresh = progress.stage != self._stage or progress.done is None
        if self._quiet:
            return
        if self._live and not fresh:
            self._status(progress_line(progress))
        elif fresh or time.monotonic() - self._told_s >= LOG_INTERVAL_S:
            self.close()
            note(progress_line(progress))
            self._told_s = time.monotonic()
        self._stage = progress.stage

    def close(self) -> None:
        """Leave the terminal's last line empty."""
        if self._width:
            self._status("")
            sys.stderr.write("\r")

    def _status(self, text: str) -> None:
        import shutil

        text = text[: shutil.get_terminal_size().columns - 1]
        sys.stderr.write("\r" + text.ljust(self._width))
        sys.stderr.flush()
        self._width = len(text)


def progress_line(progress: BuildProgress) -> str:
    """Progress in words: percent of a known total, time gone, time left."""
    text = f"[{progress.elapsed_s:4.0f} s] {progress.image}: {progress.stage}"
    if progress.done is not None and progress.total:
        text += f" {100 * progress.done // progress.total} % ({progress.done} of about {progress.total} objects)"
        if progress.left_s is not None:
            text += f", about {progress.left_s:.0f} s left"
    return f"{text}: {progress.text}" if progress.text else text


@app.command("list")
def list_images(
    every: Annotated[bool, typer.Option("--all", help="Earlier builds too, and those with more series.")] = False,
    json: Json = False,
) -> int:
    """List the images that there are, and whether they are built."""
    from bench.images.kernel import find_kernel
    from bench.images.kernel_cache import default_cache, kept_kernels
    from bench.images.kernel_description import load_descriptions
    from bench.images.kernel_source import pinned
    from bench.inventory import find_root

    root = find_root()
    about = "the bench's own program, which runs the early #PF handler on scripts"
    rows: list[dict[str, Any]] = [{"image": PAYLOAD, "release": None, "source": None, "folder": None, "about": about}]
    for name, each in load_descriptions(root).items():
        image, source = find_kernel(root, name), pinned(each)
        folder = str(image.folder) if image else None
        release = image.release if image else source.release
        rows.append({"image": name, "release": release, "source": source.name, "folder": folder, "about": each.about})
    rows.append(_rescue_row())
    named = {row["folder"] for row in rows}
    others = [kept for kept in kept_kernels(default_cache()) if str(kept.folder) not in named]
    for kept in others if every else ():
        said = kept.manifest
        row = {"image": kept.name, "release": said["release"], "source": said["source"]["name"]}
        rows.append(row | {"folder": str(kept.folder), "about": "an earlier build, or one with more series"})
    if json:
        say(jsons.dumps(rows, indent=2))
        return 0
    for row in rows:
        kind = "built" if row["folder"] else "-"
        say(f"{row['image']:24} {row['release'] or '-':10} {kind:6} {row['about']}")
        if row["folder"]:
            say(f"{'':24} {row['folder']}")
    if others and not every:
        say(f"{len(others)} earlier builds, or with more series: --all lists them, bench images prune removes them")
    return 0


def _rescue_row() -> dict[str, Any]:
    from bench.images.rescue import SYSTEM
    from bench.images.small_system import find_system

    about = "Linux in memory for machines without a disk or with a broken one: SSH, a look at what is there"
    row = {"image": RESCUE, "release": None, "source": SYSTEM.kernel, "folder": None, "about": about}
    if found := find_system(SYSTEM):
        image, manifest = found
        row |= {"release": manifest["release"], "folder": str(image.kernel.parent)}
    return row


@app.command("verify")
def verify(names: Names = None, json: Json = False) -> int:
    """Hash every file of the built kernels and systems again, and name those that have changed."""
    from bench.images.kernel_cache import default_cache
    from bench.images.kernel_cache import verify as check
    from bench.images.small_system import verify_systems

    checked = [*check(default_cache(), names or []), *verify_systems(names or [])]
    if names and (unknown := sorted(set(names) - {each.name for each in checked})):
        raise UsageError(f"not built: {', '.join(unknown)}")
    if json:
        rows = [
            {"image": c.name, "folder": str(c.folder), "files": c.files, "troubles": list(c.troubles)} for c in checked
        ]
        say(jsons.dumps(rows, indent=2))
    for each in () if json else checked:
        say(f"{'CHANGED' if each.troubles else 'intact':8} {each.name:24} {each.files} files in {each.folder}")
        for trouble in each.troubles:
            say(f"{'':8} {trouble}")
    if not checked and not json:
        say("No kernel is built yet; `bench images build NAME` builds one.")
    return 3 if any(each.troubles for each in checked) else 0


@app.command("prune")
def prune(
    yes: Annotated[bool, typer.Option("--yes", help="Remove what is listed.")] = False, json: Json = False
) -> int:
    """List what the newest kernel or system of each name does not need, with its size; --yes removes it."""
    from bench.images.kernel_cache import default_cache, removable, remove
    from bench.images.small_system import removable_systems

    items = [*removable(default_cache()), *removable_systems()]
    total = sum(item.size_bytes for item in items)
    if yes:
        remove(items)
    if json:
        rows = [{"path": str(i.path), "what": i.what, "size_bytes": i.size_bytes} for i in items]
        say(jsons.dumps({"removed": yes, "size_bytes": total, "items": rows}, indent=2))
        return 0
    for item in items:
        say(f"{item.size_bytes / 10**6:9.1f} MB  {item.what:10} {item.path}")
    done = "were removed" if yes else "would be removed (--yes removes them)"
    say(f"{total / 10**6:9.1f} MB in {len(items)} places {done}" if items else "Nothing to remove.")
    return 0
