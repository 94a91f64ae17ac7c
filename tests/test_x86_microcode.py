"""The format of Intel's updates: each rule has an error of its own, at the offset of what breaks it."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import FormatError, UsageError
from bench.x86.microcode import all_broken_rules, broken_rules, dword_sum, is_date, read_update, read_updates, suits
from bench.x86.microcode_build import build_update, set_word
from bench.x86.microcode_set import best_match, early_image, files_of, stored_updates
from tests.microcode_files import SIGNATURE, update

PLAIN = update()
TABLED = update(revision=0x11, extended=((0x906EB, 0x02), (0x906EC, 0x04)), total_size=3072)
TABLE = 3072 - 20 - 24
U32 = st.integers(0, 0xFFFFFFFF)


def word(data: bytes, at: int, value: int) -> bytes:
    return data[:at] + value.to_bytes(4, "little") + data[at + 4 :]


def table_word(at: int, value: int) -> bytes:
    """`TABLED` with another word in its table, whose own checksum is right again."""
    changed = word(word(TABLED, TABLE + at, value), TABLE + 4, 0)
    return word(changed, TABLE + 4, -dword_sum(changed, TABLE, len(changed) - TABLE) & 0xFFFFFFFF)


# --- what is well-formed ---------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(
    signature=st.sampled_from([0x6F2, 0x906EA, 0xF49, 0xA06D1]),
    flags=st.integers(0, 255),
    revision=st.integers(1, 0xFFFFFFFF),
    words=st.integers(1, 300),
    rows=st.lists(st.tuples(st.sampled_from([0x906EB, 0x806F4]), st.integers(0, 255)), max_size=5),
    least=U32,
)
def test_what_is_built_is_read_back(
    signature: int, flags: int, revision: int, words: int, rows: list[tuple[int, int]], least: int
) -> None:
    table = 20 + 12 * len(rows) if rows else 0
    data = bytes(words * 1024 - 48 - table)
    built = build_update(
        signature=signature, platform_flags=flags, revision=revision, date=0x12312024, data=data, extended=rows,
        minimum_revision=least,
    )  # fmt: skip
    read = read_update(built)
    assert (read.signature, read.platform_flags, read.revision) == (signature, flags, revision)
    assert (read.data_size, read.total_size, read.minimum_revision) == (len(data), len(built), least)
    assert [(e.signature, e.platform_flags) for e in read.extended] == rows
    assert read.iso_date == "2024-12-31"


def test_data_size_0_stands_for_2000_bytes_of_2048_whatever_the_total_size_says() -> None:
    for total in (0, 2048, 4096):
        old = set_word(set_word(PLAIN, "data_size", 0), "total_size", total)
        assert (read_update(old).data_size, read_update(old).total_size) == (2000, 2048)


@pytest.mark.parametrize("revision", [0x7FFFFFFF, 0x80000001, 0xFFFFFFFF])
def test_revisions_are_unsigned(revision: int) -> None:
    assert read_update(update(revision=revision)).revision == revision


# --- what is not -----------------------------------------------------------------------------------------------------

# Name, content, the error's beginning, the offset.
RULES = [
    ("nothing", b"", "is empty", 0),
    ("47 bytes", PLAIN[:47], "header is cut: 47 of 48 bytes", 0),
    ("48 bytes", PLAIN[:48], "update is cut: its total size is 2048 bytes, and 48 are left", 32),
    ("a cut update", PLAIN[:-1], "update is cut: its total size is 2048 bytes, and 2047 are left", 32),
    ("a tail of 1", PLAIN + b"\0", "header is cut: 1 of 48 bytes", 2048),
    ("a tail of 47", PLAIN + bytes(47), "header is cut: 47 of 48 bytes", 2048),
    ("zeros behind it", PLAIN + bytes(1024), "update is cut: its total size is 2048 bytes, and 1024 are left", 2080),
    ("4 GiB claimed", set_word(PLAIN, "total_size", 0xFFFFFC00), "update is cut: its total size is 4294966272", 32),
    ("4 GiB of data", set_word(PLAIN, "data_size", 0xFFFFFFFC), "total size 2048 is less than the header's", 32),
    ("total size 0", set_word(PLAIN, "total_size", 0), "total size 0 is less than the header's", 32),
    ("header version", set_word(PLAIN, "header_version", 3), "header version is 0x3, not 1", 0),
    ("a scan image", set_word(PLAIN, "header_version", 2), "header version is 2: an image for In-Field Scan", 0),
    ("loader revision", set_word(PLAIN, "loader_revision", 2), "loader revision is 0x2, not 1", 20),
    ("total size of 2052", update(total_size=2052), "total size 2052 is not a multiple of 1024", 32),
    ("data size of 1998", set_word(PLAIN, "data_size", 1998), "data size 1998 is not a multiple of 4", 28),
    ("checksum", word(PLAIN, 16, 0), "checksum of header and data is wrong", 16),
    ("one byte of data", PLAIN[:-1] + bytes([PLAIN[-1] ^ 1]), "checksum of header and data is wrong", 16),
    ("half a table", set_word(PLAIN, "data_size", 1988), "extended signature table is cut: 12 bytes", 2036),
    ("half a row", set_word(PLAIN, "data_size", 1976), "extended signature table is cut: 24 bytes are not", 2024),
    ("rows too many", table_word(0, 3), "extended signature table has another size than its count says: 3", TABLE),
    ("many rows", update(extended=((0x906EB, 2),) * 1025, total_size=16384),
     "extended signature table has 1025 rows: more than 1024 are not read", 16384 - 20 - 12 * 1025),
    ("rows beyond 4 GiB", table_word(0, 0xFFFFFFFF), "extended signature table has another size", TABLE),
    ("table's checksum", word(TABLED, TABLE + 4, 1), "checksum of the extended signature table is wrong", TABLE + 4),
    ("table's reserved", table_word(8, 1), "reserved words of the extended signature table", TABLE + 8),
    ("row's checksum", table_word(20 + 8, 1), "checksum of extended signature 0 is wrong", TABLE + 28),
    ("row's signature", table_word(32, 0), "checksum of extended signature 1 is wrong", TABLE + 40),
    ("date of zero", set_word(PLAIN, "date", 0), "date 0x00000000 is not", 8),
    ("date not in BCD", set_word(PLAIN, "date", 0x0A062023), "date 0x0a062023 is not", 8),
    ("no such day", set_word(PLAIN, "date", 0x02302024), "date 0x02302024 is not", 8),
    ("no such year", set_word(PLAIN, "date", 0x01011994), "date 0x01011994 is not", 8),
    ("revision 0", update(revision=0), "revision is 0", 4),
    ("no signature", update(signature=0), "signature is none", 12),
    ("impossible row", update(extended=((0x80000000, 1),), total_size=3072), "extended signature 0 is none", 3060),
    ("platforms", update(platform_flags=0x100), "platform flags are 0x100", 24),
    ("a row's platforms", update(extended=((0x906EB, 0x100),), total_size=3072), "platform flags of extended", 3064),
    ("metadata", set_word(PLAIN, "metadata_size", 2004), "metadata size 2004 is more than the data's 2000", 36),
    ("reserved", set_word(PLAIN, "reserved", 7), "reserved word is 0x7, not 0", 44),
    ("other bytes", PLAIN + update(seed=2), "signature, flags and revision are those of the update at 0x0", 2052),
]  # fmt: skip


@pytest.mark.parametrize(("content", "text", "offset"), [row[1:] for row in RULES], ids=[row[0] for row in RULES])
def test_each_rule_has_an_error_of_its_own_at_the_offset_of_what_breaks_it(
    content: bytes, text: str, offset: int
) -> None:
    with pytest.raises(FormatError) as caught:
        list(read_updates(content, source="FILE"))
    assert caught.value.args[0].startswith(text)
    assert str(caught.value).startswith(f"FILE:{offset:#x}: ")
    errors = list(all_broken_rules(content, source="FILE"))
    assert (errors[0].args[0], errors[0].offset) == (caught.value.args[0], offset)


def test_every_broken_rule_of_an_update_is_named_and_what_follows_is_read() -> None:
    bad = set_word(set_word(PLAIN, "reserved", 7), "date", 0, fix_checksum=False)
    texts = [str(error) for error in all_broken_rules(bad + PLAIN[:47])]
    assert [text.split(":")[0] for text in texts] == ["offset 0x10", "offset 0x8", "offset 0x2c", "offset 0x800"]


def test_the_same_update_twice_is_no_contradiction() -> None:
    assert len(list(read_updates(PLAIN + PLAIN))) == 2


@settings(max_examples=50)
@given(st.binary(max_size=200), st.integers(0, 2047), st.lists(U32, max_size=3))
def test_no_bytes_crash_the_reader(noise: bytes, cut: int, words: list[int]) -> None:
    changed = TABLED
    for number, value in enumerate(words):
        changed = word(changed, (28, 32, TABLE)[number], value)
    for content in (noise, changed[:cut], changed, changed + noise, noise + changed):
        assert bool(list(all_broken_rules(content))) == _refused(content)


def _refused(content: bytes) -> bool:
    try:
        list(read_updates(content))
    except FormatError:
        return True
    return False


def test_a_claim_of_4_gib_costs_no_memory() -> None:
    claims = [set_word(PLAIN, field, 0xFFFFFC00) for field in ("total_size", "data_size")]
    claims.append(table_word(0, 0x15555555))
    tracemalloc.start()
    try:
        for claim in claims:
            assert list(broken_rules(claim, 0))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_dates_are_days_of_the_calendar() -> None:
    assert all(is_date(bcd) for bcd in (0x02292024, 0x12311999, 0x02292000))
    assert not any(is_date(bcd) for bcd in (0x02292023, 0x13012020, 0x00012020, 0x04312020, 0x01010001, 0xFFFFFFFF))


# --- which one suits -------------------------------------------------------------------------------------------------


def test_header_and_table_name_the_processors_and_any_common_platform_is_enough() -> None:
    read = read_update(TABLED)
    assert suits(read, SIGNATURE, 0x02) and suits(read, SIGNATURE, 0x20) and suits(read, 0x906EB, 0x02)
    assert not suits(read, SIGNATURE, 0x04) and not suits(read, 0x906EB, 0x20) and not suits(read, 0x906ED, 0x02)
    assert suits(read_update(update(platform_flags=0)), SIGNATURE, 0x80)


def stored(path: Path, *updates: bytes) -> Path:
    path.write_bytes(b"".join(updates))
    return path


def test_of_all_that_suit_the_highest_unsigned_revision_is_chosen(tmp_path: Path) -> None:
    file = stored(tmp_path / "06-9e-0a", update(revision=0x7FFFFFFF), update(revision=0x80000001), update(revision=3))
    updates = list(stored_updates(file))
    best = best_match(updates, SIGNATURE, 0x02)
    assert best is not None and best.update.revision == 0x80000001 and best.index == 2
    assert best_match(updates, SIGNATURE, 0x02, above=0x80000001) is None
    assert best_match(updates, SIGNATURE, 0x04) is None


# --- files and images ------------------------------------------------------------------------------------------------


def test_folders_give_their_files_in_order_and_debians_suffix_is_no_obstacle(tmp_path: Path) -> None:
    for name in ("06-9e-0b.initramfs", "06-9e-0a", ".hidden"):
        stored(tmp_path / name, PLAIN)
    (tmp_path / "folder").mkdir()
    assert [path.name for path in files_of([tmp_path])] == ["06-9e-0a", "06-9e-0b.initramfs"]
    with pytest.raises(UsageError, match="no file is in this folder"):
        files_of([tmp_path / "folder"])
    with pytest.raises(UsageError, match="no such file"):
        files_of([tmp_path / "nowhere"])


def test_an_early_image_gives_back_its_updates_each_once(tmp_path: Path) -> None:
    file = stored(tmp_path / "both", PLAIN, TABLED, PLAIN)
    image = stored(tmp_path / "image", early_image(list(stored_updates(file))), b"\x1f\x8b" + bytes(99))
    found = list(stored_updates(image))
    assert [each.data for each in found] == [PLAIN, TABLED]
    assert found[1].file.endswith("image!kernel/x86/microcode/GenuineIntel.bin") and found[1].index == 2


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", "is empty"),
        (b"\x1f\x8b" + bytes(100), r"is compressed \(gzip\): microcode has to lie in front"),
        (b"\x28\xb5\x2f\xfd" + bytes(100), r"is compressed \(zstd\)"),
        (b"070701" + b"0" * 106, "is a cpio archive without kernel/x86/microcode/GenuineIntel.bin"),
        (b"070701" + b"0" * 90, "cpio header is cut: 96 of 110 bytes"),
        (b"070701" + b"0" * 60 + b"x" + b"0" * 50, "cpio header field 7 is not hexadecimal"),
        (b"070701" + b"0" * 48 + b"FFFFFFF0" + b"0" * 60, "does not fit: 122 bytes are left"),
    ],
)
def test_what_is_no_file_of_updates_is_refused_by_name(tmp_path: Path, content: bytes, error: str) -> None:
    with pytest.raises(FormatError, match=error):
        list(stored_updates(stored(tmp_path / "file", content)))
