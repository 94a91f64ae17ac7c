"""Cells whose boots are given the very same share one, each with its own prediction; and designs that cover."""

from __future__ import annotations

import hashlib
import itertools
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from bench.inventory import load_inventory
from bench.lab.boot import Limits, Load
from bench.lab.virtual import INITRD
from bench.microcode import many
from bench.microcode.again import judge_again
from bench.microcode.cases import CASES, case
from bench.microcode.cover import cover, values_of
from bench.microcode.cross import machine_of_signature
from bench.microcode.many import boots_of, groups_of, run_matrix
from bench.microcode.observe import Observed
from bench.microcode.run import LIMITS, PATIENT, Cell, Result, Subject, limits_of, prepare, share_boot
from bench.microcode.saved import done_cells, save, scenarios_of, transitions_of
from bench.microcode.trial import Case, Ground
from bench.records import Machine, Verdict
from tests.microcode_files import update

ROOT = Path(__file__).resolve().parent.parent
SUBJECT = Subject("linux-6.1-trace", Path("bzImage"), "6.1.192", "ab", (), b"\x7fELF", late=True)
MACHINE = machine_of_signature(0x906EA, 1)
NEWEST = update(revision=0x100)
KEPT = ROOT / "tests" / "captures" / "microcode-newest"


def found(name: str) -> Case:
    this = case(name)
    assert this is not None
    return this


def cells(*names: str, bios: tuple[int, ...] = (0x100,), times: int = 1) -> list[Cell]:
    return [
        Cell(found(name), MACHINE, Ground(0x906EA, 1, NEWEST, 2, revision), SUBJECT, times)
        for revision in bios
        for name in names
    ]


def groups(*args: Cell) -> list[list[str]]:
    return [[cell.case.name for cell in group.cells] for group in groups_of(ROOT, args)]


# --- what is shared --------------------------------------------------------------------------------------------------


def test_where_nothing_is_written_what_a_write_would_do_is_no_input() -> None:
    names = ("newest", "already-newest", "refused", "other-refuses", "first-hangs", "other-hangs", "other-resets")
    assert groups(*cells(*names)) == [list(names)]
    assert len(groups(*cells(*names, bios=(0xFF,)))) == len(names), "each write is another"
    assert boots_of(ROOT, cells(*names)) == (1, True)


def test_the_same_revision_by_two_ways_is_the_same() -> None:
    assert groups(*cells("newest", "no-bios-update", bios=(0,))) == [["newest", "no-bios-update"]]


@pytest.mark.parametrize(
    "other",
    ["hypervisor", "switched-off", "siblings", "short-tail", "misaligned", "no-file", "bios-newer", "late-same"],
)
def test_whatever_a_boot_is_given_tells_it_from_others(other: str) -> None:
    assert groups(*cells("already-newest", other)) == [["already-newest"], [other]]


def test_kernels_machines_and_boots_of_one_cell_are_never_shared() -> None:
    (one,) = cells("newest", times=3)
    others = [
        replace(one, subject=replace(SUBJECT, sha256="cd")),
        replace(one, machine=machine_of_signature(0x906EA, 5), ground=replace(one.ground, platform_id=5)),
    ]
    assert groups(one, *others) == [["newest"]] * 9
    assert groups(one, replace(one, times=2)) == [["newest"]] * 5


def test_a_count_for_all_is_said_to_be_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(many, "_COUNTED_CELLS", 3)
    monkeypatch.setattr(many, "_COUNTED", 1)
    here = cells("newest", "already-newest")
    there = [replace(cell, machine=replace(MACHINE, name="other")) for cell in here]
    assert boots_of(ROOT, here + there) == (2, False)


# --- what comes of it ------------------------------------------------------------------------------------------------


def booted(cell: Cell, folder: Path) -> Result:
    """A boot of `newest` on 06-55-04 from 0xff, kept; as if it had been made for this cell."""
    shutil.copytree(KEPT, folder)
    return replace(nothing(cell, folder), verdict=Verdict.PASS, observed=seen(), seconds=2.0)


def nothing(cell: Cell, folder: Path) -> Result:
    ready = prepare(ROOT, cell.case, cell.machine, cell.ground, cell.subject)
    machine = ready.machine
    return Result(
        cell.case.name, cell.subject.name, cell.subject.sha256, cell.name, machine.model, machine.signature,
        Verdict.MISS, ready.story.early, None, (), 0.0, str(folder), "", ready.trial.rules.platform_flags,
    )  # fmt: skip


def seen() -> Observed:
    (again,) = judge_again(KEPT)
    return again.observed


def skylake(name: str, bios: int = 0xFF) -> Cell:
    machine = load_inventory(ROOT)["skylake-server"]
    newest = update(signature=0x50654, platform_flags=1, revision=0x100)
    return Cell(found(name), machine, Ground(0x50654, machine.platform_id, newest, 2, bios), SUBJECT)


def test_each_cell_has_its_own_prediction_held_against_the_boot(tmp_path: Path) -> None:
    # The kept boot had writes. A cell that predicts none, as one with the hypervisor's bit, is not content with it.
    boot = booted(skylake("newest"), tmp_path / "00001-newest-1")
    other = share_boot(skylake("hypervisor"), ROOT, boot)
    assert other.verdict is Verdict.FAIL and "writes" in [each.field for each in other.differences]
    assert (other.shared_with, other.seconds) == ("skylake-server-bff newest", 0.0)


