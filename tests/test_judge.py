"""Verdicts: the handler is blamed only for what it did, the line for what it lost, the lab for the rest."""

from __future__ import annotations

import random
import re
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bench import wire
from bench.judge import judge
from bench.parse.capture_file import pack, unpack
from bench.records import Capture, LabEvent, LabEventKind, LoadFinal, Stimulus, Touch, Verdict
from bench.script import ScriptWindow, render
from bench.script import Step as ScriptStep
from bench.wire import Access
from tests.synthetic import NONCE, Voice, capture, facts, faithful, prediction, reads

GIB = 1 << 30
MANGLINGS = ["deletes", "repeats", "swaps", "cuts", "garbles"]


def sweep(variant: str = "v3.9", *, pool: int = 6, window: int = 0, count: int = 20) -> Stimulus:
    f = facts(variant, pool=pool, window=window)
    return Stimulus(f, reads(f, (n * GIB + 0x123 for n in range(count))))


def named(data: bytes, *windows: int, **other: object) -> Capture:
    return capture(data, scenarios=dict.fromkeys(windows or (0,), "sweep"), **other)


def lines(data: bytes) -> list[bytes]:
    return data.splitlines(keepends=True)


def edit(data: bytes, kind: str, nth: int, **changes: int) -> bytes:
    """Change fields of the nth record of a kind and mend its CRC."""
    out, seen = [], 0
    for line in lines(data):
        record = wire.decode(line.rstrip(), nonce=NONCE) if line.startswith(b"@") else ""
        if isinstance(record, wire.Line) and record.kind == kind:
            if seen == nth:
                line = wire.encode(record.seq, kind, record.fields | changes, nonce=NONCE)
            seen += 1
        out.append(line)
    return b"".join(out)


@pytest.mark.parametrize("variant", ["seed-2012", "v3.9", "la57"])
def test_a_machine_that_does_as_predicted_passes(variant: str) -> None:
    stimulus = sweep(variant)
    judgement = judge([named(faithful(stimulus))])
    (scenario,) = judgement.scenarios
    assert judgement.verdict is Verdict.PASS
    assert scenario.predicted == 20
    assert scenario.replayed == 0
    assert scenario.digests == 1
    assert scenario.resets == prediction(stimulus).resets > 0


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("x", {"pmd": 0x80000000400000E1}, "PMD entry is 0x80000000400000e1"),
        ("x", {"next": 5}, "next_early_pgt is 5"),
        ("pf", {"error": 2}, "error code is 0x2, the model has 0x0"),
        ("digest", {"crc": 0xDEADBEEF}, "digest of the top table and the pool is 0xdeadbeef"),
        ("end", {"faults": 99}, "number of exceptions entered is 99"),
    ],
)
def test_an_edited_record_with_a_mended_crc_fails_at_that_event(kind: str, change: dict[str, int], words: str) -> None:
    judgement = judge([named(edit(faithful(sweep()), kind, 0, **change))])
    assert judgement.verdict is Verdict.FAIL
    finding = judgement.windows[0].finding
    assert finding and words in finding.summary
    assert finding.component == "handler"
    assert finding.field_name in change


def test_a_missing_fault_is_named_with_the_access_that_should_have_faulted() -> None:
    stimulus = sweep()
    voice = Voice()
    events = prediction(stimulus).events
    voice.window(stimulus, (e for e in events if e.step != 7))
    finding = judge([named(bytes(voice.data))]).windows[0].finding
    assert finding and finding.summary.startswith("a fault is missing")
    assert finding.step == 7


def test_a_fault_too_many_is_named() -> None:
    stimulus = sweep()
    f = stimulus.facts
    longer = replace(stimulus, steps=reads(f, [0x123, 0x456]))
    voice = Voice()
    events = list(prediction(longer).events)
    again = [replace(e, step=1, cr2=f.page_offset + 0x456) for e in events[:2]]
    voice.window(longer, events[:2] + again + events[2:])
    finding = judge([named(bytes(voice.data))]).windows[0].finding
    assert finding and finding.summary.startswith("a fault too many")


