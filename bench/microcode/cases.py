"""The cases of the matrix: each is one thing that can be the matter with an update, an initrd or a processor.

A case makes a trial from its ground: a signature, a platform and the newest update for it, one of Intel's or a made-up
one. All that differs from that update is made up.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import dataclass, replace

from bench.x86.early_cpio import DIRECTORY, UCODE_PATH, build, header
from bench.x86.microcode import HEADER_BYTES, TABLE_HEAD, TABLE_ROW, dword_sum, read_update
from bench.x86.microcode_build import build_update, set_word
from bench.x86.microcode_processor import Act, ProcessorRules
from bench.x86.signature import platform_flag

_DATE = 0x03062023
_MADE_UP_BYTES = 2048
_OTHER_STEPPING = 1
_BIT_31 = 0x80000000


@dataclass(frozen=True)
class Ground:
    """What a case is made from. `newest` is an update for `signature` and `platform_id`."""

    signature: int
    platform_id: int
    newest: bytes
    processors: int = 2
    bios: int | None = None
    """Revision that firmware has loaded; default: the one below the newest."""

    @property
    def revision(self) -> int:
        """Of the newest update."""
        return read_update(self.newest).revision

    @property
    def flags(self) -> int:
        """The platform's bit."""
        return platform_flag(self.platform_id)

    def rules(self, bios: int | None = None) -> ProcessorRules:
        """Processors that play by the rules."""
        start = self.bios if self.bios is not None else max(1, self.revision - 1)
        return ProcessorRules(self.signature, self.platform_id, start if bios is None else bios)

    def made(
        self,
        revision: int,
        *,
        signature: int | None = None,
        flags: int | None = None,
        extended: tuple[tuple[int, int], ...] = (),
        total_size: int = _MADE_UP_BYTES,
        seed: int = 1,
    ) -> bytes:
        """A made-up update, for the same processors unless said otherwise."""
        table = TABLE_HEAD.size + TABLE_ROW.size * len(extended) if extended else 0
        return build_update(
            signature=self.signature if signature is None else signature,
            platform_flags=self.flags if flags is None else flags,
            revision=revision,
            date=_DATE,
            data=bytes([seed]) * (total_size - HEADER_BYTES - table),
            extended=extended,
        )


@dataclass(frozen=True)
class Trial:
    """What one boot offers: the initrd's early part and the processors."""

    early: bytes
    rules: ProcessorRules
    words: str = ""
    """More words of the command line."""
    hypervisor: bool = False
    processors: int = 2


@dataclass(frozen=True)
class Case:
    """One row of the matrix."""

    name: str
    about: str
    make: Callable[[Ground], Trial]


def _file(*updates: bytes) -> bytes:
    return build({UCODE_PATH: b"".join(updates)})


def _trial(ground: Ground, early: bytes, **changes: object) -> Trial:
    trial = Trial(early, ground.rules(), processors=ground.processors)
    return replace(trial, **changes)  # type: ignore[arg-type]


def _with(*updates: Callable[[Ground], bytes]) -> Callable[[Ground], Trial]:
    """A file of these updates."""
    return lambda ground: _trial(ground, _file(*(make(ground) for make in updates)))


def _newest(ground: Ground) -> bytes:
    return ground.newest


def _older(ground: Ground) -> bytes:
    return ground.made(max(1, ground.rules().bios_revision))


def _newer(ground: Ground) -> bytes:
    return ground.made(ground.revision + 1)


def _newer_still(ground: Ground) -> bytes:
    return ground.made(ground.revision + 2, seed=2)


def _other_signature(ground: Ground) -> bytes:
    return ground.made(ground.revision + 1, signature=ground.signature ^ _OTHER_STEPPING)


def _other_flags(ground: Ground) -> bytes:
    return ground.made(ground.revision + 1, flags=0xFF ^ ground.flags)


def _no_flags(ground: Ground) -> bytes:
    return ground.made(ground.revision + 1, flags=0)


def _by_table(ground: Ground) -> bytes:
    return ground.made(
        ground.revision + 1, signature=ground.signature ^ _OTHER_STEPPING,
        extended=((ground.signature, ground.flags),), total_size=3072,
    )  # fmt: skip


def _bad_checksum(ground: Ground) -> bytes:
    good = _newer(ground)
    return good[:-1] + bytes([good[-1] ^ 1])


def _bad_table(ground: Ground) -> bytes:
    good = _by_table(ground)
    at = len(good) - 32 + 4
    return good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]


def _bad_row(ground: Ground) -> bytes:
    """A row whose checksum is wrong in a table whose own checksum is right."""
    good = bytearray(_by_table(ground))
    table = len(good) - 32
    good[-4] ^= 1
    good[table + 4 : table + 8] = bytes(4)
    good[table + 4 : table + 8] = (-dword_sum(bytes(good), table, 32) & 0xFFFFFFFF).to_bytes(4, "little")
    return bytes(good)


def _misaligned(ground: Ground) -> Trial:
    """Its data lies 4 bytes behind a multiple of 16: well enough for cpio, and not for WRMSR."""
    aligned = _file(ground.newest)
    at = aligned.index(ground.newest)
    # One entry more, of a length that is 4 beyond a multiple of 16, in front of the archive.
    filler = header(b"a" * 5 + b"\0", DIRECTORY | 0o755, 0)
    filler = header(b"a" * (5 + (4 - len(filler)) % 16) + b"\0", DIRECTORY | 0o755, 0)
    assert (len(filler) + at) % 16 == 4
    return _trial(ground, filler + aligned)


