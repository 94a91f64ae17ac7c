"""Power switches that are programs: what is told to them, what is believed, and how each failure is named."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from bench.errors import UsageError
from bench.hardware import CommandSwitch, Cuts, ManualSwitch, PowerSpec, Secret, WakeSwitch
from bench.lab.power import PowerState
from bench.lab.power.choose import power_of
from bench.lab.power.command import CommandDevice
from bench.lab.power.device import Action, Device
from bench.lab.power.failure import RETRIES, Failure, PowerError, Retry, retried
from bench.lab.power.manual import ManualDevice
from bench.lab.power.switched import SwitchedPower
from bench.lab.power.wake import PACKETS, magic_packet
from bench.lab.secret import reveal
from bench.records import Machine, VirtualSpec


class Board:
    """A supply whose state is a file, and a program that switches it; every call leaves a line in `calls`."""

    def __init__(self, folder: Path) -> None:
        self.state = folder / "state"
        self.state.write_text("off")
        self.log = folder / "log"
        self.log.touch()
        self.program = folder / "switch"
        self.behave()

    def behave(self, on: str = "", off: str = "", status: str = "") -> None:
        """Give it other lines of shell than the honest ones."""
        self.program.write_text(f"""#!/bin/sh
echo "$1" >>{self.log}
case $1 in
    on) {on or f"printf on >{self.state}"} ;;
    off) {off or f"printf off >{self.state}"} ;;
    reset) : ;;
    press) if [ "$(cat {self.state})" = on ]; then printf off; else printf on; fi >{self.state}.new
        mv {self.state}.new {self.state} ;;
    hold) printf off >{self.state} ;;
    status) {status or f"cat {self.state}"} ;;
esac
""")
        self.program.chmod(0o755)

    @property
    def calls(self) -> list[str]:
        return [line for line in self.log.read_text().split() if line != "status"]

    def switch(self, *verbs: str, cuts: Cuts = Cuts.CHASSIS) -> CommandSwitch:
        names = {"on": "on", "off": "off", "press": "short_press", "hold": "long_press", "status": "status",
                 "reset": "reset"}  # fmt: skip
        return CommandSwitch(cuts, **{names[verb]: (str(self.program), verb) for verb in verbs})


@pytest.fixture
def board(tmp_path: Path) -> Board:
    return Board(tmp_path)


HONEST = ("on", "off", "status", "reset")


def power(
    switch: CommandSwitch, *, ac: CommandSwitch | None = None, answer_s: float = 30, settle_s: float = 30
) -> tuple[SwitchedPower, list[float]]:
    """The power, and how long it paused (it does not really)."""
    spec = PowerSpec(switch, ac=ac, minimum_off_s=7, answer_s=answer_s, settle_s=settle_s, bmc_start_s=0)
    pauses: list[float] = []
    mains = CommandDevice(ac, answer_s=answer_s) if ac else None
    return SwitchedPower(CommandDevice(switch, answer_s=answer_s), spec, ac=mains, pause=pauses.append), pauses


def failure(work: object) -> PowerError:
    with pytest.raises(PowerError) as error:
        work()  # type: ignore[operator]
    return error.value


class TestSwitching:
    def test_what_is_told_is_read_back(self, board: Board) -> None:
        switched, _ = power(board.switch(*HONEST))
        witness = switched.on()
        assert witness["state"] == "read back on" and witness["switch"] == f"command {board.program}"
        assert switched.state() is PowerState.ON
        assert switched.off()["state"] == "read back off"
        assert board.calls == ["on", "off"]

    def test_off_twice_is_harmless(self, board: Board) -> None:
        switched, _ = power(board.switch(*HONEST))
        switched.off()
        assert switched.off()["state"] == "read back off"

    def test_a_cycle_keeps_the_machine_off_for_its_shortest_time(self, board: Board) -> None:
        switched, pauses = power(board.switch(*HONEST))
        switched.on()
        pauses.clear()
        witness = switched.cycle()
        assert witness["off state"] == "read back off" and witness["state"] == "read back on"
        assert len(pauses) == 1 and 6 < pauses[0] <= 7

    def test_a_machine_found_off_may_have_gone_off_just_now(self, board: Board) -> None:
        switched, pauses = power(board.switch(*HONEST))
        switched.on()
        assert pauses and 6 < pauses[0] <= 7

    def test_a_machine_found_on_needs_no_pause(self, board: Board) -> None:
        board.state.write_text("on")
        switched, pauses = power(board.switch(*HONEST))
        switched.on()
        assert pauses == []

    def test_a_reset_switches_nothing(self, board: Board) -> None:
        switched, _ = power(board.switch(*HONEST))
        switched.reset()
        assert board.calls == ["reset"]

    def test_without_a_reset_it_says_so(self, board: Board) -> None:
        with pytest.raises(UsageError, match="has no reset; off and on is `cycle`"):
            power(board.switch("on", "off"))[0].reset()

    def test_a_switch_that_cannot_tell_is_not_believed_to_have_told(self, board: Board) -> None:
        switched, _ = power(board.switch("on", "off"))
        assert switched.on()["state"] == "not read back: this switch cannot tell"
        assert switched.state() is PowerState.UNKNOWN
        assert not switched.readable


class TestFingers:
    """A relay on the front panel's header: one press switches on, a long one off."""

    def test_a_running_machine_is_not_pressed_off_by_on(self, board: Board) -> None:
        board.state.write_text("on")
        power(board.switch("press", "hold", "status"))[0].on()
        assert board.calls == [] and board.state.read_text() == "on"

    def test_a_machine_of_unknown_state_is_held_off_before_the_press(self, board: Board) -> None:
        board.state.write_text("on")
        switched, _ = power(board.switch("press", "hold"))
        switched.on()
        assert board.calls == ["hold", "press"] and board.state.read_text() == "on"
        switched.off()
        switched.on()
        assert board.calls == ["hold", "press", "hold", "press"], "known to be off: no second long press"

    def test_a_press_that_may_have_worked_is_not_repeated(self, board: Board) -> None:
        switched, _ = power(board.switch("press", "hold"))
        board.program.write_text(f"#!/bin/sh\necho $1 >>{board.log}\n[ $1 = hold ]\n")
        assert failure(switched.on).failure is Failure.REFUSES
        assert board.calls == ["hold", "press"]


