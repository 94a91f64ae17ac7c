"""The payload's file: what a boot loader reads of it, and that equal sources give equal bytes."""

from __future__ import annotations

import struct
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from bench.errors import UsageError
from bench.images import PAYLOADS, PayloadImage, build_payload

ROOT = Path(__file__).parents[1]
COMPILERS = ("gcc", pytest.param("clang", marks=pytest.mark.payloads))

pytestmark = pytest.mark.slow


def field(kernel: bytes, offset: int, size: int) -> int:
    """A little-endian field of the boot protocol's header."""
    return int.from_bytes(kernel[offset : offset + size], "little")


@pytest.fixture(scope="module", params=COMPILERS)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, PayloadImage]:
    """One build with each compiler."""
    cache = tmp_path_factory.mktemp("payloads")
    return request.param, cache, build_payload(ROOT, compiler=request.param, cache=cache)


def test_header_is_of_boot_protocol_2_15(built: tuple[str, Path, PayloadImage]) -> None:
    kernel = built[2].kernel.read_bytes()
    assert field(kernel, 0x1FE, 2) == 0xAA55
    assert kernel[0x202:0x206] == b"HdrS"
    assert field(kernel, 0x206, 2) == 0x020F
    assert field(kernel, 0x211, 1) & 1, "LOADED_HIGH"
    assert field(kernel, 0x214, 4) == 0x100000
    assert field(kernel, 0x22C, 4) == 0x7FFFFFFF
    assert field(kernel, 0x234, 1) == 1, "relocatable"
    assert field(kernel, 0x236, 2) & 1, "XLF_KERNEL_64"
    assert field(kernel, 0x238, 4) >= 256


def test_header_tells_the_file_s_real_sizes(built: tuple[str, Path, PayloadImage]) -> None:
    kernel = built[2].kernel.read_bytes()
    setup_bytes = (field(kernel, 0x1F1, 1) + 1) * 512
    assert setup_bytes <= 0x8000
    assert setup_bytes + field(kernel, 0x1F4, 4) * 16 == len(kernel)
    # init_size: the file's protected-mode part and what it clears behind it.
    assert field(kernel, 0x260, 4) >= len(kernel) - setup_bytes


def test_kernel_info_is_where_the_header_says(built: tuple[str, Path, PayloadImage]) -> None:
    kernel = built[2].kernel.read_bytes()
    setup_bytes = (field(kernel, 0x1F1, 1) + 1) * 512
    info = setup_bytes + field(kernel, 0x268, 4)
    assert kernel[info : info + 4] == b"LToP"
    assert struct.unpack_from("<II", kernel, info + 4) == (16, 16)


def test_boot_params_s_memory_map_starts_empty(built: tuple[str, Path, PayloadImage]) -> None:
    """The set-up code uses the start of the file as boot_params. What UEFI reads before the header it clears itself,
    else a boot by BIOS would take its number of directories for a part of the initrd's length."""
    kernel = built[2].kernel.read_bytes()
    assert any(kernel[0xC0:0xC8])
    assert not any(kernel[0x1E8:0x1F1])
    assert not any(kernel[0x2D0:0x1000])


def test_image_id_is_in_the_file(built: tuple[str, Path, PayloadImage]) -> None:
    image = built[2]
    assert 0 < image.image_id < 1 << 64
    assert struct.pack("<Q", image.image_id) in image.kernel.read_bytes()


def test_equal_sources_give_equal_bytes(built: tuple[str, Path, PayloadImage], tmp_path: Path) -> None:
    compiler, _, first = built
    again = build_payload(ROOT, compiler=compiler, cache=tmp_path)
    assert again.kernel != first.kernel
    assert (again.image_id, again.sha256) == (first.image_id, first.sha256)


def test_second_call_finds_the_first_build(built: tuple[str, Path, PayloadImage]) -> None:
    compiler, cache, first = built
    before = first.kernel.stat().st_mtime_ns
    assert build_payload(ROOT, compiler=compiler, cache=cache) == first
    assert first.kernel.stat().st_mtime_ns == before


def test_two_processes_may_build_at_once(tmp_path: Path) -> None:
    with ProcessPoolExecutor(2) as pool:
        results = list(pool.map(_build, [tmp_path, tmp_path]))
    assert results[0] == results[1]
    assert [path.name for path in tmp_path.iterdir()] == [results[0].kernel.parent.name], "nothing is left behind"


def _build(cache: Path) -> PayloadImage:
    return build_payload(ROOT, cache=cache)


def copied_sources(to: Path) -> Path:
    """A project with nothing but the payload's sources."""
    for source in (ROOT / PAYLOADS).rglob("*"):
        if source.suffix in {".c", ".h", ".S", ".lds"}:
            target = to / source.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
    return to


def test_one_changed_byte_of_a_source_changes_the_id(tmp_path: Path) -> None:
    root = copied_sources(tmp_path / "project")
    first = build_payload(root, cache=tmp_path / "cache")
    source = root / PAYLOADS / "early_pf" / "window" / "handler.c"
    source.write_text(source.read_text() + "\n")
    second = build_payload(root, cache=tmp_path / "cache")
    assert first.image_id != second.image_id
    assert first.image_id == build_payload(ROOT, cache=tmp_path / "cache").image_id, (
        "where the project lies is not part of it"
    )


def test_compiler_s_own_words_are_shown(tmp_path: Path) -> None:
    root = copied_sources(tmp_path / "project")
    source = root / PAYLOADS / "early_pf" / "window" / "handler.c"
    source.write_text(source.read_text() + "#error the sky is falling\n")
    with pytest.raises(UsageError, match="the sky is falling"):
        build_payload(root, cache=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_missing_compiler_is_named_with_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="gcc is not installed: install gcc and binutils"):
        build_payload(ROOT, cache=tmp_path)


def test_unknown_compiler_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown compiler 'tcc'"):
        build_payload(ROOT, compiler="tcc", cache=tmp_path)


def test_project_without_payload_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no payload sources"):
        build_payload(tmp_path, cache=tmp_path)
