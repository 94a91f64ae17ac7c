"""A kernel is built from pinned inputs: the same give the same bytes, and whatever stops a build is named."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.errors import LabError, UsageError
from bench.images.kernel import BuildProgress, KernelImage, build_kernel, find_kernel
from bench.images.kernel_config import read_fragments
from bench.images.kernel_description import load_description
from bench.images.kernel_make import Counter, make
from bench.images.kernel_patches import load_patches
from bench.images.kernel_tools import COMPILER, TOOLS
from tests.tiny_source import CONFIG, PATCH, patch_series, project, start_build

pytestmark = pytest.mark.slow
# The tiny tree needs no more of them than this.
TINY_TOOLS = tuple(tool for tool in TOOLS if tool.name in ("make", "patch", "tar", "xz"))
Usage = namedtuple("Usage", "total used free")


def build(root: Path, cache: Path, *series: str, tell: Callable[[BuildProgress], None] = lambda _: None) -> KernelImage:
    return build_kernel(root, "tiny", extra_series=series, cache=cache, jobs=1, tell=tell, tools=TINY_TOOLS)


# --- descriptions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('about = "', 'abuot = "', "abuot: unknown key"),
        ('about = "a tree that is built as a kernel is"\n', "", "about: missing; it is required"),
        ('name = "tiny"', 'name = "other"', "name: 'other': must be the file's name, 'tiny'"),
        ('kind = "tarball"', 'kind = "zip"', "source: "),
        ('release = "6.1.9"', 'release = "six"', "source.release: 'six': 'six' does not begin as a release does"),
        ('sha256 = "', 'sha256 = "A', "source.sha256: "),
        ('base = "tinyconfig"', 'base = "defconfig"', "config.base: 'defconfig'"),
        ('fragments = ["early"]', "fragments = []", "config.fragments: "),
        ("series = []", 'series = ["../x"]', "series.0: '../x'"),
        ("[source]", "[source", "not TOML"),
    ],
)
def test_a_wrong_description_is_refused_with_file_and_key(tmp_path: Path, old: str, new: str, said: str) -> None:
    path = project(tmp_path) / "firmware-images" / "kernels" / "tiny.toml"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(UsageError) as error:
        load_description(tmp_path, "tiny")
    assert str(error.value).startswith(f"{path}: {said}")


@pytest.mark.parametrize("arch", ["i386", "i686", "x86"])
def test_32_bit_kernels_are_refused_by_name(tmp_path: Path, arch: str) -> None:
    path = project(tmp_path) / "firmware-images" / "kernels" / "tiny.toml"
    path.write_text(f'arch = "{arch}"\n{path.read_text()}')
    with pytest.raises(UsageError, match=rf"arch: '{arch}': not built: 32-bit kernels .* no early #PF handler"):
        load_description(tmp_path, "tiny")


def test_the_examples_of_the_readme_are_descriptions(tmp_path: Path) -> None:
    readme = Path(__file__).parent.parent / "firmware-images" / "kernels" / "README.md"
    whole, *sources, prebuilt = re.findall(r"```toml\n(.*?)```", readme.read_text(), re.DOTALL)
    folder = project(tmp_path) / "firmware-images" / "kernels"
    kinds = set()
    for source in sources:
        text = re.sub(r"\[source\].*\n", lambda _, source=source: source, whole)
        (folder / "linux-6.1.toml").write_text(text)
        kinds.add(load_description(tmp_path, "linux-6.1").source.kind)
    (folder / "debian-6.1.toml").write_text(prebuilt)
    kinds.add(load_description(tmp_path, "debian-6.1").source.kind)
    assert kinds == {"debian", "tarball", "git", "debian-binary"}


def test_an_unknown_image_names_those_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no image 'tinny'; there are payload and the kernels tiny"):
        load_description(project(tmp_path), "tinny")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("CONFIG_64BIT=y\n", r"early\.config:1: CONFIG_64BIT=y: without a comment straight above it"),
        ("# Why.\n\nCONFIG_64BIT=y\n", r"early\.config:3: .*without a comment"),
        ("# Why.\nCONFIG_64BIT=m\n", r"early\.config:2: 'CONFIG_64BIT=m' is neither"),
        ("# A.\nCONFIG_A=y\n# B.\n# CONFIG_A is not set\n", r"early\.config:4: CONFIG_A is n here and y at .*:2"),
    ],
)
def test_a_fragment_gives_a_reason_for_each_option_and_does_not_contradict_itself(
    tmp_path: Path, config: str, said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        read_fragments(project(tmp_path, config=config), ["early"])


def test_an_option_that_the_kernel_does_not_take_is_named_with_file_and_line(tmp_path: Path) -> None:
    project(tmp_path, config=CONFIG + "# Of another release.\nCONFIG_UNKNOWN=y\n")
    with pytest.raises(UsageError, match=r"Linux 6\.1\.9 does not take .*early\.config:6: CONFIG_UNKNOWN=y became"):
        build(tmp_path, tmp_path / "cache")


# --- the same inputs -------------------------------------------------------------------------------------------------


def test_the_same_inputs_give_the_same_hash_and_bytes_wherever_they_are_built(tmp_path: Path) -> None:
    images = [build(project(tmp_path / name), tmp_path / name / "cache") for name in ("here", "there-and-longer")]
    assert not any(image.found for image in images)
    assert len({image.folder.name for image in images}) == 1
    for name in ("bzImage", "vmlinux", "System.map", ".config"):
        assert (images[0].folder / name).read_bytes() == (images[1].folder / name).read_bytes(), name


def test_a_manifest_records_all_that_went_in_and_came_out(tmp_path: Path) -> None:
    patch_series(project(tmp_path, series=["one"]))
    image = build(tmp_path, tmp_path / "cache")
    manifest = image.manifest
    assert (manifest["name"], manifest["release"], manifest["series"]) == ("tiny", "6.1.9", ["one"])
    assert manifest["hash"] == image.folder.name and manifest["image_id"] == f"{image.image_id:016x}"
    assert manifest["source"]["identity"] == load_description(tmp_path, "tiny").source.identity
    assert manifest["source"]["departure"] == ""
    inputs = manifest["inputs"]
    assert [p["file"] for p in inputs["patches"]] == ["0001-change.patch"]
    assert inputs["config"] == {"base": "tinyconfig", "options": {"64BIT": "y", "OTHER": "n"}}
    assert "gcc" in inputs["compiler"]["gcc"] and "ld" in inputs["compiler"]["ld"]
    assert inputs["make"]["KBUILD_BUILD_TIMESTAMP"] == "1970-01-01 00:00:00 UTC"
    for name, said in manifest["outputs"].items():
        assert said["bytes"] == (image.folder / name).stat().st_size and len(said["sha256"]) == 64
    assert image.sha256 == manifest["outputs"]["bzImage"]["sha256"]


def test_what_an_image_is_made_of_is_told_in_words(tmp_path: Path) -> None:
    plain = build(project(tmp_path / "a"), tmp_path / "cache").details
    patch_series(project(tmp_path / "b", series=["one"]))
    patched = build(tmp_path / "b", tmp_path / "cache").details
    assert (plain["release"], plain["config"], plain["patches"]) == ("6.1.9", "tinyconfig + early", "none")
    assert patched["patches"] == "one (1)" and len(patched["patches SHA-256"]) == 64
    assert "gcc" in plain["compiler"] and all(plain.values())
    same = {name for name in plain if plain[name] == patched[name]}
    assert same == plain.keys() - {"patches"}


def test_a_second_build_finds_the_first_without_any_tool_but_the_compiler(tmp_path: Path) -> None:
    first = build(project(tmp_path), tmp_path / "cache")
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    for tool in COMPILER:
        (bin_folder / tool.name).symlink_to(shutil.which(tool.name) or "")
    stages: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(bin_folder))
        again = build(tmp_path, tmp_path / "cache", tell=lambda p: stages.append(p.stage))
        assert find_kernel(tmp_path, "tiny", cache=tmp_path / "cache") == again
    assert again.found and again.sha256 == first.sha256 and stages == []


def test_progress_names_each_stage_and_estimates_before_it_starts(tmp_path: Path) -> None:
    told: list[BuildProgress] = []
    build(project(tmp_path), tmp_path / "cache", tell=told.append)
    stages = list(dict.fromkeys(p.stage for p in told))
    assert stages == ["plan", "fetch", "unpack", "patch", "configure", "compile", "keep"]
    assert "GB free in" in told[0].text and told[0].left_s and told[0].total


# --- patches ---------------------------------------------------------------------------------------------------------


def test_a_changed_patch_gives_a_new_hash_and_compiles_what_it_touches_and_no_more(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    plain = build(project(tmp_path), cache)
    patch_series(tmp_path)
    patched = build(tmp_path, cache, "one")
    patch_series(tmp_path, patch=PATCH.replace("65", "66"))
    changed = build(tmp_path, cache, "one")
    assert len({image.folder for image in (plain, patched, changed)}) == 3
    assert len({image.sha256 for image in (plain, patched, changed)}) == 3
    assert [i.manifest["compiled"] for i in (plain, patched, changed)] == [2, 1, 1]
    assert patched.name == changed.name == "tiny+one"
    shutil.rmtree(plain.folder)
    assert build(tmp_path, cache).sha256 == plain.sha256, "a tree that was patched in between is pristine again"


@pytest.mark.parametrize(
    ("patch", "said"),
    [
        (PATCH.replace("64 +", "63 +"), r"one/0001-change\.patch does not apply: tables\.c: Hunk #1 FAILED at 3"),
        (PATCH.replace("tables.c", "gone.c"), r"one/0001-change\.patch does not apply: .*gone\.c|can't find file"),
        ("no diff\n", r"one/0001-change\.patch: is not a unified diff"),
        (PATCH.replace("b/tables.c", "b/../../x"), r"'\.\./\.\./x' leaves the kernel's tree"),
    ],
)
def test_a_patch_that_does_not_apply_is_named_with_file_and_hunk(tmp_path: Path, patch: str, said: str) -> None:
    patch_series(project(tmp_path, series=["one"]), patch=patch)
    with pytest.raises(UsageError, match=said):
        build(tmp_path, tmp_path / "cache")


@pytest.mark.parametrize(
    ("row", "applies"),
    [
        ("", True),
        ('from = "6.1"', True),
        ('from = "6.1.9"\nbelow = "6.1.10"', True),
        ('from = "6.1.10"', False),
        ('below = "6.1.9"', False),
        ('below = "6.2"', True),
    ],
)
def test_a_patch_is_for_a_range_of_releases(tmp_path: Path, row: str, applies: bool) -> None:
    patch_series(project(tmp_path), row=row)
    if applies:
        assert [p.file for p in load_patches(tmp_path, ["one"], (6, 1, 9)).patches] == ["0001-change.patch"]
    else:
        with pytest.raises(UsageError, match=r"patch series one has nothing for Linux 6\.1\.9: 0001-change.patch from"):
            load_patches(tmp_path, ["one"], (6, 1, 9))


def test_a_series_lists_the_patches_of_its_folder_no_more_and_no_less(tmp_path: Path) -> None:
    patch_series(project(tmp_path))
    (tmp_path / "firmware-images" / "patches" / "one" / "0002-more.patch").write_text(PATCH)
    with pytest.raises(UsageError, match=r"one/series\.toml: patch: must list every \.patch .*0002-more\.patch"):
        load_patches(tmp_path, ["one"], (6, 1, 9))
    with pytest.raises(UsageError, match=r"no patch series 'two'; there are: one"):
        load_patches(tmp_path, ["two"], (6, 1, 9))


def test_a_series_brings_files_and_the_image_id_into_the_tree(tmp_path: Path) -> None:
    (project(tmp_path, series=["one"]) / "firmware-images" / "extra.h").write_text("#define EXTRA 3\n")
    patch = PATCH.replace("@@ -3,4 +3,4 @@", "@@ -3,4 +3,6 @@").replace(
        " int tables", '+#include "extra.h"\n+#include "id.h"\n int tables'
    )
    more = 'image_id_header = "id.h"\n[[copy]]\nfile = "../../extra.h"\nto = "extra.h"'
    patch_series(tmp_path, patch=patch.replace("65 +", "(int)BENCH_IMAGE_ID + EXTRA +"), more=more)
    image = build(tmp_path, tmp_path / "cache")
    tree = tmp_path / "cache" / "trees" / image.manifest["tree"] / "linux"
    assert f"#define BENCH_IMAGE_ID {image.image_id:#x}ULL" in (tree / "id.h").read_text()
    assert (tree / "extra.h").read_text() == "#define EXTRA 3\n"


def test_code_that_does_not_compile_is_named_with_file_and_line(tmp_path: Path) -> None:
    patch_series(project(tmp_path, series=["one"]), patch=PATCH.replace("65 +", "nonsense +"))
    with pytest.raises(
        UsageError, match=r"make bzImage failed: tables\.c:5: .*nonsense.*; the full log is .*build\.log"
    ):
        build(tmp_path, tmp_path / "cache")
    patch_series(tmp_path)
    assert not build(tmp_path, tmp_path / "cache").found, "and the tree is as good as before"


# --- what is missing -------------------------------------------------------------------------------------------------


def test_missing_tools_are_all_named_with_what_brings_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    for tool in COMPILER:
        (bin_folder / tool.name).symlink_to(shutil.which(tool.name) or "")
    monkeypatch.setenv("PATH", str(bin_folder))
    with pytest.raises(UsageError) as error:
        build_kernel(project(tmp_path), "tiny", cache=tmp_path / "cache")
    said = str(error.value)
    assert "missing here: make, patch, tar, xz, flex, bison, bc, cpio" in said
    assert "bench doctor --install" in said and "xz-utils flex bison bc cpio" in said
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UsageError, match=r"missing here: gcc, ld\."):
        find_kernel(tmp_path, "tiny", cache=tmp_path / "cache")


def test_a_disk_that_is_too_small_is_told_before_anything_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 0, 10**9))
    with pytest.raises(UsageError, match=r"tiny needs 1\.9 GB in .*, and 1\.0 GB are free: make room .*XDG_CACHE_HOME"):
        build(project(tmp_path), tmp_path / "cache")
    assert not (tmp_path / "cache" / "sources").exists()


def test_a_disk_that_fills_up_while_it_compiles_is_the_labs_fault(tmp_path: Path) -> None:
    patch = PATCH.replace("65 +", "65 + /* No space left on device */ nonsense +")
    patch_series(project(tmp_path, series=["one"]), patch=patch)
    with pytest.raises(LabError, match=r"make bzImage failed: .*No space left on device"):
        build(tmp_path, tmp_path / "cache")


def test_a_cache_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"file/cache.*XDG_CACHE_HOME"):
        build(project(tmp_path), tmp_path / "file" / "cache")


def test_what_the_file_system_refuses_is_the_labs_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_source: object, target: Path) -> None:
        raise OSError(28, "No space left on device", str(target))

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(LabError, match=r"/sources/\.fetching-.*: No space left on device"):
        build(project(tmp_path), tmp_path / "cache")


# --- cut off, and two at once ----------------------------------------------------------------------------------------


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A HOME whose pipes hold a compilation at its second file."""
    home = tmp_path / "home"
    home.mkdir()
    for name in ("gate", "reached"):
        os.mkfifo(home / name)
    return home


