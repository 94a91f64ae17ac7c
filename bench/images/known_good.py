"""The small Linux that virtual machines with a disk have as their own system.

Kept in ``$XDG_CACHE_HOME/bench/systems/<hash of all inputs>/``: ``vmlinuz`` and ``initrd``. Keys are no part of it:
`keys_archive` makes the archive that goes behind the initrd.
"""

from __future__ import annotations

import gzip
import io
import posixpath
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.cache import cache_folder
from bench.errors import FormatError, LabError
from bench.images.kernel import build_kernel
from bench.images.kernel_cache import default_cache as kernels_cache
from bench.images.kernel_cache import hash_of
from bench.images.kernel_description import PrebuiltDescription, load_description
from bench.images.kernel_source import SourceStore, pinned, sha256_of
from bench.images.kernel_tree import write_whole
from bench.images.packages import files_of, identities, obtain
from bench.initrd import FOLDER, LINK, PROGRAM, REGULAR, entry

# Raised when other files than before are made of the same packages.
RECIPE = 1
SOURCES = Path("firmware-images") / "known-good"
KERNEL = "debian-cloud-6.1"
PACKAGES = (
    "busybox-static",
    "dropbear-bin",
    "openssh-sftp-server",
    "kexec-tools",
    "grub-common",
    "dmsetup",
    "e2fsprogs",
)
# Where each program lies in its package, the names of Debian 12 and 13, and where it goes.
PROGRAMS: Mapping[str, tuple[str, ...]] = {
    "bin/busybox": ("bin/busybox", "usr/bin/busybox"),
    "usr/sbin/dropbear": ("usr/sbin/dropbear",),
    "usr/lib/sftp-server": ("usr/lib/openssh/sftp-server", "usr/lib/sftp-server"),
    "sbin/kexec": ("sbin/kexec", "usr/sbin/kexec"),
    "usr/bin/grub-editenv": ("usr/bin/grub-editenv",),
    "sbin/dmsetup": ("sbin/dmsetup", "usr/sbin/dmsetup"),
    # Without it no variable of a boot loader's can be deleted again; Debian's busybox has none.
    "usr/bin/chattr": ("usr/bin/chattr",),
}
MODULES = (
    "virtio_pci", "virtio_blk", "virtio_net", "ext4", "vfat", "nls_cp437", "nls_ascii", "efivarfs", "msr", "cpuid",
)  # fmt: skip
# Loaded only where /boot is one, or lies on one.
FILE_SYSTEMS = ("btrfs", "dm_mod")
LOADER = "ld-linux-x86-64.so.2"
_LIBRARIES = "lib/x86_64-linux-gnu"
_DEPENDS = re.compile(rb"(?:^|\0)depends=([^\0]*)\0")
_MODULE = re.compile(r"(?:usr/)?lib/modules/[^/]+/.*/([^/]+)\.ko(\.xz)?")


@dataclass(frozen=True)
class KnownGood:
    """A built system. Its initrd lacks the keys: see `keys_archive`."""

    kernel: Path
    initrd: Path
    identity: str
    """Hash of all that went into it."""


def systems_cache() -> Path:
    """``$XDG_CACHE_HOME/bench/systems``, in ``~/.cache`` if that is not set."""
    return cache_folder("systems")


def build_known_good(root: Path, *, cache: Path | None = None) -> KnownGood:
    """Build the system of the project at `root`, or find it built. Equal input gives equal bytes.

    Raises LabError if the mirror fails, FormatError if a package is not what it was.
    """
    debs = obtain(PACKAGES)
    kernel = build_kernel(root, KERNEL)
    modules_deb = _kernel_package(root)
    sources = {path.name: sha256_of(path) for path in sorted((root / SOURCES).iterdir())}
    inputs = {"recipe": RECIPE, "packages": identities(debs), "kernel": kernel.sha256, "sources": sources,
              "programs": {k: list(v) for k, v in PROGRAMS.items()}, "modules": [*MODULES, *FILE_SYSTEMS]}  # fmt: skip
    identity = hash_of(inputs)
    folder = (cache or systems_cache()) / identity
    if not (folder / "initrd").is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".building-") as scratch:
            unfinished = Path(scratch) / "system"
            unfinished.mkdir()
            shutil.copyfile(kernel.kernel, unfinished / "vmlinuz")
            write_whole(unfinished / "initrd", _initrd(root, debs, modules_deb))
            shutil.rmtree(folder, ignore_errors=True)
            unfinished.rename(folder)
    return KnownGood(folder / "vmlinuz", folder / "initrd", identity)


