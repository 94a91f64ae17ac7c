"""The rescue system as far as it goes without a machine: keys, modules, what is read of disks, what is missing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.cli import app
from bench.errors import LabError, UsageError
from bench.hardware import PxeLoader
from bench.health import Health, examine
from bench.inventory import load_inventory, survey
from bench.inventory.unlisted import unlisted
from bench.lab.fingerprint import split_answers
from bench.lab.net.place import Place
from bench.lab.power.choose import power_of
from bench.rescue import boot_files, questions
from bench.rescue.findings import read
from bench.rescue.session import command_line, missing, require_rescuable
from bench.store import Store

ROOT = Path(__file__).resolve().parent.parent
ENTRY = """\
name = "box"
signature = "06-3c-03"
platform_id = 1
memory = "1 GiB"
maxphyaddr = 39
mac = "52:54:00:77:00:01"
ip = "10.77.0.101"
boot_methods = [{methods}]
{more}

[serial]
url = "socket://console:7007"
baud = 57600

[power]
backend = "command"
cuts = "chassis"
on = ["false"]
off = ["false"]
"""


def lab(folder: Path, methods: str = '"pxe"', more: str = 'known_good = "rescue"', *, network: bool = True) -> Path:
    (folder / "inventory" / "machines").mkdir(parents=True)
    (folder / "firmware-images").mkdir()
    (folder / "inventory" / "machines" / "box.toml").write_text(ENTRY.format(methods=methods, more=more))
    if network:
        (folder / "inventory" / "lab.toml").write_text('[boot_network]\ninterface = "eno2"\naddress = "10.77.0.1/24"\n')
    return folder


# --- inventory and command line --------------------------------------------------------------------------------------


def test_a_machine_without_a_system_of_its_own_is_told_its_console_its_card_and_us(tmp_path: Path) -> None:
    machine = load_inventory(lab(tmp_path))["box"]
    require_rescuable(machine)
    words = command_line(machine, "10.77.0.1").split()
    assert words[:2] == ["console=tty0", "console=ttyS0,57600"]
    assert {"bench.mac=52:54:00:77:00:01", "bench.server=10.77.0.1", "dis_ucode_ldr"} <= set(words)


@pytest.mark.parametrize(
    ("methods", "said"),
    [
        ('"loaded"', "known_good: 'rescue' comes over the network: boot_methods needs 'pxe'"),
        ('"pxe", "grub"', "boot_methods: 'grub' is started by a system on the machine's disk"),
    ],
)
def test_what_does_not_go_with_it_is_refused(tmp_path: Path, methods: str, said: str) -> None:
    (problem,) = [p for p in survey(lab(tmp_path, methods) / "inventory").problems if p.error]
    assert said in str(problem)


def test_it_is_not_examined_by_a_system_that_it_does_not_have(tmp_path: Path) -> None:
    machine = load_inventory(lab(tmp_path / "lab"))["box"]
    with Store(tmp_path / "bench.sqlite") as store, pytest.raises(UsageError, match="known_good: 'rescue'"):
        examine(machine, Health(store), tmp_path / "capture", power=power_of(machine))


def bench(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {"BENCH_ROOT": str(folder), "PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(folder)}
    return subprocess.run(
        [sys.executable, "-m", "bench", *words], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("recover", "box", "--keep"), "--keep goes with --rescue"),
        (("recover", "box", "--repair"), "--repair goes with --rescue"),
        (("recover", "box", "--rescue", "--accept-drift"), "--accept-drift is for the machine's own system"),
        (("inventory", "discover", "box", "--rescue", "--port", "2222"), "--rescue makes its keys"),
        (("recover", "box", "--rescue"), "boot_methods needs 'pxe', and lab.toml a table [boot_network]"),
        (("inventory", "discover", "box", "--rescue"), "boot_methods needs 'pxe', and lab.toml a table [boot_network]"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_before_anything_is_switched(
    tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    done = bench(lab(tmp_path, '"loaded"', "", network=False), *words)
    assert done.returncode == 2 and said in done.stderr


def test_the_options_are_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["recover", "--help"], ["inventory", "discover", "--help"]):
        with pytest.raises(SystemExit):
            app(words)
        assert "--rescue" in capsys.readouterr().out


# --- what is read of disks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "program",
    [questions.LOOK, questions.FILE, questions.LEAVE, (ROOT / "firmware-images" / "rescue" / "init").read_text()],
    ids=["look", "file", "leave", "init"],
)
def test_every_program_is_one_for_a_plain_shell(program: str) -> None:
    done = subprocess.run(["sh", "-n"], input=program, text=True, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


GRUB = """\
 menuentry 'Debian' --id debian {
   linux /vmlinuz-6.1 root=UUID=1 ro quiet
   initrd /early.cpio /initrd.img-6.1
 }
 submenu 'More' {
  menuentry "Memory test" {
   linux16 /memtest86+x64.bin
  }
 }
 menuentry 'Firmware' { fwsetup
 }"""
ANSWER = f"""\
@firmware
bios
@secure boot
@boot current
@boot next
@boot order
@loader one-shot
@disk sda
MODEL=QEMU HARDDISK\x1b[31m
PARTS= sda1 sda2 sda3
@device sda
SECTORS=2048
PTTYPE=dos
@device sda1
SECTORS=1024
TYPE=ext4
LABEL=BOOT
MOUNTED=/mnt/sda1
@grub sda1 /grub
{GRUB}
@grubenv sda1 /grub
 # GRUB Environment Block
 next_entry=bench-12
 saved_entry=debian
 ####
@custom sda1 /grub
 @end
@device sda2
SECTORS=512
TYPE=crypto_LUKS
@device sda3
SECTORS=512
TYPE=xfs
REFUSED=mount: bad superblock
@end
"""


def test_disks_are_read_and_what_nobody_looked_into_is_named() -> None:
    found = read(split_answers(ANSWER.encode()))
    (disk,) = found.disks
    assert (disk.model, disk.table, disk.size_bytes) == ("QEMU HARDDISK\\x1b[31m", "dos", 1 << 20)
    boot, secret, broken = disk.volumes
    (loader,) = boot.loaders
    assert [[file.path for file in start.files] for start in loader.starts] == [
        ["/vmlinuz-6.1", "/early.cpio", "/initrd.img-6.1"],
        ["/memtest86+x64.bin"],
    ]
    assert (loader.one_shot, loader.ours, boot.not_read) == ("bench-12", False, "")
    assert secret.not_read == "crypto_LUKS is none of ext4, xfs, btrfs and vfat"
    assert broken.not_read == "mount: bad superblock"
    assert found.troubles == ("grub on sda1: a one-shot is left over: the next boot takes bench-12",)


def test_an_entry_of_systemd_boot_s() -> None:
    text = "title Debian\nlinux /vmlinuz\ninitrd /a\ninitrd /b\noptions root=x"
    assert boot_files.loader_entry(text) == boot_files.Entry("Debian", "/vmlinuz", ("/a", "/b"))
    assert boot_files.loader_entry("title Shell\nefi /shellx64.efi") is None


def test_a_kernel_that_is_cut_or_none_is_told_by_its_begin_and_its_length() -> None:
    begin = bytearray(616)
    begin[0x1F1], begin[0x1FE:0x200], begin[0x202:0x206] = 4, b"\x55\xaa", b"HdrS"
    begin[0x206:0x208], begin[0x236] = b"\x0f\x02", 1
    begin[0x248:0x24C], begin[0x24C:0x250] = (1000).to_bytes(4, "little"), (5000).to_bytes(4, "little")
    whole = 5 * 512 + 1000 + 5000
    assert boot_files.kernel_trouble(bytes(begin), whole)[0] == ""
    assert boot_files.kernel_trouble(bytes(begin), whole - 1)[0].startswith(f"cut: {whole - 1} bytes")
    assert "no HdrS" in boot_files.kernel_trouble(bytes(616), whole)[0]
    assert boot_files.initrd_trouble("", 0) == "empty"
    assert boot_files.initrd_trouble("1f8b0800", 9) == ""
    assert boot_files.initrd_trouble("00000000", 9).startswith("neither an archive nor compressed")


# --- the first step that is missing ----------------------------------------------------------------------------------

STEPS = ("discover", "offer", "lease", "loader", "script", "kernel", "initrd", "spent")
BOOT = "rescue: system 6.1, boot 1\r\n"


@pytest.mark.parametrize(
    ("came", "serial", "component", "said"),
    [
        (0, "", "network card", "has not asked for an address"),
        (5, "iPXE", "boot loader", "the kernel was not fetched"),
        (8, "", "serial line", "not one byte came"),
        (8, "iPXE", "kernel", "no kernel speaks"),
        (8, "Linux version 6.1", "kernel", "the rescue system does not begin"),
        (8, f"Linux version 6.1\n{BOOT}rescue: no card has 1; there are: 2\r\n", "network driver", "no driver"),
        (8, f"Linux version 6.1\n{BOOT}rescue: card eth0, driver x\r\n", "DHCP", "given no address"),
        (
            8,
            f"Linux version 6.1\n{BOOT}rescue: card x\r\nrescue: no address for x; there are: 2\r\n",
            "DHCP",
            "no addr",
        ),
        (8, f"Linux version 6.1\n{BOOT}rescue: card x\r\nrescue: address 1\r\n", "rescue system", "SSH server"),
        (
            8,
            f"Linux version 6.1\n{BOOT}rescue: card x\r\nrescue: address 1\r\nrescue: SSH listens after\r\n",
            "boot network",
            "cannot be reached from here",
        ),
    ],
)
def test_it_is_named_with_who_has_not_done_it(
    tmp_path: Path, came: int, serial: str, component: str, said: str
) -> None:
    (tmp_path / "capture.json").write_text(json.dumps({"schema": 1, "machine": "box", "model": "", "image": "rescue"}))
    (tmp_path / "serial.bin").write_text(serial)
    events = [{"kind": "loaded", "at_s": 1, "offset": 0, "witness": {"steps": " ".join(STEPS[:7])}}]
    events += [{"kind": "loading", "at_s": n, "offset": 0, "witness": {"step": STEPS[n]}} for n in range(came)]
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    finding = missing(tmp_path, "SSH: nobody")
    assert finding.component == component and said in finding.summary
    assert "there are: 2" not in serial or "there are: 2" in finding.witness["it says"]


def test_what_was_said_before_power_on_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "capture.json").write_text(json.dumps({"schema": 1, "machine": "box", "model": "", "image": "rescue"}))
    before = b"Linux version 6.1\nrescue: system 6.1, boot 1\r\n"
    (tmp_path / "serial.bin").write_bytes(before)
    events = [{"kind": "loaded", "at_s": 1, "offset": 0, "witness": {"steps": " ".join(STEPS[:7])}}]
    events += [{"kind": "power_on", "at_s": 2, "offset": len(before), "witness": {}}]
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    assert missing(tmp_path, "").component == "network card"


# --- the way in ------------------------------------------------------------------------------------------------------


def test_a_connection_from_a_place_and_who_refuses_it() -> None:
    place = Place("lo")
    with place.listen("127.0.0.1", 0) as listening:
        port = listening.getsockname()[1]
        with place.connect("127.0.0.1", port, timeout_s=5) as one, listening.accept()[0] as other:
            other.sendall(b"SSH-")
            assert one.recv(4) == b"SSH-" and one.gettimeout() is None
    with pytest.raises(LabError, match=f"a connection to port {port} of 127.0.0.1 cannot be had"):
        place.connect("127.0.0.1", port, timeout_s=5)


# --- a machine that the inventory does not have ----------------------------------------------------------------------


def stranger(root: Path, **told: str) -> None:
    words = {"name": "new", "mac": "52:54:00:77:00:02", "ip": "10.77.0.102", "firmware": "", **told}
    machine = unlisted(root, words["name"], mac=words["mac"], ip=words["ip"], firmware="", pxe_loader=PxeLoader.IPXE)
    require_rescuable(machine)


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"name": "box"}, "box is in the inventory: --mac and --ip are for machines that are not"),
        ({"mac": "52:54:00:77:00:01"}, "is box: bench inventory discover box --rescue"),
        ({"mac": "01:54:00:77:00:01"}, "--mac: .*group address"),
        ({"ip": ""}, "ip: missing: .* no pool"),
        ({"ip": "10.78.0.1"}, "ip: 10.78.0.1 is not in the boot network"),
        ({"name": "New One"}, "--name: "),
    ],
)
def test_what_is_said_of_it_has_to_fit(tmp_path: Path, told: dict[str, str], said: str) -> None:
    root = lab(tmp_path)
    stranger(root)
    with pytest.raises(UsageError, match=said):
        stranger(root, **told)
