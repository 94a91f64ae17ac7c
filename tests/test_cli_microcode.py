"""`bench microcode`: what it prints, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.cli_microcode import build, list_updates, match, show, verify
from bench.errors import FormatError, UsageError
from tests.microcode_files import update

NEW, OLD = update(revision=0xF8), update(revision=0xF0, seed=2)
TABLED = update(signature=0x806F8, platform_flags=0x87, extended=((0x806F7, 0x87),), total_size=3072)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "06-8f-08").write_bytes(TABLED)
    (tmp_path / "06-9e-0a.initramfs").write_bytes(OLD + NEW)
    return tmp_path


def said(capsys: pytest.CaptureFixture[str]) -> list[Any]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_ls_prints_one_object_an_update(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert list_updates([folder], json=True) == 0
    rows = said(capsys)
    assert [(Path(row["file"]).name, row["index"], row["revision"]) for row in rows] == [
        ("06-8f-08", 1, "0x00000010"), ("06-9e-0a.initramfs", 1, "0x000000f0"), ("06-9e-0a.initramfs", 2, "0x000000f8"),
    ]  # fmt: skip
    assert rows[0] == {
        "file": str(folder / "06-8f-08"), "index": 1, "signature": "0x000806f8", "platform_flags": "0x00000087",
        "revision": "0x00000010", "date": "2023-03-06", "data_size": 3072 - 48 - 32, "total_size": 3072,
        "extended_signatures": [
            {"signature": "0x000806f7", "platform_flags": "0x00000087",
             "checksum": rows[0]["extended_signatures"][0]["checksum"]},
        ],
    }  # fmt: skip
    assert rows[1]["extended_signatures"] == []


def test_ls_goes_on_behind_a_malformed_file_and_ends_with_2(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "06-00-00").write_bytes(NEW[:47])
    assert list_updates([folder]) == 2
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 3 and err == f"bench: {folder}/06-00-00:0x0: header is cut: 47 of 48 bytes\n"


def test_match_names_the_newest_for_a_processor(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    match([folder], "06-9e-0a", platform_id=1, json=True)
    match([folder], "0x806f7", flags="0x80", json=True)
    match([folder], "06-9e-0a", flags="2", revision="0xf8", json=True)
    newest, by_table, nothing = said(capsys)
    assert (newest["revision"], by_table["signature"], nothing) == ("0x000000f8", "0x000806f8", None)


@pytest.mark.parametrize(
    "wrong",
    [{}, {"platform_id": 1, "flags": "2"}, {"flags": "two"}, {"flags": "1", "revision": "0x100000000"}],
)
def test_match_refuses_what_it_cannot_understand(folder: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        match([folder], "06-9e-0a", **wrong)
    with pytest.raises(UsageError):
        match([folder], "0x80000000", platform_id=0)


def test_show_tells_of_every_field(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "test").write_bytes(update(revision=0x80000001, minimum_revision=0x77))
    show([folder / "06-8f-08", folder / "test"])
    text = capsys.readouterr().out
    for part in ("also for  06-8f-07", "platform id 0, 1, 2, 7", "revision for tests", "from revision 0x00000077 on"):
        assert part in text
    show([folder / "test"], json=True)
    assert said(capsys)[0]["minimum_revision"] == "0x00000077"


def test_verify_names_every_rule_and_what_linux_would_do(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from bench.x86.microcode_build import set_word

    (folder / "date").write_bytes(set_word(NEW, "date", 0))
    (folder / "tail").write_bytes(NEW + b"\0")
    (folder / "zip").write_bytes(b"\x1f\x8b")
    assert verify([folder], json=True) == 2
    rows = {Path(row["file"]).name: row for row in said(capsys)}
    assert {name: (row["sound"], row["linux_reads_it"]) for name, row in rows.items()} == {
        "06-8f-08": (True, True), "06-9e-0a.initramfs": (True, True), "date": (False, True),
        "tail": (False, False), "zip": (False, False),
    }  # fmt: skip
    tail = str(folder / "tail")
    assert rows["tail"]["errors"] == [{"source": tail, "offset": 2048, "error": "header is cut: 1 of 48 bytes"}]
    assert verify([folder / "06-8f-08"]) == 0


def test_build_writes_an_image_that_ls_reads(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = folder / "early.img"
    build([folder], image, signature=["06-9e-0a"])
    with pytest.raises(UsageError, match="File exists"):
        build([folder], image)
    with pytest.raises(UsageError, match="no update is for 06-55-04"):
        build([folder], folder / "other", signature=["06-55-04"])
    (folder / "bad").write_bytes(NEW[:-4])
    with pytest.raises(FormatError):
        build([folder / "bad"], folder / "other")
    capsys.readouterr()
    list_updates([image], json=True)
    assert [row["revision"] for row in said(capsys)] == ["0x000000f0", "0x000000f8"]
