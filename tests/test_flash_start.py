"""Flashing's last steps, without a machine: what is made of its answers, and how it is told to start what is loaded."""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.errors import LabError
from bench.lab.flash import loader as flash_loader
from bench.lab.flash.choose import FirstThatWorks
from bench.lab.flash.grub import Grub
from bench.lab.flash.load_option import LoadOption, Partition, file_on, parse_load_option
from bench.lab.flash.loader import FlashLoader
from bench.lab.flash.oneshot import Arming, Entry, Left
from bench.lab.flash.plan import METHODS
from bench.lab.flash.proof import Proofs
from bench.lab.flash.restart import RestartPower, script
from bench.lab.flash.system import GLOBAL
from bench.lab.flash.systemd_boot import SystemdBoot
from bench.lab.load import Load
from tests.test_flash import MACHINE, SYSTEM, _NoPower, _Way


class _NoSsh:
    """A connection that nobody may use."""

    component = "SSH nowhere"
    round_trips = 0

    def close(self) -> None:
        pass


_NO_SSH: Any = _NoSsh()


class TestAnswers:
    """What a machine answers to a method's questions, and what is made of it."""

    OPTION = LoadOption("debian", file_on(Partition(1, 2048, 2048, bytes(range(16))), "/EFI/BOOT/BOOTX64.EFI"))

    def answers(self, **more: str) -> dict[str, str]:
        table = bytearray(64 << 10)
        struct.pack_into("<8s", table, 512, b"EFI PART")
        struct.pack_into("<QII", table, 512 + 72, 2, 128, 128)
        struct.pack_into("<16s16sQQ", table, 1024, bytes(16), bytes(range(16)), 2048, 4095)
        options = {f"option Boot0003-{GLOBAL}": self.OPTION, f"option Boot0BE0-{GLOBAL}": LoadOption("theirs", b"")}
        shown = {name: (b"\7\0\0\0" + option.pack()).hex() for name, option in options.items()}
        facts = {"next": "", "current": "060000000300", "esp number": "1", "esp block": "512", "esp table": table.hex()}
        return {**facts, **shown, f"option Boot000X-{GLOBAL}": "", **more}

    def test_a_boot_option_takes_a_number_that_nobody_has(self) -> None:
        entry = Entry("0" * 16, "/boot/efi/bench/k", "/boot/efi/bench/i", "a b")
        addition = METHODS["bootnext"].adding(SYSTEM, self.answers(), entry)
        option = parse_load_option(addition.stdin[4:])
        assert option.description == entry.name and option.data.decode("utf-16-le") == "initrd=\\bench\\i a b\0"
        assert f"Boot0BE1-{GLOBAL}" in addition.command and "firmware has not kept" in addition.command
        assert addition.arming.expected == "07000000e10b"

    def test_the_twin_is_what_has_started_the_system(self) -> None:
        _, addition = METHODS["bootnext"].twin(_NO_SSH, SYSTEM, self.answers(), "0" * 16)
        assert parse_load_option(addition.stdin[4:]) == LoadOption("bench-" + "0" * 16, self.OPTION.paths)
        for current in ("", "060000000400"):
            with pytest.raises(LabError, match="does not say which boot option"):
                METHODS["bootnext"].twin(_NO_SSH, SYSTEM, self.answers(current=current), "0" * 16)

    def test_a_partition_table_that_cannot_be_read_is_named(self) -> None:
        with pytest.raises(LabError, match="its place on its disk cannot be told"):
            METHODS["bootnext"].adding(SYSTEM, self.answers(**{"esp table": ""}), Entry("0", "/boot/efi/k", "", ""))

    def test_what_is_left_is_told_by_name(self) -> None:
        bootnext = METHODS["bootnext"]
        assert bootnext.left(self.answers()) == Left("", entries=False)
        assert bootnext.left(self.answers(next="070000000300")) == Left("debian", entries=False)
        assert bootnext.left(self.answers(next="070000009900")) == Left("Boot0099", entries=False)
        ours = (b"\7\0\0\0" + LoadOption("bench-1", b"").pack()).hex()
        found = bootnext.left(self.answers(**{"next": "07000000e50b", f"option Boot0BE5-{GLOBAL}": ours}))
        assert found == Left("bench-1", entries=True) and found.something
        assert Grub().left({"pending": "bench-1", "entries": "0"}).something
        assert not Grub().left({"pending": "theirs", "entries": ""}).something
        assert SystemdBoot().left({"pending": "", "entries": "bench-1.conf"}).something


class TestRestart:
    """The last command, by this computer's shell; on a real sshd in tests/rack."""

    ARMING = Arming("printf once >one-shot", "cat one-shot", "once", ": >one-shot")

    def run(self, folder: Path, arming: Arming, restart: str, latest_s: float) -> str:
        command = ["sh", "-c", script(arming, restart=restart, latest_s=latest_s)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        return done.stdout

    @pytest.mark.slow
    def test_it_is_set_and_the_machine_restarts(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "restarted")
        said = self.run(tmp_path, self.ARMING, "cat one-shot >restarted", 60)
        assert "set" in said and (tmp_path / "restarted").read_text() == "once"

    @pytest.mark.slow
    def test_what_reads_back_as_another_one_is_not_started(self, tmp_path: Path) -> None:
        wrong = replace(self.ARMING, expected="it's")
        assert self.run(tmp_path, wrong, "touch restarted", 60) == "once"
        assert (tmp_path / "one-shot").read_text() == "" and not (tmp_path / "restarted").exists()


class TestStart:
    """Where a load begins."""

    @pytest.mark.parametrize(("updates", "steps"), [(False, ["reach"]), (True, ["reach", "off", "reach"])])
    def test_a_run_that_offers_microcode_begins_from_power_off(
        self, updates: bool, steps: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A restart may leave a processor what it has been given since power-on."""
        seen: list[str] = []

        def reached(*_: object, **__: object) -> tuple[object, Mapping[str, str]]:
            seen.append("reach")
            return _NO_SSH, {"starts": "1"} if "off" in seen else {"system": "was running"}

        def looked(*_: object, **__: object) -> None:
            raise LabError("so far", component="test")

        monkeypatch.setattr(flash_loader, "reach", reached)
        monkeypatch.setattr(flash_loader, "switch_off", lambda *_: seen.append("off"))
        monkeypatch.setattr(flash_loader, "look", looked)
        (tmp_path / "k").write_bytes(b"k")
        loader = FlashLoader(Grub(), wait_s=1, proofs=Proofs(tmp_path))
        with pytest.raises(LabError, match="so far"):
            loader.load(MACHINE, Load(tmp_path / "k", b"", "", updates=updates), _NoPower(), lambda _: None)
        assert seen == steps

    def test_a_machine_that_restarts_itself_is_switched_by_nobody_else(self) -> None:
        power, starts = _NoPower(), list[str]()
        one = RestartPower(power, lambda: starts.append("restart") or {"start": "its own"})  # type: ignore[func-returns-value]
        assert one.on() == {"start": "its own"} and starts == ["restart"]
        with pytest.raises(AssertionError):
            one.off()
        assert FirstThatWorks([_Way("a", refuses=False)]).starting(power) is power
