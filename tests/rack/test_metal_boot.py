"""A machine of metal by its inventory entry alone: BMC over IPMI, serial line through a console server.

What stands for the metal is QEMU in ipmi_sim's hands: the bench does not know that, and goes the way that it goes in a
rack. The same boot on a virtual machine has to give the same verdict.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from bench.images import build_payload
from bench.inventory import load_inventory
from bench.lab import metal
from bench.lab.boot import Limits, Load, Progress, boot
from bench.lab.load import Loader, Note
from bench.lab.power import Power
from bench.lab.power.failure import Failure, PowerError
from bench.lab.virtual import qemu_command
from bench.records import Machine as Entry
from bench.records import Verdict
from bench.run import Order, judge_folders, offer
from bench.scenarios import load_scenarios
from bench.script import render
from tests.lab import tiny_kernel
from tests.rack import servers
from tests.rack.servers import Bmc, Machine

pytestmark = [pytest.mark.rack, pytest.mark.slow, pytest.mark.timeout(300)]

REPO = Path(__file__).parents[2]
NONCE = 0x0123456789ABCDEF
LIMITS = Limits(first_byte_s=60, silence_s=30, total_s=120)
ENTRY = """\
name = "box"
signature = "06-3c-03"
platform_id = 1
memory = "8 GiB"
maxphyaddr = 39
boot_methods = ["loaded"]
time_to_post_s = 5
quirks = ["tcg-reserved-bit-error-code"]

[serial]
url = "{url}"

[power]
{power}
user = "{bmc.user}"
password_env = "RACK_PASSWORD"
minimum_off_s = 0.5
"""
IPMI = """\
backend = "ipmi"
host = "127.0.0.1"
port = {bmc.port}"""
REDFISH = """\
backend = "redfish"
url = "{bmc.url}"
answer_s = 6
settle_s = 1"""


class Medium(Loader):
    """The medium that the machine starts from: its script is a file, and without one it starts nothing of ours."""

    def __init__(self, script: Path) -> None:
        self.script = script
        self.log: list[str] = []

    def load(self, machine: Entry, load: Load, power: Power, note: Note) -> Mapping[str, str]:  # noqa: ARG002
        self.log.append("load")
        self.script.write_bytes(load.initrd)
        return {"script": f"{len(load.initrd)} bytes for {machine.name}"}

    def fall_back(self, machine: Entry) -> Mapping[str, str]:
        self.log.append("fall back")
        self.script.write_bytes(b"\n")
        return {"script": f"none for {machine.name}"}


@dataclass(frozen=True)
class Rack:
    """One machine, as the lab has it, as the bench knows it, and what it starts from."""

    machine: Machine
    entry: Entry
    medium: Medium
    lab: Path


@contextmanager
def rack(tmp_path: Path, kernel: Path, **redfish: Any) -> Iterator[Rack]:
    """A machine with BMC, serial cable and console server, and a lab whose inventory has its entry.

    `redfish`: its BMC speaks that, and has these ways.
    """
    haswell = load_inventory(REPO)["haswell"]
    script = tmp_path / "script.txt"
    script.write_bytes(b"\n")
    lab = tmp_path / "lab"
    (lab / "firmware-images").mkdir(parents=True)
    (lab / "inventory" / "machines").mkdir(parents=True)
    (lab / "inventory" / "quirks.toml").write_text((REPO / "inventory" / "quirks.toml").read_text())
    vm_port = servers.free_port()
    with servers.cable(tmp_path / "cable") as (machine_end, console_end):
        serial = ("-chardev", f"serial,id=s0,path={machine_end}", "-serial", "chardev:s0")
        more = ("-initrd", str(script), "-append", "", *servers.bmc_link(vm_port))
        with (
            servers.machine(tmp_path / "m", kernel, serial=serial, more=more, board=_board(haswell)) as machine,
            (
                servers.redfish_bmc(tmp_path / "bmc", machine, **redfish)
                if redfish
                else servers.ipmi_bmc(tmp_path / "bmc", machine, vm_port)
            ) as bmc,
            servers.console_server(tmp_path / "ser2net", console_end) as (_, raw),
        ):
            power = (REDFISH if redfish else IPMI).format(bmc=bmc)
            (lab / "inventory" / "machines" / "box.toml").write_text(ENTRY.format(url=raw, bmc=bmc, power=power))
            yield Rack(machine, load_inventory(lab)["box"], Medium(script), lab)


def _board(entry: Entry) -> list[str]:
    """Processor and memory as the bench itself gives them to QEMU for this machine."""
    command = qemu_command(entry, Load(Path("k"), b"", ""), serial_path=Path("s"), witness=False)
    wanted = {"-accel", "-machine", "-cpu", "-smp", "-object", "-m"}
    pairs = itertools.pairwise(command)
    return [word for option, value in pairs if option in wanted for word in (option, value)]


@pytest.fixture
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Firmware that takes no longer than the entry says."""
    monkeypatch.setattr(metal, "POST_MARGIN", (0.1, 0.0))


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RACK_PASSWORD", Bmc(0).password)


