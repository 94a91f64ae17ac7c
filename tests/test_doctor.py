"""`bench doctor` tells what is there from what is not, why it matters and how to get it."""

from __future__ import annotations

import json
import os
import re
import stat
import sys
from pathlib import Path

import pytest

from bench.doctor import checks, computer, programs, run_doctor
from bench.doctor.check import Check
from bench.doctor.computer import filesystem_of

MOUNTS = [
    "/dev/sda1 / ext4 rw,relatime 0 0",
    "server:/home /home nfs4 rw,vers=4.2 0 0",
    "tmpfs /home/ann/scratch tmpfs rw 0 0",
    r"//nas/all /mnt/all\040of\040it cifs rw 0 0",
]


def program(folder: Path, name: str, script: str) -> None:
    """A program of that name for a PATH of our own."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH that holds nothing yet."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def by_name(found: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in found}


def test_every_check_says_what_was_found_why_it_matters_and_how_to_get_it() -> None:
    found = checks()
    assert len({check.name for check in found}) == len(found)
    for check in found:
        assert check.found and check.why and check.how
        assert check.group in ("core", "payloads", "microcode", "rack", "boot", "report")


def test_the_interpreter_that_runs_this_is_new_enough() -> None:
    python = by_name(checks())["python"]
    assert python.ok and sys.executable in python.found


@pytest.mark.usefixtures("tools")
def test_an_empty_path_lacks_every_program_and_names_its_package() -> None:
    found = by_name(checks())
    for name, package in [("qemu-system-x86_64", "qemu-system-x86"), ("gcc", "gcc"), ("ld", "binutils")]:
        assert not found[name].ok and found[name].group == "core"
        assert package in found[name].packages and package in found[name].how
    for name in ("clang", "ld.lld"):
        assert not found[name].ok and found[name].group == "payloads"
    assert not found["chromium"].ok and found["chromium"].group == "report"
    assert not found["PC firmware for QEMU"].ok
    kernels = found["tools that build kernels"]
    assert not kernels.ok and kernels.group == "core"
    assert {"make", "patch", "flex", "bison", "bc", "cpio", "xz-utils", "libelf-dev"} <= set(kernels.packages)


def test_of_the_tools_that_build_kernels_only_what_lacks_is_named_and_installed(tools: Path) -> None:
    for name in ("make", "patch", "tar", "xz", "bison", "cpio"):
        program(tools, name, "exit 0")
    program(tools, "gcc", "case $(/bin/cat) in *libelf*) exit 0;; esac; exit 1")
    check = programs.check_kernel_tools()
    assert check.found == "lacks flex, bc, openssl/opensslv.h"
    assert check.packages == ("flex", "bc", "libssl-dev") and "flex bc libssl-dev" in check.how


def test_doctor_and_setup_install_the_same() -> None:
    setup = (Path(__file__).parent.parent / "setup").read_text()
    (wanted,) = re.findall(r'^wanted="([^$"]*)"$', setup, re.MULTILINE)
    core = {package for check in checks() if check.group == "core" for package in check.packages}
    missing = core - set(wanted.split()) - {"seabios", "qemu-system-data"}
    assert not missing, "qemu-system-x86 brings those two"


@pytest.mark.parametrize(
    ("said", "ok", "found"),
    [
        ("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)", True, "7.2.22"),
        ("QEMU emulator version 10.0.3 (Debian 1:10.0.3+ds-0+deb13u1)", True, "10.0.3"),
        ("QEMU emulator version 8.2.2 (Debian 1:8.2.2+ds-0ubuntu1)", True, "8.2.2"),
        ("QEMU emulator version 7.1.0", False, "7.1.0"),
        ("something else", False, "something else"),
    ],
)
def test_qemu_is_judged_by_its_version(tools: Path, said: str, ok: bool, found: str) -> None:
    program(tools, "qemu-system-x86_64", f"echo '{said}'")
    check = programs.check_qemu()
    assert (check.ok, check.found) == (ok, found)


def test_a_qemu_that_cannot_start_is_not_there(tools: Path) -> None:
    program(tools, "qemu-system-x86_64", "echo 'error while loading shared libraries' >&2; exit 127")
    assert (programs.check_qemu().ok, programs.check_qemu().found) == (False, "does not run")


def test_firmware_is_looked_for_where_qemu_looks(tools: Path, tmp_path: Path) -> None:
    share, bios = tmp_path / "share", tmp_path / "seabios"
    share.mkdir()
    bios.mkdir()
    program(tools, "qemu-system-x86_64", f"echo {share}; echo {bios}")
    (share / "linuxboot_dma.bin").touch()
    assert programs.check_firmware().found == "lacks bios-256k.bin"
    (bios / "bios-256k.bin").touch()
    assert programs.check_firmware().ok


def test_the_file_system_is_that_of_the_innermost_mount() -> None:
    assert filesystem_of(Path("/srv/bench"), MOUNTS) == "ext4"
    assert filesystem_of(Path("/home/ann/bench/results"), MOUNTS) == "nfs4"
    assert filesystem_of(Path("/home/ann/scratch/results"), MOUNTS) == "tmpfs"
    assert filesystem_of(Path("/mnt/all of it/bench"), MOUNTS) == "cifs"
    assert filesystem_of(Path("/homes"), MOUNTS) == "ext4"
    assert filesystem_of(Path("/srv"), []) == "unknown"


def test_results_on_a_network_file_system_are_refused(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/sda1 / ext4 rw 0 0\nserver:/x {tmp_path} nfs rw 0 0\n")
    check = computer.check_local(tmp_path / "results", mounts)
    assert not check.ok and check.found == "nfs"


@pytest.mark.parametrize(("value", "ok"), [("0", True), ("1", True), ("2", False)])
def test_strict_overcommit_breaks_sparse_memory(tmp_path: Path, value: str, ok: bool) -> None:
    setting = tmp_path / "overcommit_memory"
    setting.write_text(value + "\n")
    assert computer.check_overcommit(setting).ok is ok


def test_a_temporary_folder_with_a_long_name_leaves_no_room_for_a_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / ("x" * 100)))
    assert not computer.check_socket_path().ok
    monkeypatch.setattr("tempfile.tempdir", "/tmp")
    assert computer.check_socket_path().ok


def test_a_folder_yet_to_be_made_is_judged_by_the_one_above_it(tmp_path: Path) -> None:
    check = computer.check_writable("cache", tmp_path / "a" / "b", "why")
    assert check.ok and ", writable, " in check.found and str(tmp_path) in check.how


def test_a_file_system_without_room_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(computer, "FREE_BYTES", 1 << 80)
    assert not computer.check_writable("cache", tmp_path, "why").ok


def test_outside_the_project_the_folder_is_missing_and_nothing_is_said_of_its_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BENCH_ROOT", raising=False)
    monkeypatch.chdir(tmp_path)
    found = by_name(checks())
    assert not found["project folder"].ok and "BENCH_ROOT" in found["project folder"].how
    assert "results/" not in found


def test_json_is_one_object_that_says_the_same() -> None:
    said: list[str] = []
    code = run_doctor(json=True, install=False, yes=False, echo=said.append)
    (text,) = said
    row = json.loads(text)
    assert row["ok"] is (code == 0)
    assert [each["name"] for each in row["checks"]] == [check.name for check in checks()]


@pytest.mark.usefixtures("tools")
def test_what_is_missing_ends_with_2_and_says_how_to_get_it() -> None:
    said: list[str] = []
    assert run_doctor(json=False, install=False, yes=False, echo=said.append) == 2
    text = "\n".join(said)
    assert "MISSING  gcc" in text and "absent   clang" in text
    assert "why: builds the payload" in text
    assert "get: apt-get install --no-install-recommends gcc" in text
    assert said[-1] == "What apt has, this gets: bench doctor --install"


def recording_apt(tools: Path, *, brings: str = "", fails: bool = False) -> Path:
    """A PATH whose apt-get writes down how it was called; `brings` is a program that it then installs."""
    log = tools / "log"
    body = f'case "$*" in *" install "*) :;; *) exit 0;; esac\necho "$*" >>{log}\n'
    if brings:
        body += f"/bin/ln -s /bin/true {tools}/{brings}\n"
    program(tools, "apt-get", body + f"exit {int(fails)}")
    program(tools, "sudo", 'exec "$@"')
    program(tools, "env", 'shift; exec "$@"')
    return log


def test_install_shows_its_commands_then_asks_and_does_nothing_on_no(tools: Path) -> None:
    log, said = recording_apt(tools), []
    code = run_doctor(json=False, install=True, yes=False, echo=said.append, confirm=lambda _: False)
    assert code == 130 and not log.exists()
    assert any(line.startswith("will run:") and "install -y --no-install-recommends" in line for line in said)


def test_install_without_a_terminal_to_ask_on_needs_yes(tools: Path) -> None:
    log, said = recording_apt(tools), []
    assert run_doctor(json=False, install=True, yes=False, echo=said.append) == 130
    assert not log.exists() and "Nothing was installed (--yes installs without asking)." in said


def test_install_gets_what_is_missing_and_looks_again(tools: Path) -> None:
    log, said = recording_apt(tools, brings="clang"), []
    run_doctor(json=False, install=True, yes=True, echo=said.append)
    (call,) = log.read_text().splitlines()
    assert {"gcc", "binutils", "clang", "lld", "qemu-system-x86"} <= set(call.split())
    assert not any(line.startswith("absent   clang ") for line in said)


def test_the_servers_of_a_rack_are_installed_only_when_asked_for_and_do_not_stay_running(
    tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "SERVER_FOLDERS", ())
    log = recording_apt(tools)
    program(tools, "systemctl", f'echo "systemctl $*" >>{log}')
    run_doctor(json=False, install=True, yes=True, echo=lambda _: None)
    (without,) = log.read_text().splitlines()
    assert "gcc" in without.split() and not {"openipmi", "openssh-server"} & set(without.split())
    log.unlink()
    said: list[str] = []
    run_doctor(json=False, install=True, yes=True, echo=said.append, groups=["rack"])
    apt, services = log.read_text().splitlines()
    lacking = programs.check_rack().packages
    assert len(lacking) == 6 and set(lacking) <= set(apt.split())
    assert services == "systemctl disable --now ser2net ssh pdudaemon"
    assert any(line.startswith("will run: ") and "disable --now" in line for line in said), "it was shown before"


def test_a_failed_installation_ends_with_3(tools: Path) -> None:
    recording_apt(tools, fails=True)
    assert run_doctor(json=False, install=True, yes=True, echo=lambda _: None) == 3


@pytest.mark.usefixtures("tools")
def test_without_apt_the_packages_are_named() -> None:
    said: list[str] = []
    assert run_doctor(json=False, install=True, yes=True, echo=said.append) == 2
    assert any(line.startswith("No apt-get here: install qemu-system-x86 ") for line in said)


def test_as_a_user_without_sudo_the_command_for_root_is_shown(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recording_apt(tools)
    (tools / "sudo").unlink()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    said: list[str] = []
    assert run_doctor(json=False, install=True, yes=True, echo=said.append) == 2
    assert any(line.startswith("Neither root nor sudo. As root: apt-get install") for line in said)


def test_what_disks_and_network_boot_need_is_installed_only_when_asked_for(
    tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "SERVER_FOLDERS", ())
    log = recording_apt(tools)
    run_doctor(json=False, install=True, yes=True, echo=lambda _: None)
    assert not {"gdisk", "dnsmasq-base"} & set(log.read_text().split())
    log.unlink()
    run_doctor(json=False, install=True, yes=True, echo=lambda _: None, groups=["boot"])
    assert {"gdisk", "dosfstools", "mtools", "dnsmasq-base", "ethtool"} <= set(log.read_text().split())


def test_a_switch_that_blocks_namespaces_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    switch = tmp_path / "clone"
    for value, blocked in (("0", True), ("1", False)):
        switch.write_text(f"{value}\n")
        monkeypatch.setattr("os.geteuid", lambda: 1000)
        check = computer.check_namespaces({switch: "0", tmp_path / "absent": "0"})
        assert check.ok is not blocked and ("blocked by" in check.found) is blocked
        monkeypatch.setattr("os.geteuid", lambda: 0)
        assert computer.check_namespaces({switch: "0"}).ok
