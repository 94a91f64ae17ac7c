"""Intel's package on its way into the cache, by one of made-up updates: licence, consent, what has to be in it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.cli import main
from bench.doctor import programs, run_doctor
from bench.doctor.install import fetch_microcode
from bench.errors import FormatError, UsageError
from bench.images.microcode_package import fetch_package, find_package, wanted
from tests import toy_kernel
from tests.microcode_files import update

VERSION = "3.20251111.1~deb12u1"
LICENCE = "may be copied, and that is all"
DESCRIPTION = f"""\
package = "intel-microcode"
component = "non-free-firmware"
tried = "{VERSION}"
licence = "{LICENCE}"
[files]
"06-9e-0a" = "a processor"
"06-8f-08" = "another, which Debian leaves to early loading"
"""
UPDATES = "./lib/firmware/intel-ucode"
DOCUMENTS = "./usr/share/doc/intel-microcode"
FILES = {
    f"{UPDATES}/06-9e-0a": update(revision=0xF8),
    f"{UPDATES}/06-8f-08.initramfs": update(signature=0x806F8),
    f"{UPDATES}/06-55-04": update(signature=0x50654),
    f"{DOCUMENTS}/copyright": b"who wrote it\n",
    f"{DOCUMENTS}/license": b"the licence, in full\n",
    f"{DOCUMENTS}/changelog.gz": b"not wanted",
    f"{UPDATES}/../../../etc/passwd": b"not wanted either",
}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A lab's folder, with a cache of its own."""
    (tmp_path / "lab" / "inventory").mkdir(parents=True)
    (tmp_path / "lab" / "firmware-images").mkdir()
    (tmp_path / "lab" / "firmware-images" / "microcode.toml").write_text(DESCRIPTION)
    monkeypatch.setenv("BENCH_ROOT", str(tmp_path / "lab"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "lab"


def package(folder: Path, files: dict[str, bytes] = FILES, *, version: str = VERSION) -> Path:
    return toy_kernel.deb(folder / "intel-microcode.deb", files, package="intel-microcode", version=version)


def without(name: str) -> dict[str, bytes]:
    return {path: data for path, data in FILES.items() if name not in path}


def cached(root: Path) -> list[str]:
    """Paths of all files in the cache."""
    cache = root.parent / "cache"
    return sorted(p.relative_to(cache).as_posix() for p in cache.rglob("*") if p.is_file())


def bench(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """Exit code of the program with these words, with nobody to ask."""
    monkeypatch.setattr(sys, "argv", ["bench", *words])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


# --- licence and consent ---------------------------------------------------------------------------------------------


def test_fetch_shows_the_licence_and_unpacks_updates_and_notices(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    deb = package(root)
    assert bench(monkeypatch, "microcode", "fetch", "--yes", "--package", str(deb)) == 0
    said = capsys.readouterr().out.splitlines()
    folder = root.parent / "cache" / "bench" / "microcode" / VERSION
    assert said[1] == f"its licence: {LICENCE}"
    assert said[2] == f"{VERSION} is in {folder}/intel-ucode; the licence's full text in {folder}/license"
    assert cached(root) == [
        f"bench/microcode/{VERSION}/{name}"
        for name in (
            "copyright", "intel-ucode/06-55-04", "intel-ucode/06-8f-08.initramfs", "intel-ucode/06-9e-0a", "license",
            "manifest.json",
        )
    ]  # fmt: skip
    found = find_package()
    assert found is not None and found.version == VERSION
    assert found.file("06-9e-0a").read_bytes() == FILES[f"{UPDATES}/06-9e-0a"]
    assert found.file("06-8f-08").name == "06-8f-08.initramfs"


def test_without_somebody_to_ask_it_needs_yes(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    deb = package(root)
    assert bench(monkeypatch, "microcode", "fetch", "--package", str(deb)) == 130
    assert f"its licence: {LICENCE}\nIntel's microcode was not fetched (--yes" in capsys.readouterr().out
    assert cached(root) == []


@pytest.mark.parametrize(("answer", "code"), [(False, 130), (True, 0)])
def test_the_licence_is_shown_before_the_question_and_no_is_no(root: Path, answer: bool, code: int) -> None:
    said: list[str] = []

    def confirm(question: str) -> bool:
        assert question == "Fetch it?" and said[-1] == f"its licence: {LICENCE}" and cached(root) == []
        return answer

    assert fetch_microcode(yes=False, echo=said.append, confirm=confirm, file=package(root)) == code
    assert (find_package() is not None) is answer


# --- what has to be in it --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "error", "text"),
    [
        (without("06-8f-08"), UsageError, "has no update for 06-8f-08"),
        (without("intel-ucode"), FormatError, "has no lib/firmware/intel-ucode/: is it intel-microcode"),
    ],
)
def test_a_package_that_lacks_what_is_wanted_is_refused_and_leaves_nothing(
    root: Path, files: dict[str, bytes], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        fetch_package(root, file=package(root, files))
    assert cached(root) == [] and find_package() is None


def test_a_package_that_is_refused_leaves_the_one_that_is_there(root: Path) -> None:
    fetch_package(root, file=package(root))
    said: list[str] = []
    deb = package(root, without("06-8f-08"), version="9")
    assert fetch_microcode(yes=True, echo=said.append, confirm=None, file=deb) == 2
    assert said[-1].startswith("Intel's microcode was not fetched: ") and "06-8f-08" in said[-1]
    found = find_package()
    assert found is not None and found.version == VERSION


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda _: None, "there is no such file"),
        (lambda path: path.write_bytes(b"\x1f\x8b"), "is not a Debian package"),
        (lambda path: path.write_bytes(b"!<arch>\n"), "has no control.tar in it"),
    ],
)
def test_a_file_that_is_no_package_ends_with_2(
    root: Path,
    make: Callable[[Path], object],
    text: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make(root / "other.deb")
    assert bench(monkeypatch, "microcode", "fetch", "--yes", "--package", str(root / "other.deb")) == 2
    assert text in capsys.readouterr().out


# --- what is in the cache --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["intel-ucode/06-9e-0a", "license", "manifest.json"])
@pytest.mark.parametrize("gone", [False, True])
def test_a_cached_file_that_was_changed_or_removed_does_not_count_until_it_is_fetched_again(
    root: Path, name: str, gone: bool
) -> None:
    found = fetch_package(root, file=package(root))
    path = found.folder / name
    data = path.read_bytes()
    path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    if gone:
        path.unlink()
    assert find_package() is None
    assert not programs.check_microcode(root).ok and programs.check_microcode(root).licence == LICENCE
    fetch_package(root, file=package(root))
    assert find_package() == found and path.read_bytes() == data


def test_of_several_the_one_that_was_fetched_last_counts(root: Path) -> None:
    for version in ("3", "2"):
        fetch_package(root, file=package(root, version=version))
    found = find_package()
    assert found is not None and found.version == "2"
    assert [row.split("/")[2] for row in cached(root) if row.endswith("manifest.json")] == ["2", "3"]


def test_a_version_names_no_folder_elsewhere(root: Path) -> None:
    found = fetch_package(root, file=package(root, version="../../2:1"))
    assert found.folder == root.parent / "cache" / "bench" / "microcode" / ".._.._2_1"


def test_the_projects_own_description_is_well_formed() -> None:
    description = wanted(Path(__file__).parent.parent)
    assert description.package == "intel-microcode" and "Intel" in description.licence and len(description.files) > 10


# --- bench doctor ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_doctor_with_json_shows_the_licence_before_it_asks(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.doctor.install_packages", lambda *_, **__: 0)
    said: list[str] = []
    shown: list[str] = []

    def confirm(question: str) -> bool:
        assert question == "Fetch it?" and shown[-1] == f"its licence: {LICENCE}" and said == []
        return False

    assert run_doctor(json=True, install=True, yes=False, echo=said.append, show=shown.append, confirm=confirm) == 130
    (text,) = said
    assert json.loads(text)["notes"] == shown and cached(root) == []