def events(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


def kinds(folder: Path) -> list[str]:
    return [event["kind"] for event in events(folder)]


def boot_payload(entry: Entry, folder: Path, **more: Any) -> Path:
    """The scenario `ping-pong` of v3.9, booted once."""
    scenarios = load_scenarios(REPO / "firmware-images" / "scenarios")
    order = Order(entry, "v3.9", (scenarios["ping-pong"],))
    windows, names, _ = offer(order)
    meta = {"image": order.image, "nonce": f"{NONCE:x}", "scenarios": {str(w.number): names[w.number] for w in windows}}
    load = Load(build_payload(REPO).kernel, render(windows, nonce=NONCE), "")
    return boot(entry, load, folder, meta=meta, limits=LIMITS, **more)


def test_the_same_verdict_as_on_a_virtual_machine(tmp_path: Path) -> None:
    virtual = judge_folders([boot_payload(load_inventory(REPO)["haswell"], tmp_path / "virtual")])
    with rack(tmp_path, build_payload(REPO).kernel) as box:
        folder = boot_payload(box.entry, tmp_path / "metal", loader=box.medium)
        assert box.machine.pid is None and box.machine.starts == 1
        assert box.medium.log == ["load", "fall back"]
    assert kinds(folder) == [
        "port_opened", "loaded", "power_off", "power_on", "first_byte", "marker", "power_off", "restored"
    ]  # fmt: skip
    on = events(folder)[3]["witness"]
    assert on["switch"] == "IPMI 127.0.0.1" and on["state"] == "read back on"
    of_metal = judge_folders([folder])
    assert of_metal.verdict is virtual.verdict is Verdict.PASS
    (one,), (other,) = virtual.scenarios, of_metal.scenarios
    assert other.predicted > 0 and replace(one) == replace(other)
    capture = json.loads((folder / "capture.json").read_text())
    assert capture["virtual"] is False and capture["machine"] == "box"
    assert Bmc(0).password not in "".join(
        path.read_text(errors="replace") for path in folder.iterdir() if path.suffix in (".json", ".jsonl")
    )


@pytest.mark.usefixtures("brisk")
def test_a_machine_found_running_is_switched_off_first(tmp_path: Path) -> None:
    """Its own system may be running, or what the last bench left: the boot begins from cold all the same."""
    text = b"its own system\r\n"
    with rack(tmp_path, tiny_kernel.write(tmp_path / "kernel", text, "halt")) as box:
        subprocess.run([sys.executable, "-m", "bench", "power", "box", "on"], check=True, cwd=REPO,
                       env={**os.environ, "BENCH_ROOT": str(box.lab)}, stdout=subprocess.DEVNULL)  # fmt: skip
        before = box.machine.pid
        assert before
        quiet = Limits(first_byte_s=60, silence_s=0.5, total_s=60)
        folder = boot(
            box.entry, Load(Path("k"), b"\n", ""), tmp_path / "boot", meta={}, limits=quiet, loader=box.medium
        )
        assert box.machine.pid is None and box.machine.starts == 2
        off = events(folder)[2]["witness"]
        assert off["state"] == "read back off" and off["serial line"] == "silent for 0.5 s"


def test_the_console_shows_a_start_that_it_asked_for(tmp_path: Path) -> None:
    """`bench power` cannot, since the console has the machine."""
    with rack(tmp_path, tiny_kernel.write(tmp_path / "kernel", b"from the start\r\n", "halt")) as box:
        console = subprocess.Popen(
            [sys.executable, "-m", "bench", "console", "box", "--cycle"],
            cwd=REPO,
            env={**os.environ, "BENCH_ROOT": str(box.lab)},
            stdout=subprocess.PIPE,
            # A shell that runs the tests in the background has Ctrl-C ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        assert console.stdout
        assert console.stdout.readline() == b"from the start\r\n" and box.machine.starts == 1
        console.send_signal(signal.SIGINT)
        console.communicate(timeout=30)
        assert console.returncode == 0 and box.machine.pid, "it is left on, for whoever looks at it"


@pytest.mark.usefixtures("brisk")
def test_a_silent_machine_is_seen_to_have_power(tmp_path: Path) -> None:
    with rack(tmp_path, tiny_kernel.write(tmp_path / "kernel", b"", "halt")) as box:
        quiet = Limits(first_byte_s=0.5, silence_s=60, total_s=60)
        folder = boot(
            box.entry, Load(Path("k"), b"\n", ""), tmp_path / "boot", meta={}, limits=quiet, loader=box.medium
        )
    (silence,) = [event for event in events(folder) if event["kind"] == "silence"]
    assert silence["witness"]["power"] == "read back on"
    assert "processor" not in silence["witness"], "nobody can look at it"


def test_a_bmc_that_refuses_begins_nothing_and_undoes_the_loading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RACK_PASSWORD", "Wrong-0000")
    with rack(tmp_path, tiny_kernel.write(tmp_path / "kernel", b"x", "halt")) as box:
        with pytest.raises(PowerError) as error:
            boot_payload(box.entry, tmp_path / "boot", loader=box.medium)
        assert error.value.failure is Failure.REFUSES and error.value.component == "IPMI 127.0.0.1"
        assert box.machine.starts == 0 and box.medium.log == ["load", "fall back"]
        assert kinds(tmp_path / "boot") == ["port_opened", "loaded", "restored"]


@pytest.mark.usefixtures("brisk")
def test_a_bmc_that_falls_silent_in_mid_boot_is_a_lab_error_in_bounded_time(tmp_path: Path) -> None:
    with rack(tmp_path, tiny_kernel.write(tmp_path / "kernel", b"x", "halt")) as box:
        simulator = int(subprocess.check_output(["pgrep", "-f", f"{tmp_path}/bmc/lan.conf"]).split()[0])
        stopped: list[float] = []

        def stop(now: Progress) -> None:
            if now.size_bytes and not stopped:
                stopped.append(time.monotonic())
                os.kill(simulator, signal.SIGSTOP)

        limits = Limits(first_byte_s=60, silence_s=0.5, total_s=60)
        try:
            with pytest.raises(PowerError) as error:
                boot(box.entry, Load(Path("k"), b"\n", ""), tmp_path / "boot", meta={}, limits=limits,
                     loader=box.medium, progress=stop)  # fmt: skip
        finally:
            os.kill(simulator, signal.SIGCONT)
        # Over UDP a BMC that hangs looks like one that is not there.
        assert error.value.failure is Failure.UNREACHABLE and error.value.component == "IPMI 127.0.0.1"
        assert time.monotonic() - stopped[0] < 100
        assert box.medium.log == ["load", "fall back"] and kinds(tmp_path / "boot")[-1] == "restored"


@pytest.mark.parametrize(
    ("ways", "kind", "said"),
    [
        ({"lies": True}, Failure.LIES, "still says off"),
        ({"delay_s": 6.5}, Failure.LATE, "6 s are allowed"),
        ({"delay_s": 60}, Failure.HANGS, "no answer within"),
    ],
    ids=["lies", "late", "hangs"],
)
def test_a_bmc_that_cannot_be_relied_on_leaves_the_machine_off(
    tmp_path: Path, ways: dict[str, Any], kind: Failure, said: str
) -> None:
    with rack(tmp_path, tiny_kernel.write(tmp_path / "kernel", b"x", "halt"), **ways) as box:
        begun = time.monotonic()
        with pytest.raises(PowerError) as error:
            boot_payload(box.entry, tmp_path / "boot", loader=box.medium)
        assert error.value.failure is kind and said in error.value.witness
        assert error.value.component.startswith("Redfish http://127.0.0.1:")
        assert time.monotonic() - begun < 200
        assert box.medium.log[-1] == "fall back" and kinds(tmp_path / "boot")[-1] == "restored"
        servers.wait_for(lambda: box.machine.pid is None, "the machine is off")
        assert box.machine.starts == 0, "nothing begins that could not be ended"
