"""What any kernel's log says of early exceptions and microcode is read, or refused; nothing is made up.

A new case is a file: drop NAME.log into tests/captures/kernel-logs/ with a NAME.json that has `source` (a citation),
`real` (false for a made one) and `about`; run pytest with --rewrite-verdicts and review what `expect` became. No
names, addresses or hosts of people in either.
"""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.parse.kernel import as_json, in_words, read_kernel_log
from bench.parse.kernel_form import Field, compile_form
from bench.parse.kernel_microcode import EVENTS, ROWS, Row
from bench.parse.kernel_text import LINE_CHARACTERS_MAX

CASES = sorted((Path(__file__).parent / "captures" / "kernel-logs").glob("*.log"))
PANIC = "PANIC: early exception 0x0e IP 10:ffffffff81d1e014 error 0 cr2 0xffff888009240004"
PANIC_KEYS = ["kind", "line", "span", "vector", "cs", "ip", "symbol", "error", "cr2", "truncated", "intact"]
MICROCODE_KEYS = ["kind", "event", "line", "span", "cpu", "from", "to", "date", "sig", "pf"]


def rows_of(data: bytes) -> list[dict[str, Any]]:
    return [as_json(thing) for thing in read_kernel_log(data)]


def described(log: Path) -> dict[str, Any]:
    return dict(json.loads(log.with_suffix(".json").read_text()))


@pytest.mark.parametrize("log", CASES, ids=lambda p: p.stem)
def test_a_log_says_what_is_written_beside_it(log: Path, request: pytest.FixtureRequest) -> None:
    case = described(log)
    found = rows_of(log.read_bytes())
    if request.config.getoption("--rewrite-verdicts"):
        log.with_suffix(".json").write_text(json.dumps(case | {"expect": found}, indent=2, ensure_ascii=False) + "\n")
    assert found == described(log)["expect"]


# --- the corpus ------------------------------------------------------------------------------------------------------


def test_there_are_real_logs_of_every_age_of_the_panic_line_and_of_the_early_loader() -> None:
    real = b"\n".join(log.read_bytes() for log in CASES if described(log)["real"])
    for form in (
        rb"^PANIC: early exception rip [0-9a-f]{16} error",
        rb"^PANIC: early exception 0e rip 10:",
        rb"^PANIC: early exception 0x0e IP 10:",
        rb"^PANIC: early exception 0xe3 IP 10:",
        rb"^PANIC: early exception 0x06 IP 60:",
        rb"\] CPU1 microcode updated early to revision",
        rb"microcode: CPU1 microcode updated early to revision",
        rb"microcode: microcode updated early to revision",
        rb"microcode: updated early: 0x",
        rb"microcode: Current revision: 0x",
        rb"microcode: Updated early from: 0x",
        rb"microcode: CPU0 sig=0x",
        rb"microcode: sig=0x",
        rb"microcode: CPU0 updated from revision 0x",
    ):
        assert re.search(form, real, re.MULTILINE), form
    assert sum(described(log)["real"] for log in CASES) >= 40


def test_every_event_has_a_case() -> None:
    assert {row["event"] for log in CASES for row in described(log)["expect"] if "event" in row} == set(EVENTS)


@pytest.mark.parametrize("log", CASES, ids=lambda p: p.stem)
def test_a_case_cites_its_source_and_names_nobody(log: Path) -> None:
    case = described(log)
    assert len(case["source"]) > 20 and case["about"]
    assert case["source"].startswith("generated: ") is not case["real"]
    text = log.read_text("latin-1") + case["source"]
    assert set(re.findall(r"[\w.+-]+@([\w-]+\.[\w.-]*\w)", text.replace("=\n", ""))) <= {"example.org"}


# --- the contract of the JSON ----------------------------------------------------------------------------------------


def test_keys_and_kinds_of_values() -> None:
    rows = [row for log in CASES for row in rows_of(log.read_bytes())]
    for row in rows:
        if row["kind"] == "early_exception":
            assert list(row) == PANIC_KEYS
            for name in ("ip", "cr2", "cs"):
                assert row[name] is None or re.fullmatch(r"0|[1-9a-f][0-9a-f]{0,15}", row[name])
            assert isinstance(row["truncated"], bool) and isinstance(row["intact"], bool)
            numbers = ("vector", "error")
        else:
            assert list(row) == MICROCODE_KEYS and row["event"] in EVENTS
            assert row["date"] is None or re.fullmatch(r"\d{4}-\d\d-\d\d", row["date"])
            numbers = ("cpu", "from", "to", "sig", "pf")
        assert all(row[name] is None or type(row[name]) is int for name in (*numbers, "line"))
    assert {row["kind"] for row in rows} == {"early_exception", "microcode"}


