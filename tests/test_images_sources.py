"""Where a kernel's source may come from, how it is known to be the right one, and what is said when it is not."""

from __future__ import annotations

import fcntl
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from bench.errors import FormatError, LabError, UsageError
from bench.images.kernel import KernelImage, build_kernel
from bench.images.kernel_apt import Origin, PackageGone, debian_origins, open_apt, with_suites
from bench.images.kernel_source import Wishes, makefile_release, release_of_source
from bench.images.kernel_tools import TOOLS
from bench.images.packages import obtain
from tests.test_doctor import program
from tests.tiny_source import archive, package, project, repository

TINY_TOOLS = tuple(tool for tool in TOOLS if tool.name in ("make", "patch", "tar", "xz"))
DEBIAN = 'kind = "debian"\npackage = "linux-source-6.1"\nversion = "6.1.9-1"\nsha256 = "{}"\n'


def build(root: Path, wishes: Wishes | None = None) -> KernelImage:
    return build_kernel(root, "tiny", wishes=wishes, cache=root / "cache", jobs=1, tools=TINY_TOOLS)


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_file_that_is_not_the_pinned_source_is_refused_with_both_hashes(tmp_path: Path) -> None:
    other = archive(tmp_path / "other.tar.xz", sublevel=10)
    with pytest.raises(UsageError) as error:
        build(project(tmp_path), Wishes(file=tmp_path / "other.tar.xz"))
    assert f"its SHA-256 is {other}, not " in str(error.value) and "--accept-newer" in str(error.value)
    with pytest.raises(UsageError, match=r"nothing\.tar\.xz: there is no such file"):
        build(tmp_path, Wishes(file=tmp_path / "nothing.tar.xz"))


@pytest.mark.slow
def test_a_newer_file_of_the_series_is_taken_if_that_was_said_and_recorded_as_a_departure(tmp_path: Path) -> None:
    archive(tmp_path / "other.tar.xz", sublevel=10)
    image = build(project(tmp_path), Wishes(file=tmp_path / "other.tar.xz", accept_newer=True))
    assert image.release == "6.1.10"
    assert image.manifest["source"]["departure"] == "other.tar.xz in place of linux.tar.xz"
    again = build(tmp_path)
    assert again.found and again.folder == image.folder, "whoever allowed it once is not asked again"


def test_a_file_of_another_series_is_never_taken(tmp_path: Path) -> None:
    project(tmp_path)
    makefile = tmp_path / "linux-7.3" / "Makefile"
    makefile.parent.mkdir()
    makefile.write_text("VERSION = 7\nPATCHLEVEL = 3\nSUBLEVEL = 1\n")
    import tarfile

    with tarfile.open(tmp_path / "other.tar", "w") as tar:
        tar.add(makefile, "linux-7.3/Makefile")
    with pytest.raises(UsageError, match=r"other\.tar is Linux 7\.3\.1: not of the series of 6\.1\.9"):
        build(tmp_path, Wishes(file=tmp_path / "other.tar", accept_newer=True))


@pytest.mark.slow
def test_debians_package_from_a_file_is_as_good_as_the_mirrors(tmp_path: Path) -> None:
    digest = package(tmp_path / "linux-source-6.1_6.1.9-1_all.deb")
    image = build(
        project(tmp_path, source=DEBIAN.format(digest)), Wishes(file=tmp_path / "linux-source-6.1_6.1.9-1_all.deb")
    )
    assert (image.release, image.manifest["source"]["name"]) == ("6.1.9", "linux-source-6.1 6.1.9-1")


@pytest.mark.slow
def test_an_archive_that_is_another_release_than_the_description_says_is_refused(tmp_path: Path) -> None:
    path = project(tmp_path) / "firmware-images" / "kernels" / "tiny.toml"
    path.write_text(path.read_text().replace('release = "6.1.9"', 'release = "6.1.8"'))
    with pytest.raises(UsageError, match=r"its Makefile says 6\.1\.9, the description 6\.1\.8"):
        build(tmp_path)


@pytest.mark.slow
def test_a_source_that_changed_on_disk_is_removed_and_fetched_anew(tmp_path: Path) -> None:
    project(tmp_path)
    first = build(tmp_path)
    (kept,) = (p for p in (tmp_path / "cache" / "sources").iterdir() if len(p.name) == 64)
    kept.write_bytes(kept.read_bytes()[:-1] + b"x")
    for folder in (first.folder, tmp_path / "cache" / "trees"):
        folder.rename(tmp_path / f"away-{folder.name[:8]}")
    with pytest.raises(UsageError, match=r"had changed since it was fetched and was removed; build again"):
        build(tmp_path)
    assert build(tmp_path).sha256 == first.sha256


