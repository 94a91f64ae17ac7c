"""Early cpio images: aligned, the same every time, and read by other programs."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.x86.early_cpio import UCODE_PATH, build, looks_like_cpio, members

NAMES = st.lists(st.text("abc/", min_size=1, max_size=30).map(lambda t: "d/" + t.strip("/") + "x"), max_size=4)


@settings(max_examples=40)
@given(names=NAMES, data=st.binary(max_size=100), align=st.sampled_from([4, 16, 64]), zeros=st.integers(0, 5))
def test_members_are_read_back_and_their_data_is_aligned(names: list[str], data: bytes, align: int, zeros: int) -> None:
    image = bytes(4 * align * zeros) + build(dict.fromkeys(names, data), align=align)
    files = [m for m in members(image) if m.is_regular]
    assert [m.name for m in files] == list(dict.fromkeys(names))
    for member in files:
        assert member.data_offset % align == 0
        assert image[member.data_offset : member.data_offset + member.data_bytes] == data
    assert len(image) % 4 == 0 and looks_like_cpio(image)


def test_what_follows_uncompressed_is_read_and_what_is_compressed_ends_it() -> None:
    first, second = build({"one": b"1"}), build({"two": b"2"})
    assert [m.name for m in members(first + second + b"\x1f\x8b" + second)] == ["one", "two"]


@pytest.mark.slow
def test_cpio_unpacks_an_image(tmp_path: Path) -> None:
    image = build({UCODE_PATH: b"microcode", "kernel/x86/other": b"!"})
    subprocess.run(["cpio", "-id", "--quiet"], input=image, cwd=tmp_path, check=True)
    assert (tmp_path / UCODE_PATH).read_bytes() == b"microcode"
    assert (tmp_path / "kernel/x86/other").read_bytes() == b"!"
