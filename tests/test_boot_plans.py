"""Boot plans: files that say how a kernel is booted, and what they become on a machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench import script
from bench.errors import UsageError
from bench.inventory import find_root, load_inventory
from bench.lab.boot import Limits
from bench.records import Machine
from bench.run_kernel import handler_of, patience
from bench.scenarios import KernelBoot, Skip, expand_boots, load_boot_plans
from bench.scenarios.boot_plans import BOOTS, BootPlan

ROOT = find_root()
MACHINES = load_inventory(ROOT)


def plan(tmp_path: Path, text: str) -> BootPlan:
    (tmp_path / BOOTS).mkdir(parents=True)
    (tmp_path / BOOTS / "one.toml").write_text(f'about = "A plan for a test."\n{text}')
    return load_boot_plans(tmp_path)["one"]


def boots(made: BootPlan, machine: Machine = MACHINES["skylake-server"]) -> tuple[KernelBoot, ...]:
    found = expand_boots(made, machine, "v6.1")
    assert not isinstance(found, Skip), found
    return found


def test_there_is_a_boot_for_each_round_size_number_of_processors_and_pool(tmp_path: Path) -> None:
    made = plan(tmp_path, 'rounds = 2\nprocessors = [1, 4]\nmemory = ["1 GiB", "2 GiB"]\npool = [4, 64]')
    found = boots(made)
    assert len(found) == 16
    assert {b.machine.memory_bytes for b in found} == {1 << 30, 2 << 30}
    assert {b.machine.virtual.processors for b in found if b.machine.virtual} == {1, 4}
    assert {b.command_line for b in found} == {"nokaslr bench.pool=4", "nokaslr"}


def test_steps_become_the_exercisers_script_in_the_kernels_direct_map(tmp_path: Path) -> None:
    (boot,) = boots(plan(tmp_path, 'steps = [{do = "read", at = "1 GiB + 0x1000"}, {do = "digest"}]'))
    assert boot.script and [(s.op, hex(s.va)) for s in boot.script.steps] == [
        ("access", "0xffff888040001000"),
        ("digest", "0x0"),
    ]
    assert script.read(script.render((boot.script,), nonce=7))[0].steps == boot.script.steps


def test_five_levels_move_the_direct_map_unless_told_otherwise(tmp_path: Path) -> None:
    made = plan(tmp_path, 'steps = [{do = "read", at = "1 GiB"}]')
    (five,) = boots(made, MACHINES["la57"])
    (four,) = boots(made.model_copy(update={"command_line": "nokaslr no5lvl"}), MACHINES["la57"])
    assert five.script and five.script.steps[0].va == 0xFF11000040000000
    assert four.script and four.script.steps[0].va == 0xFFFF888040000000


def test_behind_the_final_tables_only_what_they_cannot_map_may_be_touched(tmp_path: Path) -> None:
    steps = 'steps = [{do = "final"}, {do = "read", at = "%s", fixup = true}]'
    (boot,) = boots(plan(tmp_path / "a", steps % "ram_end + 64 GiB"))
    assert boot.script and [s.op for s in boot.script.steps] == ["final", "access"]
    reason = expand_boots(plan(tmp_path / "b", steps % "1 GiB"), MACHINES["skylake-server"], "v6.1")
    assert reason == Skip("physical address 0x40000000 may be mapped by the final tables")


def test_a_started_second_kernel_makes_two_windows_of_a_boot(tmp_path: Path) -> None:
    found = boots(plan(tmp_path, 'kexec = ["512 MiB", "1022 MiB"]'))
    assert [(b.kexec, b.windows) for b in found] == [(512 << 20, 2), (1022 << 20, 2)]


def test_what_only_a_virtual_machine_can_be_given_is_not_asked_of_metal(tmp_path: Path) -> None:
    metal = replace(MACHINES["skylake-server"], virtual=None)
    assert isinstance(expand_boots(plan(tmp_path, 'memory = ["1 GiB"]'), metal, "v6.1"), Skip)


def test_a_machine_with_a_disk_is_booted_as_it_is(tmp_path: Path) -> None:
    bios, uefi = MACHINES["host-bios-grub"], MACHINES["host-uefi-grub"]
    assert bios.virtual is not None
    under_a_hypervisor = replace(bios, virtual=replace(bios.virtual, properties=()))
    made = plan(tmp_path, "processors = [1, 4]")
    for machine in (bios, uefi):
        (boot,) = boots(made, machine)
        assert boot.machine == machine
    refused = {
        'memory = ["1 GiB"]': "memory",
        'firmware = "uefi"': "starts by a BIOS",
        "hypervisor = false": "hypervisor",
    }
    for text, said in refused.items():
        found = expand_boots(plan(tmp_path / said.split()[-1], text), under_a_hypervisor, "v6.1")
        assert isinstance(found, Skip) and said in found.reason
    assert boots(plan(tmp_path / "uefi", 'firmware = "uefi"'), uefi)[0].machine == uefi


def test_needs_are_held_against_the_memory_that_the_plan_gives(tmp_path: Path) -> None:
    made = plan(tmp_path, 'memory = ["1 GiB"]\n[needs]\nmemory = "4 GiB"')
    reason = expand_boots(made, MACHINES["skylake-server"], "v6.1")
    assert reason == Skip("needs RAM up to 4 GiB, the machine's ends at 1 GiB")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("colour = 1", "colour: Extra inputs are not permitted"),
        ('command_line = "bench.nonce=1"', "command_line: 'bench.nonce=1' is the bench's own to say"),
        ('command_line = "a\\nb"', "command_line: 'a\\nb' is not printable ASCII"),
        ("processors = [9]", "processors[0]: Input should be less than or equal to 8"),
        ('kexec = ["1 MiB"]', "kexec[0]: '1 MiB' is not a multiple of 2 MiB"),
        ('name = "x"', "name: the file's name is the plan's name"),
        ("steps = 3", "steps: Input should be a valid list"),
        ('init = ["dance"]', "init[0]: Input should be 'cpuinfo', 'hotplug' or 'suspend'"),
    ],
)
def test_a_wrong_file_is_named_with_its_key(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UsageError) as error:
        plan(tmp_path, text)
    assert str(error.value) == f"{tmp_path / BOOTS / 'one.toml'}: {said}"


def test_every_plan_of_the_project_fits_some_machine() -> None:
    plans = load_boot_plans(ROOT)
    assert plans
    for made in plans.values():
        assert any(not isinstance(expand_boots(made, m, "v6.1"), Skip) for m in MACHINES.values()), made.name


@pytest.mark.parametrize(
    ("release", "variant"),
    [("7.3.4", "v7.3"), ("6.12.117", "v6.1"), ("6.1.192", "v6.1"), ("5.10.1", "v6.1"), ("4.19.0", "v4.x")],
)
def test_a_releases_handler(release: str, variant: str) -> None:
    assert handler_of(release) == variant


def test_where_processors_wait_for_each_other_behind_the_start_a_silence_may_be_longer() -> None:
    machine = MACHINES["coffeelake"]
    plans = load_boot_plans(find_root())
    limits = {
        name: patience(each, Limits()).silence_s
        for name in ("exercise", "update-hotplug")
        for each in boots(plans[name], machine)
    }
    assert limits == {"exercise": Limits().silence_s, "update-hotplug": 40.0}
