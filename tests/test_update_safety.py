"""Updates go to metal only where the inventory says so, and what has to be said and to be so before."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench.batch import Task
from bench.cli_kernels import kernel_tasks
from bench.cli_plan import make_plan
from bench.errors import LabError, UsageError
from bench.images.kernel_image import KernelImage
from bench.images.newest_update import update_for
from bench.inventory import load_inventory, survey
from bench.lab.flash.refusals import fallback_objection
from bench.run import KernelOrder
from bench.scenarios import Skip, expand_boots, load_boot_plans
from bench.update_safety import require_allowed, require_fallback

ROOT = Path(__file__).resolve().parent.parent
MACHINES = load_inventory(ROOT)
RACK = survey(ROOT / "inventory" / "examples").machines
PLANS = load_boot_plans(ROOT)
KERNEL = KernelImage("linux-6.1-trace", Path("none"), "6.1.192", 1, "ab", True)
FORBIDDEN = replace(RACK["xeon-2u"], allow_updates=False)
ALLOWED = replace(FORBIDDEN, allow_updates=True)


def test_updates_are_refused_where_the_inventory_does_not_allow_them() -> None:
    with pytest.raises(
        UsageError, match="xeon-2u: the inventory does not allow microcode updates on it: allow_updates"
    ):
        require_allowed(FORBIDDEN)
    require_allowed(ALLOWED)
    require_allowed(MACHINES["coffeelake"])  # a virtual one forgets them


def test_a_plan_with_updates_is_skipped_there_and_others_are_not() -> None:
    skipped = expand_boots(PLANS["update"], FORBIDDEN, "v6.1")
    assert isinstance(skipped, Skip) and "allow_updates" in skipped.reason
    assert not isinstance(expand_boots(PLANS["plain"], FORBIDDEN, "v6.1"), Skip)
    (boot,) = expand_boots(PLANS["update"], ALLOWED, "v6.1")  # type: ignore[misc]
    assert boot.with_update and boot.with_initrd


def test_naming_such_a_plan_for_such_a_machine_is_wrong_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.inventory.load_inventory", lambda _: {"box": replace(FORBIDDEN, name="box")})
    with pytest.raises(UsageError, match="box: the inventory does not allow microcode updates"):
        kernel_tasks(
            ROOT, ["linux-6.1-trace"], ["box"], every=False, plans=["update"], full=False, witness=False, quiet=True
        )


def test_the_plan_says_that_the_revision_cannot_be_lowered_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(KernelImage, "traced", True)

    def touched(machine: object, plan: str) -> str:
        order = KernelOrder(machine, KERNEL, (PLANS[plan],), Path("init"))  # type: ignore[arg-type]
        return "\n".join(make_plan([Task(order)], tmp_path, 1).lines())

    said = "xeon-2u: the revision of its microcode cannot be lowered again"
    assert said in touched(ALLOWED, "update") and "until a cold start" in touched(ALLOWED, "update")
    assert said not in touched(ALLOWED, "plain")
    assert "lowered" not in touched(MACHINES["coffeelake"], "update")


@pytest.mark.parametrize(
    ("command_line", "fit"),
    [
        ("BOOT_IMAGE=/vmlinuz root=/dev/sda1 ro dis_ucode_ldr quiet", True),
        ("BOOT_IMAGE=/vmlinuz root=/dev/sda1 ro quiet", False),
        ("not_dis_ucode_ldr dis_ucode_ldr_too", False),
        ("", False),
    ],
)
def test_a_system_to_fall_back_to_loads_no_microcode(command_line: str, fit: bool) -> None:
    assert (fallback_objection(command_line) == "") is fit


def test_a_system_that_nobody_can_ask_is_none_to_fall_back_to() -> None:
    with pytest.raises(LabError, match="nobody can ask its known-good system") as error:
        require_fallback(replace(ALLOWED, wiring=replace(ALLOWED.wiring, ssh=None)))
    assert error.value.component == "known-good system"


def test_a_made_up_update_never_goes_to_metal() -> None:
    with pytest.raises(UsageError, match="a made-up update is none for a machine of metal"):
        update_for(ALLOWED, None)
    made = update_for(MACHINES["coffeelake"], None)
    assert made.source == "made up" and made.revision == 0x85  # one above its BIOS's


def test_a_way_that_talks_to_the_known_good_system_asks_it_itself() -> None:
    """The machine may be off now: its loader starts it."""
    by_disk = replace(ALLOWED.wiring, ssh=None, boot_methods=("grub", "bootnext"))
    assert require_fallback(replace(ALLOWED, wiring=by_disk)) == ""
    with pytest.raises(LabError, match="nobody can ask"):
        require_fallback(replace(ALLOWED, wiring=replace(by_disk, boot_methods=("grub", "pxe"))))
