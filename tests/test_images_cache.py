"""What was built is looked after: a flipped byte is noticed, what nobody needs goes, a broken entry is no trouble."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.errors import FormatError
from bench.images.kernel import KernelImage, build_kernel, find_kernel
from bench.images.kernel_cache import OUTPUTS, kept_kernels, read_manifest, removable, remove, verify
from bench.images.kernel_tools import TOOLS
from bench.images.kernel_tree import BuildTree
from tests.tiny_source import PATCH, patch_series, project

TINY_TOOLS = tuple(tool for tool in TOOLS if tool.name in ("make", "patch", "tar", "xz"))


def build(root: Path, cache: Path, *series: str) -> KernelImage:
    return build_kernel(root, "tiny", extra_series=series, cache=cache, jobs=1, tools=TINY_TOOLS)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a project, and its cache (for `XDG_CACHE_HOME`) with `tiny` and two builds of `tiny+one`."""
    root = project(tmp_path_factory.mktemp("built"))
    cache = root / "bench" / "kernels"
    build(root, cache)
    for number in ("65", "66"):
        patch_series(root, patch=PATCH.replace("65", number))
        build(root, cache, "one")
    return root


@pytest.fixture
def root(built: Path, tmp_path: Path) -> Path:
    """A copy of it to break."""
    return Path(shutil.copytree(built, tmp_path / "copy", copy_function=shutil.copy2))


@pytest.mark.parametrize("name", OUTPUTS)
def test_verify_notices_one_flipped_bit_in_any_file(root: Path, name: str) -> None:
    cache = root / "bench" / "kernels"
    assert [c.troubles for c in verify(cache)] == [()] * 3
    path = kept_kernels(cache)[0].folder / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    (trouble,) = (t for c in verify(cache) for t in c.troubles)
    assert trouble.startswith(f"{path}: has changed: SHA-256 is ")
    path.unlink()
    (trouble,) = (t for c in verify(cache) for t in c.troubles)
    assert trouble == f"{path}: is missing"


def test_verify_notices_a_manifest_that_was_edited_cut_or_moved(root: Path) -> None:
    cache = root / "bench" / "kernels"
    one, two, three = (k.folder for k in kept_kernels(cache))
    (one / "manifest.json").write_text((one / "manifest.json").read_text().replace('"jobs": 1', '"jobs": 2'))
    (two / "manifest.json").write_text((two / "manifest.json").read_text()[:100])
    three.rename(cache / ("0" * 64))
    said = "\n".join(t for c in verify(cache) for t in c.troubles)
    assert f"{one / 'manifest.json'}: is not as it was written" in said
    assert f"{two / 'manifest.json'}: is not a manifest" in said
    assert "its inputs have another hash than the folder's name" in said


def test_a_cache_entry_that_cannot_be_read_is_no_kernel_and_is_built_anew(root: Path) -> None:
    cache = root / "bench" / "kernels"
    whole = find_kernel(root, "tiny", cache=cache)
    assert whole
    (whole.folder / "manifest.json").write_text("{}")
    with pytest.raises(FormatError, match="is not a manifest"):
        read_manifest(whole.folder)
    assert len(kept_kernels(cache)) == 2
    again = build(root, cache)
    assert not again.found and again.sha256 == whole.sha256


def test_prune_keeps_the_newest_of_each_name_and_what_it_needs(root: Path) -> None:
    cache = root / "bench" / "kernels"
    (cache / "sources" / ("1" * 64)).write_bytes(b"x" * 10_000)
    (cache / "sources" / "apt").mkdir()
    (cache / "trees" / "left-over" / "linux").mkdir(parents=True)
    (cache / "trees" / "left-over" / "lock").touch()
    before = {k.name: k.folder for k in kept_kernels(cache)}
    items = removable(cache)
    assert sorted(i.what for i in items) == ["build tree", "kernel", "source"]
    with BuildTree(cache / "trees" / "left-over").locked():
        assert "build tree" not in [i.what for i in removable(cache)], "a build runs in it"
    remove(items)
    assert {k.name: k.folder for k in kept_kernels(cache)} == before
    assert removable(cache) == [] and all(not c.troubles for c in verify(cache))
    assert build(root, cache).found and build(root, cache, "one").found


def test_prune_keeps_what_was_used_last(root: Path) -> None:
    cache = root / "bench" / "kernels"
    older, newer = [k for k in kept_kernels(cache) if k.name == "tiny+one"]
    assert [i.path for i in removable(cache)] == [older.folder]
    os.utime(older.folder / "manifest.json")
    assert [i.path for i in removable(cache)] == [newer.folder]


# --- the command -----------------------------------------------------------------------------------------------------


def images(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"XDG_CACHE_HOME": str(root), "BENCH_ROOT": str(root)}
    command = [sys.executable, "-m", "bench", "images", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def rows(done: subprocess.CompletedProcess[str]) -> Any:
    return json.loads(done.stdout)


@pytest.mark.slow
def test_list_verify_and_prune_say_what_there_is(root: Path) -> None:
    listed = rows(images(root, "list", "--all", "--json"))
    assert [row["image"] for row in listed] == ["payload", "tiny", "rescue", "tiny+one", "tiny+one"]
    assert listed[1]["release"] == "6.1.9" and Path(listed[1]["folder"]).is_dir()

    good = images(root, "verify")
    assert good.returncode == 0 and good.stdout.count("intact") == 3
    with (Path(listed[1]["folder"]) / "vmlinux").open("r+b") as file:
        file.write(b"\0")
    bad = images(root, "verify", "tiny")
    assert bad.returncode == 3 and "CHANGED" in bad.stdout and "vmlinux: has changed" in bad.stdout
    unknown = images(root, "verify", "other")
    assert unknown.returncode == 2 and "not built: other" in unknown.stderr

    would = images(root, "prune")
    assert "would be removed (--yes removes them)" in would.stdout
    assert rows(images(root, "prune", "--yes", "--json"))["removed"] is True
    assert "Nothing to remove." in images(root, "prune").stdout


@pytest.mark.slow
def test_build_refuses_what_makes_no_sense_with_2(root: Path) -> None:
    for arguments, said in [
        (["tinny"], "no image 'tinny'"),
        (["--with", "one"], "--with and --source are for one kernel: name it"),
        (["tiny", "--with", "two"], "no patch series 'two'"),
    ]:
        done = images(root, "build", *arguments)
        assert done.returncode == 2 and said in done.stderr, arguments
    found = rows(images(root, "build", "tiny", "--with", "one", "--json"))
    assert (found["image"], found["built"]) == ("tiny+one", "found")
