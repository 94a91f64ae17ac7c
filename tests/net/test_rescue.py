"""The rescue system on machines without a disk: booted over the network, logged into, asked, and off again."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import pty
import shlex
import signal
import subprocess
import tempfile
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bench.bios_microcode import FACT
from bench.errors import BootError
from bench.hardware import NetworkMode, PxeLoader
from bench.health import Health
from bench.images.disk import build_disk
from bench.images.rescue import build_rescue
from bench.lab.capture import CaptureWriter
from bench.lab.flash.grub import BEGIN, END
from bench.lab.net import segment as segment_module
from bench.lab.net.loader import NetLoader
from bench.lab.net.server import BootServer
from bench.lab.power.choose import power_of
from bench.lab.ssh import SshError
from bench.rescue import session
from bench.rescue.findings import look
from bench.rescue.kept import forget
from bench.rescue.keys import make_keys
from bench.rescue.repair import repair
from bench.rescue.session import Rescued, rescued
from bench.store import Store
from tests.net.boots import boot_network, events, steps
from tests.net.machines import REPO, Box, box, mac, site_server
from tests.net.rescue_lab import lab

pytestmark = [pytest.mark.boot, pytest.mark.slow, pytest.mark.timeout(900)]

# Loader, firmware, and the card: each of another driver.
WAYS = [
    pytest.param(PxeLoader.IPXE, "bios", "e1000", id="bios-ipxe-e1000"),
    pytest.param(PxeLoader.PXELINUX, "bios", "e1000e", id="bios-pxelinux-e1000e"),
    pytest.param(PxeLoader.IPXE, "uefi", "virtio-net-pci", id="uefi-ipxe-virtio"),
    pytest.param(PxeLoader.UKI, "uefi", "virtio-net-pci", id="uefi-uki-virtio"),
]


@contextmanager
def rescue(one: Box, server: BootServer, folder: Path, told: list[str] | None = None) -> Iterator[Rescued]:
    info = {"machine": one.entry.name, "image": "rescue"}
    with (
        CaptureWriter(folder, url=one.entry.serial_url, info=info) as capture,
        rescued(
            one.entry,
            build_rescue(REPO),
            power_of(one.entry),
            capture,
            loader=NetLoader(server),
            told=(told if told is not None else []).append,
        ) as there,
    ):
        yield there


@pytest.mark.parametrize(("loader", "firmware", "card"), WAYS)
def test_a_machine_without_a_disk_answers_ssh(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loader: PxeLoader, firmware: str, card: str
) -> None:
    """In a user namespace of its own, as it goes without root."""
    monkeypatch.setattr(segment_module.os, "geteuid", lambda: 1000)  # type: ignore[attr-defined]
    told: list[str] = []
    with (
        boot_network(1) as (wire, server),
        box(
            tmp_path / "box", wire, 0, loader,
            firmware=firmware, rom=firmware == "bios", own_disk=False, card=card,
        ) as one,
    ):  # fmt: skip
        assert wire.place.own_user
        with rescue(one, server, tmp_path / "capture", told) as there:
            done = there.ssh.run("hostname; cat /proc/cmdline", timeout_s=60)
            assert done.output.decode().split()[0] == one.entry.name
            assert there.heard, "the serial line is this machine's"
            assert told[0] == "power is on" and any(words.startswith("SSH answers after ") for words in told)
            print(told)
        assert one.machine.pid is None, "it is off"
    came = steps(tmp_path / "capture")
    # Whether firmware has acknowledged the last byte before it went ("spent") is another test's: test_netboot.py.
    assert "kernel" in came and came[-1] == "rescue system"


def test_beside_a_site_s_dhcp_server_it_is_found_at_the_address_that_it_got_there(tmp_path: Path) -> None:
    with (
        boot_network(2, mode=NetworkMode.PROXY) as (wire, server),
        site_server(wire, 1, tmp_path / "site.log"),
        box(tmp_path / "box", wire, 0, PxeLoader.IPXE, own_disk=False, ip=False) as one,
        rescue(one, server, tmp_path / "capture") as there,
    ):
        assert there.heard and 150 <= int(there.address.rpartition(".")[2]) <= 160


@pytest.mark.faults
def test_without_dhcp_at_its_second_request_the_verdict_says_so(tmp_path: Path) -> None:
    with boot_network(1) as (wire, server), box(tmp_path / "box", wire, 0, PxeLoader.IPXE, own_disk=False) as one:

        class Dies(list[str]):
            def append(self, words: str) -> None:
                if words.startswith("kernel"):
                    os.kill(server.dnsmasq_pid, signal.SIGKILL)

        with (
            pytest.raises(BootError, match="was given no address") as error,
            rescue(one, server, tmp_path / "c", Dies()),
        ):
            pass
        assert error.value.component == "DHCP" and "no address for eth0; its link: up" in error.value.witness
        assert one.machine.pid is None, "it is off"


def test_recover_says_that_there_is_no_disk(tmp_path: Path) -> None:
    with lab(tmp_path, "bios") as here:
        code, found = here.json("recover", "box", "--rescue")
        assert here.box.machine.pid is None, "it is left off"
    assert (code, found["ok"], found["disks"], found["firmware"]) == (0, True, [], "bios")
    assert found["serial_line_is_its"] and {"bios vendor", "memory map"} <= found["facts"].keys()


def test_another_host_key_than_this_boot_s_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else answers at the machine's address: what is pinned is a key that the machine was not given."""
    monkeypatch.setattr(session, "make_keys", lambda name: replace(make_keys(name), host_key=make_keys(name).host_key))
    with boot_network(1) as (wire, server), box(tmp_path / "box", wire, 0, PxeLoader.IPXE, own_disk=False) as one:
        with pytest.raises(SshError, match="another host key than the pinned one"), rescue(one, server, tmp_path / "c"):
            pass
        assert one.machine.pid is None, "it is off"
    (offered,) = [event for event in events(tmp_path / "c") if event["kind"] == "restored"]
    assert offered["witness"]["offer"] in ("none", "withdrawn")


