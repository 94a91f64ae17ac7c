"""What a kernel image is: ``firmware-images/kernels/NAME.toml``, checked as it is read."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError

from bench.errors import UsageError

KERNELS = Path("firmware-images") / "kernels"

Release = tuple[int, ...]
"""A kernel's release as numbers: (6, 1, 192)."""

_STRICT = ConfigDict(extra="forbid", strict=True, frozen=True)
WHY_NOT_32_BIT = (
    "32-bit kernels make their early page tables in another way and have no early #PF handler that the reference could "
    "be held against; only x86_64 is booted"
)
_32_BIT = ("i386", "i486", "i586", "i686", "x86", "x86_32")


def parse_release(text: str) -> Release:
    """The numbers at the start of a release or of a Debian version ("6.1.192-2" is (6, 1, 192)).

    Raises ValueError if there are not at least two.
    """
    match = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?(?![\d.])", text)
    if match is None:
        raise ValueError(f"{text!r} does not begin as a release does, such as 6.1 or 6.1.192")
    return tuple(int(part) for part in match.groups() if part is not None)


def release_text(release: Release) -> str:
    """(6, 1, 192) as "6.1.192"."""
    return ".".join(str(number) for number in release)


def _release(text: str) -> str:
    parse_release(text)
    return text


def _arch(text: object) -> object:
    if text in _32_BIT:
        raise ValueError(f"not built: {WHY_NOT_32_BIT}")
    return text


def _package(text: object) -> object:
    if isinstance(text, str) and text.rpartition("-")[2] in (*_32_BIT, "pae", "686"):
        raise ValueError(f"a package of a 32-bit kernel: {WHY_NOT_32_BIT}")
    return text


Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]{0,60}$")]
SeriesName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]*(/[a-z0-9][a-z0-9.-]*)*$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
ReleaseText = Annotated[str, AfterValidator(_release)]
Suite = Annotated[str, StringConstraints(pattern=r"^[a-z]+(-[a-z]+)*$")]


class DebianSource(BaseModel):
    """Debian's package of a kernel's source: a mirror has it under this name and version, or no longer."""

    model_config = _STRICT
    kind: Literal["debian"]
    package: Annotated[str, StringConstraints(pattern=r"^linux-source-[0-9]+\.[0-9]+$")]
    version: ReleaseText
    sha256: Sha256
    suites: list[Suite] = []
    """Suites that are searched besides those of the computer's own configuration."""

    @property
    def release(self) -> str:
        """The kernel's release."""
        return release_text(parse_release(self.version))

    @property
    def identity(self) -> str:
        """What the content is known by."""
        return self.sha256


class DebianBinarySource(BaseModel):
    """Debian's package of a kernel that is ready to boot. Its name changes with the kernel's ABI; `meta` is the package
    that always depends on the newest one."""

    model_config = _STRICT
    kind: Literal["debian-binary"]
    package: Annotated[
        str,
        BeforeValidator(_package),
        StringConstraints(pattern=r"^linux-image-[0-9][0-9a-z.+~]*-(?:[0-9]+-)?(?:cloud-|rt-)?amd64$"),
    ]
    meta: Annotated[str, BeforeValidator(_package), StringConstraints(pattern=r"^linux-image-(?:[a-z]+-)?amd64$")]
    version: ReleaseText
    sha256: Sha256
    suites: list[Suite] = []
    """Suites that are searched besides those of the computer's own configuration."""

    @property
    def release(self) -> str:
        """The kernel's release."""
        return release_text(parse_release(self.version))

    @property
    def identity(self) -> str:
        """What the content is known by."""
        return self.sha256


class TarballSource(BaseModel):
    """An archive in a file; a relative path starts at the description's folder."""

    model_config = _STRICT
    kind: Literal["tarball"]
    file: Annotated[str, StringConstraints(min_length=1)]
    release: ReleaseText
    sha256: Sha256

    @property
    def identity(self) -> str:
        """What the content is known by."""
        return self.sha256


