"""The source of a kernel: a Debian package, an archive or a git commit, known by the hash of its content."""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from bench.errors import FormatError, LabError, UsageError
from bench.images.deb import AR_MAGIC, ar_members
from bench.images.kernel_apt import Apt, PackageGone, open_apt
from bench.images.kernel_description import (
    DebianBinarySource,
    DebianSource,
    Description,
    GitSource,
    SourceTable,
    TarballSource,
    parse_release,
    release_text,
)
from bench.images.kernel_tree import write_whole

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Source:
    """A kernel's source; `identity` is the SHA-256 of the file, or the commit."""

    kind: str
    name: str
    release: str
    identity: str
    departure: str = ""
    """How it differs from what the description pins; empty if it does not."""

    def described(self) -> dict[str, object]:
        """For the manifest."""
        return {"kind": self.kind, "name": self.name, "identity": self.identity, "departure": self.departure}


@dataclass(frozen=True)
class Wishes:
    """How the source may be come by."""

    file: Path | None = None
    """Use this package or archive."""
    accept_newer: bool = False
    """Take another release of the same series if the pinned one cannot be had."""
    mirror: str | None = None


def pinned(description: Description) -> Source:
    """What the description asks for."""
    table = description.source
    if isinstance(table, DebianSource | DebianBinarySource):
        name = f"{table.package} {table.version}"
    elif isinstance(table, GitSource):
        name = f"{table.repository} {table.commit}"
    else:
        name = Path(table.file).name
    return Source(table.kind, name, release_text(parse_release(table.release)), table.identity)


class SourceStore:
    """Fetched sources in `folder`, by their hash."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, source: Source) -> Path:
        """Where `source` is kept, once it has been fetched. Of a git commit: a repository that has it."""
        return self.folder / (f"{source.identity}.git" if source.kind == "git" else source.identity)

    def obtain(
        self, description: Description, base: Path, wishes: Wishes, *, release_of: Callable[[Path], str] | None = None
    ) -> Source:
        """Fetch the source, or find it. `base` is what relative paths start from; `release_of` reads a file's release.

        Raises UsageError for a file that is not the pinned one and PackageGone, unless `wishes` allow a newer one;
        LabError if the network fails.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        wanted, table = pinned(description), description.source
        source = self._obtain(wanted, table, base, wishes, release_of or release_of_source)
        if source != wanted:
            write_whole(self._consent(wanted), json.dumps(asdict(source)).encode())
        return source

    def consented(self, wanted: Source) -> Source | None:
        """What was taken in place of `wanted` when somebody allowed it, if it is still here."""
        path = self._consent(wanted)
        try:
            source = Source(**json.loads(path.read_text())) if path.is_file() else None
        except (ValueError, TypeError):
            # What cannot be read allows nothing.
            source = None
        return source if source and self.path(source).exists() else None

    def _consent(self, wanted: Source) -> Path:
        return self.folder / f"{wanted.identity}.in-place"

    def _obtain(
        self,
        wanted: Source,
        table: SourceTable | DebianBinarySource,
        base: Path,
        wishes: Wishes,
        release_of: Callable[[Path], str],
    ) -> Source:
        if wishes.file is not None:
            return self._take_file(wanted, wishes.file, wishes, release_of)
        if self.path(wanted).exists():
            return wanted
        if before := self.consented(wanted):
            return before
        if isinstance(table, TarballSource):
            return self._take_file(wanted, base / table.file, wishes, release_of)
        if isinstance(table, GitSource):
            return self._clone(wanted, table, base)
        return self._download(wanted, table, wishes)

    def _take_file(self, wanted: Source, file: Path, wishes: Wishes, release_of: Callable[[Path], str]) -> Source:
        if not file.is_file():
            raise UsageError(f"{file}: there is no such file")
        found = sha256_of(file)
        source = wanted
        if found != wanted.identity:
            if not wishes.accept_newer:
                raise UsageError(
                    f"{file}: is not the pinned source {wanted.name}: its SHA-256 is {found}, not {wanted.identity}. "
                    "Another release of the same series is taken with --accept-newer"
                )
            source = Source("file", file.name, release_of(file), found, f"{file.name} in place of {wanted.name}")
            _same_series(wanted, source.release, file.name)
        if not self.path(source).exists():
            with self._scratch() as scratch:
                shutil.copyfile(file, scratch / "file")
                (scratch / "file").rename(self.path(source))
        return source

    def _download(self, wanted: Source, table: DebianSource | DebianBinarySource, wishes: Wishes) -> Source:
        apt = open_apt(self.folder / "apt", table.suites, mirror=wishes.mirror)
        with self._scratch() as scratch:
            try:
                file = apt.download(table.package, table.version, scratch)
                source = wanted
            except PackageGone as gone:
                newer = _newer(apt, table, gone)
                if not wishes.accept_newer or not newer:
                    raise
                package, version = newer[0]
                file = apt.download(package, version, scratch)
                name = f"{package} {version}"
                departure = f"{name}, since the mirror no longer has {table.package} {table.version}"
                release = release_text(parse_release(version))
                source = Source(table.kind, name, release, sha256_of(file), departure)
            found = sha256_of(file)
            if found != source.identity:
                raise UsageError(
                    f"{source.name} from the mirror has SHA-256 {found}, and the description pins {source.identity}: "
                    "it is not used"
                )
            file.rename(self.path(source))
        return source

    def _clone(self, wanted: Source, table: GitSource, base: Path) -> Source:
        local = base / table.repository
        where = str(local.resolve()) if local.exists() else table.repository
        with self._scratch() as scratch:
            _git(scratch, "init", "--quiet", "--bare", ".")
            _git(scratch, "fetch", "--quiet", "--depth=1", where, table.commit)
            scratch.rename(self.path(wanted))
        return wanted

    @contextmanager
    def _scratch(self) -> Iterator[Path]:
        folder = Path(tempfile.mkdtemp(dir=self.folder, prefix=".fetching-"))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def unpacker(self, source: Source) -> Callable[[Path], None]:
        """A function that fills a folder with the source's files. Its hash is compared once more before that."""

        def unpack(folder: Path) -> None:
            path = self.path(source)
            if source.kind == "git":
                _unpack_git(path, source.identity, folder)
            elif sha256_of(path) != source.identity:
                path.unlink()
                raise UsageError(f"{path}: had changed since it was fetched and was removed; build again to fetch it")
            else:
                _unpack_archive(path, folder)
            makefile = folder / "Makefile"
            said = makefile_release(makefile.read_text(encoding="utf-8") if makefile.is_file() else "")
            if parse_release(said) != (*parse_release(source.release), 0)[:3]:
                raise UsageError(f"{source.name}: its Makefile says {said}, the description {source.release}")

        return unpack


