"""The cases of the matrix: each is one thing that can be the matter with an update, an initrd or a processor.

A case makes a trial from its ground: a signature, a platform and the newest update for it, one of Intel's or a made-up
one. All that differs from that update is made up.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import replace

from bench.microcode.late_cases import LATE_CASES, LATE_SLOW
from bench.microcode.trial import (
    Case,
    Ground,
    Trial,
    bad_checksum,
    bad_row,
    bad_table,
    by_table,
    file_of,
    newer,
    newer_still,
    newest,
    no_flags,
    older,
    other_flags,
    other_signature,
    trial_of,
    with_updates,
)
from bench.x86.early_cpio import DIRECTORY, UCODE_PATH, build, header
from bench.x86.microcode_build import set_word
from bench.x86.microcode_processor import Act

_BIT_31 = 0x80000000


def _misaligned(ground: Ground) -> Trial:
    """Its data lies 4 bytes behind a multiple of 16: well enough for cpio, and not for WRMSR."""
    aligned = file_of(ground.newest)
    at = aligned.index(ground.newest)
    # One entry more, of a length that is 4 beyond a multiple of 16, in front of the archive.
    filler = header(b"a" * 5 + b"\0", DIRECTORY | 0o755, 0)
    filler = header(b"a" * (5 + (4 - len(filler)) % 16) + b"\0", DIRECTORY | 0o755, 0)
    assert (len(filler) + at) % 16 == 4
    return trial_of(ground, filler + aligned)


def _prefix_trap(ground: Ground) -> Trial:
    return trial_of(ground, build({UCODE_PATH + ".old": newer(ground), UCODE_PATH: newer_still(ground)}))


def _long_name(ground: Ground) -> Trial:
    return trial_of(ground, build({UCODE_PATH + ".backup-of-last-year": ground.newest}))


def _compressed_first(ground: Ground) -> Trial:
    """What Linux unpacks first hides the archive behind it from the loader."""
    packed = gzip.compress(build({"etc/hidden": b"behind me lies microcode"}), mtime=0)
    return trial_of(ground, packed + bytes(-len(packed) % 16) + file_of(ground.newest))


def _act(processor: int, act: Act) -> Callable[[Ground], Trial]:
    def make(ground: Ground) -> Trial:
        rules = replace(ground.rules(), acts=((processor, act),))
        return trial_of(ground, file_of(ground.newest), rules=rules, processors=max(2, ground.processors))

    return make


def _rules(**changes: object) -> Callable[[Ground], Trial]:
    def make(ground: Ground) -> Trial:
        return trial_of(ground, file_of(ground.newest), rules=replace(ground.rules(), **changes))  # type: ignore[arg-type]

    return make


def _bios(above_newest: int) -> Callable[[Ground], Trial]:
    def make(ground: Ground) -> Trial:
        return trial_of(ground, file_of(ground.newest), rules=ground.rules(ground.revision + above_newest))

    return make


_EARLY: tuple[Case, ...] = (
    Case("newest", "one update, newer than the BIOS's", with_updates(newest)),
    Case("already-newest", "one update, of the revision that runs", _bios(0)),
    Case("bios-newer", "one update, older than the BIOS's", _bios(1)),
    Case("no-bios-update", "firmware has loaded nothing: revision 0", lambda g: trial_of(
        g, file_of(g.newest), rules=g.rules(0))),
    Case("older-in-file", "the newest first, an older one behind it", with_updates(newer, older)),
    Case("two-revisions", "two newer ones, the older first: 3.9 takes that", with_updates(newer, newer_still)),
    Case("debug-revision", "bit 31 of the revision is set", with_updates(lambda g: g.made(_BIT_31 | 5))),
    Case("debug-bios", "bit 31 of the BIOS's revision is set: nothing is newer", lambda g: trial_of(
        g, file_of(g.newest), rules=g.rules(_BIT_31 | 5))),
    Case("wrong-signature", "for another stepping", with_updates(other_signature)),
    Case("wrong-flags", "for all platforms but this", with_updates(other_flags)),
    Case("no-flags", "without platform flags: 7.3 takes it", with_updates(no_flags)),
    Case("by-table", "for this processor by its extended table", with_updates(by_table)),
    Case("table-then-own", "one by its table, a newer one by its header: up to 6.6 the first stays",
         with_updates(by_table, newer_still)),
    Case("bad-checksum", "one bit of its data is wrong", with_updates(bad_checksum)),
    Case("bad-table", "its table's checksum is wrong", with_updates(bad_table)),
    Case("bad-row", "a row's checksum is wrong", with_updates(bad_row)),
    Case("bad-then-good", "a spoiled update, then a good one", with_updates(bad_checksum, newest)),
    Case("good-then-bad", "a good update, then one of a loader to come",
         with_updates(newest, lambda g: set_word(newer(g), "loader_revision", 2))),
    Case("short-tail", "47 zeros behind a good update", with_updates(newest, lambda _: bytes(47))),
    Case("cut", "the last word is missing", with_updates(lambda g: g.newest[:-4])),
    Case("misaligned", "its data is not 16-byte aligned", _misaligned),
    Case("prefix-trap", "GenuineIntel.bin.old lies in front of GenuineIntel.bin", _prefix_trap),
    Case("long-name", "the only file's name goes on behind GenuineIntel.bin", _long_name),
    Case("no-file", "an early archive without microcode", lambda g: trial_of(
        g, build({"kernel/x86/microcode/AuthenticAMD.bin": g.newest}))),
    Case("compressed-first", "a compressed archive lies in front", _compressed_first),
    Case("hypervisor", "CPUID says that there is a hypervisor", lambda g: trial_of(
        g, file_of(g.newest), hypervisor=True)),
    Case("switched-off", "dis_ucode_ldr is on the command line", lambda g: trial_of(
        g, file_of(g.newest), words="dis_ucode_ldr")),
    Case("siblings", "two threads a core share what is loaded", lambda g: trial_of(
        g, file_of(g.newest), rules=replace(g.rules(), siblings=2), processors=4)),
    Case("refused", "every processor refuses it in silence", lambda g: _rules(
        refuses=frozenset({g.revision}))(g)),
    Case("first-refuses", "the first processor refuses it", _act(0, Act.REFUSE)),
    Case("other-refuses", "the second processor refuses it: 4.19 hangs there", _act(1, Act.REFUSE)),
    Case("first-hangs", "the first processor does not come back from its write", _act(0, Act.HANG)),
    Case("other-hangs", "the second processor does not come back from its write", _act(1, Act.HANG)),
    Case("first-resets", "the first processor's write resets the machine", _act(0, Act.RESET)),
    Case("other-resets", "the second processor's write resets the machine", _act(1, Act.RESET)),
)  # fmt: skip
CASES: tuple[Case, ...] = _EARLY + LATE_CASES
SLOW = frozenset({"first-hangs", "other-hangs"}) | LATE_SLOW
"""Cases that end by waiting for a silence."""


HIL = (
    "newest", "already-newest", "older-in-file", "two-revisions", "wrong-signature", "wrong-flags", "no-flags",
    "by-table", "table-then-own", "bad-checksum", "bad-row", "short-tail", "misaligned", "prefix-trap", "no-file",
    "compressed-first", "hypervisor", "switched-off", "refused", "other-resets",
)  # fmt: skip
"""The cases of every lab run; the others are in the long ones."""


def case(name: str) -> Case | None:
    """A case by its name."""
    return next((each for each in CASES if each.name == name), None)
