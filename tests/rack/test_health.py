"""`bench health` on a machine with BMC and serial cable, whose own system answers SSH (an sshd here plays it)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.health import Check, Health, examine
from bench.inventory import load_inventory
from bench.lab import metal
from bench.lab.power.choose import power_of
from bench.store import Store
from tests.lab import tiny_kernel
from tests.rack import servers
from tests.rack.servers import Bmc, Machine, SshHost

pytestmark = [pytest.mark.rack, pytest.mark.slow, pytest.mark.timeout(300)]

REPO = Path(__file__).parents[2]
ENTRY = """\
name = "box"
signature = "06-3c-03"
memory = "8 GiB"
maxphyaddr = 39
time_to_post_s = 1
boot_methods = ["loaded"]

[serial]
url = "{port}"

[power]
backend = "ipmi"
host = "127.0.0.1"
port = {bmc.port}
user = "{bmc.user}"
password_env = "RACK_PASSWORD"
minimum_off_s = 0.5

[ssh]
host = "127.0.0.1"
port = {ssh.port}
user = "{ssh.user}"
key_file = "{ssh.key_file}"
host_key = "{key}"
"""


class Lab:
    """A lab with one machine, and `bench` in it."""

    def __init__(self, folder: Path, machine: Machine, port: Path, bmc: Bmc, ssh: SshHost) -> None:
        self.folder, self.machine, self.ssh = folder, machine, ssh
        (folder / "firmware-images").mkdir(parents=True)
        (folder / "inventory" / "machines").mkdir(parents=True)
        self._entry = lambda key: ENTRY.format(port=port, bmc=bmc, ssh=ssh, key=key)
        self.pin(ssh.host_key)

    def pin(self, key: str, *, more: str = "") -> None:
        (self.folder / "inventory" / "machines" / "box.toml").write_text(self._entry(key) + more)

    def health(self, *options: str) -> tuple[int, dict[str, Any]]:
        return self.bench("health", *options)

    def bench(self, verb: str, *options: str) -> tuple[int, dict[str, Any]]:
        done = subprocess.run(
            [sys.executable, "-m", "bench", verb, "box", "--json", *options],
            env={**os.environ, "BENCH_ROOT": str(self.folder), "PYTHONPATH": str(REPO),
                 "RACK_PASSWORD": Bmc(0).password},
            stdout=subprocess.PIPE, check=False,
        )  # fmt: skip
        assert self.machine.pid is None, "it is left off"
        return done.returncode, json.loads(done.stdout)


def by_name(found: dict[str, Any]) -> dict[str, bool | None]:
    return {check["name"]: check["ok"] for check in found["checks"]}


def failures(found: dict[str, Any]) -> dict[str, str]:
    return {check["name"]: check["found"] for check in found["checks"] if check["ok"] is False}


@pytest.fixture
def lab(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Lab]:
    text: bytes = getattr(request, "param", b"GRUB\r\nits own system\r\n")
    kernel = tiny_kernel.write(tmp_path / "kernel", text, "halt")
    vm_port = servers.free_port()
    with servers.cable(tmp_path / "cable") as (machine_end, console_end):
        serial = ("-chardev", f"serial,id=s0,path={machine_end}", "-serial", "chardev:s0")
        with (
            servers.machine(tmp_path / "m", kernel, serial=serial, more=servers.bmc_link(vm_port)) as machine,
            servers.ipmi_bmc(tmp_path / "bmc", machine, vm_port) as bmc,
            servers.ssh_host(tmp_path / "ssh") as ssh,
        ):
            yield Lab(tmp_path / "lab", machine, console_end.resolve(), bmc, ssh)


def test_a_sound_machine_passes_and_its_firmware_is_remembered(lab: Lab) -> None:
    code, found = lab.health()
    assert (code, failures(found)) == (0, {})
    assert by_name(found) == dict.fromkeys(
        ("serial port", "power read back", "known-good system", "serial line", "left off", "clock", "room in /boot",
         "firmware"), True,
    )  # fmt: skip
    assert found["time_to_first_byte_s"] >= 0 and found["time_to_ssh_s"] >= 0
    assert found["condition"]["time_to_ssh_s"] == found["time_to_ssh_s"], "learnt"
    assert b"its own system" in (Path(found["capture"]) / "serial.bin").read_bytes()
    assert lab.health()[0] == 0


def test_a_system_that_answers_long_after_post_is_waited_for(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RACK_PASSWORD", Bmc(0).password)
    monkeypatch.setattr(metal, "POST_MARGIN", (2.0, 0.0))
    box = load_inventory(lab.folder)["box"]
    access, late = box.wiring.ssh, servers.free_port()
    assert access is not None
    box = replace(box, wiring=replace(box.wiring, time_to_post_s=0.5, ssh=replace(access, port=late)))
    forward = [servers.program("socat"), f"TCP-LISTEN:{late},bind=127.0.0.1,fork,reuseaddr",
               f"TCP:127.0.0.1:{access.port}"]  # fmt: skip
    with ExitStack() as stack, Store(tmp_path / "bench.sqlite") as store:

        def answer() -> None:
            stack.enter_context(servers.server(forward, tmp_path / "socat.log"))

        # Nothing is there before this, however slow the computer is: it cannot be seen too early.
        later = threading.Timer(2 * metal.post_s(box), answer)

        def told(check: Check) -> None:
            if check.found.endswith("after on"):
                later.start()

        found = examine(box, Health(store), tmp_path / "capture", power=power_of(box), told=told)
        later.join()
        assert found.ok, found.checks
        assert found.time_to_ssh_s is not None and found.time_to_ssh_s > metal.post_s(box)
        assert Health(store).condition("box").time_to_ssh_s == found.time_to_ssh_s


def test_changed_firmware_takes_it_offline_until_it_is_accepted(lab: Lab) -> None:
    lab.health()
    with Store(lab.folder / "results" / "bench.sqlite") as store:
        health = Health(store)
        before = dict(health.condition("box").fingerprint or {})
        name = next(iter(before))
        health.note("box", [], before | {name: "of another time"})
    for failed_in_a_row in (1, 2):
        code, found = lab.health()
        assert code == 3 and list(failures(found)) == ["firmware"]
        assert f"{name} was 'of another time', is '{before[name]}'" in failures(found)["firmware"]
        assert found["condition"]["failures"] == failed_in_a_row
    assert found["condition"]["offline_since"] and "has changed" in found["condition"]["reason"]
    code, found = lab.health("--accept-drift")
    assert code == 0 and found["condition"]["offline_since"] is None
    assert lab.health()[0] == 0


def test_another_host_key_is_not_talked_to(lab: Lab) -> None:
    lab.pin(" ".join((lab.ssh.folder / "stranger.pub").read_text().split()[:2]))
    code, found = lab.health()
    assert code == 3 and "another host key than the pinned one" in failures(found)["known-good system"]
    assert by_name(found)["serial line"] is True, "the rest is examined all the same"


@pytest.mark.parametrize("lab", [b""], indirect=True)
def test_a_dead_serial_line_is_found_although_the_machine_runs(lab: Lab) -> None:
    code, found = lab.health()
    assert code == 3 and list(failures(found)) == ["serial line"]


MAINS = """
[power.ac]
backend = "command"
cuts = "ac"
on = ["touch", "{folder}/mains-on"]
off = ["touch", "{folder}/mains-off"]
"""


def test_a_machine_that_went_offline_is_brought_back(lab: Lab) -> None:
    lab.pin(" ".join((lab.ssh.folder / "stranger.pub").read_text().split()[:2]))
    assert [lab.health()[0] for _ in range(2)] == [3, 3]
    lab.pin(lab.ssh.host_key)
    code, found = lab.bench("recover")
    assert (code, failures(found)) == (0, {}) and found["condition"]["offline_since"] is None
    assert lab.health()[0] == 0


def test_what_its_own_switch_does_not_mend_gets_a_cold_start_and_then_a_person(lab: Lab, tmp_path: Path) -> None:
    lab.pin(" ".join((lab.ssh.folder / "stranger.pub").read_text().split()[:2]), more=MAINS.format(folder=tmp_path))
    code, found = lab.bench("recover")
    assert code == 3 and "another host key" in failures(found)["known-good system"]
    assert (tmp_path / "mains-off").exists() and (tmp_path / "mains-on").exists()
    assert sorted(p.name for p in Path(found["capture"]).iterdir()) == ["try-1", "try-2"]
    assert found["condition"]["failures"] == 2
