"""The whole flow on virtual machines: faithful handlers agree, every hidden bug is found, and trouble is named."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from bench.bugs import Bug, load_bugs
from bench.images import build_payload
from bench.inventory import find_root, load_inventory
from bench.judge import judge
from bench.lab.boot import Limits, Progress
from bench.parse.capture_file import read_captures
from bench.records import Verdict
from bench.report.explain import explain
from bench.run import Order, RunResult, run
from bench.scenarios import load_scenarios

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

ROOT = find_root(Path(__file__).parent)
MACHINES = load_inventory(ROOT)
# The others have no second witness.
BOOTED_DIRECTLY = [name for name, machine in MACHINES.items() if machine.virtual and machine.virtual.host is None]
SCENARIOS = load_scenarios(ROOT / "firmware-images" / "scenarios")
TABLE = load_bugs(ROOT)
CASES = [(bug, variant) for bug in TABLE.bug for variant in bug.variants]

# What a kernel developer would say of the first thing that goes wrong, by bug.
FIRST_SIGN = {
    1: r"livelock|error code|PMD entry|a fault too many",
    3: r"top-level entry|a fault too many|level at which the walk leaves",
    12: r"a fault too many",
    13: r"a fault is missing",
    14: r"reset itself",
    15: r"next_early_pgt|endless loop|reset itself|top-level entry",
    16: r"next_early_pgt|early_pgt_resets|a fault too many|top-level entry|reset itself",
    18: r"digest|entry|next_early_pgt|dump",
    19: r"PMD entry",
    20: r"PANIC|return from the handler",
    22: r"early_recursion_flag",
    24: r"digest|next_early_pgt|PUD entry|PMD entry",
}


def order(machine: str, variant: str, *scenarios: str, bug: int = 0, witness: bool = False) -> Order:
    chosen = tuple(SCENARIOS[name] for name in scenarios if variant in SCENARIOS[name].variants)
    return Order(MACHINES[machine], variant, chosen, bug=bug, witness=witness)


def carry_out(what: Order, folder: Path, **other: object) -> RunResult:
    return run(what, payload=build_payload(ROOT), results=folder, limits=Limits(), **other)  # type: ignore[arg-type]


def machine_for(bug: Bug, variant: str) -> str:
    if variant == "la57":
        return "la57"
    return "no-nx" if bug.nx is False else "haswell"


@pytest.mark.parametrize(("bug", "variant"), CASES, ids=[f"{b.number}-{v}" for b, v in CASES])
def test_every_hidden_bug_is_found_and_explained(bug: Bug, variant: str, tmp_path: Path) -> None:
    what = order(machine_for(bug, variant), variant, *TABLE.scenarios, bug=bug.number)
    result = carry_out(what, tmp_path)
    assert result.verdict is Verdict.FAIL
    finding = next(w.finding for w in result.judgement.windows if w.verdict is Verdict.FAIL)
    assert finding and re.search(FIRST_SIGN[bug.number], finding.summary), finding.summary
    story = "\n".join(explain(result.judgement))
    assert finding.summary in story
    # Nothing that was captured names the bug: only the script carries its number.
    for boot in result.folder.glob("boot-*"):
        for name in ("serial.bin", "capture.json", "events.jsonl"):
            assert "bug" not in (boot / name).read_text(errors="replace")


@pytest.mark.parametrize(("machine", "variant"), [("haswell", "seed-2012"), ("haswell", "v3.9"), ("la57", "la57")])
def test_two_hundred_random_schedules_give_no_finding(machine: str, variant: str, tmp_path: Path) -> None:
    result = carry_out(order(machine, variant, "random-long"), tmp_path)
    (scenario,) = result.scenarios
    assert (scenario.verdict, scenario.findings) == (Verdict.PASS, ())
    assert scenario.windows >= 200
    assert scenario.predicted >= 5000
    assert scenario.replayed == 0
    assert scenario.resets >= 500


@pytest.mark.parametrize("machine", BOOTED_DIRECTLY)
def test_the_witness_agrees_with_the_trace(machine: str, tmp_path: Path) -> None:
    variant = "la57" if MACHINES[machine].la57 else "v3.9"
    names = ("sweep-1gib-small", "rejected", "non-canonical", "nx-fetch", "reserved-bits", "moves")
    result = carry_out(order(machine, variant, *names, witness=True), tmp_path)
    assert result.verdict is Verdict.PASS
    assert result.witnessed >= sum(s.predicted for s in result.scenarios) > 100


def test_a_replay_gives_the_same_verdict_as_the_run(tmp_path: Path) -> None:
    result = carry_out(order("skylake-server", "v3.9", "sweep-1gib-small", "rejected"), tmp_path)
    again = judge(read_captures(result.folder))
    assert again == result.judgement
    assert again.verdict is Verdict.PASS
    details = result.record().details
    assert f" ID{details['image id'].lstrip('0')} ".encode() in read_captures(result.folder)[0].data
    assert "gcc" in details["compiler"]


def qemus(parent: int) -> set[int]:
    """Process ids of the QEMU machines of a bench; others on this computer are nobody's business here."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            name, _, rest = (process / "stat").read_text().rpartition(")")
            if "(qemu-system" in name and int(rest.split()[1]) == parent:
                found.add(int(process.name))
        except OSError:
            continue
    return found


