"""`bench doctor`: what this computer has and lacks as a bench controller, why it matters, how to get it.

Looks and runs nothing but version queries; `--install` is the one thing that changes the system.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from json import dumps
from pathlib import Path

from bench.errors import BenchError, UsageError
from bench.images import default_cache
from bench.images.kernel_tools import TOOLS as KERNEL_TOOLS
from bench.inventory import find_root

OLDEST_PYTHON = (3, 11)
OLDEST_QEMU = (7, 2)
FREE_BYTES = 1 << 30
# The source and the compiled tree of one kernel, and room for the next.
CACHE_FREE_BYTES = 4 << 30
# struct sockaddr_un has 108 bytes for the path, a NUL among them (unix(7)).
SOCKET_PATH_BYTES = 107
# What the lab puts behind the temporary folder's name: its own folder and a socket's name.
SOCKET_NAME_BYTES = 32
# SeaBIOS, and the option ROM through which QEMU's -kernel speaks Linux's boot protocol.
FIRMWARE = ("bios-256k.bin", "linuxboot_dma.bin")
NETWORK_FILESYSTEMS = ("nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "ceph", "afs")
# Linux's vm.overcommit_memory=2: every promise of memory is charged (Documentation/mm/overcommit-accounting.rst).
STRICT_OVERCOMMIT = "2"


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    ok: bool
    found: str
    why: str
    """What does not work without it."""
    how: str
    """How to get it."""
    group: str = "core"
    """``core``: the bench does not work without it. Others: only the nox session of that name needs it."""
    packages: tuple[str, ...] = ()
    """Debian and Ubuntu packages that bring it."""
    licence: str = ""
    """Not installed but fetched into a cache folder, under this licence."""


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


def check_python() -> Check:
    """The interpreter that runs this."""
    return Check(
        "python",
        sys.version_info >= OLDEST_PYTHON,
        f"{sys.version.split()[0]} ({sys.executable})",
        "tomllib and the typing of the bench need it",
        "./setup --python PYTHON, with a Python {}.{} or newer".format(*OLDEST_PYTHON),
    )


def _project() -> tuple[Path | None, str]:
    try:
        return find_root(), ""
    except UsageError as error:
        return None, str(error)


def check_root(root: Path | None, complaint: str) -> Check:
    """The clone: inventory, payload sources and results lie in it."""
    return Check(
        "project folder",
        root is not None,
        str(root) if root else complaint,
        "the inventory, the payload sources and the results lie there; only replay and sim work without it",
        "run bench inside a clone of the project, or set BENCH_ROOT to it",
    )


def check_qemu() -> Check:
    """QEMU runs, and is not older than the one the virtual machines were tried with."""
    said = _output(["qemu-system-x86_64", "--version"])
    match = re.search(r"version (\d+)\.(\d+)\S*", said or "")
    version = (int(match[1]), int(match[2])) if match else (0, 0)
    return Check(
        "qemu-system-x86_64",
        version >= OLDEST_QEMU,
        match[0].removeprefix("version ") if match else "does not run" if said is None else said.strip()[:80],
        "the virtual machines; it needs no KVM: every instruction is emulated",
        "apt-get install --no-install-recommends qemu-system-x86 ({}.{} or newer)".format(*OLDEST_QEMU),
        packages=("qemu-system-x86",),
    )


def check_firmware() -> Check:
    """The files that QEMU loads into a PC before anything of ours."""
    folders = [Path(line) for line in (_output(["qemu-system-x86_64", "-L", "help"]) or "").splitlines()]
    lacking = [name for name in FIRMWARE if not any((folder / name).is_file() for folder in folders)]
    return Check(
        "PC firmware for QEMU",
        not lacking,
        "lacks " + ", ".join(lacking) if lacking else ", ".join(FIRMWARE),
        "a virtual machine comes out of reset in SeaBIOS, and loads a kernel through the second file",
        "apt-get install --no-install-recommends qemu-system-x86 seabios qemu-system-data",
        packages=("qemu-system-x86", "seabios", "qemu-system-data"),
    )


def check_uefi() -> Check:
    """UEFI firmware, where `bench.lab.virtual` looks for it."""
    folder = Path("/usr/share/OVMF")
    there = [name for name in ("OVMF_CODE_4M.fd", "OVMF_CODE.fd") if (folder / name).is_file()]
    return Check(
        "UEFI firmware for QEMU",
        bool(there),
        there[0] if there else f"none in {folder}",
        'boot plans with firmware = "uefi" (bench run --full)',
        "apt-get install --no-install-recommends ovmf",
        packages=("ovmf",),
    )


# Program, what it is for, package, group.
TOOLS = (
    ("gcc", "builds the payload", "gcc", "core"),
    ("ld", "links the payload", "binutils", "core"),
    ("lz4", "unpacks Debian's kernel for virtual machines", "lz4", "core"),
    ("clang", "nox -s payloads builds the payload with a second compiler", "clang", "payloads"),
    ("ld.lld", "nox -s payloads links the payload with a second linker", "lld", "payloads"),
    ("iucode_tool", "nox -s microcode holds our reading of Intel's files against its", "iucode-tool", "microcode"),
    ("chromium", "nox -s report opens the report in it", "chromium", "report"),
)


def check_tool(program: str, why: str, package: str, group: str) -> Check:
    """A compiler or linker that answers to --version."""
    # Debian puts some into /usr/sbin, which is not on every user's path.
    said = _output([shutil.which(program) or f"/usr/sbin/{program}", "--version"])
    return Check(
        program,
        said is not None,
        "does not run" if said is None else said.splitlines()[0][:80],
        why,
        f"apt-get install --no-install-recommends {package}",
        group,
        (package,),
    )


# Server, what it is there for, package, and the service that the package starts although nobody here needs it.
RACK = (
    ("ipmi_sim", "a BMC that speaks IPMI and switches a virtual machine", "openipmi", ""),
    ("ser2net", "a console server", "ser2net", "ser2net"),
    ("socat", "a serial cable", "socat", ""),
    ("sshd", "a power host, and machines with a system of their own", "openssh-server", "ssh"),
    ("ssh-keygen", "keys for it", "openssh-client", ""),
    ("pdudaemon", "a PDU", "pdudaemon", "pdudaemon"),
)


# Servers lie here, which is not on every user's path.
SERVER_FOLDERS = ("/usr/sbin", "/sbin")


def check_rack() -> Check:
    """The servers that the tests of the rack's protocols run against."""
    path = os.pathsep.join((os.environ.get("PATH", ""), *SERVER_FOLDERS))
    lacking = [row for row in RACK if shutil.which(row[0], path=path) is None]
    return Check(
        "servers of a rack",
        not lacking,
        ("lacks " if lacking else "") + ", ".join(row[0] for row in lacking or RACK),
        "nox -s rack tests against them: " + "; ".join(f"{row[0]}: {row[1]}" for row in lacking or RACK),
        "./setup --with-rack, or bench doctor --install --with-rack",
        "rack",
        tuple(row[2] for row in lacking),
    )


