"""What `bench run --full` has machines with a disk do: payload and kernel in each way that they are loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from bench import run_kernel
from bench.batch import Task
from bench.cli_orders import Asked, tasks_of
from bench.images.kernel_image import KernelImage
from bench.inventory import load_inventory
from bench.run import KernelOrder, Order, offer, offers_updates

ROOT = Path(__file__).resolve().parent.parent
MACHINES = load_inventory(ROOT)
KERNEL = "linux-6.1-trace"
WAYS = [
    (name, method)
    for name, machine in MACHINES.items()
    if machine.virtual is not None and machine.virtual.host is not None
    for method in machine.boot_methods
]


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every kernel is built: nothing looks into it before it boots."""
    monkeypatch.setattr(KernelImage, "traced", True)
    monkeypatch.setattr(
        "bench.images.kernel.find_kernel",
        lambda _, name, **__: KernelImage(name, Path("none"), "6.1.192", 1, f"hash of {name}", True),
    )
    monkeypatch.setattr("bench.images.bzimage.require_bootable", lambda _: None)
    monkeypatch.setattr("bench.images.build_init", lambda _: Path("init"))


def tasks(asked: Asked) -> list[Task]:
    return tasks_of(asked, ROOT, quiet=True, unbuilt=[])


def by_method(chosen: Sequence[Task], image: str) -> list[tuple[str, str]]:
    """Machine and method of the tasks that boot `image`."""
    return [(t.order.machine.name, t.order.image.removeprefix(f"{image}@"))
            for t in chosen if t.order.image.startswith(f"{image}@")]  # fmt: skip


@pytest.mark.usefixtures("kernels")
def test_each_way_to_load_a_machine_is_taken_with_payload_and_kernel() -> None:
    chosen = tasks(Asked(all_machines=True, full=True, demonstrate=True))
    assert {method for _, method in WAYS} == {"grub", "systemd-boot", "bootnext", "kexec", "pxe"}
    for image in ("early-pf/v3.9", "early-pf/seed-2012", KERNEL):
        assert by_method(chosen, image) == WAYS, image
    for task in chosen:
        if "@" in task.order.image:
            method = task.order.image.partition("@")[2]
            assert task.name.endswith(f"@{method}") and task.order.machine.boot_methods == (method,)


@pytest.mark.usefixtures("kernels")
def test_no_two_tasks_have_one_name() -> None:
    names = [task.name for task in tasks(Asked(all_machines=True, full=True, demonstrate=True))]
    assert len(names) == len(set(names)) > 130


@pytest.mark.usefixtures("kernels")
def test_the_kernel_boots_plainly_there_and_offers_no_update() -> None:
    chosen = [task.order for task in tasks(Asked(all_machines=True, full=True)) if f"{KERNEL}@" in task.order.image]
    assert len(chosen) == len(WAYS)
    for order in chosen:
        assert isinstance(order, KernelOrder) and order.names == ("plain",)
        ((boot,), skipped) = run_kernel.offer(order)
        assert not boot.with_update and not skipped


def test_kexec_is_offered_no_updates_and_the_reason_is_said() -> None:
    asked = Asked(machine=["host-uefi-grub"], variant=["v3.9"], full=True)
    chosen = tasks(asked)
    assert [task.name.partition("@")[2] for task in chosen] == ["grub", "bootnext", "kexec"]
    for task in chosen:
        assert isinstance(task.order, Order)
        windows, _, skipped = offer(task.order)
        assert offers_updates(windows) is (task.order.method != "kexec")
        kept_off = [name for name, reason in skipped.items() if reason.startswith("kexec resets nothing")]
        assert kept_off == (["update-refused", "update"] if task.order.method == "kexec" else [])


def test_without_full_and_on_metal_the_first_way_that_works_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    (one,) = tasks(Asked(machine=["host-uefi-grub"], variant=["v3.9"]))
    assert one.name == "host-uefi-grub v3.9" and len(one.order.machine.boot_methods) == 3
    metal = replace(MACHINES["haswell"], virtual=None, wiring=replace(MACHINES["haswell"].wiring,
                    boot_methods=("grub", "kexec")))  # fmt: skip
    monkeypatch.setattr("bench.inventory.load_inventory", lambda _: {"haswell": metal})
    (alone,) = tasks(Asked(machine=["haswell"], variant=["v3.9"], full=True))
    assert alone.order.machine == metal and alone.name == "haswell v3.9"
    (named,) = tasks(Asked(machine=["haswell"], variant=["v3.9"], method="kexec"))
    assert named.name == "haswell v3.9@kexec" and named.order.machine.boot_methods == ("kexec",)


def test_a_demonstration_goes_by_the_first_way_that_works() -> None:
    asked = Asked(machine=["host-uefi-grub"], variant=["v3.9"], full=True, demonstrate=True)
    *_, demonstration = tasks(asked)
    assert demonstration.bug is not None and demonstration.order.machine == MACHINES["host-uefi-grub"]
    assert "@" not in demonstration.name
