"""Network boot on an interface of this computer, as in a rack: a bridge with a machine's tap, and `bench run`.

The computer is a network namespace of the test's own, in which the whole bench runs.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.hardware import PxeLoader
from tests.net.machines import REPO, box, mac
from tests.rack.servers import cable, program

TUN = Path("/dev/net/tun")
pytestmark = [
    pytest.mark.boot,
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not os.access(TUN, os.W_OK), reason=f"this user may not open {TUN}, so there are no taps"),
]

TAP = "tap,id=n0,ifname=tap0,script=no,downscript=no"
COMPUTER = """
set -e
export PATH="$PATH:/usr/sbin:/sbin"
ip link set lo up
ip link add br0 type bridge forward_delay 0
ip address add 10.77.0.1/24 dev br0
ip -6 address add fd77::1/64 dev br0 nodad
ip link set br0 up
ip tuntap add tap0 mode tap
ip link set tap0 master br0 up
# Another computer's cable: a machine that is off gives the bridge no carrier.
ip link add cable0 type veth peer name cable1
ip link set cable0 master br0 up
ip link set cable1 up
exec "$@"
"""
ENTRY = """\
name = "box"
signature = "06-3c-03"
platform_id = 1
memory = "8 GiB"
maxphyaddr = 39
mac = "{mac}"
ip = "10.77.0.101"
firmware = "bios"
boot_methods = ["pxe"]
pxe_loader = "ipxe"
time_to_post_s = 15
quirks = ["tcg-reserved-bit-error-code"]

[serial]
url = "{serial}"

[power]
backend = "command"
cuts = "chassis"
on = ["{switch}", "on"]
off = ["{switch}", "off"]
status = ["{switch}", "status"]
minimum_off_s = 0.1
"""
LAB = """\
[boot_network]
interface = "{interface}"
address = "10.77.0.1/24"
"""


def test_bench_run_boots_a_machine_on_a_bridge_of_this_computer(tmp_path: Path) -> None:
    done = on_a_computer(tmp_path, "br0", "run", "--machine", "box", "--scenario", "ping-pong", "--json")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    runs = json.loads(done.stdout)["runs"]
    assert runs and {run["verdict"] for run in runs} == {"PASS"}


def test_the_boot_network_is_looked_at_before_it_is_used(tmp_path: Path) -> None:
    good, bad = (on_a_computer(tmp_path / name, name, "netboot", "check", "--json") for name in ("br0", "br1"))
    assert good.returncode == 0, good.stdout + good.stderr
    assert bad.returncode == 3
    (interface,) = [row for row in json.loads(bad.stdout)["points"] if not row["ok"]][:1]
    assert "br1" in interface["what"] + interface["said"]


def on_a_computer(folder: Path, interface: str, *words: str) -> subprocess.CompletedProcess[str]:
    """`bench WORDS` there, in a lab of one machine whose boot network is on `interface`."""
    lab = folder / "lab"
    (lab / "inventory" / "machines").mkdir(parents=True)
    shutil.copytree(REPO / "firmware-images", lab / "firmware-images")
    shutil.copyfile(REPO / "inventory" / "quirks.toml", lab / "inventory" / "quirks.toml")
    (lab / "inventory" / "lab.toml").write_text(LAB.format(interface=interface))
    with (
        cable(folder / "cable") as ends,
        box(folder / "box", None, 0, PxeLoader.IPXE, netdev=TAP, serial=f"serial,id=s0,path={ends[0]}") as one,
    ):
        switch = one.machine.folder / "switch"
        entry = ENTRY.format(mac=mac(0), serial=ends[1].resolve(), switch=switch)
        (lab / "inventory" / "machines" / "box.toml").write_text(entry)
        user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
        command: list[Any] = [program("unshare"), *user, "--net", "--", "sh", "-c", COMPUTER, "sh"]
        command += [sys.executable, "-m", "bench", *words]
        there = {**os.environ, "PYTHONPATH": str(REPO)}
        return subprocess.run(command, cwd=lab, env=there, capture_output=True, text=True, timeout=240)