def test_releases_are_read_from_packages_and_archives(tmp_path: Path) -> None:
    archive(tmp_path / "a.tar.xz")
    package(tmp_path / "a.deb", sublevel=12)
    assert (release_of_source(tmp_path / "a.tar.xz"), release_of_source(tmp_path / "a.deb")) == ("6.1.9", "6.1.12")
    (tmp_path / "bad").write_bytes(b"neither")
    with pytest.raises(FormatError, match="neither a Debian package nor a tar archive"):
        release_of_source(tmp_path / "bad")
    cut = (tmp_path / "a.deb").read_bytes()[:100]
    (tmp_path / "cut.deb").write_bytes(cut)
    with pytest.raises(FormatError):
        release_of_source(tmp_path / "cut.deb")
    with pytest.raises(UsageError, match="is this a kernel"):
        makefile_release("all:\n")


# --- git -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_commit_of_a_git_tree_is_built_and_one_that_is_not_there_is_named(tmp_path: Path) -> None:
    commit = repository(tmp_path / "tree")
    source = f'kind = "git"\nrepository = "{tmp_path / "tree"}"\ncommit = "{commit}"\nrelease = "6.1.9"\n'
    image = build(project(tmp_path, source=source))
    assert image.manifest["source"]["identity"] == commit
    project(tmp_path, source=source.replace(commit, "1" * 40))
    with pytest.raises(LabError, match=r"git fetch .*1111"):
        build(tmp_path)


# --- Debian's mirror -------------------------------------------------------------------------------------------------

APT_GET = """case "$*" in
*" update") echo updated >>{log};;
*" download "*) for last; do :; done; echo "$last" >>{log}; cp {package} linux-source-6.1_x_all.deb;;
esac"""
APT_CACHE = "echo 'linux-source-6.1 | {version} | http://mirror bookworm/main amd64 Packages'"


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """apt-get and apt-cache of our own in front of PATH: the mirror has 6.1.10-1."""
    bin_folder, log = tmp_path / "apt-bin", tmp_path / "apt-said"
    bin_folder.mkdir()
    package(tmp_path / "newest.deb", sublevel=10)
    program(bin_folder, "apt-get", APT_GET.format(log=log, package=tmp_path / "newest.deb"))
    program(bin_folder, "apt-cache", APT_CACHE.format(version="6.1.10-1"))
    monkeypatch.setenv("PATH", f"{bin_folder}:/usr/bin:/bin")
    monkeypatch.setattr("bench.images.kernel_apt.debian_origins", lambda _: [Origin("http://mirror", ("bookworm",))])
    return log


@pytest.mark.slow
def test_a_mirror_that_dropped_the_pinned_version_is_told_and_a_newer_one_is_taken_on_request(
    tmp_path: Path, mirror: Path
) -> None:
    project(tmp_path, source=DEBIAN.format("0" * 64))
    with pytest.raises(PackageGone) as error:
        build(tmp_path)
    assert "no longer has linux-source-6.1 6.1.9-1: it has 6.1.10-1" in str(error.value)
    assert "--accept-newer" in str(error.value) and "--source FILE" in str(error.value)
    image = build(tmp_path, Wishes(accept_newer=True))
    assert mirror.read_text().splitlines()[-1] == "linux-source-6.1=6.1.10-1"
    assert image.release == "6.1.10"
    assert image.manifest["source"]["departure"] == (
        "linux-source-6.1 6.1.10-1, since the mirror no longer has linux-source-6.1 6.1.9-1"
    )


@pytest.mark.usefixtures("mirror")
def test_what_a_mirror_sends_is_not_used_if_its_hash_is_not_the_pinned_one(tmp_path: Path) -> None:
    program(tmp_path / "apt-bin", "apt-cache", APT_CACHE.format(version="6.1.9-1"))
    project(tmp_path, source=DEBIAN.format("0" * 64))
    with pytest.raises(UsageError, match=r"from the mirror has SHA-256 [0-9a-f]{64}, and the description pins 0{64}"):
        build(tmp_path)
    assert not [p for p in (tmp_path / "cache" / "sources").iterdir() if len(p.name) == 64]


def test_versions_are_asked_of_lists_that_are_there(tmp_path: Path, mirror: Path) -> None:
    def updates() -> int:
        open_apt(tmp_path / "apt", [], mirror=None).versions("linux-source-6.1")
        return mirror.read_text().splitlines().count("updated")

    assert updates() == 1
    # The sources are written and the lists are not: whoever fetched them was killed.
    assert updates() == 2
    (tmp_path / "apt/state/lists/mirror_bookworm_Packages.lz4").touch()
    assert updates() == 2


