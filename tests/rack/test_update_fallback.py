"""Before an update goes to metal its known-good system is asked over SSH whether it loads microcode (an sshd here
plays it)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench.errors import LabError
from bench.hardware import SshAccess
from bench.images.kernel_image import KernelImage
from bench.inventory import survey
from bench.lab.boot import Limits
from bench.records import Machine
from bench.run import KernelOrder
from bench.run_kernel import run_kernel
from bench.scenarios import load_boot_plans
from bench.update_safety import require_fallback
from tests.rack import servers

pytestmark = [pytest.mark.rack, pytest.mark.slow, pytest.mark.timeout(120)]
ROOT = Path(__file__).parents[2]
PLAIN = "BOOT_IMAGE=/vmlinuz root=/dev/sda1 ro quiet"
SAYS = "@time\n1790000000\n@room\n@kernel\n6.1.0\n@command line\n{}\n@boot\nabc\n@end\n"


def ask(folder: Path, said: str) -> tuple[str, Machine]:
    """What `require_fallback` comes to where the system was started with `said`."""
    (folder / "answer").write_text(SAYS.format(said))
    with servers.ssh_host(folder / "ssh", forced=f"cat {folder}/answer") as host:
        access = SshAccess("127.0.0.1", host.user, host.host_key, host.port, host.key_file)
        box = survey(ROOT / "inventory" / "examples").machines["xeon-2u"]
        machine = replace(box, allow_updates=True, wiring=replace(box.wiring, ssh=access))
        return require_fallback(machine), machine


def test_a_known_good_system_that_loads_no_microcode_will_do(tmp_path: Path) -> None:
    assert ask(tmp_path, f"{PLAIN} dis_ucode_ldr")[0] == f"{PLAIN} dis_ucode_ldr"


@pytest.mark.parametrize("said", [PLAIN, ""])
def test_one_that_may_load_some_will_not(tmp_path: Path, said: str) -> None:
    with pytest.raises(LabError, match="its known-good system was started without dis_ucode_ldr") as error:
        ask(tmp_path, said)
    assert (error.value.component, error.value.witness) == ("known-good system", said)


def test_a_run_with_updates_ends_there_before_anything_is_switched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The power switch of this machine does not exist: whoever asked it would say something else."""
    monkeypatch.setattr(KernelImage, "traced", True)
    (tmp_path / "answer").write_text(SAYS.format(PLAIN))
    plans = load_boot_plans(ROOT)
    kernel = KernelImage("linux-6.1-trace", Path("none"), "6.1.192", 1, "ab", True)
    with servers.ssh_host(tmp_path / "ssh", forced=f"cat {tmp_path}/answer") as host:
        access = SshAccess("127.0.0.1", host.user, host.host_key, host.port, host.key_file)
        box = survey(ROOT / "inventory" / "examples").machines["xeon-2u"]
        machine = replace(box, allow_updates=True, wiring=replace(box.wiring, ssh=access))
        order = KernelOrder(machine, kernel, (plans["update"],), Path("init"))
        with pytest.raises(LabError, match="started without dis_ucode_ldr"):
            run_kernel(order, results=tmp_path, limits=Limits())
    assert not (tmp_path / "captures").exists()
