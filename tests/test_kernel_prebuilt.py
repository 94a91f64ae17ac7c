"""Kernels as Debian ships them: found, fetched from a file, kept with a manifest, refused by name."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from bench.errors import FormatError, UsageError
from bench.images.deb import architecture, boot_files
from bench.images.kernel import build_kernel, find_kernel
from bench.images.kernel_cache import removable, remove, verify
from bench.images.kernel_description import load_description
from bench.images.kernel_source import Wishes
from bench.images.linux_facts import read_linux_facts
from tests import toy_kernel

NAME = "debian-toy"
VMLINUX = toy_kernel.elf(toy_kernel.kallsyms(toy_kernel.many_symbols(), new_order=False))
FILES = {
    "./boot/vmlinuz-6.1.0-9-amd64": toy_kernel.bzimage(VMLINUX),
    "./boot/config-6.1.0-9-amd64": b"CONFIG_64BIT=y\n",
}


def described(
    root: Path, sha256: str, *, package: str = "linux-image-6.1.0-9-amd64", version: str = "6.1.99-1"
) -> None:
    folder = root / "firmware-images" / "kernels"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{NAME}.toml").write_text(
        f'name = "{NAME}"\nabout = "a kernel for tests"\n[source]\nkind = "debian-binary"\npackage = "{package}"\n'
        f'meta = "linux-image-amd64"\nversion = "{version}"\nsha256 = "{sha256}"\n'
    )


@pytest.fixture
def deb(tmp_path: Path) -> Path:
    """A package, described and pinned in a project at `tmp_path`."""
    file = toy_kernel.deb(tmp_path / "linux-image.deb", FILES)
    described(tmp_path, hashlib.sha256(file.read_bytes()).hexdigest())
    return file


def test_a_package_is_unpacked_and_kept_like_a_kernel_that_was_built(tmp_path: Path, deb: Path) -> None:
    cache, stages = tmp_path / "cache", []
    image = build_kernel(tmp_path, NAME, wishes=Wishes(file=deb), cache=cache, tell=lambda p: stages.append(p.stage))
    assert stages == ["plan", "fetch", "unpack", "symbols"]
    assert (image.release, image.found, image.traced) == ("6.1.99", False, False)
    assert image.vmlinux.read_bytes() == VMLINUX
    assert image.manifest["header"]["version"].startswith("6.1.0-9-amd64 ")
    assert image.manifest["source"]["departure"] == ""
    assert image.details["release"] == "6.1.99" and image.details["patches"] == "none"
    (checked,) = verify(cache)
    assert (checked.name, checked.files, checked.troubles) == (NAME, 5, ())
    again = build_kernel(tmp_path, NAME, cache=cache)
    assert again.found and again.folder == image.folder
    found = find_kernel(tmp_path, NAME, cache=cache)
    assert found is not None and found.sha256 == hashlib.sha256(FILES["./boot/vmlinuz-6.1.0-9-amd64"]).hexdigest()


def test_its_facts_are_read_from_its_own_symbols(tmp_path: Path, deb: Path) -> None:
    image = build_kernel(tmp_path, NAME, wishes=Wishes(file=deb), cache=tmp_path / "cache")
    facts = read_linux_facts(image.folder, image.release)
    assert facts.symbols["_text"] == toy_kernel.TEXT
    assert facts.boot_params_offset == 0x4790
    assert "load_ucode_bsp" not in facts.symbols, "this kernel has no microcode loader"


def test_a_flipped_byte_is_found_and_an_old_kernel_is_pruned(tmp_path: Path, deb: Path) -> None:
    cache = tmp_path / "cache"
    image = build_kernel(tmp_path, NAME, wishes=Wishes(file=deb), cache=cache)
    assert removable(cache) == []
    data = bytearray(image.kernel.read_bytes())
    data[700] ^= 1
    image.kernel.write_bytes(data)
    (checked,) = verify(cache)
    assert "bzImage: has changed" in checked.troubles[0]
    (image.folder / "manifest.json").unlink()
    assert [item.what for item in removable(cache)] == ["kernel", "source"]
    remove(removable(cache))
    assert not image.folder.exists()


def test_another_file_than_the_pinned_one_is_taken_only_when_asked_for(tmp_path: Path, deb: Path) -> None:
    newer = FILES | {
        "./boot/vmlinuz-6.1.0-9-amd64": toy_kernel.bzimage(VMLINUX, version="6.1.0-10-amd64 Debian 6.1.120-1")
    }
    other = toy_kernel.deb(tmp_path / "newer.deb", newer)
    cache = tmp_path / "cache"
    with pytest.raises(UsageError, match=r"newer.deb: is not the pinned source .* --accept-newer"):
        build_kernel(tmp_path, NAME, wishes=Wishes(file=other), cache=cache)
    image = build_kernel(tmp_path, NAME, wishes=Wishes(file=other, accept_newer=True), cache=cache)
    assert (image.release, image.manifest["source"]["departure"][:9]) == ("6.1.120", "newer.deb")
    assert build_kernel(tmp_path, NAME, cache=cache).found, "the consent is remembered"
    described(tmp_path, hashlib.sha256(deb.read_bytes()).hexdigest(), version="6.12.1-1")
    with pytest.raises(UsageError, match="not of the series"):
        build_kernel(tmp_path, NAME, wishes=Wishes(file=other, accept_newer=True), cache=tmp_path / "other")


def test_no_series_can_be_added(tmp_path: Path, deb: Path) -> None:
    with pytest.raises(UsageError, match=r"built by its distribution: no series \(6.1/trace\)"):
        build_kernel(tmp_path, NAME, extra_series=["6.1/trace"], wishes=Wishes(file=deb), cache=tmp_path / "cache")


@pytest.mark.parametrize(
    "package", ["linux-image-6.1.0-9-686", "linux-image-6.1.0-9-686-pae", "linux-image-6.1.0-9-i386"]
)
def test_an_i386_package_is_refused_by_name(tmp_path: Path, package: str) -> None:
    described(tmp_path, "0" * 64, package=package)
    with pytest.raises(UsageError, match=r"source.package: .*a package of a 32-bit kernel: .* no early #PF handler"):
        load_description(tmp_path, NAME)


def test_an_i386_package_in_a_file_is_refused_by_name(tmp_path: Path, deb: Path) -> None:
    toy_kernel.deb(deb, FILES, architecture="i386")
    described(tmp_path, hashlib.sha256(deb.read_bytes()).hexdigest())
    with pytest.raises(UsageError, match="is for i386: 32-bit kernels make their early page tables in another way"):
        build_kernel(tmp_path, NAME, wishes=Wishes(file=deb), cache=tmp_path / "cache")


def test_a_32_bit_kernel_in_an_amd64_package_is_refused(tmp_path: Path, deb: Path) -> None:
    kernel = toy_kernel.bzimage(toy_kernel.elf(bits=32, machine=3), xloadflags=0)
    toy_kernel.deb(deb, FILES | {"./boot/vmlinuz-6.1.0-9-amd64": kernel})
    described(tmp_path, hashlib.sha256(deb.read_bytes()).hexdigest())
    with pytest.raises(UsageError, match=r"a 32-bit \(i386\) kernel"):
        build_kernel(tmp_path, NAME, wishes=Wishes(file=deb), cache=tmp_path / "cache")


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        ({"./usr/share/doc": b""}, "has no /boot/vmlinuz-"),
        (FILES | {"./boot/vmlinuz-other": b""}, "more than one /boot/vmlinuz-"),
    ],
    ids=["no kernel", "two kernels"],
)
def test_a_package_that_is_no_kernels_is_refused(tmp_path: Path, files: dict[str, bytes], complaint: str) -> None:
    with pytest.raises(FormatError, match=complaint):
        boot_files(toy_kernel.deb(tmp_path / "p.deb", files))


def test_a_file_that_is_no_package_is_refused_with_its_offset(tmp_path: Path, deb: Path) -> None:
    (tmp_path / "x").write_bytes(b"not an archive")
    with pytest.raises(FormatError, match="is not a Debian package"):
        architecture(tmp_path / "x")
    cut = deb.read_bytes()[:200]
    (tmp_path / "y").write_bytes(cut)
    with pytest.raises(FormatError):
        boot_files(tmp_path / "y")


def test_the_descriptions_of_this_project_are_read() -> None:
    root = Path(__file__).parents[1]
    for name in ("debian-6.1", "debian-cloud-6.1"):
        assert load_description(root, name).source.kind == "debian-binary"