def test_what_is_left_over_and_what_is_damaged_is_said_and_nothing_is_written(tmp_path: Path) -> None:
    # A disk with Debian's kernel for PCs, which is packed by a program that notices a flipped bit.
    whole = build_disk("uefi-grub", build_rescue(REPO), b"").path
    disk = tmp_path / "disk"
    subprocess.run(["cp", "--sparse=always", whole, disk], check=True)
    more = ("-drive", f"if=none,id=d1,format=raw,file={disk}", "-device", "virtio-blk-pci,drive=d1,bootindex=5")
    with (
        boot_network(1) as (wire, server),
        box(
            tmp_path / "box", wire, 0, PxeLoader.IPXE, firmware="uefi", rom=False, more=more
        ) as one,
        rescue(one, server, tmp_path / "c") as there,
    ):  # fmt: skip
        before = look(there.ssh)
        assert (before.firmware, before.secure_boot, before.troubles) == ("uefi", False, ())
        assert before.whole == ("grub on vda2: 'known-good'",)
        (found,) = before.disks
        assert (found.name, found.table, found.size_bytes) == ("vda", "gpt", disk.stat().st_size)
        assert [volume.kind for volume in found.volumes] == ["vfat", "ext4", ""]
        assert found.volumes[0].programs == ("/EFI/BOOT/BOOTX64.EFI",)
        kernel, initrd = found.volumes[1].loaders[0].starts[0].files
        assert (kernel.path, kernel.checked) == ("/vmlinuz", "unpacked")
        assert initrd.path == "/initrd" and initrd.size_bytes > 1 << 20

        damage = (
            "mount -t ext4 /dev/vda2 /mnt && cd /mnt && grub-editenv grub/grubenv set next_entry=bench-0123 && "
            f"printf '{(BEGIN + END).decode()}' >grub/custom.cfg && echo theirs >>grub/custom.cfg && "
            "dd if=/dev/zero of=vmlinuz bs=1k seek=4000 count=8 conv=notrunc 2>/dev/null && rm initrd && cd / && "
            "umount /mnt && sync"
        )
        done = there.ssh.run(damage, timeout_s=60)
        assert done.status == 0, done.complaints
        as_it_was = hashlib.sha256(disk.read_bytes()).digest()
        after = look(there.ssh)
        assert hashlib.sha256(disk.read_bytes()).digest() == as_it_was
        left, ours, damaged, missing = after.troubles
        assert left == "grub on vda2: a one-shot is left over: the next boot takes bench-0123"
        assert ours == "grub on vda2: an entry of the bench's is left over in /grub"
        assert damaged.startswith("grub on vda2: 'known-good' cannot start: /vmlinuz: damaged: ")
        assert missing == "grub on vda2: 'known-good' cannot start: /initrd: missing"
        assert after.whole == ()

        assert repair(there.ssh, after) == [
            "grub on vda2: next_entry=bench-0123",
            "grub on vda2: entry in custom.cfg",
        ]
        assert look(there.ssh).troubles == (damaged, missing), "what is not the bench's own it does not mend"
        kept = there.ssh.run("mount -t ext4 -o ro /dev/vda2 /mnt && cat /mnt/grub/custom.cfg", timeout_s=60)
        assert kept.output == b"theirs\n"


