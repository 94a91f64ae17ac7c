"""Power over the rack's real protocols and servers, each starting and stopping a real QEMU."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bench.hardware import (
    CommandSwitch,
    Cuts,
    IpmiSwitch,
    PduSwitch,
    PowerSpec,
    RedfishSwitch,
    Secret,
    SshAccess,
    Switch,
    WakeSwitch,
    Wiring,
)
from bench.lab.power import PowerState
from bench.lab.power.choose import power_of
from bench.lab.power.device import Action
from bench.lab.power.failure import Failure, PowerError
from bench.lab.power.switched import SwitchedPower
from bench.lab.power.wake import magic_packet
from bench.records import Machine as Entry
from tests.rack import servers
from tests.rack.servers import Bmc, Machine, SshHost

pytestmark = [pytest.mark.rack, pytest.mark.slow]

PASSWORD = Bmc(0).password


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RACK_PASSWORD", PASSWORD)


def power(switch: Switch, ac: Switch | None = None, *, answer_s: float = 10, settle_s: float = 10) -> SwitchedPower:
    spec = PowerSpec(switch, ac=ac, minimum_off_s=0.2, answer_s=answer_s, settle_s=settle_s, bmc_start_s=20)
    return power_of(Entry("box", 0x306C3, 8 << 30, 39, True, False, wiring=Wiring(power=spec)))


def failure(work: object) -> PowerError:
    with pytest.raises(PowerError) as error:
        work()  # type: ignore[operator]
    assert PASSWORD not in str(error.value) + error.value.witness
    return error.value


def on_cycle_off(switched: SwitchedPower, machine: Machine) -> None:
    """The whole of what a switch is for, held against the process that is switched."""
    witness = switched.on()
    assert machine.pid, witness
    first = machine.pid
    assert switched.cycle() and machine.pid not in (None, first)
    switched.off()
    assert machine.pid is None
    switched.off()
    assert machine.pid is None and machine.starts == 2


class TestIpmi:
    @pytest.fixture
    def rack(self, tmp_path: Path, kernel: Path) -> Iterator[tuple[Machine, IpmiSwitch]]:
        vm_port = servers.free_port()
        with (
            servers.machine(tmp_path / "m", kernel, more=servers.bmc_link(vm_port)) as machine,
            servers.ipmi_bmc(tmp_path / "bmc", machine, vm_port) as bmc,
        ):
            yield machine, IpmiSwitch("127.0.0.1", bmc.user, Secret(env="RACK_PASSWORD"), bmc.port)

    def test_it_switches_a_machine(self, rack: tuple[Machine, IpmiSwitch]) -> None:
        machine, switch = rack
        switched = power(switch)
        assert switched.state() is PowerState.OFF
        on_cycle_off(switched, machine)
        assert switched.state() is PowerState.OFF

    def test_a_reset_is_not_a_cycle(self, rack: tuple[Machine, IpmiSwitch]) -> None:
        machine, switch = rack
        switched = power(switch)
        switched.on()
        before = machine.pid
        switched.reset()
        assert (machine.pid, machine.starts) == (before, 1), "the machine never lost its power"

    def test_a_wrong_password_is_a_refusal_and_tried_once(
        self, rack: tuple[Machine, IpmiSwitch], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("RACK_PASSWORD", "Wrong-0000")
        refusal = failure(power(rack[1]).on)
        assert refusal.failure is Failure.REFUSES and refusal.component == "IPMI 127.0.0.1"
        assert "tried" not in str(refusal) and "Wrong-0000" not in str(refusal)
        assert rack[0].starts == 0

    def test_the_password_is_in_no_command_line(self, rack: tuple[Machine, IpmiSwitch]) -> None:
        seen: set[bytes] = set()
        done = threading.Event()

        def watch() -> None:
            while not done.is_set():
                for path in Path("/proc").glob("[0-9]*/cmdline"):
                    try:
                        seen.add(path.read_bytes())
                    except OSError:
                        continue

        watcher = threading.Thread(target=watch)
        watcher.start()
        power(rack[1]).on()
        done.set()
        watcher.join()
        assert any(b"bmc_child" in line for line in seen), "the child was seen at all"
        assert not [line for line in seen if PASSWORD.encode() in line]

    def test_nobody_there_is_unreachable(self) -> None:
        switch = IpmiSwitch("127.0.0.1", "lab", Secret(env="RACK_PASSWORD"), servers.free_udp_port())
        assert failure(power(switch).device.read).failure is Failure.UNREACHABLE

    def test_a_bmc_that_stops_answering_hangs_and_the_child_is_gone_in_time(
        self, rack: tuple[Machine, IpmiSwitch]
    ) -> None:
        machine, switch = rack
        simulator = int(subprocess.check_output(["pgrep", "-f", f"{machine.folder.parent}/bmc/lan.conf"]).split()[0])
        os.kill(simulator, signal.SIGSTOP)
        try:
            begun = time.monotonic()
            hang = failure(power(switch, answer_s=0.5).on)
            assert hang.failure is Failure.HANGS and hang.witness == "no answer within 1 s"
            assert time.monotonic() - begun < 15
        finally:
            os.kill(simulator, signal.SIGCONT)


class TestRedfish:
    def switch(self, bmc: Bmc) -> RedfishSwitch:
        return RedfishSwitch(bmc.url, bmc.user, Secret(env="RACK_PASSWORD"))

    def test_it_switches_a_machine_and_resets_it(self, tmp_path: Path, kernel: Path) -> None:
        with (
            servers.machine(tmp_path / "m", kernel) as machine,
            servers.redfish_bmc(tmp_path / "bmc", machine) as bmc,
        ):
            switched = power(self.switch(bmc))
            on_cycle_off(switched, machine)
            assert switched.state() is PowerState.OFF
            switched.on()
            before, starts = machine.pid, machine.starts
            assert switched.reset()["switch"] == f"Redfish {bmc.url}"
            # The emulator has no reset line: a new process is how it starts a machine again.
            servers.wait_for(lambda: machine.starts == starts + 1 and machine.pid, "it starts again")
            assert machine.pid != before and switched.state() is PowerState.ON

    def test_a_bmc_that_says_yes_and_does_nothing_lies(self, tmp_path: Path, kernel: Path) -> None:
        with (
            servers.machine(tmp_path / "m", kernel) as machine,
            servers.redfish_bmc(tmp_path / "bmc", machine, lies=True) as bmc,
        ):
            lie = failure(power(self.switch(bmc), settle_s=0.5).on)
            assert lie.failure is Failure.LIES and lie.component == f"Redfish {bmc.url}"
            assert machine.starts == 0

    def test_a_bmc_that_answers_late_has_done_it(self, tmp_path: Path, kernel: Path) -> None:
        with (
            servers.machine(tmp_path / "m", kernel) as machine,
            servers.redfish_bmc(tmp_path / "bmc", machine, delay_s=6.5) as bmc,
        ):
            late = failure(power(self.switch(bmc), answer_s=6).on)
            assert late.failure is Failure.LATE and "6 s are allowed" in late.witness
            assert machine.pid

    def test_a_bmc_that_delays_for_ever_hangs(self, tmp_path: Path, kernel: Path) -> None:
        with (
            servers.machine(tmp_path / "m", kernel) as machine,
            servers.redfish_bmc(tmp_path / "bmc", machine, delay_s=60) as bmc,
        ):
            hang = failure(lambda: power(self.switch(bmc), answer_s=4).device.act(Action.ON))
            assert hang.failure is Failure.HANGS and hang.witness == "no answer within 8 s"

    def test_a_wrong_password_is_a_refusal(self, tmp_path: Path, kernel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RACK_PASSWORD", "Wrong-0000")
        with (
            servers.machine(tmp_path / "m", kernel) as machine,
            servers.redfish_bmc(tmp_path / "bmc", machine) as bmc,
        ):
            refusal = failure(power(self.switch(bmc)).on)
            assert refusal.failure is Failure.REFUSES and "401" in str(refusal)

    def test_a_server_that_takes_the_connection_and_says_nothing_hangs(self) -> None:
        with servers.silent_server() as port:
            switch = RedfishSwitch(f"http://127.0.0.1:{port}", "lab", Secret(env="RACK_PASSWORD"))
            assert failure(power(switch, answer_s=0.5).state).failure is Failure.HANGS

    def test_nobody_there_is_unreachable(self) -> None:
        switch = RedfishSwitch(f"http://127.0.0.1:{servers.free_port()}", "lab", Secret(env="RACK_PASSWORD"))
        assert failure(power(switch).state).failure is Failure.UNREACHABLE


def access(host: SshHost, **changes: object) -> SshAccess:
    whole = SshAccess("127.0.0.1", host.user, host.host_key, host.port, host.key_file)
    return replace(whole, **changes)  # type: ignore[arg-type]


class TestSshPowerHost:
    def switch(self, machine: Machine, ssh: SshAccess) -> CommandSwitch:
        program = str(machine.switch())
        return CommandSwitch(Cuts.AC, on=(program, "on"), off=(program, "off"), status=(program, "status"), ssh=ssh)

    @pytest.fixture
    def machine(self, tmp_path: Path, kernel: Path) -> Iterator[Machine]:
        with servers.machine(tmp_path / "m", kernel) as machine:
            yield machine

    @pytest.fixture
    def host(self, tmp_path: Path) -> Iterator[SshHost]:
        with servers.ssh_host(tmp_path / "ssh") as host:
            yield host

    def test_it_switches_a_machine(self, machine: Machine, host: SshHost) -> None:
        switched = power(self.switch(machine, access(host)))
        on_cycle_off(switched, machine)
        assert switched.state() is PowerState.OFF

    def test_a_forced_command_gets_the_order_in_its_environment(self, machine: Machine, tmp_path: Path) -> None:
        """The key in the bench's hands can do nothing else on that host."""
        program = machine.switch()
        with servers.ssh_host(tmp_path / "ssh", forced=f"exec {program} $SSH_ORIGINAL_COMMAND") as host:
            words = CommandSwitch(Cuts.AC, on=("on",), off=("off",), status=("status",), ssh=access(host))
            on_cycle_off(power(words), machine)

    def test_another_host_key_stops_before_anything_is_sent(self, machine: Machine, host: SshHost) -> None:
        other = " ".join((host.folder / "stranger.pub").read_text().split()[:2])
        refusal = failure(power(self.switch(machine, access(host, host_key=other))).on)
        assert refusal.failure is Failure.REFUSES
        assert refusal.component == "SSH power host 127.0.0.1"
        assert "another host key than the pinned one" in str(refusal) and host.host_key in str(refusal)
        assert machine.starts == 0
        assert "userauth" not in host.log and "publickey" not in host.log and host.user + " " not in host.log

    def test_a_key_that_the_host_does_not_know_is_a_refusal(self, machine: Machine, host: SshHost) -> None:
        stranger = access(host, key_file=str(host.folder / "stranger"))
        refusal = failure(power(self.switch(machine, stranger)).on)
        assert refusal.failure is Failure.REFUSES and f"does not let {host.user} in" in str(refusal)

    def test_a_command_that_never_ends_hangs(self, host: SshHost) -> None:
        slow = CommandSwitch(Cuts.AC, on=("sleep", "600"), off=("true",), ssh=access(host))
        begun = time.monotonic()
        hang = failure(power(slow, answer_s=1).on)
        assert hang.failure is Failure.HANGS and "no end within 1 s" in hang.witness
        assert time.monotonic() - begun < 10

    def test_an_sshd_that_says_nothing_hangs(self, host: SshHost) -> None:
        with servers.silent_server() as port:
            mute = CommandSwitch(Cuts.AC, on=("true",), off=("true",), ssh=access(host, port=port))
            assert failure(power(mute, answer_s=0.5).on).failure is Failure.HANGS

    def test_nobody_there_is_unreachable(self, host: SshHost) -> None:
        gone = CommandSwitch(Cuts.AC, on=("true",), off=("true",), ssh=access(host, port=servers.free_port()))
        assert failure(power(gone).on).failure is Failure.UNREACHABLE


