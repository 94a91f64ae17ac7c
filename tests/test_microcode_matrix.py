"""The whole matrix as a list of cells, what is drawn from it and what is left of it; and what the store keeps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench.cli_kernels import UPDATES_TAG, kernel_tasks
from bench.cli_matrix import matrix
from bench.errors import UsageError
from bench.images.kernel_image import KernelImage
from bench.images.microcode_package import FILES, Package
from bench.inventory import load_inventory
from bench.lab.load import Load
from bench.lab.virtual import qemu_command
from bench.microcode.cases import CASES, HIL, SLOW, Case, case
from bench.microcode.cross import bios_revisions, cross, left, machine_of_signature, machines, part, sample
from bench.microcode.observe import Observed, Write
from bench.microcode.order import NO_LATE_LOADING, NOT_HERE, run_matrix_order
from bench.microcode.run import QUICK, Result, Subject, initrd_of, machine_of, offer_of, prepare, subject_of
from bench.microcode.saved import done_cells, save, seconds_a_boot, transitions_of
from bench.microcode.trial import Ground
from bench.records import Verdict
from bench.report.site.microcode import transitions
from bench.run import MatrixOrder
from bench.scenarios import load_boot_plans
from bench.sim.ucode_load import EarlyLoad, predict_early
from bench.sim.ucode_loaders import loader
from bench.store import Store, Transition
from tests.microcode_files import update

ROOT = Path(__file__).resolve().parent.parent
SUBJECT = Subject("kernel", Path("bzImage"), "6.1.192", "ab", (), b"\x7fELF")


@pytest.fixture
def package(tmp_path: Path) -> Package:
    """Two signatures: one of two platforms, one in a table of the other's file too."""
    folder = tmp_path / "package" / FILES
    folder.mkdir(parents=True)
    table = ((0x906EB, 0x02),)
    (folder / "06-9e-0a").write_bytes(
        update(platform_flags=0x22, revision=0xF0) + update(platform_flags=0x02, revision=0xFA, extended=table)
    )
    (folder / "06-9e-0b.initramfs").write_bytes(update(signature=0x906EB, platform_flags=0x02, revision=0x80000007))
    return Package(tmp_path / "package", "1")


def some(*names: str) -> list[Case]:
    found = [case(name) for name in names]
    assert all(found)
    return [each for each in found if each]


def test_every_signature_with_a_file_is_there_with_each_platform_that_the_file_is_for(package: Package) -> None:
    found = [(m.name, m.signature, m.platform_id) for m in machines(package)]
    assert found == [
        ("06-9e-0a-p1", 0x906EA, 1), ("06-9e-0a-p5", 0x906EA, 5), ("06-9e-0b-p1", 0x906EB, 1),
    ]  # fmt: skip
    (first, *_) = machines(package)
    assert first.virtual and first.virtual.properties == ("family=6", "model=158")
    assert machine_of(ROOT, first, some("newest")[0].make(ground(package))).signature == 0x906EA


def ground(package: Package) -> object:  # a Ground, for its cases
    return cross(package, [SUBJECT], some("newest"), processors=2, times=1)[0].ground


def test_bios_revisions_lie_below_between_at_and_above_the_newest() -> None:
    assert bios_revisions(0xFA) == (0, 0xF9, 0xFA, 0xFB)
    assert bios_revisions(1) == (0, 1, 2)
    assert bios_revisions(0xFFFFFFFF) == (0, 0xFFFFFFFE, 0xFFFFFFFF)


def test_the_product_is_full_and_a_case_with_a_revision_of_its_own_is_there_once(package: Package) -> None:
    two = [SUBJECT, replace(SUBJECT, name="other", sha256="cd")]
    cells = cross(package, two, some("newest", "already-newest", "short-tail"), processors=2, times=1)
    assert len(cells) == 3 * len(two) * (4 + 1 + 4)
    assert len({cell.key for cell in cells}) == len(cells)
    # Platform 5 has an older newest than platform 1.
    bios = {cell.ground.bios for cell in cells if cell.machine.platform_id == 5}
    assert bios == {0, 0xEF, 0xF0, 0xF1}