def by_name(found: dict[str, Any]) -> dict[str, bool | None]:
    return {check["name"]: check["ok"] for check in found["checks"]}


@pytest.mark.parametrize("firmware", ["bios", "uefi"])
def test_a_machine_without_a_disk_is_examined_and_describes_itself(tmp_path: Path, firmware: str) -> None:
    with lab(tmp_path, firmware, keys='known_good = "rescue"') as here:
        code, found = here.json("health", "box")
        assert (code, found["ok"]) == (0, True)
        assert by_name(found) == {
            "serial port": True,
            "power read back": True,
            "rescue system": True,
            "host key": None,
            "serial line": True,
            "left off": True,
            "clock": True,
            "room in /boot": None,
            "firmware": True,
        }
        assert found["time_to_first_byte_s"] >= 0 and found["time_to_ssh_s"] > 0
        fingerprint = found["condition"]["fingerprint"]
        assert {"bios version", "memory map", FACT} <= fingerprint.keys()

        with Store(here.results / "bench.sqlite") as store:
            Health(store).note("box", [], fingerprint | {"bios version": "of another time"})
        code, found = here.json("health", "box")
        (drift,) = [check for check in found["checks"] if check["ok"] is False]
        assert code == 3 and drift["name"] == "firmware" and "bios version was 'of another time'" in drift["found"]

        output = tmp_path / "new.toml"
        code, told = here.json("inventory", "discover", "box", "--rescue", "--output", str(output))
        entry = tomllib.loads(output.read_text())
        assert code == 0 and here.box.machine.pid is None, "it is off"
    machine = here.box.entry
    assert entry == {
        "name": "new",
        "signature": machine.model,
        # QEMU's register, which reads 0 whatever the inventory calls the machine.
        "platform_id": 0,
        "maxphyaddr": machine.maxphyaddr,
        "nx": machine.nx,
        "la57": machine.la57,
        "memory": "8 GiB",
        "mac": mac(0),
        "ip": "10.77.0.101",
        "firmware": firmware,
        "boot_methods": ["pxe"],
        "pxe_loader": "ipxe",
        "known_good": "rescue",
    }
    assert told["processor"]["source"] == "CPUID" and told["processor"]["platform_source"] == "MSR 0x17"


