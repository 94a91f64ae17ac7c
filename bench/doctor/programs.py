"""Programs and files that packages bring: Python, QEMU and its firmware, compilers, servers of a rack, boot loaders."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

from bench.doctor.check import Check, said_by
from bench.errors import UsageError
from bench.images.kernel_tools import TOOLS as KERNEL_TOOLS

OLDEST_PYTHON = (3, 11)
OLDEST_QEMU = (7, 2)
# SeaBIOS, and the option ROM through which QEMU's -kernel speaks Linux's boot protocol.
FIRMWARE = ("bios-256k.bin", "linuxboot_dma.bin")


def check_python() -> Check:
    """The interpreter that runs this."""
    return Check(
        "python",
        sys.version_info >= OLDEST_PYTHON,
        f"{sys.version.split()[0]} ({sys.executable})",
        "tomllib and the typing of the bench need it",
        "./setup --python PYTHON, with a Python {}.{} or newer".format(*OLDEST_PYTHON),
    )


def check_qemu() -> Check:
    """QEMU runs, and is not older than the one the virtual machines were tried with."""
    said = said_by(["qemu-system-x86_64", "--version"])
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
    folders = [Path(line) for line in (said_by(["qemu-system-x86_64", "-L", "help"]) or "").splitlines()]
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
    said = said_by([shutil.which(program) or f"/usr/sbin/{program}", "--version"])
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
    ("postgres", "a store that several controllers share", "postgresql", "postgresql"),
)


# Servers lie here, which is not on every user's path.
SERVER_FOLDERS = ("/usr/sbin", "/sbin")


def check_rack() -> Check:
    """The servers that the tests of the rack's protocols run against."""
    # Debian keeps each version of PostgreSQL in a folder of its own.
    versions = (str(path) for path in Path("/usr/lib/postgresql").glob("*/bin"))
    path = os.pathsep.join((os.environ.get("PATH", ""), *SERVER_FOLDERS, *versions))
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
    ("mmdebstrap", "mmdebstrap"),
)  # fmt: skip


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