def test_platform_ids_without_an_update_of_their_own_come_last_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / FILES
    folder.mkdir(parents=True)
    (folder / "06-9e-0a").write_bytes(
        update(platform_flags=0x26, revision=0xF0) + update(platform_flags=0x06, revision=0xFA)
    )
    (folder / "06-9e-0b").write_bytes(update(signature=0x906EB, platform_flags=0x02, revision=0x80000007))
    package = Package(tmp_path, "1")

    def there(*, distinct: bool) -> list[str]:
        cells = cross(package, [SUBJECT], some("newest"), processors=2, times=1, distinct=distinct)
        return list(dict.fromkeys(cell.machine.name for cell in cells))

    assert there(distinct=True) == ["06-9e-0a-p1", "06-9e-0a-p5", "06-9e-0b-p1"]
    assert there(distinct=False) == [*there(distinct=True), "06-9e-0a-p2"]


def test_what_is_only_started_is_started_quickly_where_the_kernel_and_the_case_allow_it(
    package: Package, tmp_path: Path
) -> None:
    (tmp_path / "bzImage").write_bytes(b"for kexec")
    here, quick = ground(package), replace(SUBJECT, quick=True, kernel=tmp_path / "bzImage")
    assert isinstance(here, Ground)

    def machine_and_words(name: str, subject: Subject, **rules: int) -> tuple[str, int, str]:
        found = some(name)[0]
        if rules:
            made = found.make
            found = replace(found, make=lambda g: replace(made(g), rules=replace(made(g).rules, **rules)))
        ready = prepare(ROOT, found, machine_of_signature(0x906EA, 1), here, subject)
        assert ready.machine.virtual
        line = qemu_command(
            ready.machine, Load(Path("k"), b"", ready.command_line), serial_path=Path("s"), witness=False
        )
        return line[line.index("-smp") + 1], line.count("tcg,thread=single"), ready.command_line

    assert machine_and_words("newest", quick)[:2] == ("2,sockets=2", 1)
    assert f" {QUICK} " in machine_and_words("newest", quick)[2]
    for usual in (
        machine_and_words("newest", SUBJECT), machine_and_words("late-newest", quick),
        machine_and_words("kexec-keeps", quick),
    ):  # fmt: skip
        assert usual[:2] == ("2", 0) and "acpi=off" not in usual[2]
    siblings = machine_and_words("newest", quick, siblings=2)
    assert siblings[:2] == ("2,sockets=1,threads=2", 0) and "acpi=off" not in siblings[2]


def test_only_kernels_that_read_the_mp_table_can_be_started_quickly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.microcode.run.find_msr_sites", lambda _: ())
    monkeypatch.setattr(KernelImage, "traced", False)
    (tmp_path / "init").write_bytes(b"\x7fELF")
    monkeypatch.setattr("bench.microcode.run.build_init", lambda _: tmp_path / "init")
    image = KernelImage("linux-6.1", tmp_path, "6.1.192", 1, "ab", True)
    (tmp_path / "System.map").write_text("ffffffff81000000 T _text\n")
    assert not subject_of(ROOT, image, quick=True).quick
    (tmp_path / "System.map").write_text("ffffffff81000000 T _text\nffffffff82a00000 d mpf_base\n")
    assert subject_of(ROOT, image, quick=True).quick and not subject_of(ROOT, image).quick


def test_a_draw_is_the_same_by_its_seed_and_what_is_done_is_left_out(package: Package) -> None:
    cells = cross(package, [SUBJECT], list(CASES), processors=2, times=1)
    drawn = sample(cells, 20, 7)
    assert drawn == sample(cells, 20, 7) != sample(cells, 20, 8) and len({cell.key for cell in drawn}) == 20
    assert sample(cells, 10**6, 1) == cells
    assert left(drawn, [cell.key for cell in drawn[:5]] + [("x", "y", "z")]) == drawn[5:]


