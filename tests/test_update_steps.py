"""Updates that the payload offers: who may be offered which, and how a capture is held against the rules."""

from __future__ import annotations

import re
import zlib
from dataclasses import replace
from pathlib import Path

import pytest

from bench import wire
from bench.errors import FormatError
from bench.judge import judge
from bench.parse.capture_file import read_captures
from bench.parse.lines import stretches
from bench.records import Capture, Machine, Verdict, VirtualSpec
from bench.scenarios import Scenario, Skip, expand
from bench.script import Step, places, read
from bench.updates import UpdateOffer
from bench.x86.microcode import dword_sum, read_update
from bench.x86.microcode_processor import Act, ProcessorRules
from tests.microcode_files import SIGNATURE, update

(CAPTURE,) = read_captures(Path(__file__).parent / "captures" / "coffeelake-v3.9-update.capture")
RULES = ProcessorRules(SIGNATURE, 1, 0x84)
VIRTUAL = Machine(
    "virtual", SIGNATURE, 1 << 30, 39, nx=True, la57=False, platform_id=1, virtual=VirtualSpec("max", microcode=RULES)
)
METAL = replace(VIRTUAL, name="metal", virtual=None, allow_updates=True)
KINDS = ("newest", "older", "wrong-signature", "wrong-flags", "bad-checksum")


def offer(machine: Machine, kind: str = "newest", *, align: int = 0, newest: bytes = b"") -> Step | str:
    scenario = Scenario.model_validate({
        "name": "test", "about": "An update of the tests.", "variants": ["v3.9"], "pool": [4],
        "steps": [{"do": "ucode", "update": kind, "align": align}],
    })  # fmt: skip
    made = expand(scenario, machine, "v3.9", newest=newest)
    return made.reason if isinstance(made, Skip) else made[0].steps[0]


# --- who may be offered which ----------------------------------------------------------------------------------------


def test_a_virtual_machine_is_offered_made_up_updates_of_each_kind() -> None:
    made = {kind: offer(VIRTUAL, kind) for kind in KINDS}
    content = {kind: step.update for kind, step in made.items() if isinstance(step, Step)}
    assert set(content) == set(KINDS)
    assert dword_sum(content.pop("bad-checksum"), 0, 2048)
    revisions = {kind: read_update(data).revision for kind, data in content.items()}
    assert revisions == {"newest": 0x85, "older": 0x83, "wrong-signature": 0x86, "wrong-flags": 0x86}
    assert read_update(content["wrong-signature"]).signature == SIGNATURE ^ 1
    assert read_update(content["wrong-flags"]).platform_flags == 0xFD


def test_a_machine_of_metal_is_offered_intels_newest_and_only_where_the_inventory_allows_it() -> None:
    newest = update(revision=0x99)
    given = offer(METAL, newest=newest)
    assert isinstance(given, Step) and given.update == newest
    assert "allow_updates" in str(offer(replace(METAL, allow_updates=False), newest=newest))
    assert "bench microcode fetch" in str(offer(METAL))
    for kind in KINDS[1:]:
        assert "made up" in str(offer(METAL, kind, newest=newest))
    assert "misplaced" in str(offer(METAL, align=4, newest=newest))


def test_nothing_is_offered_where_nothing_could_be_read_of_it() -> None:
    for act in (Act.HANG, Act.RESET):
        spec = VirtualSpec("max", microcode=replace(RULES, acts=((0, act),)))
        assert f"is to {act}" in str(offer(replace(VIRTUAL, virtual=spec)))
    uefi = VirtualSpec("max", microcode=RULES, firmware="uefi")
    assert "UEFI" in str(offer(replace(VIRTUAL, virtual=uefi)))


def test_updates_of_a_window_lie_behind_one_another_each_at_its_alignment() -> None:
    steps = [Step("ucode", update=bytes(100 * 8), align=4), Step("digest"), Step("ucode", update=bytes(48), align=16)]
    assert list(places(steps)) == [4, 832 + 16]