def secrets_of(pem: bytes, host_key: bytes) -> list[bytes]:
    """The secret halves in the forms in which they could turn up."""
    key = serialization.load_ssh_private_key(pem, None)
    assert isinstance(key, Ed25519PrivateKey)
    raw = serialization.Encoding.Raw, serialization.PrivateFormat.Raw, serialization.NoEncryption()
    # Two strings with their lengths: the kind of key, then secret and public half (bench.images.small_system).
    seeds = key.private_bytes(*raw), host_key[-64:-32]
    assert Ed25519PrivateKey.from_private_bytes(seeds[1]).public_key().public_bytes_raw() == host_key[-32:]
    forms = [form for seed in seeds for form in (seed, seed.hex().encode(), base64.b64encode(seed)[:-4])]
    return [*forms, *pem.splitlines()[1:-1]]


def test_a_system_that_is_kept_is_logged_into_and_no_secret_is_anywhere_else(tmp_path: Path) -> None:
    with lab(tmp_path, "bios") as here:
        seen: set[bytes] = set()
        command = here.command("recover", "box", "--rescue", "--keep", "--json")
        with subprocess.Popen(command, env=here.environment, cwd=REPO, stdout=subprocess.PIPE) as process:
            while process.poll() is None:
                for path in Path("/proc").glob("[0-9]*/cmdline"):
                    with suppress(OSError):
                        seen.add(path.read_bytes())
                time.sleep(0.05)
            assert process.stdout is not None
            said = process.stdout.read()
        try:
            assert process.returncode == 0 and here.box.machine.pid is not None, "it is up"
            way_in = shlex.split(json.loads(said)["way_in"])
            key = Path(way_in[way_in.index("-i") + 1])
            assert (key.parent.stat().st_mode & 0o777, key.stat().st_mode & 0o777) == (0o700, 0o600)
            asked = subprocess.run(
                [*here.wire.place.prefix, *way_in, "hostname; base64 /etc/dropbear/dropbear_ed25519_host_key"],
                capture_output=True, check=True, stdin=subprocess.DEVNULL,
            )  # fmt: skip
            name, _, host_key = asked.stdout.partition(b"\n")
            assert name == b"box"
            needles = secrets_of(key.read_bytes(), base64.b64decode(host_key))
        finally:
            off = here.bench("power", "box", "off")
        assert off.returncode == 0 and here.box.machine.pid is None
        forget("box")
        assert not key.parent.exists()
        files = [path for path in here.folder.rglob("*") if path.is_file() and "firmware-images" not in path.parts]
        assert {"serial.bin", "events.jsonl", "bench.sqlite"} <= {path.name for path in files}
        files += [path for path in Path(tempfile.gettempdir()).glob("bench-net-*/**/*") if path.is_file()]
        contents = {str(path): path.read_bytes() for path in files} | {"what it said": said}
        contents |= {"processes": b"\n".join(seen)}
    assert any(b"recover" in line for line in seen) and any(b"dnsmasq" in line for line in seen)
    assert [where for where, data in contents.items() for needle in needles if needle in data] == []


def test_a_machine_that_nobody_knows_yet_describes_itself(tmp_path: Path) -> None:
    """A person switches it: here, who reads the requests and presses Enter."""
    with lab(tmp_path, "bios") as here:
        here.file.unlink()
        switch = here.box.machine.folder / "switch"
        person, terminal = pty.openpty()
        words = ("inventory", "discover", "new", "--rescue", "--mac", mac(0), "--ip", "10.77.0.101", "--json")
        with subprocess.Popen(
            here.command(*words), env=here.environment, cwd=REPO, text=True,
            stdin=terminal, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        ) as process:  # fmt: skip
            assert process.stderr is not None and process.stdout is not None
            asked = []
            for line in process.stderr:
                order = next((word for word in ("on", "off") if f"please switch it {word}" in line), None)
                if order:
                    asked.append(order)
                    subprocess.run([switch, order], check=True)
                    os.write(person, b"\n")
            said = process.stdout.read()
        os.close(person)
        os.close(terminal)
        assert here.box.machine.pid is None
    entry = tomllib.loads(json.loads(said)["entry"])
    assert (asked[0], asked[-1], asked.count("on")) == ("off", "off", 1)
    assert (entry["name"], entry["mac"], entry["signature"]) == ("new", mac(0), here.box.entry.model)
