"""Flashing's steps on a real sshd: this computer is the machine, a folder its /boot; nothing is restarted."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import paramiko
import pytest

from bench.errors import LabError
from bench.hardware import SshAccess, Wiring
from bench.lab import ssh as ssh_module
from bench.lab.flash import loader as flash_loader
from bench.lab.flash import restart, store
from bench.lab.flash import upload as upload_module
from bench.lab.flash.grub import BEGIN, GLUED, Grub
from bench.lab.flash.loader import FlashLoader
from bench.lab.flash.oneshot import Addition, Entry, add
from bench.lab.flash.proof import Proof, Proofs, key_of
from bench.lab.flash.survey import Survey, look
from bench.lab.flash.upload import PART, Image, upload
from bench.lab.load import Load
from bench.lab.power import Power, PowerState
from bench.lab.ssh import Ssh, SshError
from bench.records import Machine
from tests.rack.servers import program, ssh_host, wait_for

pytestmark = [pytest.mark.rack, pytest.mark.slow]
# Several windows of a channel, so that a connection can break in the middle.
IMAGE = Image("kernel", bytes(range(256)) * (40 << 10))
GRUB_CONFIG = "load_env\nsave_env next_entry\nsource $prefix/custom.cfg\n"


@dataclass(frozen=True)
class Box:
    """This computer, over SSH."""

    access: SshAccess
    boot: Path

    @property
    def bench(self) -> Path:
        return self.boot / "bench"

    def ssh(self) -> Ssh:
        return Ssh(self.access, timeout_s=10)

    def look(self) -> Survey:
        with self.ssh() as ssh:
            return look(ssh, Grub(), boot=str(self.boot), images=[IMAGE.name])

    def upload(self, image: Image = IMAGE) -> list[Mapping[str, str]]:
        stored = self.look().stored
        steps: list[Mapping[str, str]] = []
        with self.ssh() as ssh:
            assert upload(ssh, str(self.bench), image, steps.append, stored=stored) == str(self.bench / image.name)
            assert ssh.round_trips == (1 if len(steps) == 2 else 0)
        return steps

    def next_entry(self) -> str:
        return self.look().left.pending


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    boot = tmp_path / "boot"
    (boot / "grub").mkdir(parents=True)
    (boot / "grub" / "grub.cfg").write_text(GRUB_CONFIG)
    (boot / "grub" / "grubenv").write_bytes(b"# GRUB Environment Block\n".ljust(1024, b"#"))
    program("sshd")
    with ssh_host(tmp_path / "ssh") as host:
        yield Box(SshAccess("127.0.0.1", host.user, host.host_key, host.port, host.key_file), boot)


class TestUpload:
    """An image arrives whole, or goes on where it was cut."""

    def test_it_comes_whole_and_once(self, box: Box) -> None:
        assert [step.get("how", step["step"]) for step in box.upload()] == ["uploading", "uploaded"]
        assert (box.bench / IMAGE.name).read_bytes() == IMAGE.content
        assert [step["how"] for step in box.upload()] == ["was there already"]

    def test_a_file_that_is_not_what_its_name_says_is_sent_anew(self, box: Box) -> None:
        box.bench.mkdir()
        (box.bench / IMAGE.name).write_bytes(b"another")
        box.upload()
        assert (box.bench / IMAGE.name).read_bytes() == IMAGE.content

    def test_a_connection_that_breaks_leaves_a_part_that_is_gone_on_with(
        self, box: Box, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(ssh_module, "_send", broken_off(len(IMAGE.content) // 2))
            with pytest.raises(SshError), box.ssh() as ssh:
                upload(ssh, str(box.bench), IMAGE, lambda _: None)
        part = box.bench / (IMAGE.name + PART)
        wait_for(lambda: part.exists() and part.stat().st_size, "the part is kept")
        wait_for(lambda: settled(part), "the part is complete")
        came = part.stat().st_size
        (uploading, verified) = box.upload()
        assert uploading["goes on at"] == str(came) and 0 < came <= len(IMAGE.content) // 2
        assert verified["how"] == f"uploaded from byte {came} on"
        assert (box.bench / IMAGE.name).read_bytes() == IMAGE.content and not part.exists()

    def test_a_machine_that_takes_no_more_is_not_waited_for(
        self, box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What receives waits at a pipe, as it would for a disk that is gone."""
        monkeypatch.setattr(upload_module, "STALL_S", 0.5)
        stored = box.look().stored
        box.bench.mkdir()
        os.mkfifo(pipe := box.bench / (IMAGE.name + PART))
        try:
            said = rf"upload of {box.bench / IMAGE.name}: nothing was taken for 0\.5 s, after"
            with pytest.raises(SshError, match=said) as error, box.ssh() as ssh:
                upload(ssh, str(box.bench), IMAGE, lambda _: None, stored=stored)
        finally:
            # Let it end: what it opens next is a file.
            there = pipe.rename(tmp_path / "pipe")
            os.close(os.open(there, os.O_RDONLY | os.O_NONBLOCK))
        taken = re.search(r"after (\d+) of 10485760 bytes", error.value.witness)
        assert error.value.trouble == "hangs" and taken and 0 < int(taken[1]) < len(IMAGE.content)

    @pytest.mark.parametrize("content", [b"another one", IMAGE.content + b"more", bytes(4096)])
    def test_a_part_of_something_else_is_begun_anew(self, box: Box, content: bytes) -> None:
        box.bench.mkdir()
        (box.bench / (IMAGE.name + PART)).write_bytes(content)
        (uploading, _) = box.upload()
        assert "goes on at" not in uploading
        assert (box.bench / IMAGE.name).read_bytes() == IMAGE.content

    def test_a_part_that_grows_behind_our_back_is_begun_anew(self, box: Box) -> None:
        """The one who was cut may still be writing: nobody has told its machine that the connection is gone."""
        box.bench.mkdir()
        part = box.bench / (IMAGE.name + PART)
        part.write_bytes(IMAGE.content[:5000])
        stored, steps = box.look().stored, list[Mapping[str, str]]()
        part.write_bytes(IMAGE.content[:6000])
        with box.ssh() as ssh:
            upload(ssh, str(box.bench), IMAGE, steps.append, stored=stored)
        assert [step.get("goes on at") for step in steps] == ["5000", None, None]
        assert (box.bench / IMAGE.name).read_bytes() == IMAGE.content and not part.exists()

    def test_a_part_that_is_all_there_is_only_verified(self, box: Box) -> None:
        box.bench.mkdir()
        (box.bench / (IMAGE.name + PART)).write_bytes(IMAGE.content)
        (uploading, _) = box.upload()
        assert uploading["goes on at"] == uploading["bytes"]
        assert (box.bench / IMAGE.name).read_bytes() == IMAGE.content

    def test_what_arrives_as_another_one_is_not_kept(self, box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
        whole = ssh_module._send
        monkeypatch.setattr(ssh_module, "_send", lambda c, content, s: whole(c, b"\xff" + content[1:], s))
        with pytest.raises(LabError, match=f"SHA-256 there is [0-9a-f]{{64}}, here {IMAGE.sha256}"):
            box.upload()
        assert list(box.bench.iterdir()) == []

    def test_a_folder_that_cannot_be_written_is_said_at_once(self, box: Box) -> None:
        box.bench.mkdir()
        (box.bench / (IMAGE.name + PART)).mkdir()  # root may write everything else
        with box.ssh() as ssh, pytest.raises(LabError, match=r"[Ii]s a directory"):
            upload(ssh, str(box.bench), IMAGE, lambda _: None)

    def test_a_part_that_is_wanted_is_not_pruned(self, box: Box) -> None:
        box.bench.mkdir()
        for name in (IMAGE.name + PART, "0" * 16 + ".kernel" + PART, "0" * 16 + ".kernel", "theirs"):
            (box.bench / name).write_bytes(b"x")
        found = box.look()
        with box.ssh() as ssh:
            gone = store.prune(ssh, found.system, str(box.bench), found.folder, keep=0, needed=[IMAGE.name])
            assert ssh.round_trips == 1
        assert sorted(gone) == ["0000000000000000.kernel", "0000000000000000.kernel.part"]
        assert sorted(path.name for path in box.bench.iterdir()) == sorted([IMAGE.name + PART, "theirs"])


def broken_off(count: int) -> Callable[[paramiko.Channel, bytes, float], None]:
    whole = ssh_module._send

    def send(channel: paramiko.Channel, content: bytes, stall_s: float) -> None:
        whole(channel, content[:count], stall_s)
        channel.get_transport().close()
        whole(channel, content[count:], stall_s)

    return send


def reads(path: Path, words: str) -> bool:
    try:
        return words.encode() in path.read_bytes()
    except OSError:
        return False


def settled(path: Path) -> bool:
    """Nobody has it open any more."""
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if link.readlink() == path:
                return False
        except OSError:
            continue
    return True


def added(box: Box) -> Addition:
    entry = Entry("0123456789abcdef", f"{box.bench}/k", "", "a b")
    found = box.look()
    addition = Grub().adding(found.system, found.answers, entry)
    with box.ssh() as ssh:
        add(ssh, addition)
    return addition


class TestEntry:
    """custom.cfg with ours in it, and with theirs as it was."""

    @pytest.mark.parametrize(
        ("theirs", "ended"), [(b"menuentry 'theirs' {\n}\n", True), (b"set theirs=1\nset more=2", False)]
    )
    def test_theirs_stays_and_ours_is_replaced_and_withdrawn(self, box: Box, theirs: bytes, ended: bool) -> None:
        """A last line that is not ended is kept apart from ours, and is not ended afterwards either."""
        custom = box.boot / "grub" / "custom.cfg"
        custom.write_bytes(theirs)
        before = box.look()
        head = theirs + BEGIN if ended else theirs + b"\n" + BEGIN + GLUED
        for _ in range(3):
            added(box)
            content = custom.read_bytes()
            assert content.startswith(head + b"menuentry ") and content.count(BEGIN) == 1
        found = box.look()
        assert found.left.entries and found.default == before.default
        with box.ssh() as ssh:
            assert Grub().withdraw(ssh, found.system) == ["entry in custom.cfg"]
        after = box.look()
        assert custom.read_bytes() == theirs and after.default == before.default and not after.left.something

    def test_a_block_whose_end_is_lost_is_not_guessed_at(self, box: Box) -> None:
        custom = box.boot / "grub" / "custom.cfg"
        custom.write_bytes(BEGIN + b"menuentry 'theirs' {\n}\n")
        with pytest.raises(LabError, match="marks of the bench do not match"):
            added(box)
        assert custom.read_bytes() == BEGIN + b"menuentry 'theirs' {\n}\n"


class TestRestart:
    """The last command: what it sets is started, or taken back."""

    def test_it_is_set_and_then_the_machine_restarts(
        self, box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.harmless(monkeypatch, f"touch {tmp_path}/restarted", 60)
        with box.ssh() as ssh:
            restart.restart_into("box", ssh, added(box).arming)
        wait_for((tmp_path / "restarted").exists, "it restarts")
        assert box.next_entry() == "bench-0123456789abcdef"

    def test_a_controller_that_is_gone_before_the_answer_changes_nothing(
        self, box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.harmless(monkeypatch, f"touch {tmp_path}/restarted", 60)
        arming = added(box).arming
        slow = restart.script(restart.Arming(f"touch {tmp_path}/begun; sleep 1; {arming.setting}", arming.shown,
                                             arming.expected, arming.clearing))  # fmt: skip
        ssh = box.ssh()
        channel = ssh._client.get_transport().open_session()  # type: ignore[union-attr]
        channel.exec_command(slow)
        wait_for((tmp_path / "begun").exists, "it begins")
        ssh.close()
        wait_for((tmp_path / "restarted").exists, "it restarts all the same")
        assert box.next_entry() == "bench-0123456789abcdef"

    def test_what_reads_back_as_another_one_is_taken_back_and_not_started(
        self, box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.harmless(monkeypatch, f"touch {tmp_path}/restarted", 60)
        arming = added(box).arming
        wrong = restart.Arming(arming.setting, arming.shown, "next_entry=bench-other", arming.clearing)
        with box.ssh() as ssh, pytest.raises(LabError, match="reads back as next_entry=bench-0123") as error:
            restart.restart_into("box", ssh, wrong)
        assert error.value.component == "boot loader" and box.next_entry() == ""
        time.sleep(0.5)
        assert not (tmp_path / "restarted").exists()

    def test_a_system_that_does_not_go_down_takes_it_back(self, box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
        self.harmless(monkeypatch, "true", 0.2)
        with box.ssh() as ssh:
            restart.restart_into("box", ssh, added(box).arming)
        wait_for(lambda: box.next_entry() == "", "it is taken back")

    def test_a_system_that_goes_down_is_not_kept_from_it(
        self, box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """systemd waits 90 s for what does not heed its signals."""
        self.harmless(monkeypatch, f"touch {tmp_path}/restarted", 60)
        with box.ssh() as ssh:
            restart.restart_into("box", ssh, added(box).arming)
        wait_for((tmp_path / "restarted").exists, "it restarts")
        own = [path.parent for path in Path("/proc").glob("[0-9]*/cmdline") if reads(path, f"{tmp_path}/restarted")]
        assert own
        for process in own:
            os.kill(int(process.name), signal.SIGTERM)
        wait_for(lambda: not any(process.exists() for process in own), "it has ended")

    @staticmethod
    def harmless(monkeypatch: pytest.MonkeyPatch, instead: str, latest_s: float) -> None:
        script = restart.script
        monkeypatch.setattr(restart, "script", lambda arming: script(arming, restart=instead, latest_s=latest_s))


class _Running(Power):
    """A machine that is on."""

    def on(self) -> Mapping[str, str]:
        raise AssertionError

    def off(self) -> Mapping[str, str]:
        raise AssertionError

    def state(self) -> PowerState:
        return PowerState.ON


def test_a_load_is_four_commands_and_two_if_the_images_are_there(
    box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fifth one starts it; each costs as much as a program takes to start, and on a far machine the way there."""
    monkeypatch.setattr(flash_loader, "refusals", lambda *_, **__: [])
    machine = Machine("box", 0x306C3, 4 << 30, 39, nx=True, la57=False, wiring=Wiring(ssh=box.access))
    kernel = tmp_path / "kernel"
    kernel.write_bytes(IMAGE.content)
    proofs, found = Proofs(tmp_path / "proofs"), box.look()
    proofs.keep(machine, "grub", key_of(machine, "grub", found.system, found.default), Proof(True, "", "", 0))
    commands = []
    for _ in range(2):
        loader = FlashLoader(Grub(), wait_s=10, proofs=proofs, boot=str(box.boot))
        told = loader.load(machine, Load(kernel, b"initrd", "words"), _Running(), lambda _: None)
        assert loader._ready is not None and box.next_entry() == "", "nothing is set yet"
        loader._ready.ssh.close()
        commands.append(told["commands"])
        with box.ssh() as ssh:
            Grub().withdraw(ssh, found.system)
    assert commands == ["4", "2"]
