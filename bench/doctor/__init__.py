"""`bench doctor`: what this computer has and lacks as a bench controller, why it matters, how to get it.

Looks and runs nothing but version queries; `--install` is the one thing that changes the system.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from json import dumps
from pathlib import Path

from bench.doctor.check import Check
from bench.doctor.computer import (
    CACHE_FREE_BYTES,
    check_local,
    check_namespaces,
    check_overcommit,
    check_root,
    check_socket_path,
    check_writable,
)
from bench.doctor.install import fetch_microcode, install_packages
from bench.doctor.programs import (
    TOOLS,
    check_boot,
    check_firmware,
    check_kernel_tools,
    check_microcode,
    check_python,
    check_qemu,
    check_rack,
    check_tool,
    check_uefi,
)
from bench.errors import UsageError
from bench.images import default_cache
from bench.inventory import find_root

# Groups whose packages are installed only when asked for.
ON_REQUEST = ("rack", "boot")


def checks() -> list[Check]:
    """Everything that is looked at, in the order in which it is shown."""
    root, complaint = _project()
    found = [check_python(), check_root(root, complaint), check_qemu(), check_firmware(), check_uefi()]
    found += [check_tool(*tool) for tool in TOOLS]
    found += [check_kernel_tools()]
    why = "built payloads and kernels are kept there; the tree of one kernel takes 1.8 GB"
    found += [check_writable("cache folder", default_cache(), why, CACHE_FREE_BYTES)]
    if root:
        found += [check_writable("results/", root / "results", "captures and the store are kept there")]
        found += [check_local(root / "results"), check_microcode(root)]
    found += [check_socket_path(), check_overcommit(), check_rack(), check_boot(), check_namespaces()]
    return found


def _project() -> tuple[Path | None, str]:
    try:
        return find_root(), ""
    except UsageError as error:
        return None, str(error)


def run_doctor(
    *,
    json: bool,
    install: bool,
    yes: bool,
    echo: Callable[[str], None],
    show: Callable[[str], None] = lambda _: None,
    confirm: Callable[[str], bool] | None = None,
    groups: Collection[str] = (),
) -> int:
    """The verb `doctor`. Everything is said through `echo`, a line or a JSON object at a time. With `json` that is one
    object at the end: what has to be read before a question, commands and a licence, goes to `show` as well.

    `install` gets what is missing by apt-get (of the groups ON_REQUEST only those in `groups`), after it was listed and
    `confirm` (asked unless `yes`) said so; its output then goes to standard error. Returns 0 if everything of the group
    core is there, 2 if not, 3 if the installation failed, 130 if it was declined.
    """
    found = checks()
    status = 0
    notes: list[str] = []
    if install:

        def tell(line: str) -> None:
            notes.append(line)
            (show if json else echo)(line)

        unasked = set(ON_REQUEST) - set(groups)
        missing = [check for check in found if not check.ok and check.group not in unasked]
        status = install_packages(missing, yes=yes, echo=tell, confirm=confirm)
        if any(check.licence for check in missing) and status == 0:
            status = fetch_microcode(yes=yes, echo=tell, confirm=confirm)
        found = checks()
    lacking = [check for check in found if not check.ok and check.group == "core"]
    if json:
        rows = [dataclasses.asdict(check) for check in found]
        echo(dumps({"ok": not lacking, "checks": rows, "notes": notes}, indent=2))
    else:
        for line in _table(found):
            echo(line)
    return status or (2 if lacking else 0)


def _table(found: list[Check]) -> list[str]:
    width = max(len(check.name) for check in found)
    lines = []
    for check in found:
        lines.append(f"{_mark(check):7}  {check.name:{width}}  {check.found}")
        if not check.ok:
            lines.append(f"{'':9}{'':{width}}  why: {check.why}")
            lines.append(f"{'':9}{'':{width}}  get: {check.how}")
    bad = [check for check in found if not check.ok]
    core = sum(check.group == "core" for check in bad)
    if core:
        lines.append(f"{core} of {len(found)} not as the bench needs them.")
    else:
        sessions = " and ".join(dict.fromkeys(f"nox -s {check.group}" for check in bad))
        lines.append("All that the bench needs is here." + (f" What is absent is for {sessions} alone." if bad else ""))
    if any(check.packages and check.group not in ON_REQUEST for check in bad):
        lines.append("What apt has, this gets: bench doctor --install")
    return lines


def _mark(check: Check) -> str:
    if check.ok:
        return "ok"
    if check.group != "core":
        return "absent"
    return "MISSING" if check.packages else "WRONG"
