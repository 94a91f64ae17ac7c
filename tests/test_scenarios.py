"""Scenario files: what the language means, what is refused, where touches may go, and what the set shows."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import UsageError
from bench.records import BootFacts, DigestPoint, DumpPoint, EventKind, LoadFinal, Machine, Stimulus, Touch
from bench.records import Step as RecordedStep
from bench.scenarios import Scenario, Skip, expand, load_scenarios
from bench.scenarios.terms import NAMES, UNITS, evaluate
from bench.script import Flag, ScriptWindow, Step, render
from bench.sim.predict import predict
from bench.wire import VARIANTS, Access
from bench.x86.direct_map import DIRECT_MAPS
from tests.toy_handler import Toy

ROOT = Path(__file__).parents[1] / "firmware-images" / "scenarios"
SET = load_scenarios(ROOT)
HIL = [s for s in SET.values() if s.set == "hil"]
PAYLOAD_VARIANTS = ("seed-2012", "v3.9", "la57")
MIB, GIB, TIB = 1 << 20, 1 << 30, 1 << 40
PO = 0xFFFF880000000000

PLAIN = Machine("plain", 0x506E3, 8 * GIB, 40, nx=True, la57=False)
NO_NX = replace(PLAIN, name="no-nx", nx=False, maxphyaddr=36)
SPARSE = replace(PLAIN, name="sparse", memory_bytes=20 * TIB, maxphyaddr=46)
LA57 = replace(PLAIN, name="la57", maxphyaddr=46, la57=True)
SPARSE_LA57 = replace(SPARSE, name="sparse-la57", maxphyaddr=52, la57=True)
MACHINES = (PLAIN, NO_NX, SPARSE, LA57, SPARSE_LA57)


def scenario(**keys: object) -> Scenario:
    base: dict[str, object] = {
        "name": "test",
        "about": "A scenario of the tests.",
        "variants": ["seed-2012", "v3.9", "la57"],
        "pool": [64],
    }
    return Scenario.model_validate({**base, **keys})


def windows(given: Scenario, machine: Machine = PLAIN, variant: str = "v3.9", bug: int = 0) -> tuple[ScriptWindow, ...]:
    expanded = expand(given, machine, variant, bug=bug)
    assert not isinstance(expanded, Skip), expanded.reason
    return expanded


def steps(*declared: dict[str, object], machine: Machine = PLAIN, variant: str = "v3.9") -> tuple[Step, ...]:
    return windows(scenario(steps=list(declared)), machine, variant)[0].steps


def reason(given: Scenario, machine: Machine = PLAIN, variant: str = "v3.9") -> str:
    expanded = expand(given, machine, variant)
    assert isinstance(expanded, Skip)
    return expanded.reason


READ = {"do": "read", "at": "1 GiB"}


# Files


def test_every_file_of_the_set_is_loaded_by_its_name() -> None:
    assert set(SET) == {path.stem for path in ROOT.glob("*.toml")}
    assert all(name == s.name for name, s in SET.items())


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("pool = [65]", r"pool\[0\]: .*less than or equal to 64"),
        ("place = ['17 MiB']", r"place\[0\]: '17 MiB' is not a multiple of 2 MiB"),
        ("variants = ['v9']", r"variants\[0\]: 'v9' is not one of seed-2012"),
        ("colour = 'red'", "colour: Extra inputs are not permitted"),
        ("name = 'x'", "name: the file's name is the scenario's name"),
        ("steps = [{do = 'read', at = '1 Gib'}]", r"steps\[0\]\.at: '1 Gib' is not a sum"),
        ("steps = [{do = 'read', at = 'here'}]", r"steps\[0\]\.at: 'here' is not one of maxmem"),
        ("steps = [{do = 'read'}]", r"steps\[0\]: needs one of 'at', 'virt', 'around' and 'sweep'"),
        ("steps = [{do = 'read', at = '0', virt = '0'}]", r"steps\[0\]: needs one of"),
        ("steps = [{do = 'move', at = '0'}]", r"steps\[0\]: a move needs one of 'to'"),
        ("steps = [{do = 'read', at = '0', size = 3}]", r"steps\[0\]\.size: 3 is not one of 1, 2, 4, 8"),
        ("steps = [{do = 'read', around = '0', size = 1}]", "one byte straddles no border"),
        ("steps = [{do = 'read', at = '0', before = 2}]", "'before' is the bytes below"),
        ("steps = [{do = 'write', at = '0', size = 1, value = '256'}]", "value 256 does not fit 1 bytes"),
        ("steps = [{do = 'read', at = '0', value = '1'}]", "only a write has a 'value'"),
        ("steps = [{do = 'read', at = '0', plant = false}]", "'plant' belongs to 'fetch'"),
        ("steps = [{do = 'jump', at = '0'}]", r"steps\[0\]\.do: "),
        ("steps = [{random = {seed = 1, count = 0}}]", r"steps\[0\]\.random\.count: "),
        ("mend = [3]\nleave = [3]", "mistake 3 is in both"),
        ("steps = []", "has neither 'steps' nor 'each'"),
        ("[needs]\nmemory = '1 GB'", r"needs\.memory: '1 GB' is not a sum"),
        ("pool = ", "Invalid value"),
    ],
)
def test_errors_name_file_and_key(tmp_path: Path, text: str, complaint: str) -> None:
    lines = {
        "about": "about = 'A scenario of the tests.'",
        "variants": "variants = ['v3.9']",
        "pool": "pool = [64]",
        "steps": "steps = [{do = 'digest'}]",
    }
    key = text.split(" ")[0]
    path = tmp_path / "bad.toml"
    path.write_text("\n".join([*(line for name, line in lines.items() if name != key), text]))
    with pytest.raises(UsageError, match=rf"bad\.toml: .*{complaint}"):
        load_scenarios(tmp_path)


def test_a_folder_without_scenarios_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no scenario files"):
        load_scenarios(tmp_path)


# Sums


def test_sums_have_units_names_and_signs() -> None:
    names = {"maxmem": 1 << 46}
    assert evaluate("1 GiB + 0x1234", names) == GIB + 0x1234
    assert evaluate("maxmem - 8", names) == (1 << 46) - 8
    assert evaluate("- 2MiB + 1_000", names) == 1000 - 2 * MIB


@given(st.lists(st.tuples(st.integers(0, 1 << 52), st.sampled_from(["", *UNITS]), st.booleans()), min_size=1))
def test_a_sum_is_the_sum_of_its_terms(terms: list[tuple[int, str, bool]]) -> None:
    text = " ".join(f"{'-' if minus else '+'} {number:#x} {unit}" for number, unit, minus in terms)
    expected = sum((-1 if minus else 1) * number * UNITS.get(unit, 1) for number, unit, minus in terms)
    assert evaluate(text, {}) == expected


@pytest.mark.parametrize("text", ["", "+", "1 2", "1 GiB GiB", "0x", "maxmem maxmem", "1 +", "é"])
def test_what_is_not_a_sum_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a sum"):
        evaluate(text, dict.fromkeys(NAMES, 0))


# Steps


def test_physical_addresses_go_through_the_variants_direct_map() -> None:
    assert steps(READ)[0].va == PO + GIB
    assert steps(READ, machine=LA57, variant="la57")[0].va == 0xFF11000000000000 + GIB


def test_linear_addresses_are_taken_as_they_are() -> None:
    assert steps({"do": "read", "virt": "0x1000"})[0].va == 0x1000
    assert steps({"do": "read", "virt": "page_offset - 8"})[0].va == PO - 8
    assert steps({"do": "read", "virt": "noncanonical"})[0].va == 1 << 47
    assert steps({"do": "read", "virt": "noncanonical"}, machine=LA57, variant="la57")[0].va == 1 << 56


def test_a_sweep_leaves_out_what_is_not_ram() -> None:
    made = steps({"do": "read", "sweep": {"from": "0", "step": "1 GiB", "count": 70}})
    assert [s.va - PO for s in made] == [g * GIB for g in (0, 1, 2, 4, 5, 6, 7, 8)]


def test_a_straddling_access_lies_around_its_border() -> None:
    assert steps({"do": "read", "around": "1 GiB", "size": 8})[0].va == PO + GIB - 4
    assert steps({"do": "write", "around": "1 GiB", "size": 4, "before": 1})[0].va == PO + GIB - 1


def test_a_move_has_two_addresses() -> None:
    (move,) = steps({"do": "move", "around": "1 GiB", "to_around": "5 GiB", "size": 8})
    assert (move.access, move.va, move.va_to) == (Access.MOVE, PO + GIB - 4, PO + 5 * GIB - 4)


def test_a_fetch_plants_its_return_first() -> None:
    plant, call = steps({"do": "fetch", "at": "1 GiB"})
    assert (plant.access, plant.va, plant.size, plant.value) == (Access.WRITE, PO + GIB, 1, 0xC3)
    assert (call.access, call.va) == (Access.FETCH, PO + GIB)


def test_a_write_leaves_its_own_address_unless_told_otherwise() -> None:
    assert steps({"do": "write", "at": "1 GiB + 0x1234", "size": 2})[0].value == 0x1234
    assert steps({"do": "write", "at": "1 GiB", "value": "0xff"})[0].value == 0xFF


def test_times_repeats_and_marks_stand_for_themselves() -> None:
    made = steps({**READ, "times": 3}, {"do": "digest"}, {"do": "final"}, {"do": "dump"})
    assert [s.op for s in made] == ["access"] * 3 + ["digest", "final", "dump"]


# Windows


def test_windows_are_rounds_by_pools_by_places_by_each() -> None:
    many = scenario(
        pool=[4, 64], place=["8 MiB", "16 MiB"], rounds=2, steps=[READ], each=[{"do": "digest"}, {"do": "dump"}]
    )
    made = windows(many, bug=16)
    assert [w.number for w in made] == list(range(16))
    assert [(w.pool, w.place // MIB, w.steps[-1].op) for w in made[:4]] == [
        (4, 8, "digest"),
        (4, 8, "dump"),
        (4, 16, "digest"),
        (4, 16, "dump"),
    ]
    assert all(w.bug == 16 and w.variant == VARIANTS.index("v3.9") and w.levels == 4 for w in made)
    assert windows(many, LA57, "la57")[0].levels == 5


@pytest.mark.parametrize(
    ("keys", "machine", "mended"),
    [
        ({}, PLAIN, set()),
        ({}, NO_NX, {4}),
        ({"place": ["32 MiB"]}, PLAIN, {3}),
        ({"mend": [5, 9], "place": ["32 MiB"]}, NO_NX, {3, 4, 5, 9}),
        ({"leave": [3, 4], "place": ["32 MiB"]}, NO_NX, set()),
    ],
)
def test_the_seeds_mistakes_that_end_a_window_at_once_are_mended(
    keys: dict[str, object], machine: Machine, mended: set[int]
) -> None:
    given = scenario(steps=[READ], **keys)
    assert windows(given, machine, "seed-2012")[0].mend == sum(1 << n for n in mended)
    assert windows(given, machine, "v3.9")[0].mend == 0


def test_a_sacrificed_machine_may_be_touched_beyond_its_ram_but_not_written() -> None:
    sacrifice = replace(PLAIN, allow_beyond_ram=True)
    far = scenario(steps=[{"do": "read", "at": "66 GiB"}], needs={"memory": "67 GiB"})
    assert windows(far, sacrifice)[0].flags == Flag.BEYOND_RAM
    assert reason(far) == "needs RAM up to 67 GiB, the machine's ends at 9 GiB"
    assert "is not free RAM" in reason(scenario(steps=[{"do": "write", "at": "66 GiB"}]), sacrifice)


@pytest.mark.parametrize(
    ("keys", "machine", "variant", "expected"),
    [
        ({"variants": ["v3.9"]}, PLAIN, "seed-2012", "is for v3.9, not for seed-2012"),
        ({}, PLAIN, "la57", "needs 5-level paging, which the processor lacks"),
        ({"needs": {"memory": "66 GiB"}}, PLAIN, "v3.9", "needs RAM up to 66 GiB, the machine's ends at 9 GiB"),
        ({"needs": {"maxphyaddr_min": 46}}, PLAIN, "v3.9", "needs at least 46 physical address bits"),
        ({"needs": {"maxphyaddr_max": 36}}, PLAIN, "v3.9", "needs at most 36 physical address bits"),
        ({"needs": {"nx": False}}, PLAIN, "v3.9", "needs a processor without NX"),
        ({"needs": {"la57": True}}, PLAIN, "v3.9", "needs a processor with LA57"),
        ({"place": ["10 GiB"]}, PLAIN, "v3.9", "the image's place 0x280000000 is not RAM on plain"),
        ({"steps": [{"do": "read", "at": "maxphyaddr"}]}, SPARSE, "v3.9", "MAXPHYADDR is 46"),
        ({"steps": [{"do": "read", "at": "3 GiB"}]}, PLAIN, "v3.9", "physical address 0xc0000000 is not RAM on plain"),
    ],
)
def test_what_does_not_apply_is_skipped_with_its_reason(
    keys: dict[str, object], machine: Machine, variant: str, expected: str
) -> None:
    assert expected in reason(scenario(**{"steps": [READ], **keys}), machine, variant)


@pytest.mark.parametrize(
    "at",
    ["0xa0000", "0xffff8", "3 GiB - 8", "4 GiB - 8", "9 GiB - 4", "ram_end"],
)
def test_reads_stay_in_ram(at: str) -> None:
    assert "is not RAM" in reason(scenario(steps=[{"do": "read", "at": at}]))


@pytest.mark.parametrize(
    "at",
    ["0x1000", "16 MiB", "64 MiB - 1", "2 GiB - 16 MiB", "2 GiB - 8", "3 GiB - 16 MiB", "5 GiB + 1 MiB"],
)
def test_writes_and_planted_returns_stay_away_from_what_is_loaded(at: str) -> None:
    for do in ("write", "fetch"):
        given = scenario(place=["5 GiB"], steps=[{"do": do, "at": at}])
        assert "is not free RAM" in reason(given)


@pytest.mark.parametrize("at", ["maxphyaddr", "maxphyaddr + 5 GiB", "maxmem - 8", "maxmem", "maxmem + 1 TiB"])
def test_addresses_that_reach_no_memory_may_be_written(at: str) -> None:
    assert steps({"do": "write", "virt": f"page_offset + {at}"})


def test_the_kernels_own_map_is_out_of_bounds() -> None:
    assert "kernel's own map" in reason(scenario(steps=[{"do": "read", "virt": "0xffffffff81000000"}]))


# Random schedules


def random_scenario(seed: int, **keys: object) -> Scenario:
    spec: dict[str, object] = {"seed": seed, "count": 30, "do": ["read", "write", "move", "fetch"]}
    spec |= {"straddle": 30, "again": 20, "rejected": 10, "digest_every": 10}
    return scenario(steps=[{"random": spec}], **keys)


def test_a_schedule_is_the_same_on_every_version_of_python() -> None:
    script = render(windows(random_scenario(2012, pool=[3, 8, 64]), NO_NX), nonce=1)
    assert f"{zlib.crc32(script):08x}" == "8ce42830"


def test_each_window_has_a_schedule_of_its_own() -> None:
    made = windows(random_scenario(1, rounds=4))
    assert len({w.steps for w in made}) == 4


def free_of(machine: Machine, place: int, size: int, physical: int, *, writes: bool) -> bool:
    """The rule for touches, said once more: RAM only, writes never near what is loaded."""
    low = 3 * GIB if machine.memory_bytes >= 3584 * MIB else machine.memory_bytes
    high = 4 * GIB + machine.memory_bytes - low
    end = physical + size
    if not ((end <= low or physical >= 4 * GIB) and end <= high and not (physical < MIB and end > 0xA0000)):
        return False
    initrd = min(low, 2 * GIB)
    clear = physical >= 64 * MIB and not (physical < initrd and end > initrd - 16 * MIB)
    return not writes or (clear and (end <= place or physical >= place + MIB))


def stray(machine: Machine, variant: str, made: tuple[ScriptWindow, ...]) -> Iterator[tuple[int, Step]]:
    layout = DIRECT_MAPS[variant]
    for window in made:
        for step in window.steps:
            if step.op != "access":
                continue
            ends = [(step.va, step.access is Access.WRITE)]
            if step.access is Access.MOVE:
                ends.append((step.va_to, True))
            for va, writes in ends:
                physical = layout.physical(va)
                reaches = physical < min(layout.maxmem, 1 << machine.maxphyaddr)
                if reaches and not free_of(machine, window.place, step.size, physical, writes=writes):
                    yield window.number, step


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    memory=st.integers(256, 64 << 10).map(lambda mib: mib * MIB),
    variant=st.sampled_from(PAYLOAD_VARIANTS),
    nx=st.booleans(),
)
def test_random_touches_stay_where_they_may_be(seed: int, memory: int, variant: str, nx: bool) -> None:
    machine = replace(LA57, memory_bytes=memory, nx=nx, maxphyaddr=46)
    made = windows(random_scenario(seed, pool=[1, 4, 64], place=["80 MiB"]), machine, variant)
    assert not list(stray(machine, variant, made))


# The set


CASES = [
    (machine, variant) for machine in MACHINES for variant in PAYLOAD_VARIANTS if variant != "la57" or machine.la57
]


def expanded_set(machine: Machine, variant: str) -> Iterator[tuple[Scenario, tuple[ScriptWindow, ...]]]:
    for one in HIL:
        made = expand(one, machine, variant)
        if not isinstance(made, Skip):
            yield one, made


@pytest.mark.parametrize(("machine", "variant"), CASES, ids=lambda x: getattr(x, "name", x))
def test_every_touch_of_the_set_stays_where_it_may_be(machine: Machine, variant: str) -> None:
    for one, made in expanded_set(machine, variant):
        assert not list(stray(machine, variant, made)), one.name


@pytest.mark.slow
def test_every_scenario_applies_to_some_machine_in_each_of_its_variants() -> None:
    applied = {(one.name, variant) for machine, variant in CASES for one, _ in expanded_set(machine, variant)}
    # No processor has five levels and no NX; and none of these machines may be offered updates.
    narrow = {("fetch-without-nx", "la57"), ("update", "v3.9"), ("update-refused", "v3.9")}
    assert {(s.name, v) for s in HIL for v in s.variants} - applied == narrow


@pytest.mark.slow
@pytest.mark.parametrize(("machine", "variant"), CASES, ids=lambda x: getattr(x, "name", x))
def test_the_sets_trace_stays_small_and_the_simulator_agrees_with_a_toy(machine: Machine, variant: str) -> None:
    trace_bytes = spins = 0
    for one, made in expanded_set(machine, variant):
        for window in made:
            toy = Toy(window, machine).run()
            trace_bytes += 360 + 50 * toy.records + 45 * toy.touches
            prediction = predict(stimulus(window, machine))
            entered = [(e.step, e.cr2) for e in prediction.events if e.kind is EventKind.ENTER]
            left = [e.next for e in prediction.events if e.kind is EventKind.EXIT]
            assert toy.outcome == prediction.outcome, (one.name, window.number)
            assert entered == [(e[0], e[2]) for e in toy.events if e[1] == "enter"], (one.name, window.number)
            assert left == [e[2] for e in toy.events if e[1] == "exit"], (one.name, window.number)
            spins += toy.outcome == "spin"
    assert trace_bytes < 250_000
    assert spins <= 3


def stimulus(window: ScriptWindow, machine: Machine) -> Stimulus:
    place, variant = window.place, VARIANTS[window.variant]
    five = window.levels == 5
    facts = BootFacts(
        window=window.number, variant=variant, mend=window.mend, pool=window.pool, levels=window.levels,
        signature=machine.signature, nx=machine.nx, la57=five, maxphyaddr=machine.maxphyaddr, hypervisor=0,
        efer=0xD01 if machine.nx else 0x501, cr2=0, cr3=place + 0x10000, cr4=0x10A0 if five else 0xA0,
        phys_base=(place - 16 * MIB) % 2**64, page_offset=DIRECT_MAPS[variant].page_offset, phys_text=place,
        phys_end=place + MIB, phys_top=place + 0x10000, phys_dynamic=place + 0x20000, phys_kernel=place + 0x8000,
    )  # fmt: skip
    return Stimulus(facts, tuple(recorded(number, step, place) for number, step in enumerate(window.steps)))


def recorded(number: int, step: Step, place: int) -> RecordedStep:
    match step.op:
        case "digest":
            return DigestPoint(number)
        case "dump":
            return DumpPoint(number)
        case "final":
            return LoadFinal(number, place + 0x90000, GIB)
    return Touch(number, step.access, step.va, step.size, step.va_to, step.fixup, ip=0x1000100)


@pytest.mark.slow
@pytest.mark.parametrize(("machine", "variant"), [(PLAIN, "seed-2012"), (PLAIN, "v3.9"), (LA57, "la57")])
def test_the_long_set_has_thousands_of_faults_and_hundreds_of_resets(machine: Machine, variant: str) -> None:
    made = windows(SET["random-long"], machine, variant)
    toys = [Toy(window, machine).run() for window in made]
    assert len(made) == 200
    assert {toy.outcome for toy in toys} == {"done"}
    assert sum(toy.faults for toy in toys) >= 5000
    assert sum(toy.resets - 1 for toy in toys) >= 500


# Which scenario of the set tells a bug from the faithful handler, on every machine to which it applies.
SHOWN_BY = {
    1: ("repeated", PAYLOAD_VARIANTS),  # Without NX: a reserved bit, at the first touch.
    3: ("relocated", PAYLOAD_VARIANTS),  # Entries point to where the image was linked.
    12: ("final-tables", PAYLOAD_VARIANTS),  # Outside the final tables: PANIC expected, no end comes.
    13: ("sweep-1gib-small", PAYLOAD_VARIANTS),  # Touched, reset, touched again: the fault is missing.
    14: ("repeated", PAYLOAD_VARIANTS),  # The first reset takes the kernel's own map away.
    15: ("repeated", PAYLOAD_VARIANTS),  # The first fault takes tables 2 and 3 instead of 0 and 1.
    16: ("ping-pong", PAYLOAD_VARIANTS),  # The pool ends exactly: one table more is taken than it has.
    18: ("sweep-1gib-small", PAYLOAD_VARIANTS),  # A PUD that is used again still has its old entries.
    19: ("repeated", PAYLOAD_VARIANTS),  # The first leaf has bits of the offset in it.
    20: ("rejected", PAYLOAD_VARIANTS),  # PANIC expected, the address is mapped.
    22: ("recursion", PAYLOAD_VARIANTS),  # The third fault, or the PANIC after it, ends in silence.
    24: ("repeated", ("v3.9", "la57")),  # A neighbour in the same GiB needs no fault of its own.
}


@pytest.mark.slow
@pytest.mark.parametrize(("bug", "variant"), [(bug, v) for bug, (_, variants) in SHOWN_BY.items() for v in variants])
def test_every_bug_is_shown_by_a_scenario_of_the_set(bug: int, variant: str) -> None:
    given = SET[SHOWN_BY[bug][0]]
    machines = [m for m in (*MACHINES, replace(LA57, name="la57-no-nx", nx=False)) if variant != "la57" or m.la57]
    for machine in machines:
        if bug == 1 and machine.nx:
            continue
        faithful, buggy = windows(given, machine, variant), windows(given, machine, variant, bug=bug)
        assert any(
            Toy(a, machine).run().events != Toy(b, machine).run().events for a, b in zip(faithful, buggy, strict=True)
        ), machine.name
