"""What `bench run` says before it does it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bench.batch import Task
from bench.cli_orders import Asked, tasks_of
from bench.cli_plan import DISK_BOOT_S, METAL_BOOT_S, OWN_BOOTS, VIRTUAL_BOOT_S, make_plan
from bench.errors import UsageError
from bench.health import Health
from bench.inventory import load_inventory, survey
from bench.records import Machine, Verdict
from bench.run import Order
from bench.store import RunRecord, Store

ROOT = Path(__file__).resolve().parent.parent
MACHINES = load_inventory(ROOT)
RACK = survey(ROOT / "inventory" / "examples").machines


def tasks(*machines: Machine) -> list[Task]:
    return [Task(Order(machine, "v3.9", ())) for machine in machines]


def record(machine: Machine, seconds: float, verdict: Verdict = Verdict.PASS) -> RunRecord:
    return RunRecord(
        datetime.now(UTC),
        machine.name,
        machine.model,
        machine.signature,
        "early-pf/v3.9",
        "aa",
        True,
        verdict,
        seconds,
        "",
    )


def test_what_nobody_has_measured_is_guessed_and_said_to_be(tmp_path: Path) -> None:
    plan = make_plan(tasks(MACHINES["haswell"], MACHINES["la57"]), tmp_path, 2)
    assert (plan.runs, plan.boots, plan.virtual, plan.known) == (2, 2, 2, 0)
    assert plan.seconds == 2 * VIRTUAL_BOOT_S / 2
    assert next(iter(plan.lines())).endswith("2 of them guessed")


def test_time_is_the_median_of_runs_that_told_something(tmp_path: Path) -> None:
    haswell = MACHINES["haswell"]
    with Store(tmp_path / "bench.sqlite") as store:
        store.save_runs([record(haswell, s) for s in (4.0, 6.0, 40.0)] + [record(haswell, 900.0, Verdict.MISS)])
    plan = make_plan(tasks(haswell), tmp_path, 1)
    assert (plan.seconds, plan.known) == (6.0, 1)


def test_machines_of_metal_are_named_with_all_that_is_touched(tmp_path: Path) -> None:
    plan = make_plan(tasks(RACK["nuc-7"], RACK["desktop-relay"], MACHINES["haswell"]), tmp_path, 8)
    assert plan.virtual == 1 and len(plan.touched) == 2
    nuc, desktop = plan.touched
    assert nuc.startswith("nuc-7: off and on 3 times by ") and "PDU bench-1" in nuc and "loaded by grub" in nuc
    assert "heard at socket://console-1:7007" in nuc and "beyond its RAM" not in nuc
    assert "beyond its RAM" in desktop


def test_boots_of_the_machines_own_systems_are_counted_apart(tmp_path: Path) -> None:
    by_grub, by_net = (make_plan(tasks(MACHINES[name]), tmp_path, 1) for name in ("host-bios-grub", "host-pxe-bios"))
    assert (by_grub.boots, by_grub.own_boots, by_grub.seconds) == (1, 2, 3 * DISK_BOOT_S)
    assert (by_net.boots, by_net.own_boots, by_net.seconds) == (1, 0, DISK_BOOT_S)
    by_next = make_plan(tasks(MACHINES["host-pxe-bootnext"]), tmp_path, 1)
    assert (by_next.boots, by_next.own_boots, by_next.seconds) == (1, 2, 3 * DISK_BOOT_S), "its own system selects it"
    assert make_plan(tasks(MACHINES["host-bios-grub"]), tmp_path, 8).seconds == by_grub.seconds, (
        "one order is no faster"
    )
    assert "1 boot and 2 of the machines' own systems, about 30 s" in next(by_grub.lines())


def test_orders_of_one_machine_of_metal_wait_for_each_other(tmp_path: Path) -> None:
    slow = replace(RACK["nuc-7"], wiring=replace(RACK["nuc-7"].wiring, time_to_post_s=40.0))
    assert make_plan(tasks(slow, slow, slow), tmp_path, 8).seconds == 3 * (1 + OWN_BOOTS["grub"]) * (
        METAL_BOOT_S + 40.0
    )


def test_what_examinations_have_told_is_in_the_plan(tmp_path: Path) -> None:
    nuc = RACK["nuc-7"]
    untimed = replace(nuc, wiring=replace(nuc.wiring, time_to_post_s=None))
    timed = replace(nuc, wiring=replace(nuc.wiring, time_to_post_s=40.0))
    with Store(tmp_path / "bench.sqlite") as store:
        health = Health(store)
        health.note(nuc.name, [], None, ssh_s=500.0)
        plan = make_plan(tasks(untimed), tmp_path, 1)
        assert plan.seconds == (1 + OWN_BOOTS["grub"]) * 500.0 and len(plan.touched) == 1
        assert make_plan(tasks(timed), tmp_path, 1).seconds == (1 + OWN_BOOTS["grub"]) * (METAL_BOOT_S + 40.0)
        for _ in range(2):
            health.note(nuc.name, ["SSH: no answer"], None)
    offline = make_plan(tasks(untimed), tmp_path, 1).touched[-1]
    assert offline.startswith("nuc-7: offline since 20") and offline.endswith("when that is mended: bench health nuc-7")


def test_machines_are_chosen_by_name_and_by_model() -> None:
    chosen = tasks_of(Asked(machine=["la57"], model=["06-3c-03"], variant=["v3.9"]), ROOT, quiet=True)
    assert [task.order.machine.name for task in chosen] == ["la57", "haswell"]
    with pytest.raises(UsageError, match=r"no model '06-99-09'; there are: 06-"):
        tasks_of(Asked(model=["06-99-09"]), ROOT, quiet=True)
    with pytest.raises(UsageError, match="say which machine"):
        tasks_of(Asked(), ROOT, quiet=True)


def test_a_plan_waits_for_no_kernel_and_says_which_are_not_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    unbuilt: list[str] = []
    images = ["payload", "linux-6.1-trace", "linux-6.1-trace+mutants/13-no-flush", "debian-6.1"]
    asked = Asked(machine=["skylake-server"], variant=["v3.9"], image=images)
    chosen = tasks_of(asked, ROOT, quiet=True, unbuilt=unbuilt)
    assert len(chosen) == 1 and unbuilt == images[1:]
    assert not (tmp_path / "bench" / "kernels").exists()
    plan = make_plan(chosen, tmp_path, 1, unbuilt=unbuilt)
    assert plan.boots == 1 and plan.as_json()["unbuilt"] == unbuilt
    assert any(
        line.endswith(f"3 kernels not built yet, which are not counted here: {', '.join(unbuilt)}")
        for line in plan.lines()
    )