def test_a_script_whose_update_is_not_whole_is_refused() -> None:
    text = CAPTURE.script
    lines = text.splitlines(keepends=True)
    data = next(number for number, line in enumerate(lines) if line.startswith(b"+"))
    for spoiled in (lines[:data] + lines[data + 1 :], [*lines[:data], lines[data], *lines[data:]]):
        body = b"".join(spoiled[:-1])
        with pytest.raises(FormatError, match="not of the script's form"):
            read(body + b"end %x\n" % zlib.crc32(body))


# --- a capture against the rules -------------------------------------------------------------------------------------


def changed(capture: Capture, nth: int, **fields: int) -> Capture:
    """The capture with fields of its nth `ucode` record changed, and the CRC mended."""
    assert capture.nonce is not None
    found = [s for s in stretches(capture.data, nonce=capture.nonce) if s.line and s.line.kind == "ucode"]
    line, span = found[nth].line, found[nth].span
    assert line is not None
    text = wire.encode(line.seq, "ucode", {**line.fields, **fields}, nonce=capture.nonce)
    return replace(capture, data=capture.data[: span[0]] + text + capture.data[span[1] :])


def first_finding(capture: Capture) -> tuple[Verdict, str]:
    judgement = judge([capture])
    return judgement.verdict, next((s.reason for s in judgement.scenarios if s.reason), "")


def test_the_capture_is_as_the_rules_have_it() -> None:
    judgement = judge([CAPTURE])
    assert judgement.verdict is Verdict.PASS
    rows = [(t.before, t.offered, t.after, t.outcome) for t in judgement.transitions]
    assert rows[0] == (0x84, 0x85, 0x85, "updated") and (0x85, 0x86, 0x85, "refused") in rows
    assert (0x85, 0x83, 0x83, "updated") in rows and len(rows) == 10


@pytest.mark.parametrize("nth", range(10))
def test_a_revision_that_is_not_as_the_rules_have_it_is_the_processors(nth: int) -> None:
    for name in ("before", "after"):
        verdict, why = first_finding(changed(CAPTURE, nth, **{name: 0x77}))
        assert verdict is Verdict.FAIL and re.search(rf"update \d of the window: {name} is 0x77, and should be", why)


def test_an_update_that_is_not_the_scripts_is_the_payloads() -> None:
    for name in ("offset", "signature", "flags", "revision"):
        verdict, why = first_finding(changed(CAPTURE, 0, **{name: 0x1234}))
        assert verdict is Verdict.ERROR and f"{name} is 0x1234" in why


def test_other_rules_than_the_inventorys_do_not_agree() -> None:
    assert CAPTURE.updates is not None
    refuses = replace(CAPTURE.updates, rules=replace(RULES, refuses=frozenset({0x85})))
    verdict, why = first_finding(replace(CAPTURE, updates=refuses))
    assert verdict is Verdict.FAIL and "after is 0x85, and should be 0x84" in why
    elsewhere = replace(CAPTURE.updates, rules=replace(RULES, platform_id=2))
    verdict, why = first_finding(replace(CAPTURE, updates=elsewhere))
    assert verdict is Verdict.FAIL and "platform_id" in why
    nothing = UpdateOffer("", 1, "nothing")
    verdict, why = first_finding(replace(CAPTURE, updates=nothing))
    assert verdict is Verdict.FAIL and "after is 0x85, and should be 0x84" in why


def test_a_lost_record_is_the_lines() -> None:
    found = [s for s in stretches(CAPTURE.data, nonce=CAPTURE.nonce) if s.line and s.line.kind == "ucode"]
    data = CAPTURE.data[: found[4].span[0]] + CAPTURE.data[found[4].span[1] :]
    assert judge([replace(CAPTURE, data=data)]).verdict is Verdict.MISS
