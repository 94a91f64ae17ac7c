"""One boot as it is offered to one machine: what it may fetch, in which steps, and how far it has come."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.errors import UsageError
from bench.hardware import PxeLoader
from bench.lab.load import Load
from bench.lab.net import loaders, scripts, uki
from bench.lab.net.dnsmasq_config import Host
from bench.lab.net.shelf import Shelf

Note = Callable[[Mapping[str, str]], None]

# Enough for a boot with all its detours; a client that asks for ever fills no disk.
NOTES = 100
# The steps of a boot with each loader, in order. What stands behind "loader" was fetched by it.
STEPS: dict[PxeLoader, tuple[str, ...]] = {
    PxeLoader.IPXE: ("discover", "offer", "lease", "loader", "script", "kernel", "initrd"),
    PxeLoader.PXELINUX: ("discover", "offer", "lease", "loader", "script", "kernel", "initrd"),
    PxeLoader.GRUB: ("discover", "offer", "lease", "loader", "script", "kernel", "initrd"),
    PxeLoader.UKI: ("discover", "offer", "lease", "kernel"),
    PxeLoader.UKI_HTTP: ("discover", "offer", "lease", "kernel"),
}


@dataclass
class Offer:
    """A boot that a machine is offered once. Its notes may come from any thread."""

    machine: str
    host: Host
    loader: PxeLoader
    note: Note
    files: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Name of a file of its TFTP folder → the step that fetching it is, and its size in bytes."""
    steps: tuple[str, ...] = ()
    addresses: set[str] = field(default_factory=set)
    """Those that it has got by DHCP."""
    open: bool = True
    """Whether it can still be taken."""
    http_boot: str = ""
    """Path on the shelf of what firmware fetches that boots by HTTP."""
    _left: set[str] = field(default_factory=set)
    _notes: int = 0
    _begun: float = field(default_factory=time.monotonic)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def expect(self, steps: tuple[str, ...], last: set[str]) -> None:
        """The steps that are to come; with those of `last` the offer is spent."""
        self.steps, self._left = steps, set(last)

    def came(self, step: str, witness: Mapping[str, str]) -> bool:
        """Note a step; True if with it the offer is spent."""
        with self._lock:
            spends = self._left == {step}
            self._left.discard(step)
        self.tell({"step": step, **witness})
        return spends

    def tell(self, witness: Mapping[str, str]) -> None:
        """Note something, with the seconds since the offer was made."""
        with self._lock:
            self._notes += 1
            if self._notes > NOTES:
                return
        self.note({**witness, "after": f"{time.monotonic() - self._begun:.2f} s"})


def lay_out(offer: Offer, load: Load, folder: Path, shelf: Shelf, *, server: str, port: int, firmware: str) -> None:
    """Put all that `offer` needs into `folder`, its TFTP root, and on the shelf. Raises UsageError, LabError.

    `firmware` (``bios``, ``uefi``, empty: not known) says which files of a loader are needed.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    mac, base = offer.host.mac, f"http://{server}:{port}"
    if offer.loader is PxeLoader.UKI:
        offer.expect(STEPS[offer.loader], {"kernel"})
        _file(offer, folder, "boot.efi", uki.build(load), "kernel")
        _file(offer, folder, "boot.ipxe", scripts.ipxe_on(server), "")
        return
    if offer.loader is PxeLoader.UKI_HTTP:
        offer.expect(STEPS[offer.loader], {"kernel"})
        offer.http_boot = shelf.put("boot.efi", mac, uki.build(load), "kernel").path
        return
    kernel = shelf.put("kernel", mac, load.kernel, "kernel")
    initrd = shelf.put("initrd", mac, load.initrd, "initrd") if load.initrd else None
    kernel_url, initrd_url = base + kernel.path, base + initrd.path if initrd else ""
    steps = tuple(step for step in STEPS[offer.loader] if step != "initrd" or initrd)
    offer.expect(steps, {"kernel", "initrd"} & set(steps))
    match offer.loader:
        case PxeLoader.IPXE:
            script = shelf.put("script", mac, scripts.ipxe(kernel_url, initrd_url, load.command_line), "script")
            _file(offer, folder, "boot.ipxe", scripts.ipxe_first(base + script.path), "loader")
        case PxeLoader.PXELINUX:
            config = scripts.pxelinux(kernel_url, initrd_url, load.command_line)
            _file(offer, folder, f"pxelinux.cfg/01-{mac.replace(':', '-')}", config, "script")
            _file(offer, folder, "ldlinux.c32", loaders.find("ldlinux.c32"), "")
            _file(offer, folder, "boot.ipxe", scripts.ipxe_on(server), "")
        case PxeLoader.GRUB:
            path = initrd.path if initrd else ""
            config = scripts.grub(f"{server}:{port}", kernel.path, path, load.command_line)
            _file(offer, folder, "grub.cfg", config, "script")
            _file(offer, folder, "boot.ipxe", scripts.ipxe_on(server), "")
    _boot_files(offer, folder, server, firmware)


def _boot_files(offer: Offer, folder: Path, server: str, firmware: str) -> None:
    """The files that the firmware itself fetches."""
    known = [firmware] if firmware else ["bios", "uefi"]
    fitting = [one for one in known if (offer.loader, one) in loaders.FIRST]
    if not fitting:
        raise UsageError(f"{offer.machine}: pxe_loader: {offer.loader.value} does not run on firmware {firmware!r}")
    for one in fitting:
        name = loaders.FIRST[offer.loader, one]
        source = loaders.find(name) if name else loaders.grub_image(one, scripts.grub_first(server))
        _file(offer, folder, "boot.bios" if one == "bios" else "boot.efi", source, "loader")


def _file(offer: Offer, folder: Path, name: str, content: bytes | Path, step: str) -> None:
    data = content if isinstance(content, bytes) else content.read_bytes()
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    offer.files[name] = (step, len(data))