class TestFailures:
    @pytest.mark.slow
    def test_it_lies(self, board: Board) -> None:
        board.behave(off="true")
        power(board.switch(*HONEST))[0].on()
        switched, _ = power(board.switch(*HONEST), settle_s=0.5)
        lie = failure(switched.off)
        assert lie.failure is Failure.LIES and lie.component == f"command {board.program}"
        assert "took the order off and still says on" in lie.witness
        assert board.calls == ["on", "off", "off"], "an order may get lost once"

    @pytest.mark.slow
    def test_it_is_late(self, board: Board) -> None:
        board.behave(off=f"(sleep 3; printf off >{board.state}) >/dev/null 2>&1 &")
        power(board.switch(*HONEST))[0].on()
        switched, _ = power(board.switch(*HONEST), settle_s=2)
        late = failure(switched.off)
        assert late.failure is Failure.LATE and "2 s are allowed" in late.witness
        assert board.calls == ["on", "off"], "it has been done: not told again"

    @pytest.mark.slow
    def test_it_hangs_and_is_killed_with_all_that_it_started(self, board: Board) -> None:
        board.behave(on=f"sleep 60 & echo $! >{board.state}.pid; wait")
        switched, pauses = power(board.switch(*HONEST), answer_s=0.3)
        hang = failure(switched.on)
        assert hang.failure is Failure.HANGS and "does not end within 0.3 s" in hang.witness
        assert "tried 2 times: hangs, hangs" in str(hang)
        assert pauses[-1] == RETRIES[Failure.HANGS].pause_s
        stat = Path(f"/proc/{Path(f'{board.state}.pid').read_text().strip()}/stat")
        deadline = time.monotonic() + 10
        while stat.exists() and ") Z " not in stat.read_text():
            assert time.monotonic() < deadline, "what the program had started is still there"
            time.sleep(0.01)

    def test_it_refuses_and_is_not_asked_again(self, board: Board) -> None:
        board.behave(on="printf 'outlet is \\033[31mlocked' >&2; exit 7")
        refusal = failure(power(board.switch(*HONEST))[0].on)
        assert refusal.failure is Failure.REFUSES
        assert refusal.witness.endswith("ends with 7: outlet is \\x1b[31mlocked"), "bytes of others are escaped"
        assert board.calls == ["on"]

    def test_it_speaks_nonsense(self, board: Board) -> None:
        board.behave(status="echo maybe")
        assert failure(power(board.switch(*HONEST))[0].state).failure is Failure.GARBLED

    def test_it_is_not_there(self, tmp_path: Path) -> None:
        switch = CommandSwitch(Cuts.AC, on=(str(tmp_path / "none"),), off=("x",))
        absent = failure(power(switch)[0].on)
        assert absent.failure is Failure.UNREACHABLE and "No such file" in absent.witness

    def test_the_mains_are_the_last_resort(self, tmp_path: Path) -> None:
        for name in ("own", "mains"):
            (tmp_path / name).mkdir()
        own, mains = Board(tmp_path / "own"), Board(tmp_path / "mains")
        own.behave(off="exit 1")
        switched, _ = power(own.switch(*HONEST), ac=mains.switch(*HONEST, cuts=Cuts.AC))
        switched.on()
        witness = switched.off()
        assert "ends with 1" in witness["own switch"] and witness["mains state"] == "read back off"
        assert (own.calls, mains.calls) == (["on", "off"], ["on", "off"])

    def test_a_cold_cycle_takes_the_mains_away(self, tmp_path: Path) -> None:
        for name in ("own", "mains"):
            (tmp_path / name).mkdir()
        own, mains = Board(tmp_path / "own"), Board(tmp_path / "mains")
        switched, _ = power(own.switch(*HONEST), ac=mains.switch(*HONEST, cuts=Cuts.AC))
        switched.cold_cycle()
        assert (own.calls, mains.calls) == (["on"], ["off", "on"])
        with pytest.raises(UsageError, match=r"leaves standby power on, and the machine has no power\.ac"):
            power(own.switch(*HONEST))[0].cold_cycle()


