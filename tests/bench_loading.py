"""What the bench adds to loading a machine: its time beside that of a bare recipe of the same steps, in one session.

`nox -s bench`. The recipe is what a person would type: sftp, sha256sum, the loader's one-shot, reboot (or kexec), and
a look at the serial line. Both run on the same virtual machine with a disk, in turn, `ROUNDS` times each; what is
compared is the median, from the moment when the known-good system answers to the payload's last record. Ends with 1 if
the bench takes more than `LIMIT` times as long as the recipe by any method.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median

from bench.hosts import with_files
from bench.images import build_payload
from bench.inventory import load_inventory
from bench.lab.boot import Limits, Load, boot
from bench.lab.flash.load_option import LoadOption, file_on, gpt_partition
from bench.lab.flash.system import EFIVARS, GLOBAL, LOADER
from bench.lab.port import Port
from bench.lab.virtual_host import Plugged, plugged
from bench.records import Machine
from bench.run import Order, judge_folders, offer
from bench.scenarios import load_scenarios
from bench.script import render

ROOT = Path(__file__).resolve().parents[1]
ROUNDS = 3
LIMIT = 1.3
ABOUT = f"median of {ROUNDS}, from SSH to the last record"
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
# LoaderEntryOneShot: the entry's name in UTF-16 (systemd, Boot Loader Interface).
ONE_SHOT_VARIABLE = f"{EFIVARS}/LoaderEntryOneShot-{LOADER}"
# In front of a variable's value, in its file.
ATTRIBUTES = (7).to_bytes(4, "little")
WRITE = "dd of={} bs=4096 2>/dev/null; sync"


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

    def put(self, folder: str, **files: Path) -> None:
        lines = "".join(f"put {path} {folder}/{name}\n" for name, path in files.items())
        subprocess.run(self._sftp, input=lines.encode(), capture_output=True, check=True, timeout=120)
        assert self.run(f"cd {folder}; sha256sum {' '.join(files)}; sync")


def by_grub(recipe: Recipe, there: Plugged) -> None:
    del there
    entry = GRUB.format(kernel="/bare-kernel", initrd="/bare-initrd").encode()
    assert recipe.run("cat >/boot/grub/custom.cfg", data=entry)
    assert recipe.run("grub-editenv /boot/grub/grubenv set next_entry=bare; sync")
    recipe.run("reboot")


def by_systemd_boot(recipe: Recipe, there: Plugged) -> None:
    del there
    entry = LOADER_ENTRY.format(kernel="/bare-kernel", initrd="/bare-initrd").encode()
    assert recipe.run("cat >/boot/loader/entries/bare.conf; sync", data=entry)
    assert recipe.run(WRITE.format(ONE_SHOT_VARIABLE), data=ATTRIBUTES + "bare.conf\0".encode("utf-16-le"))
    recipe.run("reboot")


def by_bootnext(recipe: Recipe, there: Plugged) -> None:
    """With what efibootmgr would have found out about the ESP."""
    assert there.disk is not None
    with there.disk.open("rb") as disk:
        esp = gpt_partition(disk.read(64 << 10), 512, 1)
    words = "initrd=\\bare-initrd\0".encode("utf-16-le")
    option = LoadOption("bare", file_on(esp, "/bare-kernel"), words).pack()
    assert recipe.run(WRITE.format(f"{EFIVARS}/Boot00BE-{GLOBAL}"), data=ATTRIBUTES + option)
    assert recipe.run(WRITE.format(f"{EFIVARS}/BootNext-{GLOBAL}"), data=ATTRIBUTES + b"\xbe\0")
    recipe.run("reboot")


def by_kexec(recipe: Recipe, there: Plugged) -> None:
    del there
    assert recipe.run("kexec -c -l /tmp/bare-kernel --initrd=/tmp/bare-initrd --command-line=")
    recipe.run("{ sleep 0.1; kexec -e; } >/dev/null 2>&1 </dev/null &")


# Machine, method, where a person would put the images, and what starts them.
WAYS: tuple[tuple[str, str, str, Callable[[Recipe, Plugged], None]], ...] = (
    ("host-bios-grub", "grub", "/boot", by_grub),
    ("host-uefi-grub", "grub", "/boot", by_grub),
    ("host-uefi-grub", "bootnext", "/boot/efi", by_bootnext),
    ("host-systemd-boot", "systemd-boot", "/boot", by_systemd_boot),
    ("host-bios-grub", "kexec", "/tmp", by_kexec),
)


@contextmanager
def heard(url: str) -> Iterator[bytearray]:
    data = bytearray()
    port = Port(url, baud=115200, received=data.extend, failed=lambda _: None)
    try:
        yield data
    finally:
        port.close()


def bare(machine: Machine, load: Load, place: str, start: Callable[[Recipe, Plugged], None], folder: Path) -> float:
    """The recipe, once; its seconds."""
    with plugged(machine, folder) as there, heard(there.machine.serial_url) as line:
        there.power.on()
        recipe = Recipe(there, folder)
        recipe.until_it_answers()
        begun = time.monotonic()
        initrd = folder / "initrd"
        initrd.write_bytes(load.initrd)
        recipe.put(place, **{"bare-kernel": load.kernel, "bare-initrd": initrd})
        start(recipe, there)
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


def measure(
    name: str, method: str, place: str, start: Callable[[Recipe, Plugged], None], folder: Path
) -> tuple[float, float]:
    """Median seconds of the recipe and of the bench on machine `name`."""
    machine = with_files(load_inventory(ROOT)[name], ROOT)
    scenarios = load_scenarios(ROOT / "firmware-images" / "scenarios")
    windows, names, _ = offer(Order(machine, "v3.9", (scenarios["ping-pong"],)))
    load = Load(build_payload(ROOT).kernel, render(windows, nonce=NONCE), "")
    meta: dict[str, object] = {"image": "early-pf/v3.9", "nonce": f"{NONCE:x}",
                               "scenarios": {str(w.number): names[w.number] for w in windows}}  # fmt: skip
    recipe, bench = [], []
    for number in range(ROUNDS):
        recipe.append(bare(machine, load, place, start, folder / f"{name}-{method}-bare-{number}"))
        bench.append(by_bench(machine, load, meta, method, folder / f"{name}-{method}-bench-{number}"))
    return median(recipe), median(bench)


def main(words: Sequence[str]) -> int:
    chosen = [way for way in WAYS if not words or {way[0], way[1]} & set(words)]
    if not chosen:
        return 0
    print(f"{'machine':18} {'method':12} {'recipe':>8} {'bench':>8} {'ratio':>6}   {ABOUT}")
    slow = []
    with tempfile.TemporaryDirectory(prefix="bench-loading-") as folder:
        for name, method, place, start in chosen:
            recipe, bench = measure(name, method, place, start, Path(folder))
            print(f"{name:18} {method:12} {recipe:6.1f} s {bench:6.1f} s {bench / recipe:6.2f}", flush=True)
            if bench > LIMIT * recipe:
                slow.append(
                    f"{name} by {method}: {bench / recipe:.2f} times the recipe's time; at most {LIMIT} is allowed"
                )
    for line in slow:
        print(f"too slow: {line}", file=sys.stderr)
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
