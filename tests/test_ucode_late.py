"""Late loads and what else is done to a kernel that has come up: each generation by its own rules."""

from __future__ import annotations

import pytest

from bench.errors import UsageError
from bench.sim.ucode_late import Running, Walk, asks_for_minimum, choose_late, late_rules
from bench.sim.ucode_load import End, LoadOffer, predict_early
from bench.sim.ucode_loaders import LOADERS, loader
from bench.sim.ucode_system import Deed, Moment, System, What
from bench.x86.early_cpio import UCODE_PATH, build
from bench.x86.microcode_build import set_word
from bench.x86.microcode_processor import Act, Cores, ProcessorRules, Restart
from tests.microcode_files import SIGNATURE, update

OLD, NEW = "v6.1", "v7.3"
RUNNING = 0x10
NEWER = update(revision=0x11)
BAD = NEWER[:-1] + bytes([NEWER[-1] ^ 1])


def rules(**more: object) -> ProcessorRules:
    return ProcessorRules(SIGNATURE, 1, RUNNING, **more)  # type: ignore[arg-type]


def walk(name: str, file: bytes | None, **more: bool) -> tuple[Walk, int | None]:
    chosen = choose_late(loader(name), rules(), file, Running(RUNNING, RUNNING), **more)
    return chosen.end, int.from_bytes(chosen.update[4:8], "little") if chosen.update else None


def system(
    name: str, *, early: bytes = b"", processors: int = 2, started: int | None = None, line: str = "", **more: object
) -> System:
    image = build({UCODE_PATH: early})
    processor = rules(**more)
    offer = LoadOffer(image, len(image), 0, line, False, started or processors)
    return System(loader(name), processor, offer, predict_early(loader(name), processor, offer), processors)


def late(file: bytes | None) -> Deed:
    return Deed(What.LATE, file=file)


def does(name: str, *deeds: Deed, **more: object) -> Moment:
    """What the last of the deeds comes to."""
    running = system(name, **more)  # type: ignore[arg-type]
    return [running.do(deed) for deed in deeds][-1]


# --- the file --------------------------------------------------------------------------------------------------------


def test_generations_whose_late_loading_was_not_read_are_refused_by_name() -> None:
    read = [row.name for row in LOADERS if row.name in ("v6.1", "v6.7", "v6.12", "v7.3")]
    assert len([late_rules(loader(name)) for name in read]) == 4
    with pytest.raises(UsageError, match=r"late loading of the loader v4\.19 is not modelled"):
        late_rules(loader("v4.19"))


@pytest.mark.parametrize("name", [OLD, NEW])
def test_the_newest_that_fits_and_is_newer_than_what_runs_is_taken(name: str) -> None:
    newest = update(revision=0x13, seed=3)
    assert walk(name, NEWER + newest + update(revision=0x12)) == (Walk.CHOSEN, 0x13)
    for passed_over in (
        None, b"", update(revision=RUNNING), update(revision=5), update(revision=0x20, signature=SIGNATURE ^ 1),
        update(revision=0x20, platform_flags=0x41),
    ):  # fmt: skip
        assert walk(name, passed_over) == (Walk.NONE, None)


def test_a_bad_update_that_is_the_last_one_spoils_nothing_up_to_6_6() -> None:
    assert walk(OLD, NEWER + BAD) == (Walk.CHOSEN, 0x11)
    assert walk(NEW, NEWER + BAD) == (Walk.BAD, None)
    assert walk(OLD, BAD + NEWER) == walk(NEW, BAD + NEWER) == (Walk.BAD, None)
    # Nothing is left behind it, so that the file is not bad but has nothing.
    assert walk(OLD, BAD) == (Walk.NONE, None) and walk(NEW, BAD) == (Walk.BAD, None)


