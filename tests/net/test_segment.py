"""The virtual boot network: made and unmade as root and as nobody, and swept after a bench that was killed."""

from __future__ import annotations

import fcntl
import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bench.errors import LabError
from bench.lab import scratch as scratch_module
from bench.lab.net import segment as segment_module
from bench.lab.net.segment import segment
from bench.lab.scratch import scratch
from tests.net.machines import REPO

NOBODY = 65534
# What a bench does on a virtual network, by whoever runs it: all of its servers, and one more computer that asks.
ALL_OF_IT = """
import os, sys
sys.path.insert(0, sys.argv[1])
from bench.hardware import BootNetwork
from bench.lab.net.place import Place
from bench.lab.net.probe import discover, offer_in
from bench.lab.net.segment import attached, segment
from bench.lab.net.dnsmasq import Dnsmasq
from bench.lab.net.dnsmasq_config import Host
from bench.lab.scratch import scratch
network = BootNetwork("boot0", "10.77.0.1/24")
with segment(["10.77.0.1/24", "fd77::1/64"]) as wire, scratch("bench-net-") as folder:
    print(os.geteuid(), wire.place.own_user, flush=True)
    dnsmasq = Dnsmasq(network, wire.place, folder, [], told=lambda _: None, died=print)
    dnsmasq.offer([Host("52:54:00:77:00:01", "10.77.0.101", True)])
    with wire.place.listen("10.77.0.1", 8069):
        machine, switch = wire.socket_pair(0)
        with attached([], [(str(machine), str(switch))]) as elsewhere, elsewhere.wire() as card:
            card.settimeout(60)
            card.send(discover(bytes.fromhex("525400770001"), 7))
            while not (found := offer_in(card.recv(2048), 7)):
                pass
    print(found.address, flush=True)
    dnsmasq.close()
"""


def system_python() -> str:
    found = shutil.which("python3", path="/usr/bin:/bin")
    if found is None:
        pytest.fail("nobody can run this Python, and there is no python3 in /usr/bin")
    return found


@pytest.mark.boot
@pytest.mark.slow
def test_all_servers_run_without_root() -> None:
    """As nobody, in a copy that nobody may read, with the system's Python: the parts in question need no package."""
    if os.geteuid() != 0:
        command = [sys.executable, "-c", ALL_OF_IT, str(REPO)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    else:
        copy = Path("/tmp") / f"bench-copy-{os.getpid()}"
        shutil.copytree(REPO / "bench", copy / "bench")
        try:
            subprocess.run(["chmod", "-R", "a+rX", copy], check=True)
            command = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", system_python()]
            command += ["-c", ALL_OF_IT, str(copy)]
            environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "TMPDIR": "/tmp"}
            done = subprocess.run(command, capture_output=True, text=True, timeout=100, env=environment, cwd="/")
        finally:
            shutil.rmtree(copy)
    assert done.returncode == 0, done.stderr[-1500:]
    who, address = done.stdout.splitlines()
    assert who.endswith(" True") and not who.startswith("0 ")
    assert address == "10.77.0.1"


@pytest.mark.boot
def test_where_namespaces_are_forbidden_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unshare that fails as the system's does where it is forbidden."""
    refusing = tmp_path / "unshare"
    refusing.write_text("#!/bin/sh\necho 'unshare: unshare failed: Operation not permitted' >&2\nexit 1\n")
    refusing.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(segment_module.os, "geteuid", lambda: 1000)
    with (
        pytest.raises(LabError, match=r"kernel\.apparmor_restrict_unprivileged_userns, or run this as root"),
        segment([]),
    ):
        pass


@pytest.mark.boot
def test_the_network_goes_with_a_bench_that_is_killed() -> None:
    program = (
        "import os, signal\nfrom bench.lab.net.segment import segment\n"
        "with segment(['10.77.0.1/24']) as wire:\n"
        "    print(wire.place.pid, flush=True)\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=REPO, capture_output=True, text=True, timeout=100)
    assert done.returncode == -signal.SIGKILL
    pid = int(done.stdout)
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([handle], [], [], 60)[0], "it ends too"
    finally:
        os.close(handle)


def test_what_a_killed_bench_has_left_is_swept_and_what_is_in_use_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scratch_module.tempfile, "gettempdir", lambda: str(tmp_path))
    left, used, young = (tmp_path / f"bench-net-{name}" for name in ("left", "used", "young"))
    for folder in (left, used, young):
        folder.mkdir()
    for folder in (left, used):
        os.utime(folder, (0, 0))
    lock = os.open(used, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with scratch("bench-net-") as mine:
        assert mine.parent == tmp_path
        assert (left.exists(), used.exists(), young.exists()) == (False, True, True)
    os.close(lock)
    assert not mine.exists()
