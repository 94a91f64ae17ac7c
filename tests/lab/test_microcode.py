"""Virtual processors that take microcode, under kernels as they are. It proves the loader, not the processor.

The tests marked `lab` use made-up updates and Debian's own kernel; those marked `microcode` Intel's.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bench.images.kernel import build_kernel
from bench.inventory import load_inventory
from bench.lab.boot import Limits, Load, boot
from bench.lab.virtual_cpu import RECORD
from bench.microcode.cases import CASES, case
from bench.microcode.late_cases import LATE_CASES, LATE_SLOW
from bench.microcode.many import run_matrix
from bench.microcode.run import LIMITS, Cell, Result, Subject, ground_of, run_case, subject_of
from bench.microcode.saved import done_cells
from bench.microcode.trial import Ground
from bench.parse.capture_file import read_captures
from bench.records import LabEventKind, Verdict
from tests.intel_files import intel

# Whichever test comes first has its kernels built: with nothing in the cache, several minutes each.
pytestmark = pytest.mark.timeout(1800)

ROOT = Path(__file__).parents[2]
MACHINES = load_inventory(ROOT)


@pytest.fixture(scope="module")
def debian() -> Subject:
    return subject_of(ROOT, build_kernel(ROOT, "debian-6.1"))


@pytest.fixture(scope="module")
def linux() -> dict[str, Subject]:
    """Two generations, unpatched."""
    return {name: subject_of(ROOT, build_kernel(ROOT, name)) for name in ("linux-6.1", "linux-7.3")}


@pytest.fixture(scope="module")
def traced() -> dict[str, Subject]:
    """The same two, with the trace."""
    return {name: subject_of(ROOT, build_kernel(ROOT, name)) for name in ("linux-6.1-trace", "linux-7.3-trace")}


def run(
    name: str, subject: Subject, folder: Path, *, machine: str = "skylake-server", ground: Ground, words: str
) -> Result:
    found = case(name)
    assert found is not None
    result = run_case(ROOT, found, machine, ground, subject, folder / name, words=words)
    assert result.verdict is Verdict.PASS, result
    return result


# --- a quick start --------------------------------------------------------------------------------------------------


@pytest.mark.microcode
@pytest.mark.parametrize("kernel", ["linux-6.1", "linux-7.3"])
@pytest.mark.parametrize("name", ["newest", "two-revisions", "other-refuses"])
def test_a_quick_start_is_to_the_loader_what_the_usual_one_is(kernel: str, name: str, tmp_path: Path) -> None:
    image = build_kernel(ROOT, kernel)
    ground = ground_of(MACHINES["skylake-server"], intel(), processors=4)
    seen = []
    for quick in (False, True):
        subject = subject_of(ROOT, image, quick=quick)
        assert subject.quick is quick
        outcome = run(name, subject, tmp_path / str(quick), ground=ground, words="nokaslr").observed
        assert outcome is not None
        # From 6.5 on processors start side by side: which one writes first is not the loader's.
        writes = sorted((w.processor, w.before, w.after) for w in outcome.writes)
        seen.append((outcome.end, outcome.lines[-1], outcome.shown[-1], writes))
    assert seen[0] == seen[1] and len(seen[1][2]) == 4


# --- made-up updates, Debian's kernel --------------------------------------------------------------------------------


@pytest.mark.lab
@pytest.mark.parametrize("words", ["nokaslr", ""], ids=["nokaslr", "kaslr"])
@pytest.mark.parametrize("processors", [1, 4])
def test_debians_kernel_updates_every_processor(debian: Subject, tmp_path: Path, processors: int, words: str) -> None:
    ground = ground_of(MACHINES["skylake-server"], None, processors=processors)
    result = run("newest", debian, tmp_path, ground=ground, words=words)
    assert result.predicted.runs == (0x100,) * processors
    assert (tmp_path / "newest" / RECORD).read_text().count("\n") == processors


@pytest.mark.lab
@pytest.mark.parametrize(
    "name", ["siblings", "refused", "first-refuses", "table-then-own", "misaligned", "first-resets"]
)
def test_processors_that_share_refuse_or_reset_are_as_predicted(debian: Subject, tmp_path: Path, name: str) -> None:
    ground = ground_of(MACHINES["ivybridge"], None)
    run(name, debian, tmp_path, machine="ivybridge", ground=ground, words="nokaslr")


@pytest.mark.lab
@pytest.mark.parametrize("name", ["linux-6.1", "linux-7.3"])
def test_a_boot_in_which_no_processor_can_go_on_is_not_waited_for(
    linux: dict[str, Subject], tmp_path: Path, name: str
) -> None:
    ground = ground_of(MACHINES["skylake-server"], None)
    run("first-hangs", linux[name], tmp_path, ground=ground, words="nokaslr")
    (capture,) = read_captures(tmp_path / "first-hangs")
    (silence,) = (event for event in capture.events if event.kind is LabEventKind.SILENCE)
    assert silence.witness["limit"].startswith("processor 0 does not come back from its write, all others are halted")


@pytest.mark.lab
def test_a_boot_in_which_another_processor_goes_on_is_waited_for(linux: dict[str, Subject], tmp_path: Path) -> None:
    ground = ground_of(MACHINES["skylake-server"], None)
    run("other-hangs", linux["linux-6.1"], tmp_path, ground=ground, words="nokaslr")
    (capture,) = read_captures(tmp_path / "other-hangs")
    (silence,) = (event for event in capture.events if event.kind is LabEventKind.SILENCE)
    assert silence.witness["limit"] == f"{LIMITS.silence_s:g} s without a byte"


@pytest.mark.lab
def test_a_run_that_is_ended_goes_on_where_it_was_and_boots_nothing_twice(
    linux: dict[str, Subject], tmp_path: Path
) -> None:
    names = ["newest", "already-newest", "older-in-file", "wrong-flags"]
    chosen = [part for name in names for part in ("--case", name)]
    command = [
        *(sys.executable, "-m", "bench", "microcode", "matrix", "--made-up", "--kernel", linux["linux-6.1"].name),
        *("--jobs", "1", "--json", "--results", str(tmp_path), *chosen),
    ]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as run_:
        assert run_.stdout is not None
        first = json.loads(run_.stdout.readline())["case"]
        run_.terminate()
        came = [json.loads(line) for line in run_.stdout]
    done = {first} | {row["case"] for row in came if row["verdict"] == "PASS"}
    assert {case_ for _, _, case_ in done_cells(tmp_path)} == done < set(names)
    rest = subprocess.run([*command, "--resume"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert {json.loads(line)["case"] for line in rest.stdout.splitlines()} == set(names) - done
    assert f"4 cells; {len(done)} are done" in rest.stderr


@pytest.mark.lab
def test_the_wrong_image_is_the_labs_trouble_and_not_the_kernels(debian: Subject, tmp_path: Path) -> None:
    moved = tuple(replace(site, address=site.address + 1) for site in debian.sites)
    ground = ground_of(MACHINES["skylake-server"], None)
    found = case("newest")
    assert found is not None
    result = run_case(ROOT, found, "skylake-server", ground, replace(debian, sites=moved), tmp_path / "boot")
    assert result.verdict is Verdict.MISS and "is this image the one that was booted?" in result.why


@pytest.mark.lab
def test_a_machine_of_the_inventory_takes_microcode_by_its_own_table(debian: Subject, tmp_path: Path) -> None:
    machine = MACHINES["cooperlake"]
    assert machine.virtual is not None and machine.virtual.microcode is not None
    from bench.microcode.run import COMMAND_LINE, initrd_of
    from bench.microcode.trial import Trial
    from bench.x86.early_cpio import UCODE_PATH, build

    ground = ground_of(machine, None)
    early = build({UCODE_PATH: ground.made(0x7002B01)})
    initrd = initrd_of(Trial(early, machine.virtual.microcode), debian)
    load = Load(debian.kernel, initrd, f"{COMMAND_LINE} nokaslr", msr_sites=debian.sites)
    small = replace(machine, memory_bytes=256 << 20)
    boot(small, load, tmp_path / "boot", meta={"nonce": "0"}, limits=Limits(60, 30, 120))
    (capture,) = read_captures(tmp_path / "boot")
    assert LabEventKind.MARKER in {event.kind for event in capture.events}
    assert capture.data.count(b"microcode\t: 0x7002b01") == 8  # four processors, shown twice
    assert (tmp_path / "boot" / RECORD).read_text().count('"before": 117449474') == 2  # cores


# --- Intel's updates -------------------------------------------------------------------------------------------------


@pytest.mark.microcode
def test_stock_6_1_updates_itself_from_intels_06_55_04_on_four_processors(
    linux: dict[str, Subject], tmp_path: Path
) -> None:
    ground = ground_of(MACHINES["skylake-server"], intel(), processors=4)
    result = run("newest", linux["linux-6.1"], tmp_path, ground=ground, words="")
    (first, *_) = result.predicted.lines
    assert first.startswith(f"microcode: microcode updated early to revision {ground.revision:#x}, date = ")
    assert result.predicted.runs == (ground.revision,) * 4


SIGNATURES = (
    "skylake-server", "skylake-client", "ivybridge", "denverton", "haswell", "broadwell", "sandybridge", "conroe",
    "cascadelake-server", "icelake-server",
)  # fmt: skip


@pytest.mark.microcode
@pytest.mark.parametrize("kernel", ["linux-6.1", "linux-7.3"])
@pytest.mark.parametrize("name", SIGNATURES)
def test_each_signature_updates_itself_from_its_real_file(
    linux: dict[str, Subject], tmp_path: Path, name: str, kernel: str
) -> None:
    ground = ground_of(MACHINES[name], intel(), processors=4)
    run("newest", linux[kernel], tmp_path, machine=name, ground=ground, words="")


@pytest.mark.microcode
@pytest.mark.parametrize("kernel", ["linux-6.1-trace", "linux-7.3-trace"])
@pytest.mark.parametrize("name", SIGNATURES)
def test_lines_trace_and_cpuinfo_say_of_four_processors_that_each_runs_its_real_file(
    traced: dict[str, Subject], tmp_path: Path, name: str, kernel: str
) -> None:
    ground = ground_of(MACHINES[name], intel(), processors=4)
    result = run("newest", traced[kernel], tmp_path, machine=name, ground=ground, words="")
    predicted, seen = result.predicted, result.observed
    assert seen is not None and seen.traced and seen.searches is not None
    before, after = ground.rules().bios_revision, ground.revision
    said = {
        "linux-6.1-trace": f"microcode: microcode updated early to revision {after:#x}, date = ",
        "linux-7.3-trace": f"microcode: Current revision: {after:#010x}",
    }
    assert predicted.lines in seen.lines and any(line.startswith(said[kernel]) for line in predicted.lines)
    assert dict.fromkeys(range(4), after) in seen.shown
    loaded = sorted((s.processor, s.before, s.revision, s.after) for s in seen.searches)
    assert loaded == [(processor, before, after, after) for processor in range(4)]


@pytest.mark.microcode
@pytest.mark.parametrize("kernel", ["linux-6.1", "linux-7.3"])
@pytest.mark.parametrize("name", [each.name for each in CASES if each not in LATE_CASES])
def test_every_case_is_as_predicted_on_two_generations(
    linux: dict[str, Subject], tmp_path: Path, name: str, kernel: str
) -> None:
    ground = ground_of(MACHINES["skylake-server"], intel())
    run(name, linux[kernel], tmp_path, ground=ground, words="nokaslr")


@pytest.mark.microcode
@pytest.mark.parametrize("kernel", ["linux-6.1", "linux-7.3"])
def test_late_loads_hotplug_suspend_kexec_and_power_are_as_predicted_on_two_generations(
    linux: dict[str, Subject], tmp_path: Path, kernel: str
) -> None:
    machine = MACHINES["skylake-server"]
    ground = ground_of(machine, intel())
    chosen = [each for each in LATE_CASES if each.name not in LATE_SLOW]
    cells = [Cell(each, machine, ground, linux[kernel]) for each in chosen]
    outcomes = list(run_matrix(ROOT, cells, tmp_path, jobs=2))
    wrong = {each.case: (each.verdict, each.differences, each.why) for each in outcomes if each.verdict != "PASS"}
    assert not wrong and len(outcomes) == len(chosen)


@pytest.mark.microcode
@pytest.mark.parametrize("processors", [1, 8])
def test_a_late_load_reaches_every_processor_with_kaslr_too(
    linux: dict[str, Subject], tmp_path: Path, processors: int
) -> None:
    ground = ground_of(MACHINES["skylake-server"], intel(), processors=processors)
    result = run("late-newest", linux["linux-7.3"], tmp_path, ground=ground, words="")
    assert result.observed
    assert sorted(write.processor for write in result.observed.writes) == list(range(processors))


@pytest.mark.lab
def test_a_kernel_that_was_built_without_late_loading_has_no_file_for_it(debian: Subject, tmp_path: Path) -> None:
    assert not debian.late
    ground = ground_of(MACHINES["skylake-server"], None)
    run("late-newest", debian, tmp_path, ground=ground, words="nokaslr")