def _newer(apt: Apt, table: DebianSource | DebianBinarySource, gone: PackageGone) -> list[tuple[str, str]]:
    """Package and version of what the mirror has of the series, none older than the pinned one; the newest first."""
    found = [(table.package, version) for version in gone.others]
    if isinstance(table, DebianBinarySource):
        for version in apt.versions(table.meta):
            named = (p for p in apt.depends(table.meta, version) if p.startswith("linux-image-"))
            found += [(package, version) for package in named]
    since = parse_release(table.version)
    fit = [(p, v) for p, v in found if parse_release(v)[:2] == since[:2] and parse_release(v) >= since]
    return sorted(fit, key=lambda each: parse_release(each[1]), reverse=True)


def _same_series(wanted: Source, release: str, name: str) -> None:
    if parse_release(release)[:2] != parse_release(wanted.release)[:2]:
        raise UsageError(f"{name} is Linux {release}: not of the series of {wanted.release}")


def _git(folder: Path, *arguments: str) -> None:
    if shutil.which("git") is None:
        raise UsageError("git is not installed: install git to build from a git tree")
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(f"git {' '.join(arguments)}: {done.stderr.strip()}", component="git")


def _unpack_git(repository: Path, commit: str, folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".archive-") as scratch:
        archive = Path(scratch) / "tree.tar"
        _git(repository, "archive", "--format=tar", "-o", str(archive), commit)
        _tar(archive, folder, strip=0)


def _unpack_archive(path: Path, folder: Path) -> None:
    with path.open("rb") as file:
        if file.read(len(AR_MAGIC)) != AR_MAGIC:
            _tar(path, folder, strip=1)
            return
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".archive-") as scratch:
        inner = Path(scratch) / "inner.tar"
        with _inner_archive(path) as packed, inner.open("wb") as out:
            shutil.copyfileobj(packed, out, _CHUNK_BYTES)
        _tar(inner, folder, strip=1)


def _tar(archive: Path, folder: Path, *, strip: int) -> None:
    done = subprocess.run(
        ["tar", "-xf", str(archive), "-C", str(folder), f"--strip-components={strip}", "--no-same-owner"],
        capture_output=True, text=True, errors="replace", check=False,
    )  # fmt: skip
    if done.returncode:
        raise LabError(f"tar could not unpack {archive.name}: {done.stderr.strip()}", component="build computer")


@contextmanager
def _inner_archive(deb: Path) -> Iterator[IO[bytes]]:
    """The archive ``usr/src/linux-source-*.tar.*`` within a Debian package (deb(5): an ar archive of tar archives)."""
    with deb.open("rb") as file:
        for name, data in ar_members(file, deb):
            if not name.startswith("data.tar"):
                continue
            with tarfile.open(fileobj=io.BytesIO(data)) as outer:
                for member in outer:
                    packed = outer.extractfile(member)
                    if packed is not None and re.search(r"usr/src/linux-source-[^/]*\.tar(\.\w+)?$", member.name):
                        yield packed
                        return
    raise FormatError("has no usr/src/linux-source-*.tar.* in it", source=str(deb))


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def release_of_source(archive: Path) -> str:
    """The release of the kernel in a package or archive, by its top Makefile."""
    with archive.open("rb") as file:
        is_deb = file.read(len(AR_MAGIC)) == AR_MAGIC
    try:
        if is_deb:
            with _inner_archive(archive) as packed:
                return _release_in(archive, tarfile.open(fileobj=packed))
        return _release_in(archive, tarfile.open(archive))
    except tarfile.TarError as error:
        raise FormatError(f"is neither a Debian package nor a tar archive: {error}", source=str(archive)) from error


def _release_in(archive: Path, files: tarfile.TarFile) -> str:
    with files:
        for member in files:
            if re.fullmatch(r"(\./)?[^/]+/Makefile", member.name) and (makefile := files.extractfile(member)):
                return makefile_release(makefile.read().decode("utf-8", "replace"))
    raise FormatError("has no Makefile in its top folder", source=str(archive))


def makefile_release(text: str) -> str:
    """VERSION, PATCHLEVEL and SUBLEVEL of a kernel's top Makefile as "6.1.192"."""
    found = dict(re.findall(r"^(VERSION|PATCHLEVEL|SUBLEVEL) *= *(\d+) *$", text, re.MULTILINE))
    if len(found) != 3:
        raise UsageError("the source's top Makefile does not say which release it is: is this a kernel?")
    return ".".join(found[name] for name in ("VERSION", "PATCHLEVEL", "SUBLEVEL"))
