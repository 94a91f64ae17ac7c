"""A boot of a case of microcode is judged again from its folder alone, by the verbs that judge any other capture."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from bench.cli import app
from bench.errors import FormatError
from bench.microcode.again import case_folders, judge_again
from bench.parse.capture_file import pack, read_captures, unpack
from bench.records import Verdict
from bench.wire import Line, decode, encode

KEPT = Path(__file__).parent / "captures" / "microcode-newest"


@pytest.fixture
def boot(tmp_path: Path) -> Path:
    """A boot of the case `newest` on linux-6.1-trace, two processors."""
    return Path(shutil.copytree(KEPT, tmp_path / "run" / "00001-newest-1"))


def test_it_gives_the_verdict_that_it_had(boot: Path) -> None:
    (again,) = judge_again(boot.parent)
    assert (again.verdict, again.case, again.image, again.model) == (
        Verdict.PASS,
        "newest",
        "linux-6.1-trace",
        "06-55-04",
    )
    assert len(again.observed.writes) == 2 and again.observed.searches


@pytest.mark.parametrize(
    ("name", "old", "new", "field"),
    [
        ("serial.bin", b"revision=0x100", b"revision=0x101", "lines"),
        ("microcode.jsonl", b'"after": 256', b'"after": 255', "writes"),
    ],
)
def test_what_the_boot_left_is_what_counts(boot: Path, name: str, old: bytes, new: bytes, field: str) -> None:
    data = (boot / name).read_bytes()
    assert old in data
    (boot / name).write_bytes(data.replace(old, new))
    (again,) = judge_again(boot)
    assert again.verdict is Verdict.FAIL and field in [difference.field for difference in again.differences]


def test_a_line_that_lost_a_byte_is_no_fault_of_the_kernel(boot: Path) -> None:
    data = (boot / "serial.bin").read_bytes()
    where = data.rindex(b"revision=0x100")
    (boot / "serial.bin").write_bytes(data[:where] + b"revision=0x10X" + data[where + 14 :])
    (again,) = judge_again(boot)
    assert again.verdict is Verdict.PASS, "the other reading is as predicted"


# --- the trace -------------------------------------------------------------------------------------------------------

LOST, CUT = "records? missing before record", "cut: the CRC is missing or incomplete"


def trace_without(boot: Path, lost: bytes) -> None:
    """The lines of the serial line that `lost` matches are gone."""
    rows = (boot / "serial.bin").read_bytes().splitlines(keepends=True)
    kept = [row for row in rows if not re.match(lost, row)]
    assert len(kept) < len(rows)
    (boot / "serial.bin").write_bytes(b"".join(kept))


@pytest.mark.parametrize(
    ("lost", "why"),
    [
        (rb"@0 begin", f"no begin of its window: 1 {LOST} 0x1 "),
        (rb"@(?!.* done)", f"no begin of its window: 23 {LOST} 0x18 "),
        (rb"@(?!0 done)", "no begin of its window: nothing of it came"),
        (rb"@8 ucode", f"1 {LOST} 0x9 "),
        (rb"@.* ucode", f"1 {LOST} 0x9 "),
    ],
    ids=["no begin", "nothing but done", "nothing but init's word", "no ucode of the first", "no ucode"],
)
def test_a_trace_that_did_not_come_as_a_whole_is_no_pass(boot: Path, lost: bytes, why: str) -> None:
    trace_without(boot, lost)
    (again,) = judge_again(boot)
    assert again.verdict is Verdict.MISS and re.match(f"serial line: trace: {why}", again.why), again.why


def test_a_last_record_that_the_kernel_spoke_into_is_a_damaged_line(boot: Path) -> None:
    trace_without(boot, rb"@18 done")
    data = (boot / "serial.bin").read_bytes()
    (boot / "serial.bin").write_bytes(data.replace(b"REV100 TO100*4e953cd0", b"REV1[    0.2] smpboot: x"))
    (again,) = judge_again(boot)
    assert again.verdict is Verdict.MISS and again.why == f"serial line: trace: {CUT}"


@pytest.mark.parametrize(
    ("number", "field", "value"),
    [(0x8, "before", 0xFE), (0x8, "offset", 4), (0x8, "signature", 0x50655), (0x17, "flags", 3),
     (0x17, "revision", 0x101), (0x17, "after", 0xFF), (0x17, "processor", 2)],
)  # fmt: skip
def test_a_true_record_that_says_something_else_is_the_kernels(boot: Path, number: int, field: str, value: int) -> None:
    data = (boot / "serial.bin").read_bytes()
    (old,) = set(re.findall(rb"^@%x .*\r\n" % number, data, re.MULTILINE))
    line = decode(old.strip(), nonce=0)
    assert isinstance(line, Line) and line.kind == "ucode"
    new = encode(number, line.kind, {**line.fields, field: value}, nonce=0)
    (boot / "serial.bin").write_bytes(data.replace(old, new))
    (again,) = judge_again(boot)
    assert again.verdict is Verdict.FAIL and [each.field for each in again.differences] == ["trace"]


def test_a_record_that_the_kernel_did_not_write_is_missed_on_a_line_that_is_whole(boot: Path) -> None:
    trace_without(boot, rb"@17 ucode")
    data = (boot / "serial.bin").read_bytes()
    last = re.findall(rb"^@18 done.*\r\n", data, re.MULTILINE)[0]
    (boot / "serial.bin").write_bytes(data.replace(last, encode(0x17, "done", {"windows": 1}, nonce=0)))
    (again,) = judge_again(boot)
    assert again.verdict is Verdict.FAIL and [each.field for each in again.differences] == ["trace"]


def test_what_the_other_readings_say_of_a_kernel_stands_without_its_trace(boot: Path) -> None:
    trace_without(boot, rb"@0 begin")
    (boot / "microcode.jsonl").write_text("")
    (again,) = judge_again(boot)
    assert again.verdict is Verdict.FAIL and "writes" in [each.field for each in again.differences]


def test_a_capture_that_does_not_say_whether_its_kernel_has_a_trace_is_judged_as_ever(boot: Path) -> None:
    meta = json.loads((boot / "capture.json").read_bytes())
    del meta["traced"]
    (boot / "capture.json").write_text(json.dumps(meta))
    (again,) = judge_again(boot)
    assert again.verdict is Verdict.PASS and again.observed.searches
    trace_without(boot, rb"@0 begin")
    (again,) = judge_again(boot)
    assert again.verdict is Verdict.PASS and again.observed.searches is None


def test_a_packed_capture_says_it_too(boot: Path) -> None:
    (capture,) = read_captures(boot)
    assert unpack(pack(capture), source="x").traced is True


# --- what cannot be read ---------------------------------------------------------------------------------------------


def test_a_prediction_that_cannot_be_read_is_named(boot: Path) -> None:
    meta = json.loads((boot / "capture.json").read_bytes())
    meta["prediction"]["early"]["end"] = "tea"
    (boot / "capture.json").write_text(json.dumps(meta))
    with pytest.raises(FormatError, match=r"capture\.json: prediction\.early\.end: no prediction that can be read"):
        list(judge_again(boot))


def test_a_record_of_writes_that_cannot_be_read_is_named(boot: Path) -> None:
    with (boot / "microcode.jsonl").open("a") as file:
        file.write('{"processor": 1}\n')
    with pytest.raises(FormatError, match=r"microcode\.jsonl:3: no record of a write to MSR 0x79"):
        list(judge_again(boot))


def test_a_boot_whose_folder_only_looks_like_that_of_a_second_one_is_judged_as_the_first(boot: Path) -> None:
    (again,) = judge_again(boot.rename(boot.with_name("kept-again")))
    assert again.verdict is Verdict.PASS


def test_replay_has_the_same_form_of_json_for_it_as_for_any_capture(
    boot: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app(["replay", "--json", str(boot)], standalone_mode=False) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["verdict"] == "PASS" and [run["case"] for run in said["runs"]] == ["newest"]
    assert said["runs"][0]["predicted"]["end"] == "boots" and said["runs"][0]["differences"] == []


def test_other_folders_are_none_of_it(tmp_path: Path) -> None:
    (tmp_path / "capture.json").write_text("[]")
    assert case_folders(tmp_path) == [] and case_folders(tmp_path / "absent") == []


@pytest.mark.parametrize("verb", ["replay", "explain"])
def test_replay_and_explain_know_it(verb: str, boot: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (boot / "microcode.jsonl").write_text("")
    code = app([verb, str(boot)], standalone_mode=False)
    said = capsys.readouterr().out
    assert code == (1 if verb == "replay" else 0)
    assert said.startswith("FAIL  linux-6.1-trace skylake-server 00001-newest-1\n")
    assert "first write: predicted processor 0: 0xff -> 0x100 by 0x100" in said and "observed  none" in said
    assert said.endswith("0 of 1 boots as predicted (cases of microcode; virtual: the loader, not the processor)\n")
