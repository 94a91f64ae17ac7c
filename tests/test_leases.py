"""One owner a machine: across threads, processes, killed owners, controllers; queues and reservations."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import pytest
import sqlalchemy as sa

from bench import leases as module
from bench.cli_lock import end_of
from bench.errors import LabError, UsageError
from bench.leases import Leases, lease
from bench.owners import STALE_S, boot_id, process_start
from bench.records import Machine, VirtualSpec
from bench.store import Store

REPO = Path(__file__).parents[1]
METAL = Machine("box", 0x906EA, 16 << 30, 39, True, False)


@contextmanager
def opened(results: Path, owner: str = "ann@ctl") -> Iterator[Leases]:
    with Store(results / "bench.sqlite") as store:
        yield Leases(store, results / "locks", owner=owner, poll_s=0.01)


def refusal(leases: Leases, machine: str = "box", wait_s: float = 0) -> LabError:
    with pytest.raises(LabError) as error, leases.lease(machine, purpose="run", wait_s=wait_s):
        pass
    assert error.value.component == "lock"
    return error.value


def change(results: Path, **values: object) -> None:
    """Change the lease's row, as another controller would have written it."""
    with Store(results / "bench.sqlite") as store, store.writing() as connection:
        connection.execute(sa.text(f"UPDATE leases SET {', '.join(f'{k} = :{k}' for k in values)}"), values)


def test_a_machine_has_one_owner_and_is_free_again(tmp_path: Path) -> None:
    with opened(tmp_path) as ann, opened(tmp_path, "bob@ctl") as bob:
        with ann.lease("box", purpose="run of v3.9") as had:
            error = refusal(bob)
            assert error.witness == f"in use by ann@ctl (process {os.getpid()} on {os.uname().nodename}, run of v3.9)"
            with bob.lease("other", purpose="run"):
                pass
            had.check()
        with bob.lease("box", purpose="run"):
            pass
        assert ann.situations() == []


def test_two_threads_of_one_bench_do_not_share_a_machine(tmp_path: Path) -> None:
    with opened(tmp_path) as leases, leases.lease("box", purpose="run"):
        assert "in use by ann@ctl" in str(refusal(leases))


def test_the_queue_is_served_in_order_and_says_what_it_waits_for(tmp_path: Path) -> None:
    served: list[str] = []
    told: list[str] = []
    threads = []

    def wait(name: str) -> None:
        with (
            opened(tmp_path, name) as leases,
            leases.lease("box", purpose="run", wait_s=20, waiting=told.append),
        ):
            served.append(name)

    with opened(tmp_path) as ann:
        with ann.lease("box", purpose="run"):
            for place, name in enumerate(("bob", "cat", "dan"), start=1):
                threads.append(threading.Thread(target=wait, args=(name,)))
                threads[-1].start()
                deadline = time.monotonic() + 20
                while len(ann.situations()[0].waiting) < place:
                    assert time.monotonic() < deadline
                    time.sleep(0.005)
        for thread in threads:
            thread.join()
    assert served == ["bob", "cat", "dan"]
    assert told[0].startswith("in use by ann@ctl")


def test_waiting_has_a_deadline_and_leaves_the_queue(tmp_path: Path) -> None:
    with opened(tmp_path) as ann, ann.lease("box", purpose="run"), opened(tmp_path, "bob") as bob:
        assert "not free within 0.05 s" in str(refusal(bob, wait_s=0.05))
        assert ann.situations()[0].waiting == ()


def test_waiting_can_be_interrupted(tmp_path: Path) -> None:
    cancel = threading.Event()
    with opened(tmp_path) as ann, ann.lease("box", purpose="run"), opened(tmp_path, "bob") as bob:
        threading.Timer(0.05, cancel.set).start()
        with pytest.raises(LabError, match="interrupted"), bob.lease("box", purpose="run", wait_s=60, cancel=cancel):
            pass


OWNER = """
import sys, time
from pathlib import Path
sys.path.insert(0, {repo!r})
from bench.leases import Leases
from bench.store import Store
results = Path({results!r})
with Store(results / "bench.sqlite") as store, Leases(store, results / "locks").lease("box", purpose="run"):
    print("have it", flush=True)
    time.sleep(600)
"""


