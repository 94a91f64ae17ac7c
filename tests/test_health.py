"""When a machine is offline, why, and how it comes back."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from bench.batch import _had
from bench.bios_microcode import FACT, firmware_of
from bench.cli_health import _learnt
from bench.errors import LabError
from bench.health import (
    CLOCK_S,
    FAILURES_TO_OFFLINE,
    FREE_BYTES,
    Check,
    Condition,
    Examination,
    Health,
    _judge_system,
    _states,
    differences,
)
from bench.lab.fingerprint import SystemFacts, _fingerprint, _free_bytes, _revision, _value, split_answers
from bench.lab.metal import post_s
from bench.records import Machine
from bench.store import Store, place_of

METAL = Machine("box", 0x906EA, 16 << 30, 39, True, False)
BIOS = {"bios version": "F23", "secure boot": "off"}


def test_two_failures_in_a_row_take_a_machine_offline_and_one_success_brings_it_back(tmp_path: Path) -> None:
    with Store(tmp_path / "bench.sqlite") as store:
        health = Health(store)
        health.require_online("box")
        assert health.note("box", ["power: hangs"], None).offline_since is None
        health.require_online("box")
        health.note("box", [], BIOS)
        assert health.condition("box").failures == 0, "in a row"
        for _ in range(FAILURES_TO_OFFLINE):
            health.note("box", ["serial line: no byte", "clock: +900 s"], None)
    with Store(tmp_path / "bench.sqlite") as store:
        health = Health(store)
        with pytest.raises(
            LabError, match=r"box: offline since .*: serial line: no byte; clock: \+900 s; .*bench health box"
        ):
            health.require_online("box")
        health.require_online("other")
        first = health.condition("box").offline_since
        assert health.note("box", ["serial line: no byte"], None).offline_since == first, "since the first time"
        assert health.condition("box").fingerprint == BIOS, "a failure forgets nothing"
        health.note("box", [], None)
        health.require_online("box")


def test_how_long_a_start_takes_is_learnt_and_whoever_waits_knows_it(tmp_path: Path) -> None:
    results = tmp_path / "results"
    with Store(place_of(results)) as store:
        with store.writing() as connection:
            _states.create(connection)  # as a bench before had it
        health = Health(store)
        assert health.as_learnt(METAL) == METAL and health.as_learnt(METAL).wiring.learnt_post_s is None
        health.note(METAL.name, [], None, first_byte_s=2.0, ssh_s=250.0)
        after = health.note(METAL.name, ["clock: +900 s"], None, first_byte_s=2.5)
        assert (after.time_to_first_byte_s, after.time_to_ssh_s) == (2.5, 250.0), "what was not seen stays"
        assert after == health.condition(METAL.name)
    with _had(METAL, results, threading.Event()) as machine:
        assert machine.wiring.learnt_post_s == 250.0 and post_s(machine) > post_s(METAL)


@pytest.mark.parametrize(
    ("given", "ok", "ssh_s", "said"),
    [
        (None, True, 250.0, ["first byte after 2.0 s, SSH after 250.0 s, so POST takes no longer",
                             "time_to_post_s = 250.0"]),
        (120.0, True, 250.0, ["POST takes no longer"]),
        (None, False, 250.0, ["POST takes no longer"]),
        (None, True, None, ["first byte after 2.0 s"]),
    ],
)  # fmt: skip
def test_what_is_told_for_the_inventory_is_an_upper_bound(
    given: float | None, ok: bool, ssh_s: float | None, said: list[str]
) -> None:
    machine = replace(METAL, wiring=replace(METAL.wiring, time_to_post_s=given))
    condition = Condition("box", time_to_first_byte_s=2.0, time_to_ssh_s=ssh_s)
    lines = list(_learnt(machine, Examination((Check("clock", ok, ""),), condition, 2.0, ssh_s)))
    assert len(lines) == len(said)
    assert all(line.endswith(end) for line, end in zip(lines, said, strict=True)), lines


def test_drift_is_shown_fact_by_fact() -> None:
    now = {"bios version": "F24", "board": "X11"}
    assert differences(BIOS, now) == [
        "bios version was 'F23', is 'F24'",
        "secure boot was 'off', is 'not there'",
        "board was 'not there', is 'X11'",
    ]
    assert differences(BIOS, dict(BIOS)) == []


def test_what_a_system_says_is_read_and_hostile_bytes_are_escaped() -> None:
    output = (
        b"@time\n1790000000\n@room\nFilesystem 1024-blocks Used Available Capacity Mounted on\n"
        b"/dev/sda2 1000000 400000 600000 40% /boot\n@kernel\n6.1.0\n@bios vendor\nEvil\x1b[31m\n@bios version\n"
        b"@board\nX11\n@secure boot\n   6   0   0   0   1\n"
        b"@memory map\n0x0\t0x9ffff\tSystem RAM\n0x100000\t0x1ffffffff\tSystem RAM\n"
        b"@processor\nvendor_id\t: GenuineIntel\n@microcode\nmicrocode\t: 0xf4\n@boot\nabc\n@end\n"
    )
    answers = split_answers(output)
    found = _fingerprint(answers)
    assert found["bios vendor"] == "Evil\\x1b[31m" and "bios version" not in found, "what is not there is left out"
    assert found["secure boot"] == "on" and "microcode" not in found, "which may be the system's"
    assert _value(answers["processor"]) == "GenuineIntel"
    assert _revision(_value(answers["microcode"])) == 0xF4 and _revision("") is _revision("unknown") is None
    assert found["memory map"].startswith("2 ranges, ")
    assert _free_bytes(answers["room"]) == 600000 << 10
    assert (
        _fingerprint(split_answers(output.replace(b"0x1ffffffff", b"0x2ffffffff")))["memory map"] != found["memory map"]
    )


# --- what the known-good system says is judged -----------------------------------------------------------------------

SYSTEM = SystemFacts(0.0, FREE_BYTES, "6.1.0", "abc", BIOS, vendor="GenuineIntel", microcode=0xF4)


def judged(
    facts: SystemFacts, known: Mapping[str, str] | None = None, *, accept: bool = False, own: bool = True
) -> tuple[dict[str, bool | None], Mapping[str, str] | None]:
    """Check → how it went, and the fingerprint to keep."""
    checks: dict[str, bool | None] = {}

    def check(name: str, ok: bool | None, found: str) -> bool:
        assert found
        checks[name] = ok
        return ok is not False

    kept = _judge_system(facts, known, accept, check, own=own)
    return checks, kept


@pytest.mark.parametrize(("off_s", "ok"), [(CLOCK_S, True), (-CLOCK_S, True), (CLOCK_S + 1, False), (-900.0, False)])
def test_a_clock_may_be_off_by_a_minute_either_way(off_s: float, ok: bool) -> None:
    checks, _ = judged(replace(SYSTEM, clock_off_s=off_s))
    assert checks == {"clock": ok, "room in /boot": True, "firmware": True}


@pytest.mark.parametrize(("free_bytes", "own", "ok"), [(FREE_BYTES, True, True), (FREE_BYTES - 1, True, False),
                                                       (0, True, False), (0, False, None)])  # fmt: skip
def test_a_machine_with_a_system_of_its_own_needs_room_for_images(free_bytes: int, own: bool, ok: bool | None) -> None:
    checks, _ = judged(replace(SYSTEM, free_bytes=free_bytes), own=own)
    assert checks == {"clock": True, "room in /boot": ok, "firmware": True}


BEGIN = b"[    0.000000] Linux version 6.12.48\n"


def untouched(revision: int) -> SystemFacts:
    """A system that has updated nothing, over a BIOS that loads `revision`."""
    return replace(SYSTEM, microcode=revision, kernel_log=BEGIN)


def updated(revision: int, running: int) -> SystemFacts:
    """A system that has updated the BIOS's `revision` early, and says from what."""
    said = f"[    0.1] microcode: Current revision: 0x{running:08x}\n[    0.1] microcode: Updated early from: "
    return replace(SYSTEM, microcode=running, kernel_log=BEGIN + f"{said}0x{revision:08x}\n".encode())