@pytest.mark.slow
def test_one_damaged_byte_never_fails_anywhere() -> None:
    data = faithful(sweep(count=3), sweep(window=1, count=2))
    rng = random.Random(20121212)
    for at in rng.sample(range(len(data)), 250):
        damaged = bytearray(data)
        damaged[at] ^= 1 << rng.randrange(8)
        judgement = judge([named(bytes(damaged), 0, 1)])
        assert judgement.verdict in (Verdict.PASS, Verdict.MISS), (at, data[at : at + 20], judgement.windows)


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(MANGLINGS), st.integers(0, 10**6)), max_size=6))
@example([("deletes", 0), ("repeats", 551195)])
@example([("deletes", 25), ("repeats", 0), ("repeats", 14595)])
def test_a_mangled_line_never_fails_and_never_crashes(mangling: list[tuple[str, int]]) -> None:
    parts = lines(faithful(sweep(count=6), sweep(window=1, count=6)))
    for how, number in mangling:
        at = number % len(parts)
        if how == "deletes":
            del parts[at]
        elif how == "repeats":
            parts.insert(number % 7919 % len(parts), parts[at])
        elif how == "swaps":
            other = number % 7919 % len(parts)
            parts[at], parts[other] = parts[other], parts[at]
        elif how == "cuts":
            parts[at] = parts[at][: number % (len(parts[at]) + 1)]
        else:
            parts[at] = b"\x00\xff@" + parts[at][3:]
        if not parts:
            return
    assert judge([named(b"".join(parts), 0, 1)]).verdict in (Verdict.PASS, Verdict.MISS)


def test_the_window_after_a_damaged_one_is_judged_on_its_own() -> None:
    first, second = sweep(count=5), sweep(window=1, count=5)
    data = faithful(first, second)
    victim = next(n for n, x in enumerate(lines(data)) if b" x " in x)
    data = b"".join(x for n, x in enumerate(lines(data)) if n != victim)
    data = edit(data, "digest", 1, crc=1)
    verdicts = [w.verdict for w in judge([named(data, 0, 1)]).windows]
    assert verdicts == [Verdict.MISS, Verdict.FAIL]


def cut_in_window(stimulus: Stimulus) -> bytes:
    """The bytes up to and including the third page fault's enter record."""
    data = faithful(stimulus)
    at = [m.end() for m in re.finditer(rb"@[0-9a-f]+ pf [^\n]*\n", data)][2]
    return data[:at]


@pytest.mark.parametrize(
    ("events", "verdict", "component"),
    [
        ([(LabEventKind.RESET, {"qmp": "guest-reset"})], Verdict.FAIL, "handler"),
        ([(LabEventKind.SILENCE, {"processor": "running", "rip": "0xffffffff81000000"})], Verdict.FAIL, "handler"),
        ([(LabEventKind.SILENCE, {})], Verdict.MISS, "serial line"),
        ([(LabEventKind.MACHINE_LOST, {"exit": "-9"})], Verdict.MISS, "machine"),
        ([(LabEventKind.PORT_CLOSED, {})], Verdict.MISS, "port"),
        ([(LabEventKind.INTERRUPTED, {})], Verdict.MISS, "bench"),
        ([], Verdict.MISS, "capture"),
    ],
)
def test_an_unfinished_window_is_blamed_on_what_ended_it(
    events: list[tuple[LabEventKind, dict[str, str]]], verdict: Verdict, component: str
) -> None:
    lab = tuple(LabEvent(kind, 1.0, 500, witness) for kind, witness in events)
    judgement = judge([named(cut_in_window(sweep()), 0, 1, events=lab)])
    finding = judgement.windows[0].finding
    assert finding
    assert (judgement.windows[0].verdict, finding.component) == (verdict, component)
    assert "due next: return from the handler" in finding.summary