def keys_archive(*, host_key: bytes, authorized_keys: Iterable[str], more: Mapping[str, bytes] | None = None) -> bytes:
    """What goes behind the initrd: dropbear's host key (see `dropbear_key`), who may log in, and `more` files."""
    files = {
        "etc/dropbear/dropbear_ed25519_host_key": host_key,
        "root/.ssh/authorized_keys": "".join(f"{key}\n" for key in authorized_keys).encode(),
        **(more or {}),
    }
    out = io.BytesIO()
    for folder, mode in (("etc", 0o755), ("etc/dropbear", 0o700), ("root", 0o700), ("root/.ssh", 0o700)):
        out.write(entry(folder, mode=0o040000 | mode))
    for name, data in files.items():
        out.write(entry(name, data, mode=0o100600))
    out.write(entry("TRAILER!!!", mode=0))
    return out.getvalue()


def dropbear_key(private: bytes, public: bytes) -> bytes:
    """An Ed25519 key (32 bytes each) as dropbear keeps it: two SSH strings (dropbear, src/ed25519.c)."""
    kind = b"ssh-ed25519"
    return b"".join(len(text).to_bytes(4, "big") + text for text in (kind, private + public))


def _kernel_package(root: Path) -> Path:
    description = load_description(root, KERNEL)
    assert isinstance(description, PrebuiltDescription)
    store, wanted = SourceStore(kernels_cache() / "sources"), pinned(description)
    return store.path(store.consented(wanted) or wanted)


def _initrd(root: Path, debs: Mapping[str, Path], modules_deb: Path) -> bytes:
    tree: dict[str, bytes | str] = {name: (root / SOURCES / name).read_bytes() for name in ("init",)}
    tree["etc/udhcpc"] = (root / SOURCES / "udhcpc").read_bytes()
    tree |= {
        "etc/passwd": b"root::0:0:root:/root:/bin/sh\n",
        "etc/group": b"root:x:0:\n",
        "etc/shadow": b"root:*:1:0:99999:7:::\n",
        "etc/shells": b"/bin/sh\n",
        "etc/nsswitch.conf": b"passwd: files\ngroup: files\n",
    }
    there: dict[str, bytes | str] = {}
    for deb in debs.values():
        there |= dict(files_of(deb))
    tree |= _programs(there)
    tree |= _modules(modules_deb)
    programs = {name for name in tree if name in PROGRAMS or name in ("init", "etc/udhcpc")}
    return _archive(tree, programs)


def _programs(there: Mapping[str, bytes | str]) -> dict[str, bytes | str]:
    """The programs, busybox's names, and the libraries that they need."""
    found: dict[str, bytes | str] = {}
    for target, places in PROGRAMS.items():
        content = next((there[place] for place in places if isinstance(there.get(place), bytes)), None)
        if content is None:
            raise FormatError(f"none of {', '.join(places)} is in Debian's packages any more", source=str(SOURCES))
        found[target] = content
    found |= {f"bin/{name}": "busybox" for name in APPLETS}
    libraries = _by_name(there)
    waiting = [data for data in found.values() if isinstance(data, bytes)]
    while waiting:
        for name in _needed(waiting.pop()):
            if f"{_LIBRARIES}/{name}" in found or name == LOADER:
                continue
            if name not in libraries:
                raise LabError(f"no package that the known-good system's depend on has {name}", component="build")
            found[f"{_LIBRARIES}/{name}"] = libraries[name]
            waiting.append(libraries[name])
    found[f"lib64/{LOADER}"] = libraries[LOADER]
    return found


