"""A kernel in Linux's boot format: header, what is packed inside, and what is refused."""

from __future__ import annotations

import bz2
import lzma
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.errors import FormatError, UsageError
from bench.images.bzimage import boot_params_offset, read_boot_header, require_bootable, unpack_kernel
from tests import toy_kernel

KERNEL = toy_kernel.elf(b"a kernel " * 1000)


def sized(packer: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """As Linux's build packs: the unpacked size behind what the packer makes (arch/x86/boot/compressed)."""
    return lambda kernel: packer(kernel) + struct.pack("<I", len(kernel))


def program(*command: str) -> Callable[[bytes], bytes]:
    return lambda kernel: subprocess.run(command, input=kernel, capture_output=True, check=True).stdout


@pytest.mark.parametrize(
    "pack",
    [
        pytest.param(toy_kernel.gzipped, id="gzip"),
        pytest.param(sized(lzma.compress), id="xz"),
        pytest.param(sized(lambda k: lzma.compress(k, format=lzma.FORMAT_ALONE)), id="lzma"),
        pytest.param(sized(bz2.compress), id="bzip2"),
        *(
            pytest.param(
                sized(program(*command)), id=command[0],
                marks=pytest.mark.skipif(shutil.which(command[0]) is None, reason=f"{command[0]} is not installed"),
            )
            for command in (("lz4", "-l", "-c"), ("zstd", "-c"))
        ),
    ],
)  # fmt: skip
def test_every_compression_is_unpacked(pack: Callable[[bytes], bytes]) -> None:
    data = toy_kernel.bzimage(KERNEL, pack=pack)
    assert unpack_kernel(data, read_boot_header(data, "k"), "k") == KERNEL


def test_the_header_says_where_the_kernel_and_its_initrd_belong() -> None:
    data = toy_kernel.bzimage(KERNEL)
    header = read_boot_header(data, "k")
    assert (header.protocol, header.pref_address, header.relocatable) == (0x20F, 0x1000000, True)
    assert header.version.startswith("6.1.0-9-amd64")
    assert header.initrd_limit == 0xFFFFFFFF, "loadable above 4 GiB: the older field no longer counts"
    old = read_boot_header(toy_kernel.bzimage(KERNEL, xloadflags=1), "k")
    assert old.initrd_limit == 0x7FFFFFFF


def test_where_the_real_mode_code_keeps_boot_params_is_read_out_of_its_code() -> None:
    data = toy_kernel.bzimage(KERNEL, boot_params=0x3BD0)
    assert boot_params_offset(data, read_boot_header(data, "k")) == 0x3BD0
    without = toy_kernel.bzimage(KERNEL, boot_params=None)
    assert boot_params_offset(without, read_boot_header(without, "k")) is None
    unaligned = toy_kernel.bzimage(KERNEL, boot_params=0x3BD8)
    assert boot_params_offset(unaligned, read_boot_header(unaligned, "k")) is None


def test_a_32_bit_kernel_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "vmlinuz-686"
    file.write_bytes(toy_kernel.bzimage(toy_kernel.elf(bits=32, machine=3), xloadflags=0))
    with pytest.raises(UsageError, match=r"vmlinuz-686: a 32-bit \(i386\) kernel: .* no early #PF handler"):
        require_bootable(file)


@pytest.mark.parametrize(("kernel", "bootable"), [(KERNEL, True), (toy_kernel.elf(bits=32, machine=3), False)])
def test_before_protocol_2_12_the_elf_file_inside_decides(tmp_path: Path, kernel: bytes, bootable: bool) -> None:
    file = tmp_path / "vmlinuz"
    file.write_bytes(toy_kernel.bzimage(kernel, protocol=0x20B, xloadflags=0))
    if bootable:
        assert require_bootable(file).protocol == 0x20B
    else:
        with pytest.raises(UsageError, match="32-bit"):
            require_bootable(file)


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda d: d[:0x100], "no HdrS"),
        (lambda d: d.replace(b"HdrS", b"hdrs"), "no HdrS"),
        (lambda d: d[:-1000], "cut short"),
        (lambda d: d.replace(b"\x1f\x8b", b"\x1f\x8c"), "unknown compression 1f8c"),
        (lambda d: d[: d.find(b"\x1f\x8b") + 40] + b"\xff" * 20 + d[d.find(b"\x1f\x8b") + 60 :], "damaged|unpacked to"),
    ],
    ids=["short", "no magic", "cut", "magic", "flipped"],
)
def test_what_is_damaged_is_named_with_its_offset(damage: Callable[[bytes], bytes], complaint: str) -> None:
    data = damage(toy_kernel.bzimage(toy_kernel.elf(bytes(range(256)) * 50)))
    with pytest.raises(FormatError, match=complaint):
        unpack_kernel(data, read_boot_header(data, "k"), "k")


def test_a_program_that_is_missing_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    data = toy_kernel.bzimage(KERNEL, pack=lambda kernel: b"\x02\x21\x4c\x18" + kernel)
    with pytest.raises(UsageError, match=r"lz4 is not installed here, .*: install lz4"):
        unpack_kernel(data, read_boot_header(data, "k"), "k")