def test_windows_behind_a_death_are_pending_and_a_second_boot_settles_them() -> None:
    reset = (LabEvent(LabEventKind.RESET, 1.0, 500, {"qmp": "guest-reset"}),)
    died = named(cut_in_window(sweep()), 0, 1, events=reset)
    assert judge([died]).pending == (1,)
    judgement = judge([died, named(faithful(sweep(window=1)), 1)])
    assert judgement.pending == ()
    assert [w.verdict for w in judgement.windows] == [Verdict.FAIL, Verdict.PASS]


@pytest.mark.parametrize(
    ("data", "events", "component"),
    [
        (b"", [LabEvent(LabEventKind.SILENCE, 9.0, 0)], "serial line"),
        (b"SeaBIOS\r\n", [LabEvent(LabEventKind.SILENCE, 9.0, 9)], "boot"),
        (b"SeaBIOS\r\n", [], "capture"),
    ],
)
def test_no_trace_at_all_is_a_miss_that_names_the_part(data: bytes, events: list[LabEvent], component: str) -> None:
    judgement = judge([named(data, events=tuple(events))])
    assert judgement.verdict is Verdict.MISS
    assert judgement.windows[0].finding and judgement.windows[0].finding.component == component


def test_a_payload_that_skips_a_step_is_an_error_not_a_pass() -> None:
    stimulus = sweep(count=4)
    asked = tuple(ScriptStep("access", Access.READ, s.va, 8) for s in stimulus.steps if isinstance(s, Touch))
    window = ScriptWindow(0, 1, 6, 0x1000000, 4, (*asked, ScriptStep("digest")))
    whole = named(faithful(stimulus), script=render((window,), nonce=NONCE))
    assert judge([whole]).verdict is Verdict.PASS
    lazy = replace(whole, data=faithful(replace(stimulus, steps=stimulus.steps[:-2])))
    judgement = judge([lazy])
    assert judgement.verdict is Verdict.ERROR
    assert judgement.windows[0].finding and judgement.windows[0].finding.component == "payload"


def split_read(pool: int = 64) -> Stimulus:
    f = facts(pool=pool)
    return Stimulus(f, (Touch(0, Access.READ, f.page_offset + GIB - 4, 8),))


def test_a_processor_that_takes_the_second_page_first_passes_too() -> None:
    """Which page of a split access is walked first is the processor's choice."""
    from bench.sim.predict import predict

    stimulus = split_read()
    assert predict(stimulus).choices
    other = predict(stimulus, choices=(1,))
    assert other.events != predict(stimulus).events
    voice = Voice()
    voice.window(stimulus, other.events)
    voice.say("done", windows=1)
    assert judge([named(bytes(voice.data))]).verdict is Verdict.PASS


def test_after_the_final_tables_a_fault_is_rejected() -> None:
    f = facts()
    steps = (
        Touch(0, Access.READ, f.page_offset, 8),
        LoadFinal(1, f.phys_top + 0x80000, GIB),
        Touch(2, Access.READ, f.page_offset + 2 * GIB, 8),
    )
    judgement = judge([named(faithful(Stimulus(f, steps)))])
    assert judgement.verdict is Verdict.PASS
    assert judgement.windows[0].prediction and judgement.windows[0].prediction.outcome == "panic"


def test_packing_keeps_everything_that_the_verdict_rests_on() -> None:
    reset = (LabEvent(LabEventKind.RESET, 1.5, 500, {"qmp": "guest-reset"}),)
    original = named(cut_in_window(sweep()), events=reset, machine="m", model="06-55-04", image="i", virtual=True)
    again = unpack(pack(original), source="x")
    assert judge([again]) == judge([original])
    assert pack(again) == pack(original)


def test_a_begin_record_that_cannot_be_right_is_an_error_of_the_trace() -> None:
    stimulus = sweep()
    odd = replace(stimulus, facts=replace(stimulus.facts, maxphyaddr=7))
    voice = Voice()
    voice.window(odd, prediction(stimulus).events)
    judgement = judge([named(bytes(voice.data))])
    assert judgement.verdict is Verdict.ERROR
    assert judgement.windows[0].finding and "physical address bits" in judgement.windows[0].finding.summary


