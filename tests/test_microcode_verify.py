"""`bench microcode verify`: what Linux reads of a file, what processors take of that, and what that costs."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from bench.cli_microcode import verify
from bench.microcode.cases import CASES, case
from bench.microcode.trial import Case, Ground
from bench.sim.ucode_load import LoadOffer, predict_early
from bench.sim.ucode_loaders import loader
from bench.x86.early_cpio import REGULAR, UCODE_PATH, build, header, members
from bench.x86.microcode import HEADER
from tests.microcode_files import SIGNATURE, update

MIB = 1 << 20


GROUND = Ground(SIGNATURE, 1, update(revision=0x100))


def image_of(name: str) -> bytes:
    """The early image that a case of the matrix offers."""
    found = case(name)
    assert found is not None
    return bytes(found.make(GROUND).early)


def verified(path: Path, content: bytes, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    """Exit code and row of `verify` for a file with that content."""
    path.write_bytes(content)
    status = verify([path], json=True)
    return status, json.loads(capsys.readouterr().out)


# --- images ----------------------------------------------------------------------------------------------------------


def test_data_that_processors_refuse_is_an_error_at_its_offset_in_the_image(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = image_of("misaligned")
    status, row = verified(tmp_path / "early.img", image, capsys)
    at = image.index(GROUND.newest) + 48
    text = (
        "update data is not 16-byte aligned in the image (4 bytes too far): processors refuse it; so it is with 1 of 1 "
        "updates"
    )
    assert status == 2 and not row["sound"] and row["linux_reads_it"]
    assert row["errors"] == [{"source": str(tmp_path / "early.img"), "offset": at, "error": text}]
    assert verify([tmp_path / "early.img"]) == 2
    said = f"BROKEN  {tmp_path}/early.img: Linux reads it\n        {tmp_path}/early.img:{at:#x}: update data is not"
    assert capsys.readouterr().out.startswith(said)


@pytest.mark.parametrize("each", CASES, ids=lambda each: each.name)
def test_what_verify_calls_misaligned_is_what_the_simulated_processors_refuse_for_it(
    each: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trial = each.make(GROUND)
    predicted = predict_early(loader("v6.1"), trial.rules, LoadOffer(trial.early, len(trial.early)))
    _, row = verified(tmp_path / "early.img", trial.early, capsys)
    refused = any("not 16-byte aligned" in write.why_not for write in predicted.writes)
    assert (
        any("not 16-byte aligned" in error["error"] for error in row["errors"])
        is refused
        is (each.name == "misaligned")
    )


def test_the_first_name_that_begins_so_is_read_and_the_true_one_behind_it_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = image_of("prefix-trap")
    status, row = verified(tmp_path / "early.img", image, capsys)
    first, second = (member.data_offset for member in members(image) if member.is_regular)
    assert (status, row["sound"], row["linux_reads_it"]) == (0, True, True)
    assert row["notes"] == [
        f"read: {UCODE_PATH}.old at {first:#x}, since its name begins with {UCODE_PATH}: Linux asks no more",
        f"not read: {UCODE_PATH} at {second:#x}, which is not the first whose name begins with {UCODE_PATH}",
    ]
    verify([tmp_path / "early.img"])
    assert f"        not read: {UCODE_PATH} at" in capsys.readouterr().out


def test_a_later_name_that_only_begins_so_is_not_read_and_spoils_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = build({UCODE_PATH: GROUND.newest, UCODE_PATH + ".old": b"no update"})
    status, row = verified(tmp_path / "early.img", image, capsys)
    assert (status, row["linux_reads_it"]) == (2, True)
    assert [each["source"] for each in row["errors"]] == [f"{tmp_path}/early.img!{UCODE_PATH}.old"]
    assert [note.split(" at ")[0] for note in row["notes"]] == [f"not read: {UCODE_PATH}.old"]


def test_a_long_name_is_read_with_the_warning_that_linux_gives(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, row = verified(tmp_path / "early.img", image_of("long-name"), capsys)
    (note,) = row["notes"]
    assert (status, row["linux_reads_it"]) == (0, True)
    assert note.endswith(f"and says: File {UCODE_PATH}.backup-of-last-year exceeding MAX_CPIO_FILE_NAME [18]")


def test_an_image_as_it_should_be_has_nothing_to_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, row = verified(tmp_path / "early.img", build({UCODE_PATH: GROUND.newest * 2}), capsys)
    assert (status, row["sound"], row["linux_reads_it"], row["errors"], row["notes"]) == (0, True, True, [], [])


def test_what_lies_broken_behind_the_file_does_not_keep_linux_from_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = build({UCODE_PATH: GROUND.newest}) + b"070701" + bytes(120)
    status, row = verified(tmp_path / "early.img", image, capsys)
    assert (status, row["linux_reads_it"]) == (2, True)
    assert "is not hexadecimal" in row["errors"][0]["error"]


def test_a_file_whose_padding_is_cut_is_not_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = header(UCODE_PATH.encode() + b"\0" * 13, REGULAR, 2047) + GROUND.newest[:2047]
    status, row = verified(tmp_path / "early.img", image, capsys)
    assert (status, row["linux_reads_it"]) == (2, False)
    assert row["errors"][-1]["error"].startswith(
        f"Linux does not find {tmp_path}/early.img!{UCODE_PATH}: a file has to"
    )


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
