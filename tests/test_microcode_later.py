"""What is done behind the kernel's start: init's steps for it, and how a capture is held against the prediction."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from bench.initrd import STEPS_NAME, init_cpio
from bench.microcode.late_cases import LATE_CASES
from bench.microcode.later import compare_story
from bench.microcode.run import Subject, initrd_of, offer_of, second_initrd_of
from bench.microcode.story import Story, files_of, predict_story, steps_of
from bench.microcode.trial import Ground, Trial
from bench.records import Capture, LabEvent, LabEventKind
from bench.sim.ucode_loaders import loader
from bench.updates import SEARCH_FIELDS, Search
from bench.wire import encode
from bench.x86.microcode_processor import Restart
from tests.microcode_files import update

GROUND = Ground(0x906EA, 1, update(revision=0x100))
CASES = {each.name: each for each in LATE_CASES}


def subject(folder: Path) -> Subject:
    kernel = folder / "bzImage"
    kernel.write_bytes(b"a kernel")
    return Subject("kernel", kernel, "6.1.192", "00", (), b"\x7fELF", late=True)


def story_of(name: str, generation: str, folder: Path) -> tuple[Trial, Story]:
    trial = CASES[name].make(GROUND)
    image = initrd_of(trial, subject(folder))
    second = second_initrd_of(trial, subject(folder)) if trial.then else b""
    story = predict_story(
        loader(generation), trial, offer_of(trial, image, trial.words),
        offer_of(trial, second, trial.words) if second else None, late_built_in=True,
    )  # fmt: skip
    return trial, story


# --- what is predicted, and what init is told ------------------------------------------------------------------------


@pytest.mark.parametrize("generation", ["v6.1", "v6.7", "v6.12", "v7.3"])
@pytest.mark.parametrize("name", CASES)
def test_each_case_has_a_prediction_for_each_generation_that_loads_late(
    name: str, generation: str, tmp_path: Path
) -> None:
    trial, story = story_of(name, generation, tmp_path)
    assert len(story.moments) == len(trial.deeds) and (story.second is not None) == (trial.then is not None)
    assert story == story_of(name, generation, tmp_path)[1]


def test_kexec_keeps_what_was_loaded_and_the_power_does_not(tmp_path: Path) -> None:
    runs = {}
    for name in ("kexec-keeps", "kexec-keeps-late", "power-cycle-loses"):
        story = story_of(name, "v7.3", tmp_path)[1]
        assert story.second is not None
        runs[name] = story.second.runs
    assert runs == {"kexec-keeps": (0x100,) * 2, "kexec-keeps-late": (0x101,) * 2, "power-cycle-loses": (0xFF,) * 2}


def test_init_is_told_every_deed_and_has_the_files_for_it(tmp_path: Path) -> None:
    trial = CASES["late-one-off"].make(GROUND)
    steps = [step for step in steps_of(trial) if step.startswith(("put", "move"))]
    assert steps == [
        "put /sys/devices/system/cpu/cpu1/online 0",
        "move /bench/late-2 /lib/firmware/intel-ucode/06-9e-0a",
        "put /sys/devices/system/cpu/microcode/reload 1",
        "put /sys/devices/system/cpu/cpu1/online 1",
        "move /bench/late-4 /lib/firmware/intel-ucode/06-9e-0a",
        "put /sys/devices/system/cpu/microcode/reload 1",
    ]
    assert {"bench/late-2", "bench/late-4"} < set(files_of(trial))
    kexec = replace(CASES["kexec-keeps"].make(GROUND), then=Restart.KEXEC)
    assert initrd_of(kexec, subject(tmp_path), "quiet") != initrd_of(kexec, subject(tmp_path), "loud")


def test_an_archive_for_init_has_every_folder_of_its_files() -> None:
    import gzip

    data = gzip.decompress(init_cpio(b"\x7fELF", ["say a", "kexec"], {"lib/firmware/intel-ucode/06": b"x"}))
    names = [data[at + 110 :].split(b"\0")[0].decode() for at in range(len(data)) if data[at : at + 6] == b"070701"]
    assert names[:4] == ["bench", "lib", "lib/firmware", "lib/firmware/intel-ucode"]
    assert STEPS_NAME in names and b"say a\nkexec\n" in data


# --- a capture against it --------------------------------------------------------------------------------------------


def told(story: Story) -> str:
    """A console on which everything is as predicted."""
    early = story.early
    text = "".join(f"[    0.1] {line}\n" for line in early.lines) + "bench-init: here\n"
    shown = {p: revision for p, revision in enumerate(early.shown) if revision is not None}
    tainted = False
    text += look(0, shown, tainted=tainted)
    for number, moment in enumerate(story.moments, start=1):
        text += "".join(f"[    0.{number}] {line}\n" for line in moment.lines)
        if moment.error:
            text += f"bench-init: failed {moment.error}: put /sys/devices/system/cpu/microcode/reload 1\n" * 2
        tainted = tainted or moment.taints
        text += look(number, dict(moment.shown), tainted=tainted)
    return text + "".join(f"bench-init: log: {line}\n" for line in story.lines)


def look(number: int, shown: dict[int, int], *, tainted: bool) -> str:
    rows = "".join(
        f"bench-init: cpuinfo: processor\t: {p}\nbench-init: cpuinfo: microcode\t: {r:#x}\n" for p, r in shown.items()
    )
    return (f"bench-init: at {number}\n{rows}{4 if tainted else 0}\n") * 2


def compared(
    story: Story, text: str, folder: Path, *, end: LabEventKind = LabEventKind.MARKER, traced: bool = False
) -> tuple[list[str], str]:
    record = folder / "microcode.jsonl"
    rows = [{"processor": w.processor, "revision": w.revision, "before": w.before, "after": w.after}
            for w in story.writes]  # fmt: skip
    record.write_text("".join(json.dumps(row) + "\n" for row in rows))
    capture = Capture("serial.bin", text.replace("\n", "\r\n").encode(), (LabEvent(end, 1.0, 0, {}),), traced=traced)
    _, found, damage = compare_story(story, capture, record)
    return [difference.field for difference in found], damage


ORDINARY = [name for name, each in CASES.items() if "hangs" not in name and "resets" not in name
            and each.make(GROUND).then is not Restart.KEXEC]  # fmt: skip


@pytest.mark.parametrize("generation", ["v6.1", "v7.3"])
@pytest.mark.parametrize("name", ORDINARY)
def test_a_console_as_predicted_has_no_difference(name: str, generation: str, tmp_path: Path) -> None:
    story = story_of(name, generation, tmp_path)[1]
    assert compared(story, told(story), tmp_path) == ([], "")


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ("0x100 -> 0x101", "0x100 -> 0x102", "lines"),
        ("Reload succeeded", "Reload completed", "lines"),
        ("at 1\nbench-init: cpuinfo: processor\t: 0\nbench-init: cpuinfo: microcode\t: 0x101",
         "at 1\nbench-init: cpuinfo: processor\t: 0\nbench-init: cpuinfo: microcode\t: 0x100", "cpuinfo at 1"),
        ("bench-init: at 1", "bench-init: failed 1: put /sys x\nbench-init: failed 1: put /sys x\nbench-init: at 1",
         "error of 1"),
        ("\n4\n", "\n0\n", "taint at 1"),
    ],
)  # fmt: skip
def test_what_differs_in_every_reading_is_the_kernels(old: str, new: str, field: str, tmp_path: Path) -> None:
    story = story_of("late-newest", "v6.1", tmp_path)[1]
    text = told(story)
    assert old in text
    assert compared(story, text.replace(old, new), tmp_path) == ([field], "")


def test_one_reading_that_differs_is_believed_if_the_other_is_as_predicted(tmp_path: Path) -> None:
    story = story_of("late-newest", "v6.1", tmp_path)[1]
    text = told(story)
    for old in ("0x100 -> 0x101", "microcode\t: 0x101", "\n4\n"):
        assert compared(story, text.replace(old, "??", 1), tmp_path) == ([], "")


def test_a_look_that_the_kernel_spoke_into_is_a_damaged_line(tmp_path: Path) -> None:
    # Seen: the clock source was switched while init spoke, in both looks.
    story = story_of("late-newest", "v6.1", tmp_path)[1]
    before, first, second = told(story).split("bench-init: at 1\n")
    first = first.replace("processor\t: 1", "proce[    1.5] clocksource: tsc", 1)
    text = f"{before}bench-init: at 1\n{first}bench-init: at 1[    1.5] clocksource: refined-jiffies\n\n{second}"
    assert compared(story, text, tmp_path) == ([], "cpuinfo at 1: shown but once")


def test_a_processor_that_comes_too_late_is_the_emulations(tmp_path: Path) -> None:
    story = story_of("late-newest", "v6.1", tmp_path)[1]
    text = told(story).replace("updated to revision 0x101, date = 2023-03-06",
                               "Timeout while waiting for CPUs rendezvous, remaining: 1")  # fmt: skip
    found, damage = compared(story, text, tmp_path)
    assert found and damage.startswith("processors that are emulated came too late")


def test_what_is_said_last_may_be_lost_with_the_machine_and_no_more_than_that(tmp_path: Path) -> None:
    story = story_of("late-other-resets", "v7.3", tmp_path)[1]
    whole = told(replace(story, moments=()))
    text = whole[: whole.index("bench-init: log")]
    said = "".join(f"[    1.0] {line}\n" for line in story.moments[0].lines)
    for console in (text, text + said):
        assert compared(story, console, tmp_path, end=LabEventKind.RESET) == ([], "")
    assert compared(story, text.replace("0x00000100", "0x00000101") + said, tmp_path, end=LabEventKind.RESET)[0]
    assert compared(story, text + said, tmp_path)[0] == ["end"]


def test_processors_that_load_side_by_side_speak_in_any_order(tmp_path: Path) -> None:
    story = story_of("late-refused", "v6.1", tmp_path)[1]
    first, second = (f"microcode: CPU{p} update to revision 0x101 failed" for p in (0, 1))
    text = told(story)
    swapped = text.replace(first, "HERE").replace(second, first).replace("HERE", second)
    assert swapped != text and compared(story, swapped, tmp_path) == ([], "")


# --- the start's part of the trace -----------------------------------------------------------------------------------


def record_of(number: int, search: Search) -> str:
    fields: dict[str, int | str] = {name: getattr(search, name) for name in SEARCH_FIELDS}
    return encode(number, "ucode", fields, nonce=0).decode().replace("\r", "")


def traced(story: Story) -> tuple[str, list[str]]:
    """The same console with a trace, in which all but the first processor are brought up once more; the start's
    records in it."""
    begin = encode(0, "begin", {"wire": 1}, nonce=0).decode().replace("\r", "")
    start = [record_of(number, search) for number, search in enumerate(story.early.searches, start=1)]
    again = [record_of(number, search) for number, search in enumerate(story.early.later, start=1 + len(start))]
    return "".join([begin, *start, told(story), *again]), start


def test_the_starts_part_of_the_trace_is_compared_and_what_comes_behind_it_is_not(tmp_path: Path) -> None:
    story = story_of("hotplug-keeps", "v6.1", tmp_path)[1]
    text, (first, second) = traced(story)
    assert story.early.later and compared(story, text, tmp_path, traced=True) == ([], "")
    other = record_of(2, replace(story.early.searches[1], after=0xFF))
    assert compared(story, text.replace(second, other), tmp_path, traced=True) == (["trace"], "")
    assert compared(story, text.replace(first, ""), tmp_path, traced=True)[1].startswith("trace: 1 record missing")
    cut = text.replace(second, second[:20] + "\n")
    assert compared(story, cut, tmp_path, traced=True) == ([], "trace: cut: the CRC is missing or incomplete")


def test_a_kernel_with_the_trace_has_to_show_one(tmp_path: Path) -> None:
    story = story_of("hotplug-keeps", "v6.1", tmp_path)[1]
    assert compared(story, told(story), tmp_path) == ([], "")
    said = "trace: no begin of its window: nothing of it came"
    assert compared(story, told(story), tmp_path, traced=True) == ([], said)
