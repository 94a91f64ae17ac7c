"""What the bench adds to booting a machine over the network: its time beside that of a bare recipe, in one session.

`nox -s bench`. The recipe is what a person would set up: a dnsmasq with one file to fetch, Python's own HTTP server and
a boot loader's script. Both boot the same virtual machine on a network of the same kind, in turn, `ROUNDS` times each.
Compared is the median, from "boot this file" (the servers run already) to the last record. No verdict hangs on it.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from unittest import mock

from bench.hardware import PxeLoader
from bench.images.kernel import build_kernel
from bench.inventory import load_inventory
from bench.lab.boot import Progress, State, boot
from bench.lab.load import Load
from bench.lab.net import loaders, segment, uki
from bench.lab.net.loader import NetLoader
from bench.lab.net.segment import Segment
from bench.lab.net.server import BootServer
from bench.scenarios import Skip, expand_boots, load_boot_plans
from bench.script import render
from tests.net.boots import LIMITS, NONCE, events, payload_load
from tests.net.machines import ADDRESSES, NETWORK, REPO, Box, Line, box, mac
from tests.rack.servers import program, server, wait_for

ROUNDS = 3
ABOUT = f"median of {ROUNDS}, from the order to the last record"
DONE = " done "
HTTP_PORT = 8081
MODEL = "skylake-server"
KERNEL = "linux-6.1-trace"
SERVERS_IP = ADDRESSES[0].partition("/")[0]


@dataclass(frozen=True)
class Way:
    """A way to boot over the network."""

    loader: PxeLoader
    firmware: str
    rootless: bool = False

    @property
    def name(self) -> str:
        return f"{self.firmware}-{self.loader.value}" + ("-rootless" if self.rootless else "")


WAYS = (
    Way(PxeLoader.IPXE, "bios"),
    Way(PxeLoader.IPXE, "bios", rootless=True),
    Way(PxeLoader.PXELINUX, "bios"),
    Way(PxeLoader.GRUB, "bios"),
    Way(PxeLoader.IPXE, "uefi"),
    Way(PxeLoader.GRUB, "uefi"),
    Way(PxeLoader.UKI, "uefi"),
)
IPXE = "#!ipxe\nkernel {http}/kernel {line}initrd=initrd\ninitrd --name initrd {http}/initrd\nboot\n"
PXELINUX = "SERIAL 0 115200\nDEFAULT a\nLABEL a\n  LINUX {http}/kernel\n  INITRD {http}/initrd\n  APPEND {line}\n"
GRUB = "serial --unit=0 --speed=115200\nterminal_output serial\nlinux (http,{host})/kernel {line}\n"
GRUB += "initrd (http,{host})/initrd\nboot\n"


def lay_out(way: Way, load: Load, folder: Path) -> str:
    """The recipe's files, and the one that firmware is to fetch."""
    words = {"http": f"http://{SERVERS_IP}:{HTTP_PORT}", "host": f"{SERVERS_IP}:{HTTP_PORT}"}
    words["line"] = f"{load.command_line} " if load.command_line else ""
    shutil.copyfile(load.kernel, folder / "kernel")
    (folder / "initrd").write_bytes(load.initrd)
    (folder / "boot.ipxe").write_text(IPXE.format(**words))
    if way.loader is PxeLoader.UKI:
        (folder / "boot.efi").write_bytes(uki.build(load))
        return "boot.efi"
    if way.loader is PxeLoader.GRUB:
        (folder / "grub.cfg").write_text(GRUB.format(**words))
        first = f"configfile (tftp,{SERVERS_IP})/grub.cfg\n".encode()
        shutil.copyfile(loaders.grub_image(way.firmware, first), folder / "grub")
        return "grub"
    if way.loader is PxeLoader.PXELINUX:
        (folder / "pxelinux.cfg").mkdir(exist_ok=True)
        (folder / "pxelinux.cfg/default").write_text(PXELINUX.format(**words))
        shutil.copyfile(loaders.find("ldlinux.c32"), folder / "ldlinux.c32")
    name = loaders.FIRST[way.loader, way.firmware]
    shutil.copyfile(loaders.find(name), folder / name)
    return name


