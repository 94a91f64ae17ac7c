"""Debian's packages by apt-get, as an ordinary user and without a change to the computer's own package lists.

Mirrors and keys are those that the computer is configured for; lists and state lie in a folder of ours.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.errors import LabError, UsageError

ETC = Path("/etc/apt")
_DEBIAN_SUITE = re.compile(
    r"(buster|bullseye|bookworm|trixie|forky|duke|(?:old)*stable|testing|unstable|sid)"
    r"([-/](?:updates|security|backports|proposed-updates|backports-sloppy))?"
)
_ONE_LINE = re.compile(r"deb\s+(?:\[(?P<options>[^\]]*)\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)\s+(?P<components>.+)")


@dataclass(frozen=True)
class Origin:
    """A place that packages come from: `suites` of the archive at `uri`, whose signatures `signed_by` checks."""

    uri: str
    suites: tuple[str, ...]
    signed_by: str = ""


def debian_origins(etc: Path = ETC) -> list[Origin]:
    """What the computer is configured for, as far as it is Debian's archive: from ``sources.list`` and
    ``sources.list.d/``, in the one-line and the deb822 form (sources.list(5))."""
    found: list[Origin] = []
    for path in (etc / "sources.list", *sorted((etc / "sources.list.d").glob("*"))):
        if not path.is_file():
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        if path.suffix == ".sources":
            found += _deb822(text)
        elif path.suffix == ".list":
            found += _one_line(text)
    kept = (Origin(o.uri, tuple(s for s in o.suites if _DEBIAN_SUITE.fullmatch(s)), o.signed_by) for o in found)
    return [origin for origin in kept if origin.suites]


def _one_line(text: str) -> Iterable[Origin]:
    for line in text.splitlines():
        match = _ONE_LINE.match(line.split("#")[0].strip())
        if match and "main" in match["components"].split():
            options = dict(each.split("=", 1) for each in (match["options"] or "").split() if "=" in each)
            yield Origin(match["uri"], (match["suite"].rstrip("/"),), options.get("signed-by", ""))


def _deb822(text: str) -> Iterable[Origin]:
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for stanza in re.split(r"\n\s*\n", lines):
        fields: dict[str, str] = {}
        name = ""
        for line in stanza.splitlines():
            if line[:1].isspace():
                fields[name] = fields.get(name, "") + "\n" + line
            elif ":" in line:
                name, _, value = line.partition(":")
                name = name.lower()
                fields[name] = value.strip()
        enabled = fields.get("enabled", "yes").lower() not in ("no", "false", "without", "off", "disable")
        if enabled and "deb" in fields.get("types", "").split() and "main" in fields.get("components", "").split():
            for uri in fields.get("uris", "").split():
                yield Origin(uri, tuple(fields.get("suites", "").split()), fields.get("signed-by", ""))


def with_suites(origins: Sequence[Origin], suites: Sequence[str], mirror: str | None) -> list[Origin]:
    """`origins`, and `suites` at the same mirrors (or, with `mirror`, at that one). A suite of security updates is
    looked for where the computer has its own."""
    if mirror:
        key = next((origin.signed_by for origin in origins), "")
        names = suites or [s for origin in origins for s in origin.suites]
        return [Origin(mirror, tuple(dict.fromkeys(s for s in names if "security" not in s)), key)]
    more = []
    for suite in suites:
        security = "security" in suite
        home = next((o for o in origins if any(("security" in s) == security for s in o.suites)), None)
        if home is not None:
            more.append(Origin(home.uri, (suite,), home.signed_by))
    return [*origins, *more]


class PackageGone(UsageError):
    """The mirror does not have that version; `others` are those it has, the newest first."""

    def __init__(self, package: str, version: str, others: Sequence[str]) -> None:
        has = f"it has {', '.join(others)}" if others else "it has no version of it at all"
        super().__init__(
            f"the mirror no longer has {package} {version}: {has}. Take the newest of the series with --accept-newer, "
            f"or give the package or an archive of the same kernel with --source FILE"
        )
        self.others = tuple(others)


class Apt:
    """apt-get with lists and caches in `folder`. `instead` is the option that does without it, for complaints.

    apt gives up where another one has its lists: here one waits for the other, of whichever thread or process.
    """

    def __init__(
        self, folder: Path, origins: Sequence[Origin], *, component: str = "main", instead: str = "--source FILE"
    ) -> None:
        self._folder = folder
        self._instead = instead
        self._log = folder / "apt.log"
        for name in ("state/lists/partial", "cache/archives/partial"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        sources = "\n".join(
            f"Types: deb\nURIs: {o.uri}\nSuites: {' '.join(o.suites)}\nComponents: {component}\n"
            + (f"Signed-By: {o.signed_by}\n" if o.signed_by else "")
            for o in origins
        )
        with self._alone():
            (folder / "status").touch()
            path = folder / "bench.sources"
            self._changed = not (path.is_file() and path.read_text() == sources)
            path.write_text(sources)
            (folder / "apt.conf").write_text(self._configuration())

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with (self._folder / "bench.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _configuration(self) -> str:
        settings = {
            "Dir::Etc::sourcelist": self._folder / "bench.sources",
            "Dir::Etc::sourceparts": "-",
            "Dir::Etc::preferences": "-",
            "Dir::Etc::preferencesparts": "-",
            "Dir::State": self._folder / "state",
            "Dir::State::status": self._folder / "status",
            "Dir::Cache": self._folder / "cache",
            "APT::Sandbox::User": pwd.getpwuid(os.geteuid()).pw_name,
            "Acquire::Languages": "none",
            "Acquire::Retries": 2,
        }
        hooks = ("APT::Update::Pre-Invoke", "APT::Update::Post-Invoke", "APT::Update::Post-Invoke-Success")
        lines = [f"#clear {hook};" for hook in (*hooks, "DPkg::Post-Invoke")]
        return "\n".join([*lines, *(f'{name} "{value}";' for name, value in settings.items()), ""])

    def versions(self, package: str) -> list[str]:
        """The versions that the mirror has, the newest first; by the lists as they are, fetched if there are none."""
        with self._alone():
            # Whoever wrote the sources may have been killed before the lists were there.
            if self._changed or not any((self._folder / "state/lists").glob("*_Packages*")):
                self._update()
            said = self._run("apt-cache", "madison", package)
        return list(dict.fromkeys(line.split("|")[1].strip() for line in said.splitlines() if line.count("|") >= 2))

    def update(self) -> None:
        """Fetch the lists anew."""
        with self._alone():
            self._update()

    def _update(self) -> None:
        self._run("apt-get", "update")
        self._changed = False

    def depends(self, package: str, version: str) -> list[str]:
        """Names of the packages that this version of `package` depends on, alternatives left out."""
        with self._alone():
            said = self._run("apt-cache", "show", f"{package}={version}")
        fields = (line.partition(":") for line in said.splitlines())
        texts = [text for name, _, text in fields if name in ("Depends", "Pre-Depends")]
        wanted = (each.split("|")[0].strip() for text in texts for each in text.split(","))
        return [each.split()[0] for each in wanted if each]

    def download(self, package: str, version: str, to: Path) -> Path:
        """Fetch a package into the folder `to`. Raises PackageGone, or LabError if the mirror does not answer."""
        others = self.versions(package)
        if version not in others:
            self.update()
            others = self.versions(package)
        if version not in others:
            raise PackageGone(package, version, others)
        with self._alone():
            self._run("apt-get", "download", f"{package}={version}", folder=to)
        (found,) = to.glob(f"{package}_*.deb")
        return found

    def _run(self, program: str, *arguments: str, folder: Path | None = None) -> str:
        done = subprocess.run(
            [program, "-c", str(self._folder / "apt.conf"), "-q", *arguments], cwd=folder, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, errors="replace", check=False, env=os.environ | {"LC_ALL": "C"},
        )  # fmt: skip
        with self._log.open("a", encoding="utf-8") as log:
            log.write(f"$ {program} {' '.join(arguments)}\n{done.stdout}{done.stderr}")
        if done.returncode:
            said = next((line for line in done.stderr.splitlines() if line.startswith("E:")), done.stderr.strip())
            raise LabError(
                f"{program} {' '.join(arguments)}: {said}; all of it is in {self._log}. Without the mirror: "
                f"{self._instead}",
                component="mirror",
            )
        return done.stdout


def open_apt(
    folder: Path,
    suites: Sequence[str],
    *,
    mirror: str | None,
    etc: Path = ETC,
    component: str = "main",
    instead: str = "give the package (or an archive of the same kernel) with --source FILE",
) -> Apt:
    """apt-get for `suites` besides the computer's own, and for one component of its mirrors. `instead` says what to do
    without apt. Raises UsageError where that cannot be."""
    if shutil.which("apt-get") is None or shutil.which("apt-cache") is None:
        raise UsageError(f"there is no apt here to fetch Debian's packages with: get it in another way, and {instead}")
    origins = with_suites(debian_origins(etc), suites, mirror)
    if not origins or (mirror and not origins[0].suites):
        raise UsageError(
            f"this computer's apt is not configured for Debian's archive: name a mirror of it with --mirror URL, or "
            f"{instead}"
        )
    return Apt(folder, origins, component=component, instead=instead)
