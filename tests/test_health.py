"""When a machine is offline, why, and how it comes back."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.errors import LabError
from bench.health import FAILURES_TO_OFFLINE, Health, differences
from bench.lab.fingerprint import _fingerprint, _free_bytes, split_answers
from bench.store import Store

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


def test_drift_is_shown_fact_by_fact() -> None:
    now = {"bios version": "F24", "microcode": "0xf4"}
    assert differences(BIOS, now) == [
        "bios version was 'F23', is 'F24'",
        "secure boot was 'off', is 'not there'",
        "microcode was 'not there', is '0xf4'",
    ]
    assert differences(BIOS, dict(BIOS)) == []


def test_what_a_system_says_is_read_and_hostile_bytes_are_escaped() -> None:
    output = (
        b"@time\n1790000000\n@room\nFilesystem 1024-blocks Used Available Capacity Mounted on\n"
        b"/dev/sda2 1000000 400000 600000 40% /boot\n@kernel\n6.1.0\n@bios vendor\nEvil\x1b[31m\n@bios version\n"
        b"@board\nX11\n@secure boot\n   6   0   0   0   1\n"
        b"@memory map\n0x0\t0x9ffff\tSystem RAM\n0x100000\t0x1ffffffff\tSystem RAM\n"
        b"@microcode\nmicrocode\t: 0xf4\n@boot\nabc\n@end\n"
    )
    answers = split_answers(output)
    found = _fingerprint(answers)
    assert found["bios vendor"] == "Evil\\x1b[31m" and "bios version" not in found, "what is not there is left out"
    assert (found["secure boot"], found["microcode"]) == ("on", "0xf4")
    assert found["memory map"].startswith("2 ranges, ")
    assert _free_bytes(answers["room"]) == 600000 << 10
    assert (
        _fingerprint(split_answers(output.replace(b"0x1ffffffff", b"0x2ffffffff")))["memory map"] != found["memory map"]
    )
