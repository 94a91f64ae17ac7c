"""What the computer itself allows: folders, file systems, room, namespaces, memory."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from bench.doctor.check import Check

FREE_BYTES = 1 << 30
# The source and the compiled tree of one kernel, and room for the next.
CACHE_FREE_BYTES = 4 << 30
# struct sockaddr_un has 108 bytes for the path, a NUL among them (unix(7)).
SOCKET_PATH_BYTES = 107
# What the lab puts behind the temporary folder's name: its own folder and a socket's name.
SOCKET_NAME_BYTES = 32
NETWORK_FILESYSTEMS = ("nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "ceph", "afs")
# Linux's vm.overcommit_memory=2: every promise of memory is charged (Documentation/mm/overcommit-accounting.rst).
STRICT_OVERCOMMIT = "2"


def check_root(root: Path | None, complaint: str) -> Check:
    """The clone: inventory, payload sources and results lie in it."""
    return Check(
        "project folder",
        root is not None,
        str(root) if root else complaint,
        "the inventory, the payload sources and the results lie there; only replay and sim work without it",
        "run bench inside a clone of the project, or set BENCH_ROOT to it",
    )


def check_writable(name: str, folder: Path, why: str, free_bytes: int | None = None) -> Check:
    """`folder`, or the nearest folder above it that exists, can be written and has room."""
    needed = FREE_BYTES if free_bytes is None else free_bytes
    there = next(place for place in (folder, *folder.parents) if place.exists())
    free = shutil.disk_usage(there).free
    writable = os.access(there, os.W_OK | os.X_OK)
    return Check(
        name,
        writable and free >= needed,
        f"{folder}, {'writable' if writable else 'not writable'}, {free / 2**30:.1f} GiB free",
        why,
        f"give {there} to the user who runs bench, with at least {needed / 2**30:.0f} GiB free",
    )


def check_local(folder: Path, mounts: Path = Path("/proc/self/mounts")) -> Check:
    """`folder` is not on a network file system."""
    kind = filesystem_of(folder.resolve(), mounts.read_text().splitlines() if mounts.exists() else ())
    return Check(
        f"file system of {folder.name}/",
        kind not in NETWORK_FILESYSTEMS,
        kind,
        "SQLite's write-ahead log (sqlite.org/wal.html) and the locks on machines need one computer's memory, "
        "not a network",
        "keep the clone, or at least results/, on a local disk",
    )


def filesystem_of(path: Path, mounts: Iterable[str]) -> str:
    """Type of the file system that `path` is on, by lines of /proc/self/mounts; "unknown" if none fits."""
    best, kind = -1, "unknown"
    for line in mounts:
        _, where, what, *_ = line.split(" ")
        point = Path(re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), where))
        if path.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), what
    return kind


def check_socket_path() -> Check:
    """Names of sockets in the temporary folder fit into what the kernel takes."""
    folder = tempfile.gettempdir()
    length = len(os.fsencode(folder)) + SOCKET_NAME_BYTES
    return Check(
        "temporary folder",
        length <= SOCKET_PATH_BYTES,
        f"{folder}, sockets up to {length} of {SOCKET_PATH_BYTES} bytes",
        "serial port and monitor of a virtual machine are sockets in it",
        "set TMPDIR to a folder with a shorter name",
    )


def check_overcommit(setting: Path = Path("/proc/sys/vm/overcommit_memory")) -> Check:
    """Memory that is never touched costs nothing."""
    value = setting.read_text().strip() if setting.exists() else "unknown"
    return Check(
        "memory overcommit",
        value != STRICT_OVERCOMMIT,
        f"vm.overcommit_memory = {value}",
        "virtual machines with sparse memory are promised far more than there is",
        "sysctl vm.overcommit_memory=0",
    )


# Debian's and Ubuntu's switches that keep ordinary users from namespaces of their own.
USERNS_SWITCHES = {
    Path("/proc/sys/kernel/unprivileged_userns_clone"): "0",
    Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"): "1",
    Path("/proc/sys/user/max_user_namespaces"): "0",
}


def check_namespaces(switches: Mapping[Path, str] = USERNS_SWITCHES) -> Check:
    """Whether an ordinary user may have a network of his own: what the lab's network boot without root needs."""
    blocked = [str(path) for path, value in switches.items() if path.is_file() and path.read_text().strip() == value]
    root = os.geteuid() == 0
    names = [name.removeprefix("/proc/sys/").replace("/", ".") for name in blocked]
    found = f"blocked by {', '.join(names)}" if names else "allowed"
    return Check(
        "user namespaces",
        root or not blocked,
        found + (" (not needed by root)" if root and blocked else ""),
        "the virtual boot network of a user without root is a namespace of his own",
        f"as root: sysctl {' '.join(names) or 'user.max_user_namespaces'}, or run as root",
        "boot",
    )
