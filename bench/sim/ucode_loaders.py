"""Linux's early microcode loader from 3.9 to 7.3, a row for each generation.

Read beside arch/x86/kernel/cpu/microcode/intel.c and core.c (microcode_intel_early.c and core_early.c in 3.9).
`read` names the releases whose source the row was checked against; the borders between are those of the releases in
which a change was published.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from bench.errors import UsageError

Release = tuple[int, ...]


class Choice(Enum):
    """How one of several updates is chosen."""

    FIRST_SAVED = auto()
    """Of updates for one signature and platform the first in the file is saved, whatever its revision; of what is
    saved the highest revision above the running one. (A revision is compared with itself where the saved one's was
    meant.)"""
    ABOVE_BEST_OF_ITS_SIGNATURE = auto()
    """A later update replaces the best one if its revision is higher and it is for the best one's *first* signature
    and flags: one that fits the processor alone is passed over."""
    NEWEST = auto()
    """The highest revision above the running one."""


class Others(Enum):
    """What processors other than the first one do when they start."""

    SAVED_LIST = auto()
    """Choose out of the list that the first one saved."""
    SCAN_AND_RETRY = auto()
    """Scan the initrd until one has found an update, which all others then take; after a failure scan again, for
    ever."""
    SCAN = auto()
    """The same, without the endless loop."""
    WHAT_THE_FIRST_LOADED = auto()
    """Take the update that the first one has loaded, if it has loaded one."""


class Announcement(Enum):
    """What the kernel says of an early update."""

    EACH_PROCESSOR = auto()
    TO_REVISION = auto()
    FROM_TO = auto()
    CURRENT_AND_FROM = auto()


@dataclass(frozen=True)
class Loader:
    """One generation."""

    name: str
    since: Release
    read: str
    choice: Choice
    others: Others
    announcement: Announcement
    prefix: str = "microcode: "
    """In front of the announcement."""
    initrd_address_bits: int = 64
    extra_bytes: int = 0
    """So many bytes behind the initrd's end are searched too."""
    long_compare: bool = True
    """memcmp compares eight bytes at a time."""
    hypervisor_test: bool = True
    """Does nothing where CPUID says that there is a hypervisor."""
    switches: tuple[str, ...] = ("dis_ucode_ldr",)
    """Words of the command line that switch it off."""
    filter_by_model: bool = False
    """Passes over updates for other families and models; otherwise those for other signatures or flags."""
    no_flags_match_any: bool = False
    """An update without platform flags suits every platform; otherwise only a processor without a platform id."""
    waits_for_others: bool = True
    """A processor that does not come up is waited for without end; otherwise for 10 s, and the kernel lives on (6.5
    and newer)."""
    table_size_bits: int = 64
    """Width in which a table's size is computed from its count."""
    erratum_gnr98: bool = False
    """Granite Rapids does not jump over revision 0x1000405."""
    driver_lines: tuple[str, ...] = ()
    """What the driver says later whenever the loader is not switched off: ``signature``, ``banner``."""


_SIGNATURE_AND_BANNER = ("signature", "banner")

LOADERS: tuple[Loader, ...] = (
    Loader(
        "v3.9", (3, 9), "3.9.6, 3.10.4",
        Choice.FIRST_SAVED, Others.SAVED_LIST, Announcement.EACH_PROCESSOR,
        prefix="", initrd_address_bits=32, extra_bytes=1, long_compare=False, hypervisor_test=False, switches=(),
        filter_by_model=True,
    ),
    Loader(
        "v4.19", (4, 10), "4.19.0, 5.10.13",
        Choice.ABOVE_BEST_OF_ITS_SIGNATURE, Others.SCAN_AND_RETRY, Announcement.TO_REVISION,
        long_compare=False, filter_by_model=True, driver_lines=_SIGNATURE_AND_BANNER,
    ),
    # 6.1 with "Do not retry microcode reloading on the APs", which its stable releases took up.
    Loader(
        "v6.1", (6, 1), "6.1.192",
        Choice.ABOVE_BEST_OF_ITS_SIGNATURE, Others.SCAN, Announcement.TO_REVISION,
        driver_lines=_SIGNATURE_AND_BANNER,
    ),
    Loader(
        "v6.3", (6, 3), "6.6.9",
        Choice.ABOVE_BEST_OF_ITS_SIGNATURE, Others.SCAN, Announcement.FROM_TO,
        driver_lines=("banner",),
    ),
    # Back in 6.6 from 6.6.81 on.
    Loader(
        "v6.7", (6, 7), "6.12.107",
        Choice.NEWEST, Others.WHAT_THE_FIRST_LOADED, Announcement.CURRENT_AND_FROM,
        table_size_bits=32, waits_for_others=False,
    ),
    Loader(
        "v6.12", (6, 12, 108), "6.12.117",
        Choice.NEWEST, Others.WHAT_THE_FIRST_LOADED, Announcement.CURRENT_AND_FROM,
        table_size_bits=32, waits_for_others=False, erratum_gnr98=True,
    ),
    Loader(
        "v7.3", (7, 0), "7.3.4",
        Choice.NEWEST, Others.WHAT_THE_FIRST_LOADED, Announcement.CURRENT_AND_FROM,
        table_size_bits=32, waits_for_others=False, erratum_gnr98=True, no_flags_match_any=True,
        switches=("dis_ucode_ldr", "microcode=dis_ucode_ldr"),
    ),
)  # fmt: skip
# Releases whose loader was not read: it scans as v4.19 does, and speaks in other words.
_NOT_READ: tuple[Release, Release] = ((3, 13), (4, 10))
_BACKPORTS: tuple[tuple[Release, Release, str], ...] = (((6, 6, 81), (6, 7), "v6.7"),)


def loader(name: str) -> Loader:
    """A row by its name. Raises UsageError, with the names that there are."""
    found = next((row for row in LOADERS if row.name == name), None)
    if found is None:
        raise UsageError(f"no loader {name!r}; there are {', '.join(row.name for row in LOADERS)}")
    return found


def loader_of(release: str) -> Loader:
    """The generation of a kernel's release such as ``6.1.192``. Raises UsageError for a release before 3.9, and for
    3.13 to 4.9, which are not modelled."""
    numbers = tuple(int(part) for part in release.split("-")[0].split("+")[0].split(".") if part.isdigit())
    for since, until, name in _BACKPORTS:
        if since <= numbers < until:
            return loader(name)
    rows = [row for row in LOADERS if row.since <= numbers]
    if _NOT_READ[0] <= numbers < _NOT_READ[1]:
        raise UsageError(f"Linux {release}: the early microcode loaders of 3.13 to 4.9 are not modelled")
    if not rows:
        raise UsageError(f"Linux {release} has no early microcode loader: it came with 3.9")
    return rows[-1]