def test_a_boot_with_a_write_that_nobody_predicted_is_not_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []

    def run(_: Path, this: Case, *__: object, **___: object) -> Result:
        ran.append(this.name)
        (cell,) = (c for c in two if c.case.name == this.name)
        return booted(cell, tmp_path / this.name)

    two = [skylake("newest", 0x100), skylake("other-refuses", 0x100)]
    monkeypatch.setattr(many, "run_case", run)
    outcomes = list(run_matrix(ROOT, two, tmp_path, jobs=1))
    assert ran == ["newest", "other-refuses"] and not any(each.shared_with for each in outcomes)


def test_a_pipe_that_breaks_in_a_boot_is_that_boots_miss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*_: object, **__: object) -> Path:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("bench.microcode.run.boot", breaks)
    (outcome,) = run_matrix(ROOT, [skylake("newest")], tmp_path, jobs=1)
    assert (outcome.verdict, outcome.why) == (Verdict.MISS, "bench: [Errno 32] Broken pipe")


def test_a_boot_keeps_its_initrd_only_if_it_is_not_as_predicted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offers: list[bytes] = []

    def boots(_: Machine, load: Load, folder: Path, **__: object) -> Path:
        offers.append(load.offer or b"")
        shutil.copytree(KEPT, folder)
        return folder

    monkeypatch.setattr("bench.microcode.run.boot", boots)
    both = {each.case: each for each in run_matrix(ROOT, [skylake("newest"), skylake("hypervisor")], tmp_path, jobs=1)}
    same, other = both["newest"], both["hypervisor"]
    assert same.verdict is Verdict.PASS and not (Path(same.folder) / INITRD).exists()
    assert other.verdict is Verdict.FAIL
    initrd = (Path(other.folder) / INITRD).read_bytes()
    assert f"{len(initrd)} bytes, SHA-256 {hashlib.sha256(initrd).hexdigest()}".encode() in b"".join(offers)
    assert not same.predicted.kept and not same.predicted.given, "thousands of these are held at a time"


def test_trouble_of_the_boot_is_that_of_all_and_is_left_to_be_done(tmp_path: Path) -> None:
    cell = skylake("other-refuses", 0x100)
    lost = replace(nothing(skylake("newest", 0x100), tmp_path), why="QEMU: gone")
    shared = share_boot(cell, ROOT, lost)
    assert (shared.verdict, shared.why) == (Verdict.MISS, "QEMU: gone")
    save(tmp_path, [lost, shared])
    assert done_cells(tmp_path) == set()


def test_the_store_says_whose_boot_it_was_and_counts_what_was_seen_once(tmp_path: Path) -> None:
    own = booted(skylake("newest"), tmp_path / "a")
    shared = replace(own, case="no-bios-update", shared_with="skylake-server-bff newest", seconds=0.0)
    rows = {each.scenario: each for each in scenarios_of([own, shared])}
    assert rows["microcode/newest"].reason == ""
    assert rows["microcode/no-bios-update"].reason == "shared with skylake-server-bff newest: all inputs are equal"
    assert (rows["microcode/no-bios-update"].predicted, rows["microcode/no-bios-update"].windows) == (1, 1)
    assert transitions_of([own, shared]) == transitions_of([own])
    save(tmp_path, [own, shared])
    assert {name for _, _, name in done_cells(tmp_path)} == {"newest", "no-bios-update"}


@pytest.mark.parametrize(
    ("name", "release", "limits"),
    [
        ("late-other-hangs", "6.1.192", PATIENT),  # panics, after ten million steps
        ("late-other-hangs", "7.3.4", LIMITS),
        ("other-hangs", "6.1.192", LIMITS),
        ("other-hangs", "7.3.4", PATIENT),  # left behind after ten seconds
        ("newest", "6.1.192", PATIENT),
    ],
)
def test_only_a_silence_that_is_predicted_is_believed_soon(name: str, release: str, limits: Limits) -> None:
    cell = skylake(name)
    ready = prepare(ROOT, cell.case, cell.machine, cell.ground, replace(SUBJECT, release=release))
    assert limits_of(ready.story) is limits


# --- covering --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strength", [1, 2])
def test_every_value_or_pair_that_some_cell_has_is_in_a_chosen_one(strength: int) -> None:
    boxes = [machine_of_signature(s, p) for s, p in ((0x906EA, 1), (0x906EA, 5), (0x906EB, 1), (0x50654, 0))]
    two = [SUBJECT, replace(SUBJECT, name="other", sha256="cd")]
    all_cells = [
        Cell(each, box, Ground(box.signature, box.platform_id, NEWEST, 2, bios), subject)
        for box in boxes
        for subject in two
        for bios in (0, 0xFF, 0x100, 0x101)
        for each in CASES[:12]
    ]

    def groups_in(some: list[Cell]) -> set[object]:
        return {group for cell in some for group in itertools.combinations(values_of(cell), strength)}

    chosen = cover(all_cells, strength)
    assert groups_in(chosen) == groups_in(all_cells)
    assert chosen == cover(all_cells, strength) == [cell for cell in all_cells if cell in chosen]
    assert len(chosen) < len(all_cells) / 4