HIDES_IT = replace(
    SYSTEM, kernel_log=BEGIN + b"[    0.0] microcode: microcode updated early to revision 0xf4, date = 2022-07-31\n"
)
DOES_NOT_REACH_BACK = replace(SYSTEM, kernel_log=b"")
NOT_INTELS = replace(untouched(0xA20120E), vendor="AuthenticAMD")


def test_the_bios_s_revision_is_a_fact_and_the_running_one_is_none() -> None:
    assert firmware_of(untouched(0xDE)) == BIOS | {FACT: "0x000000de"} == firmware_of(updated(0xDE, 0xF4))
    for unknown in (HIDES_IT, DOES_NOT_REACH_BACK, NOT_INTELS, replace(untouched(0), microcode=None)):
        assert firmware_of(unknown) == BIOS


@pytest.mark.parametrize("now", [updated(0xDE, 0xF4), updated(0xDE, 0xF6), HIDES_IT, DOES_NOT_REACH_BACK])
def test_a_system_that_updates_microcode_is_no_drift(now: SystemFacts) -> None:
    known = firmware_of(untouched(0xDE))
    checks, kept = judged(now, known)
    assert checks["firmware"] is True
    assert kept == known, "what was seen once is not forgotten"


@pytest.mark.parametrize("now", [untouched(0xF0), updated(0xF0, 0xF4)])
def test_another_revision_of_the_bios_is_drift_even_if_the_same_one_runs(now: SystemFacts) -> None:
    known = firmware_of(updated(0xDE, 0xF4))
    assert differences(known, firmware_of(now)) == [f"{FACT} was '0x000000de', is '0x000000f0'"]
    checks, kept = judged(now, known)
    assert checks["firmware"] is False and kept is None
    checks, kept = judged(now, known, accept=True)
    assert checks["firmware"] is True and kept == firmware_of(now)


@pytest.mark.parametrize("now", [untouched(0xF0), updated(0xF0, 0xF4), HIDES_IT])
def test_a_fingerprint_that_an_older_bench_has_kept_is_no_drift(now: SystemFacts) -> None:
    checks, kept = judged(now, BIOS | {"microcode": "0xf2"})
    assert checks["firmware"] is True
    assert kept == firmware_of(now), "the running revision, which it had, is dropped"
    assert judged(replace(now, fingerprint=BIOS | {"bios version": "F24"}), kept)[0]["firmware"] is False