@pytest.mark.parametrize(
    ("file", "says"),
    [
        (NEWER + bytes(47), "error! Truncated or inaccessible header in microcode data file"),
        (NEWER[:-4], "error! Bad data in microcode data file (truncated file?)"),
        (set_word(NEWER, "total_size", 47), "error! Bad data in microcode data file (totalsize too small)"),
        (set_word(NEWER, "total_size", 1024), "Error: bad microcode data file size."),
        (BAD, "Bad microcode data checksum, aborting."),
        (set_word(NEWER, "loader_revision", 2), "Error: invalid/unknown microcode update format."),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_the_kernels_words(file: bytes, says: str) -> None:
    for name in (OLD, NEW):
        line = choose_late(loader(name), rules(), file, Running(RUNNING, RUNNING)).lines[-1]
        more = " Header type 1" if name == NEW and says.endswith("format.") else ""
        assert line == f"microcode: {says}{more}"


def test_an_update_is_safe_from_the_revision_on_that_its_header_names() -> None:
    def said(minimum: int) -> tuple[bool, tuple[str, ...]]:
        file = set_word(NEWER, "minimum_revision", minimum)
        chosen = choose_late(loader(NEW), rules(), file, Running(RUNNING, RUNNING))
        assert chosen.end is Walk.CHOSEN
        return chosen.safe, chosen.lines

    assert said(RUNNING) == said(1) == (True, ())
    assert said(0)[1] == (
        "microcode: Unsafe microcode update: Microcode header does not specify a required min version",
    )
    assert said(RUNNING + 1) == (False, (
        "microcode: Unsafe microcode update: Current revision 0x10 too old",
        "microcode: Current should be at 0x11 or higher. Use early loading instead",
    ))  # fmt: skip
    assert not choose_late(loader(OLD), rules(), NEWER, Running(RUNNING, RUNNING)).lines


def test_a_minimum_can_be_forced_from_6_7_on_and_each_release_has_its_own_word_for_it() -> None:
    assert walk(NEW, NEWER, minimum_forced=True) == (Walk.NONE, None)
    assert walk(NEW, set_word(NEWER, "minimum_revision", RUNNING), minimum_forced=True) == (Walk.CHOSEN, 0x11)
    words = ("microcode=force_minrev", "microcode=x,force_minrev", "microcode.force_minrev=1", "microcode.minrev=Y")
    asks = {name: [asks_for_minimum(loader(name), f"quiet {w}") for w in words] for name in (OLD, "v6.12", NEW)}
    assert asks == {
        OLD: [False] * 4, "v6.12": [False, False, True, False], NEW: [True, True, False, False],
    }  # fmt: skip


# --- the load --------------------------------------------------------------------------------------------------------


def test_what_6_1_and_7_3_say_of_a_late_load_and_whether_it_taints() -> None:
    old, new = does(OLD, late(NEWER)), does(NEW, late(NEWER))
    assert old.lines == (
        "microcode: Attempting late microcode loading - it is dangerous and taints the kernel.",
        "microcode: You should switch to early loading, if possible.",
        "microcode: updated to revision 0x11, date = 2023-03-06",
        "microcode: Reload succeeded, microcode revision: 0x10 -> 0x11",
    )
    assert new.lines[1:] == (
        "microcode: Late microcode loading without minimal revision check.",
        "microcode: You should switch to early loading, if possible.",
        "microcode: load: updated on 2 primary CPUs with 0 siblings",
        "microcode: revision: 0x10 -> 0x11",
    )
    for moment in (old, new):
        assert (moment.error, moment.taints, moment.runs, dict(moment.shown)) == (0, True, (0x11,) * 2, {0: 17, 1: 17})
        assert [w.processor for w in moment.writes] == [0, 1]
    safe = does(NEW, late(set_word(NEWER, "minimum_revision", RUNNING)))
    assert not safe.taints and len(safe.lines) == 2


def test_a_file_without_anything_newer_is_an_error_from_6_7_on_and_taints_before() -> None:
    assert [(m.error, m.taints, m.lines) for m in (does(OLD, late(None)), does(NEW, late(None)))] == [
        (0, True, ()), (2, False, ()),
    ]  # fmt: skip
    assert (does(NEW, late(BAD)).error, does(OLD, late(BAD + NEWER)).error) == (77, 0)


def test_the_second_thread_of_a_core_finds_it_loaded() -> None:
    for name in (OLD, NEW):
        moment = does(name, late(NEWER), processors=4, siblings=2)
        assert [w.processor for w in moment.writes] == [0, 2] and set(moment.runs) == {0x11}
    assert "microcode: load: updated on 2 primary CPUs with 2 siblings" in moment.lines


def test_a_processor_that_refuses_fails_the_load_and_the_others_keep_it() -> None:
    acts = ((1, Act.REFUSE),)
    old, new = does(OLD, late(NEWER), acts=acts), does(NEW, late(NEWER), acts=acts)
    assert old.error == 1 and old.lines[-3:] == (
        "microcode: CPU1 update to revision 0x11 failed",
        "microcode: Error reloading microcode on CPU 1",
        "microcode: Reload failed, current microcode revision: 0x11",
    )
    assert new.error == 5 and "microcode: load incomplete. 1 CPUs timed out or failed" in new.lines
    assert old.runs == new.runs == (0x11, RUNNING)
    all_refuse = does(NEW, late(NEWER), refuses=frozenset({0x11}))
    assert all_refuse.lines[-1] == "microcode: update failed: 2 CPUs failed 0 CPUs timed out"
    assert not all_refuse.taints and all_refuse.error == 5


def test_a_processor_that_does_not_come_back_is_a_panic_up_to_6_6_and_silence_behind() -> None:
    acts = ((1, Act.HANG),)
    assert (does(OLD, late(NEWER), acts=acts).end, does(NEW, late(NEWER), acts=acts).end) == (End.PANIC, End.HANG)
    assert does(OLD, late(NEWER), acts=((0, Act.RESET),)).end is End.RESET


def test_a_processor_that_is_off_keeps_the_others_from_loading_if_it_is_a_cores_first_thread() -> None:
    off = Deed(What.OFF, 1)
    assert (does(OLD, off, late(NEWER)).error, does(NEW, off, late(NEWER)).error) == (22, 16)
    sibling = [does(name, off, late(NEWER), processors=4, siblings=2) for name in (OLD, NEW)]
    assert [m.error for m in sibling] == [0, 0] and [p for p, _ in sibling[0].shown] == [0, 2, 3]
    # One that never was on is no hindrance from 6.7 on, and is given the update when it comes up.
    assert does(OLD, late(NEWER), started=1).error == 22 and does(NEW, late(NEWER), started=1).error == 0
    on = does(NEW, late(NEWER), Deed(What.ON, 1), started=1)
    assert [(w.processor, w.before, w.after) for w in on.writes] == [(1, RUNNING, 0x11)]


def test_a_kernel_without_late_loading_has_no_such_file() -> None:
    without = system(OLD)
    without.late_built_in = False
    assert without.do(late(NEWER)).error == 2
    assert does(NEW, late(NEWER), line="dis_ucode_ldr").error == 2


# --- what is kept ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [OLD, NEW])
def test_a_processor_that_is_taken_off_keeps_its_update_and_one_that_first_comes_up_is_given_it(name: str) -> None:
    off, on = Deed(What.OFF, 1), Deed(What.ON, 1)
    again = does(name, off, on, early=NEWER)
    assert again.writes == () and dict(again.shown) == {0: 0x11, 1: 0x11}
    first = does(name, on, early=NEWER, started=1)
    assert [(w.processor, w.after) for w in first.writes] == [(1, 0x11)]


@pytest.mark.parametrize("name", [OLD, NEW])
def test_suspend_loses_the_update_and_the_kernel_loads_it_again(name: str) -> None:
    suspend = Deed(What.SUSPEND)
    for moment in (does(name, suspend, early=NEWER), does(name, late(NEWER), suspend)):
        assert [(w.processor, w.before, w.after) for w in moment.writes] == [(0, 0x10, 0x11), (1, 0x10, 0x11)]
    assert does(name, suspend).writes == ()


def test_what_a_restart_keeps() -> None:
    cores = Cores(rules(siblings=2), 4)
    cores.load(3, 0x11)
    assert (cores.revisions, cores.of(2), cores.of(1)) == ([RUNNING, 0x11], 0x11, RUNNING)
    for how in (Restart.KEXEC, Restart.INIT):
        cores.restart(how)
        assert cores.of(3) == 0x11
    for how in (Restart.POWER_CYCLE, Restart.RESET, Restart.SUSPEND):
        cores.load(3, 0x11)
        cores.restart(how)
        assert cores.of(3) == RUNNING
