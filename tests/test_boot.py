"""The boot's state table, on a looped-back port with a switch whose machine is a few lines of this file."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import wire
from bench.errors import LabError, UsageError
from bench.hardware import CommandSwitch, Cuts, PowerSpec, Wiring
from bench.lab import metal
from bench.lab.boot import RULES, Limits, Load, Progress, Sign, State, attend, boot
from bench.lab.capture import CaptureWriter
from bench.lab.power import Incident, IncidentKind, Power, PowerState
from bench.lab.text import escape
from bench.lab.watch import LineWatch
from bench.records import LabEventKind, Machine

DONE = wire.encode(3, "done", {"windows": 1}, nonce=7)
FAULT = wire.encode(1, "pf", {"ip": 0x1000123, "cr2": 0xFFFF888013BD0000}, nonce=7)
# Generous: a busy host must not turn one ending into another.
LIMITS = Limits(first_byte_s=20, silence_s=20, total_s=30)


class Switch(Power):
    """A switch whose machine says `text` when it gets power and then does `then`."""

    def __init__(self, text: bytes = b"", then: Callable[[Switch], None] = lambda _: None) -> None:
        self.text = text
        self.then = then
        self.happened: Incident | None = None
        self.is_on = False
        self.capture: CaptureWriter | None = None

    def on(self) -> Mapping[str, str]:
        assert self.capture is not None
        self.is_on = True
        if self.text:
            self.capture.port.device.write(self.text)
        self.then(self)
        return {"state": self.state()}

    def off(self) -> Mapping[str, str]:
        self.is_on = False
        return {"state": self.state()}

    def state(self) -> PowerState:
        return PowerState.ON if self.is_on else PowerState.OFF

    def incident(self) -> Incident | None:
        return self.happened

    def processor(self) -> Mapping[str, str]:
        return {"processor": "halted, interrupts off"}


def boot_with(
    folder: Path, switch: Switch, limits: Limits = LIMITS, **more: Any
) -> tuple[list[str], dict[str, str], Switch]:
    """Kinds of the events, and the witness of the one that ended the boot."""
    url = more.pop("url", "loop://")
    with CaptureWriter(folder, url=url, info={}, limit_bytes=limits.max_bytes) as capture:
        switch.capture = capture
        attend(capture, switch, limits, name="m", **more)
        assert not switch.is_on, "power is off before the capture closes"
    rows = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    return [row["kind"] for row in rows], rows[-2]["witness"], switch


def test_the_marker_ends_a_boot(tmp_path: Path) -> None:
    kinds, _, _ = boot_with(tmp_path, Switch(b"SeaBIOS\r\n" + FAULT + DONE))
    assert kinds == ["port_opened", "power_on", "first_byte", "marker", "power_off"]


def test_no_first_byte_is_silence_with_the_processors_state(tmp_path: Path) -> None:
    kinds, witness, _ = boot_with(tmp_path, Switch(), Limits(first_byte_s=0.05, silence_s=20, total_s=30))
    assert kinds == ["port_opened", "power_on", "silence", "power_off"]
    assert witness == {"limit": "0.05 s to the first byte", "processor": "halted, interrupts off"}


def test_silence_after_the_last_byte(tmp_path: Path) -> None:
    kinds, witness, _ = boot_with(tmp_path, Switch(b"last \x1b[0m\r\n"), Limits(silence_s=0.05))
    assert kinds == ["port_opened", "power_on", "first_byte", "silence", "power_off"]
    assert witness["last"] == "last \\x1b[0m"
    assert witness["processor"] == "halted, interrupts off"


def test_a_machine_that_only_chatters_meets_the_deadline(tmp_path: Path) -> None:
    stop = threading.Event()

    def chatter(switch: Switch) -> None:
        def talk() -> None:
            while not stop.wait(0.005):
                switch.capture.port.device.write(b".")  # type: ignore[union-attr]

        threading.Thread(target=talk).start()

    try:
        kinds, witness, _ = boot_with(tmp_path, Switch(b".", chatter), Limits(total_s=0.1))
    finally:
        stop.set()
    assert kinds == ["port_opened", "power_on", "first_byte", "deadline", "power_off"]
    assert witness["limit"] == "0.1 s in all"


def test_more_bytes_than_allowed_are_a_deadline(tmp_path: Path) -> None:
    kinds, witness, _ = boot_with(tmp_path, Switch(b"x" * 200), Limits(max_bytes=100))
    assert kinds == ["port_opened", "power_on", "first_byte", "deadline", "power_off"]
    assert witness["limit"] == "100 bytes of serial output"
    assert (tmp_path / "serial.bin").stat().st_size == 100


def test_a_log_of_exceptions_without_end_is_a_deadline(tmp_path: Path) -> None:
    def storm(_: Switch) -> None:
        with (tmp_path / "exceptions.log").open("wb") as log:
            log.truncate(401)

    kinds, witness, _ = boot_with(tmp_path, Switch(b"x", storm), Limits(max_bytes=100))
    assert kinds[-2:] == ["deadline", "power_off"]
    assert witness["limit"] == "400 bytes of exceptions.log"


@pytest.mark.parametrize(("kind", "event"), [(IncidentKind.RESET, "reset"), (IncidentKind.LOST, "machine_lost")])
def test_what_the_machine_does_to_its_own_power_is_an_event(tmp_path: Path, kind: IncidentKind, event: str) -> None:
    def happen(switch: Switch) -> None:
        switch.happened = Incident(kind, {"seen": "by the switch"})

    kinds, witness, _ = boot_with(tmp_path, Switch(b"abc", happen))
    assert kinds[-2:] == [event, "power_off"]
    assert witness["seen"] == "by the switch"


def test_bytes_in_flight_weigh_more_than_the_machines_end(tmp_path: Path) -> None:
    """The machine says `done` and is gone before its last bytes are read."""

    def vanish(switch: Switch) -> None:
        switch.happened = Incident(IncidentKind.LOST)

    kinds, _, _ = boot_with(tmp_path, Switch(FAULT * 20 + DONE, vanish))
    assert kinds[-2:] == ["marker", "power_off"]


def test_cancelling_ends_a_boot(tmp_path: Path) -> None:
    cancel = threading.Event()
    kinds, witness, _ = boot_with(tmp_path, Switch(b"abc", lambda _: cancel.set()), cancel=cancel)
    assert kinds[-2:] == ["interrupted", "power_off"]
    assert witness == {"why": "asked to stop"}


def test_ctrl_c_is_noted_and_power_is_removed(tmp_path: Path) -> None:
    def interrupt(_: Progress) -> None:
        raise KeyboardInterrupt

    switch = Switch(b"abc")
    with pytest.raises(KeyboardInterrupt):
        boot_with(tmp_path, switch, progress=interrupt)
    assert not switch.is_on
    kinds = [json.loads(line)["kind"] for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert kinds == ["port_opened", "power_on", "interrupted", "power_off"]


def test_a_switch_that_fails_is_switched_off_and_its_error_comes_through(tmp_path: Path) -> None:
    def fail(_: Switch) -> None:
        raise LabError("the PDU says no", component="power")

    switch = Switch(b"", fail)
    with pytest.raises(LabError, match="the PDU says no"):
        boot_with(tmp_path, switch)
    assert not switch.is_on


@pytest.mark.slow  # pyserial waits 0.3 s when it closes a TCP connection
def test_a_port_that_closes_ends_the_boot(tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up(_: Switch) -> None:
            far, _ = server.accept()
            far.sendall(b"abc")
            far.close()

        switch = Switch(b"", hang_up)
        url = f"socket://127.0.0.1:{server.getsockname()[1]}"
        kinds, _, _ = boot_with(tmp_path, switch, url=url)
    assert sorted(kinds[2:-1]) == ["first_byte", "port_closed"]
    assert kinds[-1] == "power_off"


def test_progress_tells_state_bytes_and_faults(tmp_path: Path) -> None:
    told: list[Progress] = []
    boot_with(tmp_path, Switch(b"noise\r\n" + FAULT + FAULT + DONE), progress=told.append)
    assert [p.state for p in told if p.state is State.POWERED][:1] == [State.POWERED]
    assert told[-1].state is State.OVER
    assert told[-1].machine == "m"
    assert told[-1].faults == 2
    assert told[-1].size_bytes == len(b"noise\r\n" + FAULT + FAULT + DONE)
    assert told[-1].last_line == DONE.decode().rstrip()


def test_firmware_may_be_silent_for_longer_than_the_program(tmp_path: Path) -> None:
    """A server says a line when it starts, and then nothing for minutes; silence counts once the trace has begun."""
    begin = wire.encode(0, "begin", {"wire": 1}, nonce=0)

    def late(switch: Switch) -> None:
        threading.Timer(0.2, lambda: switch.capture.port.device.write(begin + DONE)).start()  # type: ignore[union-attr]

    patient = Limits(silence_s=0.05, post_s=20)
    assert boot_with(tmp_path / "a", Switch(b"BIOS\r\n", late), patient)[0][-2] == "marker"
    assert boot_with(tmp_path / "b", Switch(b"BIOS\r\n" + begin), patient)[0][-2] == "silence"
    assert boot_with(tmp_path / "c", Switch(b"BIOS\r\n"), Limits(silence_s=0.05, post_s=0.1))[0][-2] == "silence"


class TestMetal:
    def machine(self, **wiring: Any) -> Machine:
        return Machine("nuc", 0x906EA, 8 << 30, 39, True, False, serial_url="/dev/none", wiring=Wiring(**wiring))

    def boot(self, folder: Path, machine: Machine, **more: Any) -> None:
        boot(machine, Load(folder / "k", b"", ""), folder / "boot-1", meta={}, limits=LIMITS, **more)
        assert not (folder / "boot-1").exists()

    def test_without_a_power_switch_nothing_is_begun(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"nuc: its inventory entry has no \[power\]"):
            self.boot(tmp_path, self.machine())

    @pytest.mark.parametrize("methods", [(), ("grub", "floppy")])
    def test_a_way_to_load_that_does_not_exist_is_named(self, tmp_path: Path, methods: tuple[str, ...]) -> None:
        power = PowerSpec(CommandSwitch(Cuts.AC, on=("true",), off=("true",)))
        said = f"nuc: boot_methods: {', '.join(methods) or 'none'}: supported are loaded, grub, "
        with pytest.raises(UsageError, match=said):
            self.boot(tmp_path, self.machine(power=power, boot_methods=methods))

    def test_a_machine_of_metal_has_no_second_witness(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="it has none here"):
            self.boot(tmp_path, self.machine(), witness=True)

    @pytest.mark.parametrize(("measured", "allowed"), [(None, 300), (14.5, 59)])
    def test_it_gets_the_time_that_its_firmware_takes(self, measured: float | None, allowed: float) -> None:
        assert metal.post_s(self.machine(time_to_post_s=measured)) == allowed

    @pytest.mark.parametrize(("given", "learnt", "allowed"), [(None, 1.5, 300), (None, 250.0, 530), (14.5, 250.0, 59)])
    def test_what_health_has_learnt_lengthens_what_is_unknown(
        self, given: float | None, learnt: float, allowed: float
    ) -> None:
        assert metal.post_s(self.machine(time_to_post_s=given, learnt_post_s=learnt)) == allowed


class TestTheTable:
    def test_every_state_that_is_not_the_end_has_a_way_to_it(self) -> None:
        for state in (State.POWERED, State.SPEAKING):
            assert {r.then for r in RULES if state in r.states} >= {State.OVER}

    def test_a_machine_that_runs_can_be_ended_by_every_sign(self) -> None:
        ending = {r.sign for r in RULES if r.then is State.OVER}
        assert ending == set(Sign) - {Sign.BYTE}

    def test_the_marker_weighs_more_than_any_other_end(self) -> None:
        assert next(r.sign for r in RULES if r.then is State.OVER) is Sign.MARKER

    def test_only_a_closed_port_has_its_event_from_elsewhere(self) -> None:
        assert [r.sign for r in RULES if r.event is None] == [Sign.PORT_CLOSED]
        assert {r.event for r in RULES} <= {None, *LabEventKind}


class TestLineWatch:
    @pytest.mark.slow
    @given(st.data())
    def test_chunk_borders_do_not_matter(self, data: st.DataObject) -> None:
        lines = st.sampled_from(
            [FAULT, DONE, b"SeaBIOS (version 1)\r\n", b"@", b"\n", b" done", wire.encode(9, "end", {}, nonce=1)]
        )
        text = b"".join(data.draw(st.lists(lines, max_size=8)))
        cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
        whole, pieces = LineWatch(), LineWatch()
        whole.feed(text)
        for start, stop in zip([0, *cuts], [*cuts, len(text)], strict=True):
            pieces.feed(text[start:stop])
        assert (pieces.done, pieces.faults, pieces.last_line) == (whole.done, whole.faults, whole.last_line)
        assert whole.done == (DONE[:-2] in text)

    @pytest.mark.parametrize(
        "text",
        [
            b"done\r\n",
            b"all done\r\n",
            b"@0 doner W1*00000000\r\n",
            b"@0 done WN1*1234\r\n",
            b"@0 touch O1*00000000 done\r\n",
        ],
    )
    def test_what_only_resembles_the_marker_is_not_one(self, text: bytes) -> None:
        watch = LineWatch()
        watch.feed(text)
        assert not watch.done

    def test_the_marker_counts_without_its_line_end_and_behind_noise(self) -> None:
        watch = LineWatch()
        watch.feed(b"\x00\xffnoise" + DONE[:-2])
        assert watch.done

    def test_endless_noise_without_line_ends_is_not_kept(self) -> None:
        watch = LineWatch()
        for _ in range(1000):
            watch.feed(b"x" * 1000)
        assert len(watch.last_line) <= 200


@given(st.binary())
def test_escaped_bytes_are_printable_ascii_and_tell_all(data: bytes) -> None:
    shown = escape(data)
    assert all(0x20 <= ord(c) <= 0x7E for c in shown)
    assert shown.encode().decode("unicode_escape").encode("latin-1") == data
