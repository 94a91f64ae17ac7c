"""Cases that go on behind the kernel's start: late loads, processors taken off and brought up, suspend, kexec, power.

Firmware has loaded the newest update already, so that a made-up one above it is what is loaded late: no kernel then
takes the processor's microcode for an old one, which taints as a late load does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from bench.microcode.trial import (
    Case,
    Ground,
    Trial,
    bad_checksum,
    bad_row,
    bad_table,
    file_of,
    newer,
    newer_still,
    newest,
    other_flags,
    other_signature,
    trial_of,
)
from bench.sim.ucode_system import Deed, What
from bench.x86.microcode import HEADER_BYTES
from bench.x86.microcode_build import set_word
from bench.x86.microcode_processor import Act, Restart

_FORCE_MINIMUM = "microcode=force_minrev microcode.force_minrev=1"
_Make = Callable[[Ground], bytes]


def _late(*files: _Make | None) -> tuple[Callable[[Ground], Deed], ...]:
    """A late load of each file, one after the other."""
    return tuple(lambda ground, make=make: Deed(What.LATE, file=make(ground) if make else None) for make in files)


def _off(processor: int) -> Callable[[Ground], Deed]:
    return lambda _: Deed(What.OFF, processor)


def _on(processor: int) -> Callable[[Ground], Deed]:
    return lambda _: Deed(What.ON, processor)


def _suspend(_: Ground) -> Deed:
    return Deed(What.SUSPEND)


def _of(
    name: str, about: str, *deeds: Callable[[Ground], Deed], early: tuple[_Make, ...] = (), **changes: object
) -> Case:
    """A case of deeds; `changes` are the trial's. With `early` updates in the initrd the BIOS's revision is older."""

    def make(ground: Ground) -> Trial:
        above = file_of(*(update(ground) for update in early))
        rules = ground.rules(None if early else ground.revision)
        done = tuple(deed(ground) for deed in deeds)
        needed = max(ground.processors, 1 + max(deed.processor for deed in done))
        return trial_of(ground, above, **{"rules": rules, "deeds": done, "processors": needed, **changes})

    return Case(name, about, make)


def _ruled(case: Case, **rules: object) -> Case:
    """The same with processors that play by other rules."""

    def make(ground: Ground) -> Trial:
        trial = case.make(ground)
        return replace(trial, rules=replace(trial.rules, **rules))  # type: ignore[arg-type]

    return replace(case, make=make)


def _acting(name: str, about: str, processor: int, act: Act) -> Case:
    """A late load on two processors, one of which does not play its part."""
    return _ruled(_of(name, about, *_late(newer), processors=2), acts=((processor, act),))


def _starting(name: str, about: str, how: Restart, *deeds: Callable[[Ground], Deed]) -> Case:
    """An early load, deeds, and then the kernel once more, without an update in its initrd."""

    def make(ground: Ground) -> Trial:
        done = tuple(deed(ground) for deed in deeds)
        return trial_of(ground, file_of(ground.newest), deeds=done, then=how, then_early=file_of())

    return Case(name, about, make)


def _minimum(above_running: int) -> _Make:
    return lambda ground: set_word(newer(ground), "minimum_revision", ground.revision + above_running)


def _two(first: _Make, second: _Make) -> _Make:
    return lambda ground: first(ground) + second(ground)


def _small_total(ground: Ground) -> bytes:
    """A header that claims to be larger than itself is."""
    return set_word(newer(ground), "total_size", HEADER_BYTES - 1)


LATE_CASES: tuple[Case, ...] = (
    _of("late-newest", "one update, newer than what runs", *_late(newer)),
    _of("late-same", "one update, of the revision that runs", *_late(newest)),
    _of("late-older", "one update, older than what runs", *_late(lambda g: g.made(g.revision - 1))),
    _of("late-no-file", "no file for this processor", *_late(None)),
    _of("late-wrong-signature", "for another stepping", *_late(other_signature)),
    _of("late-wrong-flags", "for all platforms but this", *_late(other_flags)),
    _of("late-two", "two newer ones, the older first", *_late(_two(newer, newer_still))),
    _of("late-twice", "one after the other, and the second one again", *_late(newer, newer_still, newer_still)),
    _of("late-min-rev-met", "its header allows it from the running revision on", *_late(_minimum(0))),
    _of("late-min-rev-above", "its header allows it from a later revision on", *_late(_minimum(1))),
    _of("late-min-rev-forced", "force_minrev: an update without a minimum, one above, and one that is met",
        *_late(newer, _minimum(1), _minimum(0)), words=_FORCE_MINIMUM),
    _of("late-bad-checksum", "one bit of its data is wrong", *_late(bad_checksum)),
    _of("late-good-then-bad", "a good update, then a bad one: up to 6.6 the good one is taken",
        *_late(_two(newer, bad_checksum))),
    _of("late-bad-then-good", "a bad update, then a good one", *_late(_two(bad_checksum, newer))),
    _of("late-bad-files", "each thing that can be wrong with a file, one after the other", *_late(
        bad_table, bad_row, _small_total, lambda g: newer(g)[:-4], _two(newer, lambda _: bytes(47)),
        lambda g: set_word(newer(g), "loader_revision", 2), lambda g: set_word(newer(g), "header_version", 2))),
    _of("late-after-early", "an early update, then a newer one", *_late(newer), early=(newest,)),
    _ruled(_of("late-siblings", "two threads a core: the second one has it already", *_late(newer), processors=4),
           siblings=2),
    _ruled(_of("late-refused", "every processor refuses it in silence", *_late(newer), processors=2),
           acts=((0, Act.REFUSE), (1, Act.REFUSE))),
    _acting("late-first-refuses", "the first processor refuses it, the second does not", 0, Act.REFUSE),
    _acting("late-other-refuses", "the second processor refuses it, the first does not", 1, Act.REFUSE),
    _acting("late-first-hangs", "the first does not come back from its write: panic up to 6.6, 6.7 hangs", 0, Act.HANG),
    _acting("late-other-hangs", "the second does not come back from its write", 1, Act.HANG),
    _acting("late-other-resets", "the second processor's write resets the machine", 1, Act.RESET),
    _of("late-one-off", "a processor that has been taken off: nothing is loaded, until it is back",
        _off(1), *_late(newer), _on(1), *_late(newer)),
    _ruled(_of("late-sibling-off", "the second thread of a core is off", _off(1), *_late(newer), _on(1), processors=4),
           siblings=2),
    _of("late-never-on", "a processor that never came up: 6.7 and newer load without it, and give it what they loaded",
        *_late(newer), _on(1), started=1),
    _of("hotplug-keeps", "a processor that is taken off and comes up again has kept its update", _off(1), _on(1),
        *_late(newer), _off(1), _on(1), early=(newest,)),
    _of("hotplug-loads", "a processor that first comes up later is given the early update", _on(1), early=(newest,),
        started=1),
    _of("suspend-loads", "suspend to memory loses the update, and the kernel loads it again", _suspend,
        early=(newest,)),
    _of("suspend-after-late", "the same with one that was loaded late", *_late(newer), _suspend),
    _of("suspend-without", "suspend to memory, and no update to load again", _suspend),
    _starting("kexec-keeps", "kexec keeps the update: the second kernel finds it running", Restart.KEXEC),
    _starting("kexec-keeps-late", "kexec keeps what was loaded late", Restart.KEXEC, *_late(newer)),
    _starting("power-cycle-loses", "power off and on: the BIOS's revision again", Restart.POWER_CYCLE),
)  # fmt: skip
LATE_SLOW = frozenset({"late-first-hangs", "late-other-hangs"})
"""Those that end by waiting for a silence."""