def open_gate(home: Path) -> None:
    """Let the compilation that waits go on, and no later one wait."""
    with (home / "gate").open("w") as pipe:
        (home / "gate").unlink()
        pipe.write("\n")


def read_until(build: subprocess.Popen[str], stage: str) -> None:
    """Read what a build says up to the line of `stage`."""
    assert build.stdout
    while not (line := build.stdout.readline()).startswith(stage):
        assert line, f"it ended before {stage}"


def rest_of(build: subprocess.Popen[str]) -> list[str]:
    """The lines that a build still says; it must end well."""
    assert build.stdout
    lines = build.stdout.read().splitlines()
    assert build.wait() == 0
    return lines


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_build_that_was_cut_off_goes_on_to_the_same_bytes(tmp_path: Path, gate: Path, number: int) -> None:
    cache, whole = tmp_path / "cache", build(project(tmp_path), tmp_path / "other").sha256
    with start_build(tmp_path, cache, gate) as cut:
        assert (gate / "reached").read_text() == "here\n"
        cut.send_signal(number)
        assert cut.wait() != 0
    with start_build(tmp_path, cache, gate) as second:
        if number == signal.SIGKILL:
            # Nobody was left to end make: it holds the tree, and the next build waits for it.
            read_until(second, "wait")
        else:
            assert (gate / "reached").read_text() == "here\n"
        open_gate(gate)
        *stages, last = rest_of(second)
    assert last == f"done {whole} False"
    assert any("cut off" in stage for stage in stages)


def test_an_interrupted_make_leaves_no_pipe_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "Makefile").write_text("all:\n\t@sleep 60\n")
    monkeypatch.setattr("bench.images.kernel_make._TICK_S", 0.0)

    def interrupted(_: Counter) -> None:
        raise KeyboardInterrupt

    before = list(Path("/proc/self/fd").iterdir())
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, ["all"], log=tmp_path / "build.log", keep=0, tick=interrupted)
    assert list(Path("/proc/self/fd").iterdir()) == before


def test_of_two_builds_at_once_the_second_waits_and_finds_what_the_first_made(tmp_path: Path, gate: Path) -> None:
    project(tmp_path)
    with start_build(tmp_path, tmp_path / "cache", gate) as first:
        assert (gate / "reached").read_text() == "here\n"
        with start_build(tmp_path, tmp_path / "cache", gate) as second:
            read_until(second, "wait")
            open_gate(gate)
            made, found = rest_of(first)[-1], rest_of(second)[-1]
    assert made.endswith("False") and found == made.replace("False", "True")
