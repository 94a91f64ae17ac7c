"""QEMU's command line for a virtual machine, and what a start of one leaves of its processors' updates."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench.lab.load import Load
from bench.lab.virtual import qemu_command, rig
from bench.records import Machine, MsrSite, VirtualSpec
from bench.x86.microcode_processor import Cores, ProcessorRules

RULES = ProcessorRules(0x906EA, 1, 0x84, siblings=2)
SPEC = VirtualSpec("Skylake-Client", processors=4, microcode=RULES)
MACHINE = Machine("box", 0x906EA, 1 << 28, 39, nx=True, la57=False, platform_id=1, virtual=SPEC)
LOAD = Load(Path("k"), b"", "", msr_sites=(MsrSite(0x1000, True, b"\x0f\x30"),))


@pytest.mark.parametrize(("processors", "said"), [(4, "4,sockets=1,threads=2"), (2, "2,sockets=1,threads=2"), (1, "1")])
def test_siblings_are_threads_of_a_core_and_one_processor_alone_has_none(processors: int, said: str) -> None:
    machine = replace(MACHINE, virtual=replace(SPEC, processors=processors))
    command = qemu_command(machine, LOAD, serial_path=Path("s"), witness=False)
    assert command[command.index("-smp") + 1] == said


def test_a_machine_is_started_cold_whatever_its_cores_ran_before(tmp_path: Path) -> None:
    cores = Cores(RULES, 4, [0x85, 0x85])
    with rig(MACHINE, replace(LOAD, cores=cores), tmp_path, witness=False) as made:
        assert made.processors is not None and made.processors.cores is cores
        assert cores.revisions == [0x84, 0x84]
        cores.load(3, 0x85)
        made.processors.suspended()
        assert cores.revisions == [0x84, 0x84]


def test_processors_are_played_only_where_the_sites_are_known(tmp_path: Path) -> None:
    with rig(MACHINE, replace(LOAD, msr_sites=None), tmp_path, witness=False) as made:
        assert made.processors is None
    with rig(MACHINE, replace(LOAD, may_lie_elsewhere=False), tmp_path, witness=False) as made:
        assert made.processors is not None and made.processors.slide == 0