@contextmanager
def other_process(results: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A bench of its own that has the machine."""
    program = OWNER.format(repo=str(REPO), results=str(results))
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"have it\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.slow
def test_the_lock_of_a_killed_owner_is_cleared_by_the_next(tmp_path: Path) -> None:
    with opened(tmp_path) as leases:
        with other_process(tmp_path) as owner:
            assert f"process {owner.pid}" in str(refusal(leases))
            owner.send_signal(signal.SIGKILL)
            owner.wait()
            assert leases.situations()[0].holder is not None, "its row is still there"
            with leases.lease("box", purpose="run", wait_s=0):
                pass
        assert leases.situations() == []


@pytest.mark.slow
def test_a_stopped_owner_is_not_dead(tmp_path: Path) -> None:
    with opened(tmp_path) as leases, other_process(tmp_path) as owner:
        owner.send_signal(signal.SIGSTOP)
        change(tmp_path, heartbeat=0)
        assert "in use by" in str(refusal(leases))


@pytest.mark.slow
def test_the_lock_file_counts_where_process_ids_do_not(tmp_path: Path) -> None:
    """A bench in another container: its process id means nothing here, its lock does."""
    with opened(tmp_path) as leases, other_process(tmp_path):
        change(tmp_path, process_start="1")
        assert "held by a process of this controller" in str(refusal(leases))


def test_after_a_reboot_nobody_is_left(tmp_path: Path) -> None:
    with opened(tmp_path) as ann:
        with ann.lease("box", purpose="run"):
            pass
        leave_row(tmp_path, boot_id="of yesterday")
        with ann.lease("box", purpose="run"):
            pass


def leave_row(results: Path, **changes: object) -> None:
    """The row that an owner leaves that was ended without a chance to clear it."""
    row = {"machine": "box", "token": "x", "owner": "eve@far", "host": os.uname().nodename, "pid": os.getpid(),
           "boot_id": boot_id(), "process_start": process_start(os.getpid()), "since": 0, "heartbeat": time.time(),
           "purpose": "run"}  # fmt: skip
    row |= changes
    with Store(results / "bench.sqlite") as store, store.writing() as connection:
        names = ", ".join(row)
        values = ", ".join(f":{name}" for name in row)
        connection.execute(sa.text(f"INSERT INTO leases ({names}) VALUES ({values})"), row)


@pytest.mark.parametrize(("age_s", "free"), [(STALE_S / 2, False), (STALE_S * 2, True)])
def test_an_owner_on_another_controller_lives_by_its_heartbeat(tmp_path: Path, age_s: float, free: bool) -> None:
    with opened(tmp_path) as leases:
        leave_row(tmp_path, host="far", heartbeat=time.time() - age_s)
        if free:
            with leases.lease("box", purpose="run"):
                pass
        else:
            assert "on far" in str(refusal(leases))


def test_the_heartbeat_is_kept_and_tells_of_a_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HEARTBEAT_S", 0.01)
    with opened(tmp_path) as ann, opened(tmp_path, "bob@ctl") as bob:
        with (
            pytest.raises(LabError, match="its lease was taken away; now: nobody"),
            ann.lease("box", purpose="run", cancel=(stop := threading.Event())) as had,
        ):
            holder = ann.situations()[0].holder
            assert holder is not None
            deadline = time.monotonic() + 10
            while (now := ann.situations()[0].holder) is not None and now.heartbeat == holder.heartbeat:
                assert time.monotonic() < deadline
            with pytest.raises(UsageError, match=r"in use by ann@ctl .*--force takes it away"):
                bob.release("box")
            assert bob.release("box", force=True)[0].startswith("taken from ann@ctl")
            assert had.lost.wait(10) and stop.wait(10), "whoever uses the machine is told to stop"
            assert "held by a process" in str(refusal(bob)), "not before ann's run has let go"
        with bob.lease("box", purpose="run"):
            pass


class TestReservations:
    def test_only_its_owner_gets_the_machine(self, tmp_path: Path) -> None:
        with opened(tmp_path) as ann, opened(tmp_path, "bob@ctl") as bob:
            ann.reserve("box", until=time.time() + 3600, reason="BIOS update")
            assert "reserved by ann@ctl until" in str(refusal(bob)) and "(BIOS update)" in str(refusal(bob))
            with ann.lease("box", purpose="run"):
                pass
            with pytest.raises(UsageError, match="reserved by ann@ctl"):
                bob.reserve("box", until=time.time() + 10)
            with pytest.raises(UsageError, match="--force takes it away"):
                bob.release("box")
            bob.release("box", force=True)
            with bob.lease("box", purpose="run"):
                pass

    def test_it_ends_by_itself(self, tmp_path: Path) -> None:
        with opened(tmp_path) as ann, opened(tmp_path, "bob@ctl") as bob:
            ann.reserve("box", until=time.time() + 0.1)
            with bob.lease("box", purpose="run", wait_s=20):
                pass
            with pytest.raises(UsageError, match="has passed"):
                ann.reserve("box", until=time.time() - 1)

    def test_its_owner_can_prolong_and_give_it_up(self, tmp_path: Path) -> None:
        with opened(tmp_path) as ann:
            ann.reserve("box", until=time.time() + 10)
            later = ann.reserve("box", until=time.time() + 20)
            assert ann.situations()[0].reservation == later
            ann.release("box")
            assert ann.situations() == [] and ann.release("box") == []


def test_a_virtual_machine_is_nobodys(tmp_path: Path) -> None:
    virtual = Machine("haswell", 0x306C3, 8 << 30, 39, True, False, virtual=VirtualSpec("Haswell"))
    with lease(virtual, tmp_path) as one, lease(virtual, tmp_path) as two:
        assert one.machine == two.machine
    assert list(tmp_path.iterdir()) == []


def test_the_store_and_the_locks_of_a_machine_lie_in_results(tmp_path: Path) -> None:
    with lease(METAL, tmp_path), pytest.raises(LabError, match="in use by"), lease(METAL, tmp_path):
        pass
    assert (tmp_path / "locks" / "box.lock").exists()
    assert (tmp_path / "locks").stat().st_mode & 0o7777 == 0o1777, "every user's bench can make its own"


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with Store(tmp_path / "bench.sqlite") as store, pytest.raises(UsageError, match="no lock files can be made"):
        Leases(store, tmp_path / "file" / "locks")


CONTENDER = """
import os, sys, time
from pathlib import Path
sys.path.insert(0, {repo!r})
from bench.leases import Leases
from bench.store import Store
results = Path({results!r})
with Store(results / "bench.sqlite") as store:
    leases = Leases(store, results / "locks", poll_s=0.005)
    (results / f"ready-{{os.getpid()}}").touch()
    while len(list(results.glob("ready-*"))) < 2:
        time.sleep(0.001)
    for run in range({runs}):
        with leases.lease("box", purpose=f"run {{run}}", wait_s=60):
            # Fails if the other is on the machine now.
            os.close(os.open(results / "powered", os.O_CREAT | os.O_EXCL))
            with open(results / "log", "a") as log:
                log.write(f"{{os.getpid()}}\\n")
            # Contended: given up only when the other has come for it, however slow this computer lets that be.
            while not (results / "done").exists() and not any(one.waiting for one in leases.situations()):
                time.sleep(0.001)
            os.unlink(results / "powered")
    (results / "done").touch()
"""


@pytest.mark.slow
def test_two_benches_on_one_machine_in_50_contended_runs_are_never_on_it_together(tmp_path: Path) -> None:
    program = CONTENDER.format(repo=str(REPO), results=str(tmp_path), runs=25)
    benches = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(2)]
    assert [bench.wait(100) for bench in benches] == [0, 0]
    log = (tmp_path / "log").read_text().split()
    assert len(log) == 50 and set(log) == {str(bench.pid) for bench in benches}
    turns = sum(one != two for one, two in itertools.pairwise(log))
    assert turns > 40, "each had it in turn"


class TestTimes:
    NOW = datetime.fromisoformat("2026-11-22T17:30:00+00:00")

    @pytest.mark.parametrize(
        ("until", "period", "end"),
        [
            ("18:00", None, "2026-11-22T18:00:00+00:00"),
            ("9:15", None, "2026-11-23T09:15:00+00:00"),
            ("2026-12-01T08:00:00+00:00", None, "2026-12-01T08:00:00+00:00"),
            (None, "90m", "2026-11-22T19:00:00+00:00"),
            (None, "2d", "2026-11-24T17:30:00+00:00"),
        ],
    )
    def test_are_understood(self, until: str | None, period: str | None, end: str) -> None:
        assert end_of(until, period, self.NOW) == datetime.fromisoformat(end)

    @pytest.mark.parametrize(("until", "period"), [("25:00", None), ("noon", None), (None, "2 h"), (None, "h")])
    def test_others_are_refused(self, until: str | None, period: str | None) -> None:
        with pytest.raises(UsageError, match="--until" if until else "--for"):
            end_of(until, period, self.NOW)