@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_the_parts_are_the_whole_and_a_kernel_on_a_machine_is_in_one_of_them(package: Package, parts: int) -> None:
    cells = cross(package, [SUBJECT, replace(SUBJECT, sha256="other")], list(CASES), processors=2, times=1)
    pieces = [part(cells, number, parts) for number in range(1, parts + 1)]
    assert [cell for piece in pieces for cell in piece] == cells
    blocks = [{(cell.subject.sha256, cell.name) for cell in piece} for piece in pieces]
    assert sum(map(len, blocks)) == len(set().union(*blocks))
    assert all(abs(len(piece) - len(cells) / parts) <= len(CASES) * 4 for piece in pieces)


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "1/", "a/b", "-1/2", "1/2/3", "٣/٣"])
def test_a_part_is_a_number_of_a_number(text: str, package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.cli_matrix._subjects", lambda *_, **__: [SUBJECT])
    monkeypatch.setattr("bench.cli_matrix._package", lambda **_: package)
    with pytest.raises(UsageError, match="give it as K/N, such as 2/3"):
        matrix(cross=True, piece=text)


# --- what is kept ----------------------------------------------------------------------------------------------------


def predicted(name: str) -> tuple[EarlyLoad, int]:
    from tests.test_microcode_cases import GROUND

    trial = some(name)[0].make(GROUND)
    return predict_early(
        loader("v6.1"), trial.rules, offer_of(trial, initrd_of(trial, SUBJECT), "")
    ), trial.rules.platform_flags


def result(name: str, where: Path, *, end: str = "boots", verdict: Verdict = Verdict.PASS) -> Result:
    """A boot in which the processors saw what was predicted."""
    due, flags = predicted(name)
    why = "serial line: damaged" if verdict is Verdict.MISS else ""
    seen = Observed((), (), tuple(Write(w.processor, w.revision, w.before, w.after) for w in due.writes), end)
    return Result(
        name, "linux-6.1", "ab", "box", "06-9e-0a", 0x906EA, verdict, due, seen, (), 2.0, str(where / name / "1"), why,
        flags,
    )  # fmt: skip


def test_what_came_of_each_update_is_kept_and_the_transition_matrix_counts_it(tmp_path: Path) -> None:
    group = [
        result("newest", tmp_path), result("newest", tmp_path), result("refused", tmp_path),
        result("other-resets", tmp_path, end="reset"), result("other-hangs", tmp_path, end="hang"),
        result("wrong-flags", tmp_path), result("newest", tmp_path, verdict=Verdict.MISS),
    ]  # fmt: skip
    outcomes = [(t.boot, t.processor, t.outcome) for t in transitions_of(group)]
    assert outcomes == [
        (1, 0, "updated"), (1, 1, "updated"), (2, 0, "updated"), (2, 1, "updated"), (3, 0, "refused"),
        (3, 1, "refused"), (4, 0, "updated"), (4, 1, "reboot loop"), (5, 0, "updated"), (5, 1, "silent hang"),
        (7, 0, "not observable"), (7, 1, "not observable"),
    ]  # fmt: skip
    save(tmp_path, group)
    with Store(tmp_path / "bench.sqlite") as store:
        (row,) = transitions(store.runs())
    assert (row.signature, row.flags, row.before, row.offered, row.image) == (0x906EA, 2, 0xFF, 0x100, "linux-6.1")
    assert row.outcomes == {
        Transition.UPDATED: 6, Transition.REFUSED: 2, Transition.REBOOT_LOOP: 1, Transition.SILENT_HANG: 1,
        Transition.NOT_OBSERVABLE: 2,
    }  # fmt: skip
    assert (row.updated, row.observed) == (6, 10) and 0.3 < row.interval[0] < 0.6 < row.interval[1] < 0.9


def test_cells_of_the_store_are_done_unless_the_lab_failed(tmp_path: Path) -> None:
    assert done_cells(tmp_path) == set() and seconds_a_boot(tmp_path, guess=3.5) == 3.5
    save(tmp_path, [result("newest", tmp_path), result("refused", tmp_path, verdict=Verdict.MISS)])
    assert done_cells(tmp_path) == {("ab", "box", "newest")} and seconds_a_boot(tmp_path, guess=3.5) == 2.0


# --- as a part of a lab run ------------------------------------------------------------------------------------------


def test_every_lab_run_has_a_named_subset_and_the_long_one_all_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(HIL) < {each.name for each in CASES} and not set(HIL) & SLOW
    kernel = KernelImage("linux-6.1-trace", Path("none"), "6.1.192", 1, "ab", True)
    monkeypatch.setattr(KernelImage, "traced", True)
    monkeypatch.setattr("bench.cli_images.build_with_progress", lambda *_, **__: kernel)
    monkeypatch.setattr("bench.images.bzimage.require_bootable", lambda _: None)
    monkeypatch.setattr("bench.images.build_init", lambda _: Path("init"))

    def orders(*, full: bool) -> list[object]:
        found = kernel_tasks(ROOT, ["linux-6.1-trace"], [], every=True, plans=[], full=full, witness=False, quiet=True)
        return [task.order for task in found]

    usual = [o for o in orders(full=False) if isinstance(o, MatrixOrder)]
    whole = [o for o in orders(full=True) if isinstance(o, MatrixOrder)]
    assert {o.cases for o in usual} == {HIL} and {o.made_up for o in usual} == {False, True}
    assert {o.cases for o in whole} == {tuple(each.name for each in CASES)} and len(whole) > len(usual)
    tagged = [m.name for m in load_inventory(ROOT).values() if UPDATES_TAG in m.tags]
    booted = {o.machine.name: o.names for o in orders(full=False) if not isinstance(o, MatrixOrder)}  # type: ignore[attr-defined]
    with_updates = {
        name for name, each in load_boot_plans(ROOT).items() if each.updates != "none" and each.set == "hil"
    }
    assert tagged and all(set(booted[name]) == with_updates for name in tagged)


def test_without_intels_files_what_needs_them_is_skipped_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.microcode.order.find_package", lambda: None)
    monkeypatch.setattr(KernelImage, "details", {})
    kernel = KernelImage("linux-6.1-trace", Path("none"), "6.1.192", 1, "ab", True)
    order = MatrixOrder(load_inventory(ROOT)["coffeelake"], kernel, ("newest", "refused"), made_up=False, root=ROOT)
    came = run_matrix_order(order, results=tmp_path)
    assert came.verdict is Verdict.SKIP
    assert [(s.scenario, s.reason) for s in came.scenarios] == [
        ("microcode/newest", NOT_HERE), ("microcode/refused", NOT_HERE),
    ]  # fmt: skip


def test_a_kernel_without_late_loading_shows_so_once_and_the_other_late_cases_are_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("newest", "late-newest", "late-same", "kexec-keeps", "kexec-keeps-late", "hotplug-keeps", "hotplug-loads")
    kernel = KernelImage("linux-6.1-trace", Path("none"), "6.1.192", 1, "ab", True)
    order = MatrixOrder(load_inventory(ROOT)["coffeelake"], kernel, names, made_up=True, root=ROOT)
    monkeypatch.setattr(KernelImage, "details", {})
    monkeypatch.setattr(
        "bench.microcode.order.run_case",
        lambda _, this, *__, **___: replace(result("newest", tmp_path), case=this.name),
    )

    def skipped(*, late: bool) -> dict[str, str]:
        monkeypatch.setattr("bench.microcode.order.subject_of", lambda *_: replace(SUBJECT, late=late))
        came = run_matrix_order(order, results=tmp_path / str(late))
        assert {each.scenario for each in came.scenarios} == {f"microcode/{name}" for name in names}
        assert came.verdict is Verdict.PASS
        return {s.scenario: s.reason for s in came.scenarios if s.verdict is Verdict.SKIP}

    left_out = skipped(late=False)
    assert set(left_out) == {"microcode/late-same", "microcode/kexec-keeps-late", "microcode/hotplug-keeps"}
    assert set(left_out.values()) == {NO_LATE_LOADING} and skipped(late=True) == {}