def test_a_machine_that_is_killed_in_mid_run_is_a_miss_and_the_next_run_works(tmp_path: Path) -> None:
    killed = threading.Event()

    def kill(progress: Progress) -> None:
        mine = qemus(os.getpid())
        if progress.faults > 20 and mine and not killed.is_set():
            killed.set()
            for pid in mine:
                os.kill(pid, signal.SIGKILL)

    what = order("skylake-server", "v3.9", "random-long")
    result = carry_out(what, tmp_path, progress=kill)
    assert killed.is_set()
    assert result.verdict is Verdict.MISS
    finding = next(w.finding for w in result.judgement.windows if w.finding)
    assert finding.component == "machine"
    assert not qemus(os.getpid())
    assert carry_out(order("skylake-server", "v3.9", "repeated"), tmp_path).verdict is Verdict.PASS


def test_ctrl_c_ends_with_130_and_leaves_no_machine_behind(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "bench",
        "run",
        "--machine",
        "haswell",
        "--set",
        "long",
        "--results",
        str(tmp_path),
    ]
    bench = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    captured: list[Path] = []
    while not captured and bench.poll() is None:
        captured = [p for p in tmp_path.glob("captures/*/*/boot-1/serial.bin") if p.stat().st_size > 20_000]
    bench.send_signal(signal.SIGINT)
    out, err = bench.communicate(timeout=60)
    assert bench.returncode == 130, (out, err)
    assert "interrupted: switching the machines off" in err
    assert "MISS" in out
    # What exits of its own accord once the bench has gone, such as Python's resource tracker, may take a moment.
    until = time.monotonic() + 10
    while session_of(bench.pid) and time.monotonic() < until:
        time.sleep(0.05)
    assert not session_of(bench.pid)
    for boot in tmp_path.glob("captures/*/*/boot-1"):
        kinds = [json.loads(line)["kind"] for line in (boot / "events.jsonl").read_text().splitlines()]
        assert kinds[-1] == "power_off"
    after = carry_out(order("haswell", "v3.9", "repeated"), tmp_path)
    assert after.verdict is Verdict.PASS


def session_of(leader: int) -> list[str]:
    """Commands of the processes that live in the session of `leader`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            stat = (process / "stat").read_text().rpartition(")")[2].split()
            if int(stat[3]) == leader and stat[0] != "Z":
                found.append((process / "cmdline").read_text())
        except OSError:
            continue
    return found


def test_a_run_that_was_killed_is_gone_on_with_and_does_nothing_twice(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench", "run", "--jobs", "1", "--results", str(tmp_path)]
    chosen = [word for name in ("haswell", "penryn", "westmere") for word in ("--machine", name)]
    bench = subprocess.Popen(
        [*command, *chosen, "--variant", "v3.9", "--scenario", "repeated"],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert bench.stderr is not None
    with bench:
        while "PASS  haswell" not in bench.stderr.readline():
            assert bench.poll() is None
        bench.kill()
    while session_of(bench.pid):
        pass  # the suite's time limit names what does not end with the bench
    again = subprocess.run([*command, "--resume", "--json"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert again.returncode == 0, again.stderr
    said = json.loads(again.stdout)
    before, after = [row["name"].split()[0] for row in said["before"]], [row["machine"] for row in said["runs"]]
    assert "haswell" in before and sorted(before + after) == ["haswell", "penryn", "westmere"]
    third = subprocess.run([*command, "--resume"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert third.returncode == 2 and "no run was broken off" in third.stderr


@pytest.mark.parametrize("machine", ["coffeelake", "cooperlake", "haswell"])
def test_the_payload_offers_updates_to_processors_that_take_them_and_to_qemus_that_do_not(
    machine: str, tmp_path: Path
) -> None:
    result = carry_out(order(machine, "v3.9", "update", "update-refused"), tmp_path)
    assert result.verdict is Verdict.PASS and [s.verdict for s in result.scenarios] == [Verdict.PASS] * 2
    outcomes = [transition.outcome for transition in result.judgement.transitions]
    assert len(outcomes) == 10 and ("updated" in outcomes) == (MACHINES[machine].virtual.microcode is not None)  # type: ignore[union-attr]
    written = tmp_path.rglob("microcode.jsonl")
    assert sum(path.read_text().count("\n") for path in written) == (10 if "updated" in outcomes else 0)