@contextmanager
def bare_servers(way: Way, wire: Segment, first: str, folder: Path, log: Path) -> Iterator[None]:
    """dnsmasq and an HTTP server, as a person starts them."""
    ipxe = [f"--dhcp-boot=tag:ipxe,boot.ipxe,,{SERVERS_IP}"] if way.loader is PxeLoader.IPXE else []
    dnsmasq = [
        *wire.place.prefix, program("dnsmasq"), "--no-daemon", "--log-facility=-", "--conf-file=/dev/null", "--port=0",
        f"--interface={wire.place.interface}", "--bind-interfaces", "--leasefile-ro", "--no-ping",
        "--dhcp-authoritative", f"--dhcp-host={mac(0)},10.77.0.101", "--dhcp-range=10.77.0.0,static,255.255.255.0,1h",
        "--enable-ra", "--dhcp-range=fd77::,ra-only,64", "--dhcp-userclass=set:ipxe,iPXE",
        f"--dhcp-boot={first},,{SERVERS_IP}", *ipxe, "--enable-tftp", f"--tftp-root={folder}",
    ]  # fmt: skip
    http = [*wire.place.prefix, sys.executable, "-m", "http.server", str(HTTP_PORT), "-d", str(folder)]
    with server(dnsmasq, log), server(http, log.with_suffix(".http")):
        wait_for(lambda: "TFTP root is" in log.read_text(), "dnsmasq starts")
        time.sleep(1)  # Python's server has nothing to be seen by while its output is a file.
        yield


def bare(way: Way, load: Load, one: Box, wire: Segment, folder: Path) -> float:
    """The recipe, once; its seconds."""
    files = folder / "files"
    files.mkdir()
    first = lay_out(way, load, files)
    line = Line(one.machine.folder / "serial")
    try:
        with bare_servers(way, wire, first, files, folder / "dnsmasq.log"):
            begun = time.monotonic()
            lay_out(way, load, files)
            subprocess.run([one.machine.folder / "switch", "on"], check=True)
            line.until(DONE)
            return time.monotonic() - begun
    finally:
        one.machine.kill()
        line.close()


def by_bench(load: Load, one: Box, server: BootServer, folder: Path) -> float:
    """The same by the bench; its seconds."""
    over: list[float] = []

    def progress(news: Progress) -> None:
        if news.state is State.OVER:
            over.append(time.monotonic())

    begun = time.monotonic()
    meta = {"nonce": f"{NONCE:x}"}
    boot(one.entry, load, folder, meta=meta, limits=LIMITS, loader=NetLoader(server), progress=progress)
    assert any(event["kind"] == "marker" for event in events(folder)), events(folder)[-3:]
    return over[0] - begun


def loads() -> Iterator[tuple[str, Load]]:
    """The payload and the patched kernel."""
    yield "payload", payload_load(load_inventory(REPO)["haswell"])[0]
    kernel = build_kernel(REPO, KERNEL)
    plan = load_boot_plans(REPO)["exercise"].model_copy(update={"hypervisor": True, "pool": [9]})
    each = expand_boots(plan, load_inventory(REPO)[MODEL], "v6.1")
    assert not isinstance(each, Skip)
    initrd = render((each[0].script,), nonce=NONCE) if each[0].script else b""
    yield KERNEL, Load(kernel.kernel, initrd, f"{each[0].command_line} bench.script bench.nonce={NONCE:x}".strip())


def as_user() -> AbstractContextManager[object]:
    """Networks are made as they are without root, in a user namespace."""
    return mock.patch("bench.lab.net.segment.os.geteuid", lambda: 1000)


def measure(way: Way, load: Load, model: str, folder: Path) -> tuple[float, float]:
    """Median seconds of the recipe and of the bench."""
    recipe, bench = [], []
    for number in range(ROUNDS):
        here = folder / str(number)
        here.mkdir(parents=True)
        rom = way.firmware == "bios"
        with (
            as_user() if way.rootless else nullcontext(),
            segment.segment(ADDRESSES) as wire,
            box(here / "box", wire, 0, way.loader, firmware=way.firmware, rom=rom, model=model) as one,
        ):
            recipe.append(bare(way, load, one, wire, here))
            with BootServer(NETWORK, wire.place) as running:
                bench.append(by_bench(load, one, running, here / "boot"))
    return median(recipe), median(bench)


def main(words: Sequence[str]) -> int:
    chosen = [way for way in WAYS if not words or way.name in words]
    if not chosen:
        return 0
    print(f"{'network boot':22} {'image':16} {'recipe':>8} {'bench':>8} {'ratio':>6}   {ABOUT}")
    with tempfile.TemporaryDirectory(prefix="bench-netboot-") as folder:
        for image, load in loads():
            for way in chosen:
                model = MODEL if image == KERNEL else "haswell"
                recipe, bench = measure(way, load, model, Path(folder) / image / way.name)
                print(f"{way.name:22} {image:16} {recipe:6.1f} s {bench:6.1f} s {bench / recipe:6.2f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
