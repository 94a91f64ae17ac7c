"""`bench microcode verify`: what Linux reads of a file, what processors take of that, and what that costs."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from bench.cli_microcode import verify
from bench.x86.microcode import HEADER
from tests.microcode_files import SIGNATURE

MIB = 1 << 20


# --- memory ----------------------------------------------------------------------------------------------------------


def sparse(path: Path, size: int, *, data_size: int, words: dict[int, int]) -> Path:
    """A file that is one update of `size` bytes, zeros but for its header and `words`; those of header and data add up
    to 0."""
    fields = [1, 0x10, 0x03062023, SIGNATURE, 0, 1, 2, data_size, size, 0, 0, 0]
    inside = sum(value for at, value in words.items() if at < 48 + data_size)
    fields[4] = -(sum(fields) + inside) & 0xFFFFFFFF
    with path.open("wb") as file:
        file.write(HEADER.pack(*fields))
        for at, value in words.items():
            file.seek(at)
            file.write(value.to_bytes(4, "little"))
        file.truncate(size)
    return path


def peak_bytes(path: Path) -> int:
    """The most that `verify` has had of memory at a time."""
    tracemalloc.start()
    try:
        verify([path])
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.slow
def test_a_large_update_is_read_a_piece_at_a_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = sparse(tmp_path / "large", 32 * MIB, data_size=32 * MIB - 48, words={})
    verify([path])  # what is imported then is not the file's
    assert peak_bytes(path) < 4 * MIB
    assert capsys.readouterr().out == 2 * f"sound   {path}: Linux reads it\n"


@pytest.mark.slow
def test_a_table_of_tens_of_thousands_of_rows_is_not_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its rows are zeros, and so is the sum of the header's own words: Linux has nothing against them."""
    size, table = 384 * 1024, 1024
    rows = (size - table - 20) // 12
    own = SIGNATURE + 2
    # The checksum becomes what makes that sum 0.
    rest = 1 + 0x10 + 0x03062023 + 1 + (table - 48) + size
    words = {48: -rest & 0xFFFFFFFF, table: rows, table + 4: -rows & 0xFFFFFFFF}
    path = sparse(tmp_path / "rows", size, data_size=table - 48, words=words)
    assert HEADER.unpack(path.read_bytes()[:48])[4] == -own & 0xFFFFFFFF
    verify([path])
    assert peak_bytes(path) < 4 * MIB
    said = f"BROKEN  {path}: Linux reads it\n{'':8}{path}:0x400: extended signature table has {rows} rows: more than"
    assert capsys.readouterr().out.startswith(said)
