"""What the bench adds to loading a machine: its time beside that of a bare recipe of the same steps, in one session.

`nox -s bench`. The recipe is what a person would type: sftp, sha256sum, the loader's one-shot, power, and a look at the
serial line. Both run on the same virtual machine with a disk, in turn, `ROUNDS` times each; what is compared is the
median, from the moment when the known-good system answers to the payload's last record. No verdict hangs on it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median

from bench.hosts import with_files
from bench.images import build_payload
from bench.inventory import load_inventory
from bench.lab.boot import Limits, Load, boot
from bench.lab.port import Port
from bench.lab.virtual_host import Plugged, plugged
from bench.records import Machine
from bench.run import Order, judge_folders, offer
from bench.scenarios import load_scenarios
from bench.script import render

ROOT = Path(__file__).resolve().parents[1]
ROUNDS = 3
NONCE = 0x0123456789ABCDEF
DONE = b" done "
LIMITS = Limits(first_byte_s=120, silence_s=60, total_s=240)
GRUB = """\
menuentry bare --id bare {{
  linux {kernel}
  initrd {initrd}
}}
"""
LOADER_ENTRY = "title bare\nlinux {kernel}\ninitrd {initrd}\n"
# LoaderEntryOneShot: attributes, then the entry's name in UTF-16 (systemd, Boot Loader Interface).
ONE_SHOT_VARIABLE = "/sys/firmware/efi/efivars/LoaderEntryOneShot-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"


class Recipe:
    """ssh and sftp, as they come with the system, to one machine."""

    def __init__(self, there: Plugged, folder: Path) -> None:
        access = there.machine.wiring.ssh
        assert access is not None
        known = folder / "known_hosts"
        known.write_text(f"[{access.host}]:{access.port} {access.host_key}\n")
        options = ["-o", f"UserKnownHostsFile={known}", "-o", "LogLevel=ERROR", "-o", "ConnectTimeout=2"]
        options += ["-o", "BatchMode=yes", "-i", access.key_file]
        self._ssh = ["ssh", *options, "-p", str(access.port), f"root@{access.host}"]
        self._sftp = ["sftp", *options, "-P", str(access.port), "-b", "-", f"root@{access.host}"]

    def run(self, command: str, *, data: bytes = b"") -> bool:
        return subprocess.run([*self._ssh, command], input=data, capture_output=True, timeout=120).returncode == 0

    def until_it_answers(self) -> None:
        while not self.run("true"):
            time.sleep(0.2)

    def put(self, **files: Path) -> None:
        lines = "".join(f"put {path} /boot/{name}\n" for name, path in files.items())
        subprocess.run(self._sftp, input=lines.encode(), capture_output=True, check=True, timeout=120)
        assert self.run("cd /boot; sha256sum " + " ".join(files) + "; sync")


def by_grub(recipe: Recipe) -> None:
    entry = GRUB.format(kernel="/bare-kernel", initrd="/bare-initrd").encode()
    assert recipe.run("cat >/boot/grub/custom.cfg", data=entry)
    assert recipe.run("grub-editenv /boot/grub/grubenv set next_entry=bare; sync")


def by_systemd_boot(recipe: Recipe) -> None:
    entry = LOADER_ENTRY.format(kernel="/bare-kernel", initrd="/bare-initrd").encode()
    assert recipe.run("cat >/boot/loader/entries/bare.conf; sync", data=entry)
    value = (7).to_bytes(4, "little") + "bare.conf\0".encode("utf-16-le")
    assert recipe.run(f"dd of={ONE_SHOT_VARIABLE} bs=4096 2>/dev/null; sync", data=value)


WAYS: dict[str, tuple[str, Callable[[Recipe], None]]] = {
    "host-bios-grub": ("grub", by_grub),
    "host-uefi-grub": ("grub", by_grub),
    "host-systemd-boot": ("systemd-boot", by_systemd_boot),
}


@contextmanager
def heard(url: str) -> Iterator[bytearray]:
    data = bytearray()
    port = Port(url, baud=115200, received=data.extend, failed=lambda _: None)
    try:
        yield data
    finally:
        port.close()


def bare(machine: Machine, load: Load, set_up: Callable[[Recipe], None], folder: Path) -> float:
    """The recipe, once; its seconds."""
    with plugged(machine, folder) as there, heard(there.machine.serial_url) as line:
        there.power.on()
        recipe = Recipe(there, folder)
        recipe.until_it_answers()
        begun = time.monotonic()
        initrd = folder / "initrd"
        initrd.write_bytes(load.initrd)
        recipe.put(**{"bare-kernel": load.kernel, "bare-initrd": initrd})
        set_up(recipe)
        recipe.run("poweroff")
        there.power.off()
        there.power.on()
        while DONE not in line:
            assert time.monotonic() - begun < LIMITS.total_s, bytes(line[-500:])
            time.sleep(0.01)
        return time.monotonic() - begun


def by_bench(machine: Machine, load: Load, meta: dict[str, object], method: str, folder: Path) -> float:
    """The same by the bench, judged; its seconds."""
    spec = machine.virtual
    assert spec is not None and spec.host is not None
    only = replace(machine, virtual=replace(spec, host=replace(spec.host, boot_methods=(method,))))
    boot(only, load, folder, meta=meta, limits=LIMITS)
    assert judge_folders([folder]).verdict.value == "PASS"
    events = [json.loads(row) for row in (folder / "events.jsonl").read_text().splitlines()]
    loading = [e["at_s"] for e in events if e["witness"].get("step") == "known-good system answers"]
    return float(next(e["at_s"] for e in events if e["kind"] == "marker")) - float(loading[-1])


def measure(name: str, folder: Path) -> tuple[float, float]:
    """Median seconds of the recipe and of the bench on machine `name`."""
    machine = with_files(load_inventory(ROOT)[name], ROOT)
    method, set_up = WAYS[name]
    scenarios = load_scenarios(ROOT / "firmware-images" / "scenarios")
    windows, names, _ = offer(Order(machine, "v3.9", (scenarios["ping-pong"],)))
    load = Load(build_payload(ROOT).kernel, render(windows, nonce=NONCE), "")
    meta: dict[str, object] = {"image": "early-pf/v3.9", "nonce": f"{NONCE:x}",
                               "scenarios": {str(w.number): names[w.number] for w in windows}}  # fmt: skip
    recipe, bench = [], []
    for number in range(ROUNDS):
        recipe.append(bare(machine, load, set_up, folder / f"{name}-bare-{number}"))
        bench.append(by_bench(machine, load, meta, method, folder / f"{name}-bench-{number}"))
    return median(recipe), median(bench)


def main() -> int:
    print(f"{'machine':20} {'recipe':>8} {'bench':>8} {'ratio':>6}   median of {ROUNDS}, from SSH to the last record")
    with tempfile.TemporaryDirectory(prefix="bench-loading-") as folder:
        for name in sys.argv[1:] or WAYS:
            recipe, bench = measure(name, Path(folder))
            print(f"{name:20} {recipe:6.1f} s {bench:6.1f} s {bench / recipe:6.2f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