@pytest.mark.parametrize("log", CASES, ids=lambda p: p.stem)
def test_a_span_holds_the_statement_and_its_line_is_that_of_an_editor(log: Path) -> None:
    data = log.read_bytes()
    width = 2 if data[:2] in (b"\xff\xfe", b"\xfe\xff") else 1
    for row in rows_of(data):
        start, stop = row["span"]
        said = data[start:stop].replace(b"\0", b"") if width == 2 else data[start:stop]
        assert said[:1].isalpha() or said[:6] == b"error!"
        assert said[-1:].strip()
        assert data[:start].replace(b"\0" * (width - 1), b"").count(b"\n") + 1 == row["line"]


def test_the_command_prints_one_object_a_line_and_needs_no_lab(tmp_path: Path) -> None:
    log = next(log for log in CASES if log.stem == "panic-5.17-dump-agrees")
    command = [sys.executable, "-m", "bench", "parse", "--json", str(log)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env={"PATH": ""}, check=True)
    assert [json.loads(line) for line in done.stdout.splitlines()] == described(log)["expect"]
    assert done.stderr == ""


def test_the_readme_shows_what_the_command_prints(tmp_path: Path) -> None:
    root = Path(__file__).parent.parent
    shown = re.findall(r"^\$ \S*bench parse (\S+)\n([^$`]+)", (root / "README.md").read_text(), re.MULTILINE)
    assert shown
    for log, output in shown:
        command = [sys.executable, "-m", "bench", "parse", str(root / log)]
        assert subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout == output


def test_words_for_people() -> None:
    said = f"{PANIC}\nmicrocode: updated early: 0xf0 -> 0xf4, date = 2023-02-22\n".encode()
    assert [in_words(thing) for thing in read_kernel_log(said)] == [
        "early exception: vector 14, IP 10:ffffffff81d1e014, error 0x0, CR2 ffff888009240004",
        "microcode updated_early: from 0xf0, to 0xf4, 2023-02-22",
    ]


# --- every text of every release -------------------------------------------------------------------------------------

SAMPLES = {
    "d": ("0", "7", "191"),
    "x": ("0x0", "0x1b", "0x2b000461", "0xffffffff"),
    "x8": ("0x00000000", "0x0a04cbbe", "0xffffffff"),
    "iso": ("2014-05-29",),
    "bcd": ("05292014",),
    "v": ("1.14a", "2.2."),
    "w": ("-110",),
    "rest": ("", " <name@example.org>"),
}


def printed(row: Row) -> Iterator[tuple[str, dict[str, str]]]:
    """The row's text with values in it, and the values by name."""
    parts = compile_form(row.form)
    choices = [[part] if isinstance(part, str) else list(SAMPLES[part.kind]) for part in parts]
    for chosen in itertools.product(*choices):
        named = ((p.name, text) for p, text in zip(parts, chosen, strict=True) if isinstance(p, Field) and p.name)
        yield "".join(chosen), dict(named)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.form[:60])
def test_each_text_about_microcode_is_read_back(row: Row) -> None:
    for text, values in itertools.islice(printed(row), 60):
        (found,) = rows_of(f"[    0.000000] {text}\n[    0.000001] Linux\n".encode())
        assert found["event"] == row.event, text
        for name in ("from", "to", "sig", "pf"):
            assert found[name] == (int(values[name], 16) if name in values else None), text
        assert found["cpu"] == (int(values["cpu"]) if "cpu" in values else None), text
        assert found["date"] == ("2014-05-29" if "date" in values else None), text
        assert found["span"] == [15, 15 + len(text)], text


@pytest.mark.parametrize("vector", range(32))
@pytest.mark.parametrize("cr2", ["0", "8", "f06f53", "ffff888009240004", "ffffffffff5fd023"])
def test_each_vector_is_read_back_in_both_forms(vector: int, cr2: str) -> None:
    ip = "ffffffff81d1e014"
    for text in (
        f"PANIC: early exception {vector:02x} rip 10:{ip} error 0 cr2 {cr2}",
        f"PANIC: early exception 0x{vector:02x} IP 10:{ip} error 0 cr2 0x{cr2}",
    ):
        (found,) = rows_of(f"{text}\r\n".encode())
        assert (found["vector"], found["cs"], found["ip"], found["error"]) == (vector, "10", ip, 0)
        assert (found["cr2"], found["truncated"], found["span"]) == (cr2, False, [0, len(text)])
        # 4.6 and later return from an NMI without a word.
        assert found["intact"] is not (vector == 2 and "0x02" in text)