@pytest.mark.parametrize(
    ("event", "verdict", "component"),
    [
        (LabEvent(LabEventKind.RESET, 1.0, 0, {"rip": "0x0000000001000123"}), Verdict.FAIL, "kernel"),
        (LabEvent(LabEventKind.SILENCE, 9.0, 0, {"processor": "running", "rip": "0xffffffff81000000"}),
         Verdict.FAIL, "kernel"),
        (LabEvent(LabEventKind.SILENCE, 9.0, 0, {"processor": "running", "rip": "0x00000000af48db37"}),
         Verdict.MISS, "serial line"),
        (LabEvent(LabEventKind.SILENCE, 9.0, 0, {"limit": "10 s"}), Verdict.MISS, "serial line"),
        (LabEvent(LabEventKind.MACHINE_LOST, 9.0, 0, {}), Verdict.MISS, "machine"),
    ],
)  # fmt: skip
def test_a_kernel_that_dies_before_its_window_fails_only_where_that_is_certain(
    event: LabEvent, verdict: Verdict, component: str
) -> None:
    capture = Capture("kernel", b"", (event,), image="linux-6.1-trace", virtual=True, scenarios={0: "plain"})
    judgement = judge([capture])
    assert judgement.verdict is verdict
    assert judgement.windows[0].finding and judgement.windows[0].finding.component == component


def test_silence_without_a_look_at_the_processor_is_the_labs() -> None:
    """On metal nobody sees registers: a dead line and a dead machine look alike, within a window too."""
    data = faithful(sweep(count=3))
    cut = data[: data.index(b" x ") - 3]
    silence = LabEvent(LabEventKind.SILENCE, 20.0, len(cut), {"limit": "10 s without a byte"})
    judgement = judge([replace(named(cut, 0), events=(silence,))])
    assert judgement.verdict is Verdict.MISS


def test_what_was_said_while_the_port_was_away_is_put_down_to_the_port() -> None:
    data = faithful(sweep(count=3), sweep(window=1, count=2))
    gone = lines(data)[4]
    at = data.index(gone)
    lost = LabEvent(LabEventKind.PORT_LOST, 1.0, at, {"why": "device reports readiness to read but returned no data"})
    back = LabEvent(LabEventKind.PORT_OPENED, 4.0, at, {"away": "3.00 s"})
    holed = data.replace(gone, b"", 1)
    judgement = judge([named(holed, 0, 1, events=(lost, back))])
    hit, whole = judgement.windows
    assert (hit.verdict, whole.verdict) == (Verdict.MISS, Verdict.PASS)
    assert hit.finding and hit.finding.component == "port" and hit.finding.witness["away"] == "3.00 s"
    assert hit.finding.witness["port"].startswith(f"lost at byte {at}: device reports")
    assert any(f"the port was lost at byte {at}" in note for note in judgement.notes)
    (unhurt, *_) = judge([named(holed, 0, 1)]).windows
    assert unhurt.finding and unhurt.finding.component == "serial line"


def test_a_window_that_was_missed_altogether_is_put_down_to_the_port_too() -> None:
    data = faithful(sweep(count=3), sweep(window=1, count=2))
    text = lines(data)
    begin = next(n for n, line in enumerate(text) if b" begin " in line and n > 3)
    end = next(n for n, line in enumerate(text) if b" end " in line and n > begin)
    lost = LabEvent(LabEventKind.PORT_LOST, 1.0, len(b"".join(text[:begin])), {"why": "gone"})
    judgement = judge([named(b"".join(text[:begin] + text[end + 1 :]), 0, 1, events=(lost,))])
    assert judgement.windows[0].verdict is Verdict.PASS
    finding = judgement.windows[1].finding
    assert finding and (finding.component, finding.witness["port"].rpartition(": ")[2]) == ("port", "gone")