def _by_name(there: Mapping[str, bytes | str]) -> dict[str, bytes]:
    """Library's name → content, links followed."""
    found: dict[str, bytes] = {}
    for path in there:
        content, place = there[path], path
        for _ in range(8):
            if isinstance(content, bytes):
                break
            place = posixpath.normpath(posixpath.join(posixpath.dirname(place), content)).lstrip("/")
            content = there.get(place, there.get(place.removeprefix("usr/"), there.get(f"usr/{place}", "")))
        name = posixpath.basename(path)
        if ".so" in name and isinstance(content, bytes):
            found.setdefault(name, content)
    return found


def _needed(program: bytes) -> list[str]:
    from elftools.elf.dynamic import DynamicSection
    from elftools.elf.elffile import ELFFile

    sections = (s for s in ELFFile(io.BytesIO(program)).iter_sections() if isinstance(s, DynamicSection))
    tags = (tag for section in sections for tag in section.iter_tags())
    return [str(tag.needed) for tag in tags if tag.entry.d_tag == "DT_NEEDED"]  # type: ignore[attr-defined]


def _modules(deb: Path) -> dict[str, bytes | str]:
    """The modules, with what they depend on, and ``etc/modules*``: their files in the order in which they load."""
    import lzma

    there: dict[str, bytes] = {}
    for name, content in files_of(deb):
        if (match := _MODULE.fullmatch(name)) and isinstance(content, bytes):
            there[match[1].replace("-", "_")] = lzma.decompress(content) if match[2] else content
    found: dict[str, bytes | str] = {}
    for listing, names in (("modules", MODULES), *((f"modules.{name}", (name,)) for name in FILE_SYSTEMS)):
        order = _in_order(there, names)
        found |= {f"lib/modules/{name}.ko": there[name] for name in order}
        found[f"etc/{listing}"] = "".join(f"{name}.ko\n" for name in order).encode()
    return found


def _in_order(there: Mapping[str, bytes], names: Iterable[str]) -> list[str]:
    """`names` and what they depend on, each after what it depends on; what is not there is built in."""
    order: list[str] = []

    def want(name: str) -> None:
        if name in order or name not in there:
            return
        depends = _DEPENDS.search(there[name])
        for each in depends[1].decode().split(",") if depends else ():
            want(each.replace("-", "_"))
        order.append(name)

    for name in names:
        want(name)
    return order


def _archive(tree: Mapping[str, bytes | str], programs: Iterable[str]) -> bytes:
    folders = {posixpath.dirname(name) for name in tree} | {"proc", "sys", "dev", "tmp", "run", "var/log", "boot"}
    for folder in list(folders):
        while folder := posixpath.dirname(folder):
            folders.add(folder)
    out = io.BytesIO()
    for folder in sorted(folders - {""}):
        out.write(entry(folder, mode=FOLDER))
    for name in sorted(tree):
        content = tree[name]
        if isinstance(content, str):
            out.write(entry(name, content.encode(), mode=LINK))
        else:
            out.write(entry(name, content, mode=PROGRAM if name in programs or ".so" in name else REGULAR))
    out.write(entry("TRAILER!!!", mode=0))
    return gzip.compress(out.getvalue(), compresslevel=1, mtime=0)


# Of Debian's busybox, what init and whoever logs in may use.
APPLETS = (
    "ash", "awk", "base64", "basename", "blkid", "cat", "chmod", "cmp", "cp", "cut", "date", "dd", "df",
    "dirname", "dmesg", "du", "echo", "env", "expr", "false", "find", "free", "grep", "head", "hexdump", "hostname",
    "hwclock", "id", "ifconfig", "insmod", "ip", "kill", "ln", "ls", "lsmod", "md5sum", "mkdir", "mkfifo",
    "mknod", "mktemp", "mount", "mountpoint", "mv", "nc", "nproc", "od", "paste", "ping", "printf", "ps", "pwd",
    "readlink", "realpath", "reset", "rm", "rmdir", "rmmod", "sed", "seq", "sh", "sha256sum", "sleep", "sort",
    "stat", "stty", "sync", "tail", "tar", "tee", "test", "timeout", "touch", "tr", "true", "tty", "udhcpc",
    "umount", "uname", "uniq", "uptime", "usleep", "wc", "wget", "which", "xargs", "xxd", "poweroff", "reboot",
    "halt",
)  # fmt: skip