# Program or file, and its package: disks of virtual machines, and network boot.
BOOT = (
    ("sgdisk", "gdisk"), ("mkfs.vfat", "dosfstools"), ("mcopy", "mtools"), ("mkfs.ext4", "e2fsprogs"),
    ("mkfs.btrfs", "btrfs-progs"), ("grub-mkimage", "grub-common"), ("/usr/lib/grub/i386-pc/boot.img", "grub-pc-bin"),
    ("/usr/lib/grub/x86_64-efi/kernel.img", "grub-efi-amd64-bin"),
    ("/usr/lib/systemd/boot/efi/systemd-bootx64.efi", "systemd-boot-efi"),
    ("dnsmasq", "dnsmasq-base"), ("/usr/lib/ipxe/snponly.efi", "ipxe"), ("/usr/lib/PXELINUX/pxelinux.0", "pxelinux"),
    ("/usr/lib/syslinux/modules/bios/ldlinux.c32", "syslinux-common"), ("ip", "iproute2"), ("ethtool", "ethtool"),
)  # fmt: skip
# Groups whose packages are installed only when asked for.
ON_REQUEST = ("rack", "boot")


def check_boot() -> Check:
    """What virtual machines with a disk and network boot take."""
    path = os.pathsep.join((os.environ.get("PATH", ""), *SERVER_FOLDERS))
    lacking = [(name, package) for name, package in BOOT if not _there(name, path)]
    return Check(
        "disks and network boot",
        not lacking,
        ("lacks " if lacking else "") + ", ".join(Path(name).name for name, _ in lacking or BOOT),
        "virtual machines with a disk, GRUB and systemd-boot on it, and machines that start over the network",
        "./setup --with-boot, or bench doctor --install --with-boot",
        "boot",
        tuple(dict.fromkeys(package for _, package in lacking)),
    )


def _there(name: str, path: str) -> bool:
    return Path(name).is_file() if name.startswith("/") else shutil.which(name, path=path) is not None


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


def check_kernel_tools() -> Check:
    """What a kernel's build needs besides compiler and linker."""
    lacking = [tool for tool in KERNEL_TOOLS if not tool.works()]
    packages = tuple(dict.fromkeys(tool.package for tool in lacking))
    every = " ".join(dict.fromkeys(tool.package for tool in KERNEL_TOOLS))
    return Check(
        "tools that build kernels",
        not lacking,
        ("lacks " if lacking else "") + ", ".join(tool.name for tool in lacking or KERNEL_TOOLS),
        "; ".join(f"{tool.name}: {tool.why}" for tool in lacking)
        or "bench images build NAME; the virtual lab boots them",
        f"apt-get install --no-install-recommends {' '.join(packages) or every}",
        packages=packages or tuple(every.split()),
    )


