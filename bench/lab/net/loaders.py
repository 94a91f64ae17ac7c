"""Files of the boot loaders: from the distribution's packages, and GRUB's images made by its own program."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path

from bench.cache import cache_folder
from bench.errors import LabError
from bench.hardware import PxeLoader
from bench.lab.text import escape

# File → where distributions have it, and Debian's package.
FILES: dict[str, tuple[tuple[str, ...], str]] = {
    "undionly.kpxe": (("/usr/lib/ipxe/undionly.kpxe", "/usr/share/ipxe/undionly.kpxe"), "ipxe"),
    "snponly.efi": (("/usr/lib/ipxe/snponly.efi", "/usr/share/ipxe/snponly.efi"), "ipxe"),
    "lpxelinux.0": (("/usr/lib/PXELINUX/lpxelinux.0", "/usr/share/syslinux/lpxelinux.0"), "pxelinux"),
    "ldlinux.c32": (
        ("/usr/lib/syslinux/modules/bios/ldlinux.c32", "/usr/share/syslinux/ldlinux.c32"),
        "syslinux-common",
    ),
}
# Loader and firmware → the file that firmware fetches (empty: GRUB's image, which is made).
FIRST: dict[tuple[PxeLoader, str], str] = {
    (PxeLoader.IPXE, "bios"): "undionly.kpxe",
    (PxeLoader.IPXE, "uefi"): "snponly.efi",
    (PxeLoader.PXELINUX, "bios"): "lpxelinux.0",
    (PxeLoader.GRUB, "bios"): "",
    (PxeLoader.GRUB, "uefi"): "",
}
# Format of grub-mkimage → name of the image, folder of its modules, the modules that our configuration uses, package.
_COMMON = (
    "normal",
    "configfile",
    "net",
    "tftp",
    "http",
    "linux",
    "serial",
    "terminal",
    "echo",
    "test",
    "true",
    "minicmd",
)
GRUB_IMAGES: dict[str, tuple[str, str, tuple[str, ...], str]] = {
    "bios": ("i386-pc-pxe", "i386-pc", (*_COMMON, "pxe"), "grub-pc-bin"),
    "uefi": ("x86_64-efi", "x86_64-efi", (*_COMMON, "efinet"), "grub-efi-amd64-bin"),
}
GRUB_MODULES = Path("/usr/lib/grub")
MKIMAGE = ("grub-mkimage", "grub2-mkimage")
MKIMAGE_S = 60.0
COMPONENT = "boot loader"


def find(name: str) -> Path:
    """The installed file `name`. Raises LabError that names its package."""
    places, package = FILES[name]
    for place in map(Path, places):
        if place.is_file():
            return place
    raise LabError(f"{name} is not installed (package {package})", component=COMPONENT, witness=f"not in {places}")


def default_cache() -> Path:
    """Where GRUB's images are kept: ``$XDG_CACHE_HOME/bench/loaders``, by default below ``~/.cache``."""
    return cache_folder("loaders")


def grub_image(firmware: str, first: bytes, *, cache: Path | None = None) -> Path:
    """GRUB for the network with the configuration `first` built in, made once for each. Raises LabError."""
    form, folder, modules, package = GRUB_IMAGES[firmware]
    program = next((found for name in MKIMAGE if (found := shutil.which(name))), None)
    if program is None:
        raise LabError("grub-mkimage is not installed (package grub-common)", component=COMPONENT, witness="not found")
    inputs = [GRUB_MODULES / folder / f"{name}.mod" for name in ("kernel", *modules)]
    inputs[0] = inputs[0].with_suffix(".img")
    absent = [str(path) for path in inputs if not path.is_file()]
    if absent:
        raise LabError(f"{absent[0]} is not installed (package {package})", component=COMPONENT, witness=absent[0])
    digest = hashlib.sha256(repr((form, modules)).encode() + first)
    for path in inputs:
        digest.update(path.read_bytes())
    image = (cache or default_cache()) / f"grub-{firmware}-{digest.hexdigest()[:32]}"
    if not image.is_file():
        _make(program, form, folder, modules, first, image)
    return image


def _make(program: str, form: str, folder: str, modules: tuple[str, ...], first: bytes, image: Path) -> None:
    image.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=image.parent) as scratch:
        config, made = Path(scratch) / "first.cfg", Path(scratch) / "image"
        config.write_bytes(first)
        command = [program, f"--directory={GRUB_MODULES / folder}", f"--format={form}", f"--config={config}"]
        command += [f"--output={made}", "--prefix=/", *modules]
        done = subprocess.run(command, capture_output=True, timeout=MKIMAGE_S)
        if done.returncode:
            said = escape(done.stderr[-300:].strip())
            raise LabError(f"grub-mkimage fails: {said}", component=COMPONENT, witness=said)
        made.replace(image)
