"""Linux itself, from Debian's pinned package, in the cache that `bench images build` uses.

The first run fetches and compiles (minutes); later ones use what is there.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.images.kernel import KernelImage, build_kernel, find_kernel
from bench.images.kernel_cache import default_cache, verify
from bench.images.kernel_tree import BuildTree
from bench.inventory import find_root
from tests.tiny_source import patch_series

pytestmark = [pytest.mark.kernels, pytest.mark.timeout(3600)]
NAME = "linux-6.1"
# Of the handler, of the linker's start, and of what is compiled into the version's text.
TOUCHED = ("arch/x86/kernel/head64.c", "arch/x86/kernel/head_64.S", "init/version.c")
PATCH = """\
--- a/init/main.c
+++ b/init/main.c
@@ -1,3 +1,4 @@
+/* A line more. */
 // SPDX-License-Identifier: GPL-2.0-only
 /*
  *  linux/init/main.c
"""


@pytest.fixture(scope="module")
def linux() -> KernelImage:
    return build_kernel(find_root(), NAME)


def test_the_image_is_what_its_description_asks_for(linux: KernelImage) -> None:
    assert linux.kernel.read_bytes()[0x202:0x206] == b"HdrS", "a bzImage: Documentation/arch/x86/boot.rst"
    symbols = (linux.folder / "System.map").read_text()
    assert " early_dynamic_pgts\n" in symbols and " do_early_exception\n" in symbols
    options = linux.manifest["inputs"]["config"]["options"]
    config = (linux.folder / ".config").read_text()
    assert all(f"CONFIG_{name}={value}\n" in config for name, value in options.items() if value != "n")
    (checked,) = (each for each in verify(default_cache(), [NAME]) if each.folder == linux.folder)
    assert checked.troubles == ()


def test_what_is_compiled_and_linked_again_from_the_same_inputs_has_the_same_bytes(linux: KernelImage) -> None:
    build_kernel(find_root(), NAME)
    tree = BuildTree(default_cache() / "trees" / linux.manifest["tree"])
    with tree.locked():
        for path in TOUCHED:
            (tree.linux / path).touch()
        aside = linux.folder.with_name(f".aside-{linux.folder.name}")
        linux.folder.rename(aside)
    try:
        again = build_kernel(find_root(), NAME)
        assert not again.found and again.manifest["compiled"] >= len(TOUCHED)
        for name in ("bzImage", "vmlinux", "System.map", ".config"):
            assert (again.folder / name).read_bytes() == (aside / name).read_bytes(), name
    finally:
        if not linux.folder.exists():
            aside.rename(linux.folder)
        shutil.rmtree(aside, ignore_errors=True)


@pytest.fixture
def patched_root(tmp_path: Path) -> Iterator[Path]:
    """A project with the same descriptions and one patch series; what it built is removed again."""
    shutil.copytree(find_root() / "firmware-images", tmp_path / "firmware-images")
    patch_series(tmp_path, "line-more", patch=PATCH)
    yield tmp_path
    image = build_kernel(tmp_path, NAME, extra_series=["line-more"])
    shutil.rmtree(image.folder)


def test_a_patch_compiles_what_it_touches_and_goes_without_a_trace(linux: KernelImage, patched_root: Path) -> None:
    patched = build_kernel(patched_root, NAME, extra_series=["line-more"])
    assert patched.folder != linux.folder and patched.manifest["compiled"] < 40
    assert find_kernel(find_root(), NAME) == linux.__class__(**(vars(linux) | {"found": True}))
