"""What a recorded boot says of microcode against the prediction: each voice edited on its own, CRCs mended.

The captures are of virtual processors and made-up updates.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bench import wire
from bench.early_load import CPUINFO, LINES, TRACE
from bench.errors import FormatError
from bench.judge import Judgement, judge
from bench.parse.capture_file import pack, read_captures, unpack
from bench.parse.lines import stretches
from bench.parse.microcode_said import console_lines, cpuinfo_readings, logged_lines
from bench.parse.trace import parse_trace
from bench.records import Capture, LabEvent, LabEventKind, Verdict
from bench.updates import NOTHING, SILICON, offer_from_json
from bench.x86.microcode_processor import Act

CAPTURES = Path(__file__).parent / "captures"
(UPDATE,) = read_captures(CAPTURES / "coffeelake-linux-6.1-update.capture")
(HOTPLUG,) = read_captures(CAPTURES / "cooperlake-linux-7.3-update-hotplug.capture")


def edited(capture: Capture, number: int, **fields: int) -> Capture:
    """The `number`-th ucode record, and its later copy, with other fields and a right CRC."""
    assert capture.nonce
    search = parse_trace(capture.data, nonce=capture.nonce).searches[number]
    data = capture.data
    for stretch in reversed(list(stretches(data, nonce=capture.nonce))):
        if stretch.line and stretch.line.kind == "ucode" and stretch.line.seq == search.seq:
            line = wire.encode(search.seq or 0, "ucode", {**stretch.line.fields, **fields}, nonce=capture.nonce)
            data = data[: stretch.span[0]] + line.rstrip() + data[stretch.span[1] :]
    return replace(capture, data=data)


def cut(capture: Capture, number: int, *, copies: bool) -> Capture:
    """Without that record: a byte of it is wrong; its later copies too, or not."""
    search = parse_trace(capture.data, nonce=capture.nonce).searches[number]
    data = bytearray(capture.data)
    for stretch in stretches(capture.data, nonce=capture.nonce):
        if stretch.line and stretch.line.seq == search.seq and stretch.line.kind == "ucode":
            data[stretch.span[0] + 3] ^= 1
            if not copies:
                break
    return replace(capture, data=bytes(data))


def said(capture: Capture, old: bytes, new: bytes, *, count: int = -1) -> Capture:
    assert old in capture.data
    return replace(capture, data=capture.data.replace(old, new, count))


def voices(judgement: Judgement) -> dict[str, str]:
    (window,) = judgement.windows
    assert window.early
    return {voice.name: voice.differs or voice.doubt for voice in window.early.voices}


@pytest.mark.parametrize("capture", [UPDATE, HOTPLUG], ids=lambda c: c.machine)
def test_a_boot_as_predicted_passes_by_all_three_voices(capture: Capture) -> None:
    judgement = judge([capture])
    assert judgement.verdict is Verdict.PASS and voices(judgement) == {TRACE: "", LINES: "", CPUINFO: ""}
    assert {t.outcome for t in judgement.transitions} == {"updated"}


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize(
    ("name", "value"),
    [("before", 0x83), ("offset", 0x400), ("signature", 0x906EB), ("flags", 0x22), ("revision", 0x86), ("after", 0x84)],
)
def test_each_field_of_each_record_is_compared(number: int, name: str, value: int) -> None:
    judgement = judge([edited(UPDATE, number, **{name: value})])
    (finding,) = [w.finding for w in judgement.windows if w.finding]
    assert judgement.verdict is Verdict.FAIL and finding.component == "microcode loader"
    assert (finding.field_name, finding.observed) == (name, value)
    assert finding.witness[LINES] == finding.witness[CPUINFO] == "agrees"
    assert f"processor {number}" in finding.summary and "the trace differs" in finding.summary
    assert f"{LINES} and {CPUINFO} agree with it" in finding.summary


def test_a_processor_that_is_brought_up_again_is_judged_too() -> None:
    records = parse_trace(HOTPLUG.data, nonce=HOTPLUG.nonce).searches
    again = len(records) - 1
    assert records[again].processor == 3 and records[again].offset == 0
    judgement = judge([edited(HOTPLUG, again, before=0x7002302)])
    assert judgement.verdict is Verdict.FAIL
    assert judgement.windows[0].finding and "processor 3" in judgement.windows[0].finding.summary


def test_of_a_kernel_that_ends_in_its_window_no_loader_is_expected() -> None:
    """It stands in front of the loader, in a panic that is predicted."""
    (panic,) = read_captures(CAPTURES / "broadwell-linux-6.1-panic.capture")
    assert panic.updates is not None
    judgement = judge([panic])
    (window,) = judgement.windows
    assert (judgement.verdict, window.early, window.finding) == (Verdict.PASS, None, None)


def test_a_record_too_many_is_found() -> None:
    data = UPDATE.data
    log = parse_trace(data, nonce=UPDATE.nonce)
    assert UPDATE.nonce
    at = data.rindex(b"@")
    done = int(data[at + 1 : data.index(b" ", at)], 16)
    more = wire.encode(done, "ucode", {"processor": 2, "before": 0x85, "after": 0x85}, nonce=UPDATE.nonce)
    last = wire.encode(done + 1, "done", {"windows": 1}, nonce=UPDATE.nonce)
    judgement = judge([replace(UPDATE, data=data[:at] + more + last)])
    assert log.done and judgement.verdict is Verdict.FAIL
    assert "processor 2 looks for an update, which is not predicted" in str(judgement.windows[0].finding)


# --- text ------------------------------------------------------------------------------------------------------------


def test_proc_cpuinfo_that_says_something_else_twice_is_named() -> None:
    text = b"cpuinfo: processor\t: 2\r\nbench-init: cpuinfo: microcode\t: 0x"
    judgement = judge([said(UPDATE, text + b"85", text + b"84")])
    (finding,) = [w.finding for w in judgement.windows if w.finding]
    assert judgement.verdict is Verdict.FAIL and finding.field_name == CPUINFO
    assert finding.summary.startswith("microcode: /proc/cpuinfo differs from the prediction: ")
    assert finding.summary.endswith("the trace and the kernel's own lines agree with it")


def test_proc_cpuinfo_that_says_it_once_is_the_serial_lines() -> None:
    judgement = judge([said(UPDATE, b"microcode\t: 0x85", b"microcode\t: 0x84", count=1)])
    assert judgement.verdict is Verdict.PASS


def test_a_line_of_the_kernels_that_is_said_once_is_doubted() -> None:
    judgement = judge([said(UPDATE, b"early to revision 0x85", b"early to revision 0x86")])
    assert judgement.verdict is Verdict.MISS
    assert judgement.windows[0].finding and judgement.windows[0].finding.component == "serial line"


def test_a_line_of_the_kernels_that_its_log_repeats_is_believed() -> None:
    lines = b"".join(
        b"bench-init: log: " + line.encode() + b"\r\n" for line in console_lines(UPDATE.data)
    )  # fmt: skip
    at = UPDATE.data.index(b"bench-init: cpuinfo")
    logged = replace(UPDATE, data=UPDATE.data[:at] + lines + UPDATE.data[at:])
    assert logged_lines(logged.data) == console_lines(UPDATE.data) and judge([logged]).verdict is Verdict.PASS
    judgement = judge([said(logged, b"early to revision 0x85", b"early to revision 0x86")])
    assert judgement.verdict is Verdict.FAIL
    assert judgement.windows[0].finding and judgement.windows[0].finding.field_name == LINES


def test_all_that_disagree_are_named() -> None:
    capture = edited(said(UPDATE, b"microcode\t: 0x85", b"microcode\t: 0x84"), 1, after=0x84)
    (finding,) = [w.finding for w in judge([capture]).windows if w.finding]
    assert finding.summary.startswith("microcode: the trace and /proc/cpuinfo differ from the prediction: ")


# --- a damaged line --------------------------------------------------------------------------------------------------


def test_a_record_that_the_kernels_words_tore_is_read_where_it_is_written_again() -> None:
    torn = cut(UPDATE, 2, copies=False)
    assert parse_trace(torn.data, nonce=torn.nonce).gaps and judge([torn]).verdict is Verdict.PASS


def test_a_record_of_which_every_copy_is_lost_is_a_miss() -> None:
    judgement = judge([cut(UPDATE, 2, copies=True)])
    assert judgement.verdict is Verdict.MISS
    assert judgement.windows[0].finding and "no record of processor 2" in judgement.windows[0].finding.summary


# --- how a boot ends -------------------------------------------------------------------------------------------------


def ended(capture: Capture, act: Act, processor: int, kind: LabEventKind) -> Capture:
    """Up to the record of `processor`, which it does not write."""
    assert capture.updates and capture.updates.rules
    search = next(s for s in parse_trace(capture.data, nonce=capture.nonce).searches if s.processor == processor)
    rules = replace(capture.updates.rules, acts=((processor, act),))
    events = (LabEvent(kind, 9.0, 0, {"processor": "running", "rip": "0xffffffff81000000"}),)
    assert search.span
    return replace(
        capture, data=capture.data[: search.span[0]], events=events, updates=replace(capture.updates, rules=rules)
    )


@pytest.mark.parametrize("processor", [0, 2])
@pytest.mark.parametrize(
    ("act", "kind", "outcome"),
    [(Act.HANG, LabEventKind.SILENCE, "silent hang"), (Act.RESET, LabEventKind.RESET, "reboot loop")],
)
def test_a_boot_that_ends_in_a_write_as_predicted_passes(
    processor: int, act: Act, kind: LabEventKind, outcome: str
) -> None:
    judgement = judge([ended(UPDATE, act, processor, kind)])
    assert judgement.verdict is Verdict.PASS, judgement.windows[0].finding
    assert judgement.transitions[-1].outcome == outcome and judgement.transitions[-1].after is None


def test_a_boot_that_ends_where_nothing_hangs_fails() -> None:
    capture = ended(UPDATE, Act.HANG, 2, LabEventKind.RESET)
    assert UPDATE.updates
    judgement = judge([replace(capture, updates=UPDATE.updates)])
    assert judgement.verdict is Verdict.FAIL


def test_a_processor_that_takes_nothing_is_predicted_to_run_what_it_ran() -> None:
    assert UPDATE.updates
    judgement = judge([replace(UPDATE, updates=replace(UPDATE.updates, takes=NOTHING, rules=None))])
    assert judgement.verdict is Verdict.FAIL  # this one has taken it


def test_of_silicon_it_is_not_known_who_shares_a_core() -> None:
    assert UPDATE.updates
    begin = re.search(rb"@0 begin [^\r]*", UPDATE.data)
    assert begin
    (stretch,) = [s for s in stretches(UPDATE.data[: begin.end() + 2], nonce=UPDATE.nonce) if s.line]
    assert stretch.line
    fields = stretch.line.fields | {"platform_id": 1, "revision": 0x84}
    data = UPDATE.data[: begin.start()] + wire.encode(0, "begin", fields, nonce=0).rstrip() + UPDATE.data[begin.end() :]
    silicon = replace(UPDATE, data=data, updates=replace(UPDATE.updates, takes=SILICON, rules=None, processors=None))
    assert judge([silicon]).verdict is Verdict.PASS
    assert judge([edited(silicon, 1, before=0x85)]).verdict is Verdict.PASS
    assert judge([edited(silicon, 1, before=0x86)]).verdict is Verdict.FAIL
    assert judge([edited(silicon, 0, before=0x85)]).verdict is Verdict.FAIL


# --- what is kept ----------------------------------------------------------------------------------------------------


def test_what_was_offered_is_kept_with_a_capture() -> None:
    again = unpack(pack(HOTPLUG), source="x")
    assert again.updates == HOTPLUG.updates and again.updates is not None
    assert again.updates.rules and again.updates.rules.siblings == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda row: row.pop("release"),
        lambda row: row.update(takes="guesses"),
        lambda row: row.pop("rules"),
        lambda row: row["rules"].update(acts=[[0, "sings"]]),
        lambda row: row.update(processors="many"),
    ],
)
def test_a_malformed_offer_is_a_named_error(change: Callable[[dict[str, object]], None]) -> None:
    assert UPDATE.updates
    row = UPDATE.updates.as_json()
    change(row)
    with pytest.raises(FormatError, match="x: what the capture says of microcode is malformed"):
        offer_from_json(row, "x")


def test_readings_of_proc_cpuinfo_are_told_apart() -> None:
    one = b"processor\t: 0\r\nmicrocode\t: 0x5\r\nprocessor\t: 1\r\n"
    assert cpuinfo_readings(one + b"bench-init: cpuinfo: " + one) == ({0: 5, 1: 0}, {0: 5, 1: 0})