def _prefix_trap(ground: Ground) -> Trial:
    return _trial(ground, build({UCODE_PATH + ".old": _newer(ground), UCODE_PATH: _newer_still(ground)}))


def _long_name(ground: Ground) -> Trial:
    return _trial(ground, build({UCODE_PATH + ".backup-of-last-year": ground.newest}))


def _compressed_first(ground: Ground) -> Trial:
    """What Linux unpacks first hides the archive behind it from the loader."""
    packed = gzip.compress(build({"etc/hidden": b"behind me lies microcode"}), mtime=0)
    return _trial(ground, packed + bytes(-len(packed) % 16) + _file(ground.newest))


def _act(processor: int, act: Act) -> Callable[[Ground], Trial]:
    def make(ground: Ground) -> Trial:
        rules = replace(ground.rules(), acts=((processor, act),))
        return _trial(ground, _file(ground.newest), rules=rules, processors=max(2, ground.processors))

    return make


def _rules(**changes: object) -> Callable[[Ground], Trial]:
    def make(ground: Ground) -> Trial:
        return _trial(ground, _file(ground.newest), rules=replace(ground.rules(), **changes))  # type: ignore[arg-type]

    return make


def _bios(above_newest: int) -> Callable[[Ground], Trial]:
    def make(ground: Ground) -> Trial:
        return _trial(ground, _file(ground.newest), rules=ground.rules(ground.revision + above_newest))

    return make


CASES: tuple[Case, ...] = (
    Case("newest", "one update, newer than the BIOS's", _with(_newest)),
    Case("already-newest", "one update, of the revision that runs", _bios(0)),
    Case("bios-newer", "one update, older than the BIOS's", _bios(1)),
    Case("no-bios-update", "firmware has loaded nothing: revision 0", lambda g: _trial(
        g, _file(g.newest), rules=g.rules(0))),
    Case("older-in-file", "the newest first, an older one behind it", _with(_newer, _older)),
    Case("two-revisions", "two newer ones, the older first: 3.9 takes that", _with(_newer, _newer_still)),
    Case("debug-revision", "bit 31 of the revision is set", _with(lambda g: g.made(_BIT_31 | 5))),
    Case("debug-bios", "bit 31 of the BIOS's revision is set: nothing is newer", lambda g: _trial(
        g, _file(g.newest), rules=g.rules(_BIT_31 | 5))),
    Case("wrong-signature", "for another stepping", _with(_other_signature)),
    Case("wrong-flags", "for all platforms but this", _with(_other_flags)),
    Case("no-flags", "without platform flags: 7.3 takes it", _with(_no_flags)),
    Case("by-table", "for this processor by its extended table", _with(_by_table)),
    Case("table-then-own", "one by its table, a newer one by its header: up to 6.6 the first stays",
         _with(_by_table, _newer_still)),
    Case("bad-checksum", "one bit of its data is wrong", _with(_bad_checksum)),
    Case("bad-table", "its table's checksum is wrong", _with(_bad_table)),
    Case("bad-row", "a row's checksum is wrong", _with(_bad_row)),
    Case("bad-then-good", "a spoiled update, then a good one", _with(_bad_checksum, _newest)),
    Case("good-then-bad", "a good update, then one of a loader to come",
         _with(_newest, lambda g: set_word(_newer(g), "loader_revision", 2))),
    Case("short-tail", "47 zeros behind a good update", _with(_newest, lambda _: bytes(47))),
    Case("cut", "the last word is missing", _with(lambda g: g.newest[:-4])),
    Case("misaligned", "its data is not 16-byte aligned", _misaligned),
    Case("prefix-trap", "GenuineIntel.bin.old lies in front of GenuineIntel.bin", _prefix_trap),
    Case("long-name", "the only file's name goes on behind GenuineIntel.bin", _long_name),
    Case("no-file", "an early archive without microcode", lambda g: _trial(
        g, build({"kernel/x86/microcode/AuthenticAMD.bin": g.newest}))),
    Case("compressed-first", "a compressed archive lies in front", _compressed_first),
    Case("hypervisor", "CPUID says that there is a hypervisor", lambda g: _trial(
        g, _file(g.newest), hypervisor=True)),
    Case("switched-off", "dis_ucode_ldr is on the command line", lambda g: _trial(
        g, _file(g.newest), words="dis_ucode_ldr")),
    Case("siblings", "two threads a core share what is loaded", lambda g: _trial(
        g, _file(g.newest), rules=replace(g.rules(), siblings=2), processors=4)),
    Case("refused", "every processor refuses it in silence", lambda g: _rules(
        refuses=frozenset({g.revision}))(g)),
    Case("first-refuses", "the first processor refuses it", _act(0, Act.REFUSE)),
    Case("other-refuses", "the second processor refuses it: 4.19 hangs there", _act(1, Act.REFUSE)),
    Case("first-hangs", "the first processor does not come back from its write", _act(0, Act.HANG)),
    Case("other-hangs", "the second processor does not come back from its write", _act(1, Act.HANG)),
    Case("first-resets", "the first processor's write resets the machine", _act(0, Act.RESET)),
    Case("other-resets", "the second processor's write resets the machine", _act(1, Act.RESET)),
)  # fmt: skip
SLOW = frozenset({"first-hangs", "other-hangs"})
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