class TestPduDaemon:
    def test_both_outlets_of_a_machine_with_two_supplies(self, tmp_path: Path) -> None:
        log = tmp_path / "outlets"
        with servers.pdu_daemon(tmp_path / "pdu", {"apc": (f"echo on %s >>{log}", f"echo off %s >>{log}")}) as url:
            switched = power(PduSwitch(url, "apc", ("3", "7")))
            witness = switched.on()
            switched.off()
        assert log.read_text().splitlines() == ["on 3", "on 7", "off 3", "off 7"]
        assert witness["outlet 7"] == "OK - accepted request"
        assert witness["state"] == "not read back: this switch cannot tell"

    def test_it_switches_a_machine(self, tmp_path: Path, kernel: Path) -> None:
        with servers.machine(tmp_path / "m", kernel) as machine:
            program = machine.switch()
            # An outlet number comes behind; the program does not look at it.
            with servers.pdu_daemon(tmp_path / "pdu", {"apc": (f"{program} on %s", f"{program} off %s")}) as url:
                on_cycle_off(power(PduSwitch(url, "apc", ("3",))), machine)

    def test_an_unknown_pdu_is_a_refusal(self, tmp_path: Path) -> None:
        with servers.pdu_daemon(tmp_path / "pdu", {"apc": ("true %s", "true %s")}) as url:
            refusal = failure(power(PduSwitch(url, "other", ("1",))).on)
        assert refusal.failure is Failure.REFUSES and "HTTP 500" in str(refusal) and refusal.component == "PDU other"

    def test_an_outlet_that_never_comes_to_an_end_hangs(self, tmp_path: Path) -> None:
        with servers.pdu_daemon(tmp_path / "pdu", {"apc": ("sleep 5; : %s", "true %s")}) as url:
            assert failure(power(PduSwitch(url, "apc", ("1",)), answer_s=0.5).on).failure is Failure.HANGS

    def test_a_server_of_another_kind_speaks_nonsense(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as one:

            def answer() -> None:
                for _ in range(2):
                    far, _ = one.accept()
                    with far:
                        far.recv(1000)
                        far.sendall(b"220 mail.example ESMTP\r\n")

            thread = threading.Thread(target=answer)
            thread.start()
            url = f"http://127.0.0.1:{one.getsockname()[1]}"
            assert failure(power(PduSwitch(url, "apc", ("1",))).on).failure is Failure.GARBLED
            thread.join()

    def test_nobody_there_is_unreachable(self) -> None:
        switch = PduSwitch(f"http://127.0.0.1:{servers.free_port()}", "apc", ("1",))
        assert failure(power(switch).on).failure is Failure.UNREACHABLE


class TestWakeOnLan:
    """A network card that listens for its packet, as a few lines; sshd and QEMU are real."""

    MAC = "52:54:00:77:00:01"

    @pytest.fixture
    def card(self, tmp_path: Path, kernel: Path) -> Iterator[tuple[Machine, int]]:
        with (
            servers.machine(tmp_path / "m", kernel) as machine,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as card,
        ):
            card.bind(("127.0.0.1", 0))
            card.settimeout(0.1)
            over = threading.Event()
            program = machine.switch()

            def listen() -> None:
                while not over.is_set():
                    try:
                        packet = card.recv(500)
                    except TimeoutError:
                        continue
                    if packet == magic_packet(self.MAC):
                        subprocess.run([program, "on"], check=True)

            thread = threading.Thread(target=listen)
            thread.start()
            try:
                yield machine, card.getsockname()[1]
            finally:
                over.set()
                thread.join()

    def test_it_wakes_and_puts_to_sleep(self, card: tuple[Machine, int], tmp_path: Path) -> None:
        machine, port = card
        with servers.ssh_host(tmp_path / "ssh") as host:
            switch = WakeSwitch(self.MAC, "127.0.0.1", access(host), port, off=f"{machine.switch()} off")
            switched = power(switch)
            switched.on()
            servers.wait_for(lambda: machine.pid, "the machine wakes up")
            switched.off()
            assert machine.pid is None

    def test_a_machine_that_hangs_is_cut_off_from_the_mains(self, card: tuple[Machine, int], tmp_path: Path) -> None:
        machine, port = card
        program = str(machine.switch())
        mains = CommandSwitch(Cuts.AC, on=("true",), off=(program, "off"))
        with servers.ssh_host(tmp_path / "ssh") as host, servers.silent_server() as mute:
            switch = WakeSwitch(self.MAC, "127.0.0.1", access(host, port=mute), port)
            with_mains = power(switch, mains, answer_s=0.5)
            with_mains.on()
            servers.wait_for(lambda: machine.pid, "the machine wakes up")
            without = failure(power(switch, answer_s=0.5).off)
            assert without.failure is Failure.HANGS and "key power.ac" in str(without) and machine.pid
            witness = with_mains.off()
            assert machine.pid is None and "key power.ac" in witness["own switch"]