EXCLUSIVE = """case "$*" in
*" update")
    mkdir {log}.lock || {{ echo "E: Could not get lock" >&2; exit 100; }}
    echo updated >>{log}; mkdir -p {lists}; : >{lists}/mirror_bookworm_Packages; rmdir {log}.lock;;
esac"""


def test_of_two_that_want_the_lists_one_waits_for_the_other(tmp_path: Path, mirror: Path) -> None:
    """Two machines' images, made side by side in a fresh cache: apt itself gives up."""
    lists = tmp_path / "apt/state/lists"
    program(tmp_path / "apt-bin", "apt-get", EXCLUSIVE.format(log=mirror, lists=lists))
    both = [open_apt(tmp_path / "apt", [], mirror=None) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool, (tmp_path / "apt/bench.lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        asked = [pool.submit(apt.versions, "linux-source-6.1") for apt in both]
        assert not wait(asked, timeout=0.1).done and not mirror.exists()
        fcntl.flock(held, fcntl.LOCK_UN)
        assert [each.result() for each in asked] == [["6.1.10-1"]] * 2
    # The first one has written the sources, and the second found its lists there.
    assert mirror.read_text().splitlines() in (["updated"], ["updated"] * 2)


PACKAGES_GET = """case "$*" in
*" download "*) for last; do :; done; echo "$last" >>{log}; : >"${{last%%=*}}_1_all.deb";;
esac"""
PACKAGES_CACHE = """for last; do :; done; case "$*" in
*" madison "*) echo "$last | 1 | http://mirror bookworm/main amd64 Packages";;
*" show tool=1") echo "Depends: libtool, other";;
esac"""


def test_of_two_that_want_the_same_packages_one_fetches_them(tmp_path: Path, mirror: Path) -> None:
    program(tmp_path / "apt-bin", "apt-get", PACKAGES_GET.format(log=mirror))
    program(tmp_path / "apt-bin", "apt-cache", PACKAGES_CACHE)
    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(lambda _: obtain(["tool"], tmp_path / "packages"), range(2))
    assert one == other and sorted(path.name for path in one.values()) == ["libtool_1_all.deb", "tool_1_all.deb"]
    assert mirror.read_text().splitlines() == ["tool=1", "libtool=1"]


@pytest.mark.usefixtures("mirror")
def test_a_mirror_that_does_not_answer_is_the_labs_fault(tmp_path: Path) -> None:
    program(tmp_path / "apt-bin", "apt-get", "echo 'E: Could not resolve mirror' >&2; exit 100")
    with pytest.raises(LabError, match=r"E: Could not resolve mirror; all of it is in .*apt\.log.*--source FILE"):
        build(project(tmp_path, source=DEBIAN.format("0" * 64)))


def test_without_apt_or_debians_archive_another_way_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        with pytest.raises(UsageError, match=r"there is no apt here .* --source FILE"):
            open_apt(tmp_path / "apt", [], mirror=None)
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    for name in ("apt-get", "apt-cache"):
        program(bin_folder, name, "exit 0")
    monkeypatch.setenv("PATH", f"{bin_folder}:/bin")
    with pytest.raises(UsageError, match=r"not configured for Debian's archive: .*--mirror URL"):
        open_apt(tmp_path / "apt", [], mirror=None, etc=tmp_path)


def test_the_computers_own_mirrors_are_read_in_both_forms(tmp_path: Path) -> None:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list").write_text(
        "# deb http://old bookworm main\n"
        "deb [arch=amd64 signed-by=/k.gpg] http://one bookworm main contrib # here\n"
        "deb-src http://one bookworm main\ndeb http://ppa noble main\ndeb http://one bookworm contrib\n"
    )
    (tmp_path / "sources.list.d" / "debian.sources").write_text(
        "# ours\nTypes: deb deb-src\nURIs: http://two\nSuites: trixie trixie-updates\nComponents: main\n"
        "Signed-By: /usr/share/keyrings/debian.gpg\n\nTypes: deb\nURIs: http://three\nSuites: trixie-security\n"
        "Components: main\nEnabled: no\n"
    )
    (tmp_path / "sources.list.d" / "README").write_text("deb http://no bookworm main\n")
    found = debian_origins(tmp_path)
    assert found == [
        Origin("http://one", ("bookworm",), "/k.gpg"),
        Origin("http://two", ("trixie", "trixie-updates"), "/usr/share/keyrings/debian.gpg"),
    ]
    more = with_suites(found, ["bookworm-backports"], None)
    assert more[-1] == Origin("http://one", ("bookworm-backports",), "/k.gpg")
    assert with_suites(found, [], "http://other") == [
        Origin("http://other", ("bookworm", "trixie", "trixie-updates"), "/k.gpg")
    ]