class GitSource(BaseModel):
    """A commit of a git repository, by its path or its address."""

    model_config = _STRICT
    kind: Literal["git"]
    repository: Annotated[str, StringConstraints(min_length=1)]
    commit: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")]
    release: ReleaseText

    @property
    def identity(self) -> str:
        """What the content is known by."""
        return self.commit


SourceTable = DebianSource | TarballSource | GitSource


class ConfigTable(BaseModel):
    """The configuration: `base` is a target of make, the fragments are ``firmware-images/configs/NAME.config``."""

    model_config = _STRICT
    base: Literal["tinyconfig"]
    fragments: Annotated[list[Name], Field(min_length=1)]


class KernelDescription(BaseModel):
    """A file ``firmware-images/kernels/NAME.toml``."""

    model_config = _STRICT
    name: Name
    about: Annotated[str, StringConstraints(min_length=10)]
    arch: Annotated[Literal["x86_64"], BeforeValidator(_arch)] = "x86_64"
    compiler: Literal["gcc"] = "gcc"
    set: Literal["hil", "full", "none"] = "none"
    """Which lab runs boot it: every one, the long ones, or none unless it is named."""
    series: list[SeriesName] = []
    """Folders of ``firmware-images/patches/``, applied in this order."""
    source: Annotated[SourceTable, Field(discriminator="kind")]
    config: ConfigTable


class PrebuiltDescription(BaseModel):
    """A file ``firmware-images/kernels/NAME.toml`` of a kernel that a distribution has built."""

    model_config = _STRICT
    name: Name
    about: Annotated[str, StringConstraints(min_length=10)]
    arch: Annotated[Literal["x86_64"], BeforeValidator(_arch)] = "x86_64"
    set: Literal["hil", "full", "none"] = "none"
    """Which lab runs boot it: every one, the long ones, or none unless it is named."""
    source: DebianBinarySource


Description = KernelDescription | PrebuiltDescription


def load_descriptions(root: Path) -> dict[str, Description]:
    """All kernels of the project at `root`, by name. Raises UsageError (file, key, what is allowed)."""
    return {path.stem: load_description(root, path.stem) for path in sorted((root / KERNELS).glob("*.toml"))}


def load_description(root: Path, name: str) -> Description:
    """The kernel `name` of the project at `root`."""
    path = root / KERNELS / f"{name}.toml"
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", name) or not path.is_file():
        known = ", ".join(sorted(each.stem for each in (root / KERNELS).glob("*.toml"))) or "none"
        raise UsageError(f"no image {name!r}; there are payload and the kernels {known} ({KERNELS}/)")
    found: Description = (
        read_toml(path, PrebuiltDescription) if _is_prebuilt(path) else read_toml(path, KernelDescription)
    )
    if found.name != name:
        raise UsageError(f"{path}: name: {found.name!r}: must be the file's name, {name!r}")
    return found


def _is_prebuilt(path: Path) -> bool:
    """By its source's kind. What cannot be read is left to `read_toml`, which says why."""
    try:
        return bool(tomllib.loads(path.read_text(encoding="utf-8"))["source"]["kind"] == "debian-binary")
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, KeyError, TypeError):
        return False


_Model = TypeVar("_Model", bound=BaseModel)


def read_toml(path: Path, model: type[_Model]) -> _Model:
    """The file as a `model`. Raises UsageError, which names the file, the key and what is wrong with it."""
    try:
        return model.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: not TOML: {error}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from error
    except ValidationError as error:
        # A misspelt key is both unknown and missing: the first of the two says more.
        first = min(error.errors(include_url=False), key=lambda one: one["type"] != "extra_forbidden")
        key = ".".join(str(part) for part in first["loc"] if part not in ("debian", "tarball", "git"))
        said = {"extra_forbidden": "unknown key", "missing": "missing; it is required"}.get(first["type"])
        words = said or f"{first['input']!r}: {first.get('ctx', {}).get('error', first['msg'])}"
        raise UsageError(f"{path}: {key}: {words}") from error