@pytest.mark.parametrize("cr2", ["0", "8", "ffffffffff240004", "fee00020", "ffff888009240004"])
def test_the_overwritten_vector_of_a_rejected_page_fault_is_seen_through(cr2: str) -> None:
    leaf = (int(cr2, 16) & 0xFFE00000) + 0xE3
    (found,) = rows_of(f"PANIC: early exception 0x{leaf:02x} IP 10:ffffffffa08146f1 error 0 cr2 0x{cr2}\n".encode())
    assert (found["vector"], found["intact"]) == (14, True)


# --- held against the register dump ----------------------------------------------------------------------------------


def test_a_digit_changed_in_what_the_register_dump_repeats_is_noticed() -> None:
    """R1: error code, CR2 and selector stand in both; no single wrong digit passes as intact."""
    data = next(log for log in CASES if log.stem == "panic-5.17-dump-agrees").read_bytes()
    (whole,) = rows_of(data)
    first = data.index(b"\n")
    places = [n for n in range(data.index(b" IP ") + 4, first) if chr(data[n]) in "0123456789abcdef"]
    places = [n for n in places if not data.index(b":ffff") < n < data.index(b" error")]
    assert len(places) > 5
    for at, digit in itertools.product(places, b"0123456789abcdef"):
        for found in rows_of(data[:at] + bytes([digit]) + data[at + 1 :]):
            same = all(found[name] in (None, whole[name]) for name in PANIC_KEYS[3:9])
            assert same or not found["intact"], (at, chr(digit))


# --- cut and wrapped -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", range(1, len(PANIC)))
def test_a_line_cut_anywhere_is_refused_or_marked_and_has_no_other_values(length: int) -> None:
    (whole,) = rows_of(f"{PANIC}\n".encode())
    for end in ("", "\n", "\r\n[    0.000000] CPU: 0 PID: 0 Comm: swapper\r\n"):
        for found in rows_of((PANIC[:length] + end).encode()):
            assert found["truncated"] or (end and found["cr2"] is not None), (length, end)
            # What begins as a small number may be one: "0xf" at a line's end says so itself.
            names = PANIC_KEYS[3:9] if not end or length >= PANIC.index("cr2 0x") + 11 else PANIC_KEYS[3:8]
            assert all(found[name] in (None, whole[name]) for name in names), (length, end)


@pytest.mark.parametrize("quote", ["", "> ", ">> > ", "> >     "])
def test_a_line_that_a_mail_program_broke_at_a_blank_is_whole_again(quote: str) -> None:
    (whole,) = rows_of(f"{PANIC}\n".encode())
    for at in (n for n, character in enumerate(PANIC) if character == " " and n > PANIC.index("0x0e")):
        text = f"{quote}{PANIC[:at]}\n{quote}{PANIC[at + 1 :]}\n{quote}[    0.000000] CPU: 0 PID: 0\n"
        (found,) = rows_of(text.encode())
        assert {k: v for k, v in found.items() if k != "span"} == {k: v for k, v in whole.items() if k != "span"}, at


@pytest.mark.parametrize("at", range(27, len(PANIC)))
def test_a_line_that_a_tool_broke_anywhere_is_whole_again_or_lacks_what_is_not_certain(at: int) -> None:
    (whole,) = rows_of(f"{PANIC}\n".encode())
    (found,) = rows_of(f"{PANIC[:at]}\n{PANIC[at:]}\n[    0.000000] CPU: 0 PID: 0\n".encode())
    if PANIC[:at].endswith(" IP 1"):
        assert found["truncated"] and found["cs"] is None and found["ip"] is None
    else:
        assert {k: v for k, v in found.items() if k != "span"} == {k: v for k, v in whole.items() if k != "span"}


def test_a_short_number_that_a_tool_broke_may_lack_digits_and_is_left_out() -> None:
    for text in ("PANIC: early exception 0x0d IP 10:ffffffff81d1e014 error 1{}8 cr2 0x0", PANIC[:-16] + "fee0{}0020"):
        for said in (text.format("\n"), text.format("\n> ")):
            for found in rows_of(f"{said}\n[    0.000000] CPU: 0\n".encode()):
                assert found["truncated"] and found["error"] in (0, None) and found["cr2"] is None


def test_a_line_that_no_kernel_writes_is_not_searched_to_its_end() -> None:
    junk = b"\x1b[0m microcode \xff" * (LINE_CHARACTERS_MAX // 10)
    found = rows_of(junk + b"\n" + PANIC.encode() + b"\n" + junk)
    assert [(row["kind"], row["line"]) for row in found] == [("early_exception", 2)]
