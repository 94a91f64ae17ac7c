"""A lab whose machines have no disk, and `bench` in it: on the boot network's own computer, as in a rack."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.hardware import PxeLoader
from bench.lab.net.segment import Segment, segment
from tests.net.machines import ADDRESSES, REPO, Box, box, mac
from tests.rack import servers

ENTRY = """\
name = "box"
signature = "06-3c-03"
platform_id = 1
memory = "8 GiB"
maxphyaddr = 39
mac = "{mac}"
ip = "10.77.0.101"
firmware = "{firmware}"
boot_methods = ["pxe"]
pxe_loader = "{loader}"
time_to_post_s = 15
{more}

[serial]
url = "{url}"

[power]
backend = "command"
cuts = "chassis"
on = ["{switch}", "on"]
off = ["{switch}", "off"]
status = ["{switch}", "status"]
minimum_off_s = 0.1
"""


@dataclass
class Lab:
    """A machine, and the folder of the lab that has it."""

    folder: Path
    box: Box
    wire: Segment

    @property
    def file(self) -> Path:
        return self.folder / "inventory" / "machines" / "box.toml"

    @property
    def results(self) -> Path:
        return self.folder / "results"

    def command(self, *words: str) -> list[str]:
        """`bench` on the computer that the boot network's servers are to run on."""
        return [*self.wire.place.prefix, sys.executable, "-m", "bench", *words]

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "BENCH_ROOT": str(self.folder), "PYTHONPATH": str(REPO)}

    def bench(self, *words: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.command(*words), env=self.environment, cwd=REPO, capture_output=True, text=True, check=False
        )
        print(done.stdout, done.stderr)
        return done

    def json(self, *words: str) -> tuple[int, dict[str, Any]]:
        done = self.bench(*words, "--json")
        assert done.stdout, done.stderr
        return done.returncode, json.loads(done.stdout)


@contextmanager
def lab(
    tmp_path: Path, firmware: str, loader: PxeLoader = PxeLoader.IPXE, *, keys: str = "", more: Sequence[str] = ()
) -> Iterator[Lab]:
    """A machine without a disk, but for what `more` plugs in; `keys` go into its entry."""
    with (
        segment(ADDRESSES) as wire,
        servers.cable(tmp_path / "cable") as cable,
        box(
            tmp_path / "box", wire, 0, loader,
            firmware=firmware, rom=firmware == "bios", own_disk=False, more=more,
            serial=f"serial,id=s0,path={cable[0]}",
        ) as one,
    ):  # fmt: skip
        folder = tmp_path / "lab"
        (folder / "inventory" / "machines").mkdir(parents=True)
        (folder / "firmware-images").symlink_to(REPO / "firmware-images")
        (folder / "inventory" / "lab.toml").write_text(
            f'[boot_network]\ninterface = "{wire.place.interface}"\naddress = "{ADDRESSES[0]}"\n'
        )
        there = Lab(folder, one, wire)
        there.file.write_text(
            ENTRY.format(
                mac=mac(0),
                firmware=firmware,
                loader=loader.value,
                url=cable[1].resolve(),
                more=keys,
                switch=one.machine.folder / "switch",
            )
        )
        yield there