def check_microcode(root: Path) -> Check:
    """Intel's files, in the cache folder."""
    from bench.images.microcode_package import find_package, microcode_cache, wanted

    try:
        licence, package = wanted(root).licence, find_package()
    except UsageError as error:
        return Check("Intel's microcode", False, str(error), "it names the files", "mend it", "microcode")
    return Check(
        "Intel's microcode",
        package is not None,
        f"{package.version} in {package.folder}" if package else f"not in {microcode_cache()}",
        "nox -s microcode and cases with real updates; all else uses made-up ones",
        "bench microcode fetch (13 MB; shows the licence first)",
        "microcode",
        licence="" if package else licence,
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


def run_doctor(
    *,
    json: bool,
    install: bool,
    yes: bool,
    echo: Callable[[str], None],
    confirm: Callable[[str], bool] | None = None,
    groups: Collection[str] = (),
) -> int:
    """The verb `doctor`. Everything is said through `echo`, a line or a JSON object at a time.

    `install` gets what is missing by apt-get (of the groups ON_REQUEST only those in `groups`), after it was listed and
    `confirm` (asked unless `yes`) said so; its output then goes to standard error. Returns 0 if everything of the group
    core is there, 2 if not, 3 if the installation failed, 130 if it was declined.
    """
    found = checks()
    status = 0
    notes: list[str] = []
    if install:
        tell = notes.append if json else echo
        unasked = set(ON_REQUEST) - set(groups)
        missing = [check for check in found if not check.ok and check.group not in unasked]
        status = _install(missing, yes=yes, echo=tell, confirm=confirm)
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


def fetch_microcode(
    *,
    yes: bool,
    echo: Callable[[str], None],
    confirm: Callable[[str], bool] | None,
    file: Path | None = None,
    mirror: str | None = None,
) -> int:
    """Fetch Intel's microcode (or take the package `file`), after its licence was shown and `confirm` said so.

    Returns 0, 130 if it was declined, 2 or 3 if it failed, which is said.
    """
    from bench.images.microcode_package import fetch_package, microcode_cache, wanted

    root = find_root()
    description = wanted(root)
    echo(f"Intel's microcode ({description.package}, Debian's {description.component}) goes to {microcode_cache()}")
    echo(f"its licence: {description.licence}")
    if not yes and (confirm is None or not confirm("Fetch it?")):
        echo("Intel's microcode was not fetched (--yes fetches without asking).")
        return 130
    try:
        package = fetch_package(root, file=file, mirror=mirror)
    except BenchError as error:
        echo(f"Intel's microcode was not fetched: {error}")
        return error.exit_code
    echo(f"{package.version} is in {package.updates}; the licence's full text in {package.folder / 'license'}")
    return 0


def _install(
    missing: list[Check], *, yes: bool, echo: Callable[[str], None], confirm: Callable[[str], bool] | None
) -> int:
    packages = list(dict.fromkeys(package for check in missing for package in check.packages))
    if not packages:
        echo("Nothing to install.")
        return 0
    if shutil.which("apt-get") is None:
        echo(f"No apt-get here: install {' '.join(packages)} in your system's way.")
        return 2
    root = [] if os.geteuid() == 0 else ["sudo"]
    if root and shutil.which("sudo") is None:
        echo(f"Neither root nor sudo. As root: apt-get install --no-install-recommends {' '.join(packages)}")
        return 2
    apt_get = [*root, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q"]
    commands = [[*apt_get, "update"], [*apt_get, "install", "-y", "--no-install-recommends", *packages]]
    services = [service for _, _, package, service in RACK if service and package in packages]
    if services and shutil.which("systemctl"):
        # Debian starts a server with its package; the tests start their own, and nobody asked for these.
        commands.append([*root, "systemctl", "disable", "--now", *services])
    for command in commands:
        echo("will run: " + " ".join(command))
    if not yes and (confirm is None or not confirm("Install?")):
        echo("Nothing was installed (--yes installs without asking).")
        return 130
    # apt-get update may fail for a source that has none of these packages: what counts is the installation.
    subprocess.run(commands[0], stdout=sys.stderr, check=False)
    if subprocess.run(commands[1], stdout=sys.stderr, check=False).returncode:
        echo("apt-get failed, see above.")
        return 3
    for command in commands[2:]:
        subprocess.run(command, stdout=sys.stderr, check=False)
    return 0


def _output(command: list[str]) -> str | None:
    """What `command` says on standard output; None if it is not there, fails or hangs."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