class TestRetries:
    def test_every_failure_has_a_row(self) -> None:
        assert set(RETRIES) == set(Failure)
        assert RETRIES[Failure.REFUSES].times == 0, "a BMC locks accounts out"

    @pytest.mark.parametrize("kind", Failure)
    def test_each_is_tried_as_often_as_its_row_says(self, kind: Failure) -> None:
        tries: list[int] = []
        pauses: list[float] = []

        def work() -> None:
            tries.append(1)
            raise PowerError("no", kind, component="switch")

        assert failure(lambda: retried(work, pause=pauses.append)).failure is kind
        assert len(tries) == 1 + RETRIES[kind].times
        assert pauses == RETRIES[kind].times * [RETRIES[kind].pause_s]

    def test_a_success_tells_of_the_failures_before_it(self) -> None:
        waiting = [Failure.BUSY, Failure.HANGS]

        def work() -> str:
            if waiting:
                raise PowerError("no", waiting.pop(0), component="switch")
            return "done"

        table = dict.fromkeys(Failure, Retry(1, 0))
        assert retried(work, table=table, pause=lambda _: None) == ("done", (Failure.BUSY, Failure.HANGS))


class TestPersons:
    def person(self, answer: bool | None) -> tuple[Device, list[str]]:
        asked: list[str] = []

        def ask(request: str) -> bool | None:
            asked.append(request)
            return answer

        return ManualDevice(ManualSwitch(Cuts.AC), "nuc-3", ask), asked

    def test_is_asked(self) -> None:
        device, asked = self.person(True)
        assert device.act(Action.OFF) == {"said": "done"}
        assert asked == ["nuc-3: please switch it off"]

    @pytest.mark.parametrize(("answer", "kind"), [(False, Failure.REFUSES), (None, Failure.HANGS)])
    def test_says_no_or_nothing(self, answer: bool | None, kind: Failure) -> None:
        device, _ = self.person(answer)
        assert failure(lambda: device.act(Action.ON)).failure is kind

    def test_without_a_terminal_nobody_can_be_asked(self) -> None:
        with pytest.raises(UsageError, match="where somebody can be asked"):
            ManualDevice(ManualSwitch(Cuts.AC), "nuc-3", None)


def test_the_magic_packet_reaches_whoever_listens() -> None:
    from bench.hardware import SshAccess
    from bench.lab.power.wake import WakeDevice

    assert magic_packet("52:54:00:12:34:56") == b"\xff" * 6 + 16 * b"\x52\x54\x00\x12\x34\x56"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as card:
        card.bind(("127.0.0.1", 0))
        card.settimeout(5)
        ssh = SshAccess("127.0.0.1", "root", "ssh-ed25519 AAAA")
        switch = WakeSwitch("52:54:00:12:34:56", "127.0.0.1", ssh, port=card.getsockname()[1])
        WakeDevice(switch, answer_s=1).act(Action.ON)
        assert [card.recv(200) for _ in range(PACKETS)] == PACKETS * [magic_packet("52:54:00:12:34:56")]


class TestSecrets:
    def test_from_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LAB_BMC", "sesame")
        assert reveal(Secret(env="LAB_BMC"), whose="bmc") == "sesame"
        monkeypatch.delenv("LAB_BMC")
        with pytest.raises(UsageError, match="bmc: set the environment variable LAB_BMC"):
            reveal(Secret(env="LAB_BMC"), whose="bmc")

    def test_from_a_file_that_only_its_owner_can_read(self, tmp_path: Path) -> None:
        path = tmp_path / "secret"
        path.write_text("sesame\nrest\n")
        path.chmod(0o600)
        assert reveal(Secret(file=str(path)), whose="bmc") == "sesame"
        path.chmod(0o640)
        with pytest.raises(UsageError, match="can be read by others: chmod 600"):
            reveal(Secret(file=str(path)), whose="bmc")


def test_a_virtual_machine_has_no_switch() -> None:
    virtual = Machine("haswell", 0x306C3, 8 << 30, 39, True, False, virtual=VirtualSpec("Haswell"))
    with pytest.raises(UsageError, match="exists only while the bench runs it"):
        power_of(virtual)
    with pytest.raises(UsageError, match=r"has no \[power\]"):
        power_of(Machine("box", 0x306C3, 8 << 30, 39, True, False))
