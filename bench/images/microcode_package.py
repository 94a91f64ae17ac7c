"""Intel's microcode, out of Debian's package, in a cache folder of the user's: never in git, never installed.

```
~/.cache/bench/microcode/VERSION/   intel-ucode/06-55-04 …   copyright   license   manifest.json
~/.cache/bench/microcode/apt/       apt's lists, and its log
```
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from bench.cache import cache_folder
from bench.errors import FormatError, LabError, UsageError
from bench.images.deb import member_of
from bench.images.kernel_apt import open_apt
from bench.images.kernel_source import sha256_of
from bench.images.kernel_tree import write_whole

DESCRIPTION = Path("firmware-images") / "microcode.toml"
MANIFEST = "manifest.json"
FILES = "intel-ucode"
INSTEAD = "give the package with: bench microcode fetch --package FILE"
_UPDATES = re.compile(
    r"(?:\./)?(?:usr/)?lib/firmware/intel-ucode/([0-9a-f]{2}-[0-9a-f]{2}-[0-9a-f]{2}(?:\.initramfs)?)"
)
_NOTICES = re.compile(r"(?:\./)?usr/share/doc/intel-microcode/(copyright|license)")
_VERSION = re.compile(r"^Version: *(\S+)$", re.MULTILINE)


class Wanted(BaseModel):
    """``firmware-images/microcode.toml``."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    package: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9+.-]+$")]
    component: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z-]*$")]
    tried: str
    licence: str
    files: dict[Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{2}-[0-9a-f]{2}-[0-9a-f]{2}$")], str]


@dataclass(frozen=True)
class Package:
    """Intel's files as they were unpacked."""

    folder: Path
    version: str

    @property
    def updates(self) -> Path:
        """The folder of files of updates."""
        return self.folder / FILES

    def file(self, model: str) -> Path:
        """The file for a processor (``06-55-04``), with or without Debian's suffix. Raises UsageError."""
        for name in (model, f"{model}.initramfs"):
            if (self.updates / name).is_file():
                return self.updates / name
        raise UsageError(f"{self.updates}: has no update for {model}")


def wanted(root: Path) -> Wanted:
    """What the project wants. Raises UsageError (file, key) if its description is wrong."""
    path = root / DESCRIPTION
    try:
        return Wanted.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise UsageError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def microcode_cache() -> Path:
    """``$XDG_CACHE_HOME/bench/microcode``, in ``~/.cache`` if that is not set."""
    return cache_folder("microcode")


def find_package(cache: Path | None = None) -> Package | None:
    """The package that was fetched last, or None. What was changed since does not count."""
    found: list[tuple[float, Package]] = []
    for path in (cache or microcode_cache()).glob(f"*/{MANIFEST}"):
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            whole = all(sha256_of(path.parent / name) == sha256 for name, sha256 in manifest["files"].items())
        except (OSError, ValueError, KeyError, AttributeError):
            continue
        if whole:
            found.append((path.stat().st_mtime, Package(path.parent, str(manifest["version"]))))
    return max(found, key=lambda each: each[0], default=(0.0, None))[1]


def fetch_package(
    root: Path, *, cache: Path | None = None, file: Path | None = None, mirror: str | None = None
) -> Package:
    """Fetch Debian's newest package (or take `file`) and unpack it. Every wanted file has to be in it.

    Raises UsageError, LabError if the mirror fails, FormatError for a file that is no such package.
    """
    description, folder = wanted(root), cache or microcode_cache()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetching-") as scratch:
        deb = file or _download(description, folder, Path(scratch), mirror)
        if not deb.is_file():
            raise UsageError(f"{deb}: there is no such file")
        return _unpack(description, deb, Path(scratch) / "unpacked", folder)


def _download(description: Wanted, folder: Path, scratch: Path, mirror: str | None) -> Path:
    apt = open_apt(folder / "apt", (), mirror=mirror, component=description.component, instead=INSTEAD)
    apt.update()
    versions = apt.versions(description.package)
    if not versions:
        raise LabError(
            f"the mirror has no {description.package} in {description.component}; {INSTEAD}", component="mirror"
        )
    return apt.download(description.package, versions[0], scratch)


def _unpack(description: Wanted, deb: Path, scratch: Path, folder: Path) -> Package:
    (scratch / FILES).mkdir(parents=True)
    with member_of(deb, "control") as files:
        said = _VERSION.search(_text(files, "control"))
    with member_of(deb, "data") as files:
        for member in files:
            update, notice = _UPDATES.fullmatch(member.name), _NOTICES.fullmatch(member.name)
            content = files.extractfile(member) if update or notice else None
            if content:
                name = f"{FILES}/{update[1]}" if update else notice[1] if notice else ""
                (scratch / name).write_bytes(content.read())
    version = said[1] if said else "unknown"
    package = Package(scratch, version)
    if not any((scratch / FILES).iterdir()):
        raise FormatError(f"has no lib/firmware/intel-ucode/: is it {description.package}?", source=str(deb))
    for model in description.files:
        package.file(model)
    names = sorted(str(p.relative_to(scratch)) for p in scratch.rglob("*") if p.is_file())
    manifest: dict[str, Any] = {"package": description.package, "version": version, "deb_sha256": sha256_of(deb)}
    manifest["files"] = {name: sha256_of(scratch / name) for name in names}
    write_whole(scratch / MANIFEST, (json.dumps(manifest, indent=2) + "\n").encode())
    target = folder / re.sub(r"[^A-Za-z0-9.+~-]", "_", version)
    shutil.rmtree(target, ignore_errors=True)
    scratch.rename(target)
    return Package(target, version)


def _text(files: Any, name: str) -> str:
    for member in files:
        if member.name.removeprefix("./") == name and (content := files.extractfile(member)):
            return str(content.read().decode("utf-8", "replace"))
    return ""
