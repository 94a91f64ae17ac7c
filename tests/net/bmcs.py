"""BMCs that switch a machine and say from where it boots next: what they keep for that is the machine's file `ONCE`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from bench.hardware import IpmiSwitch, Netboot, PowerSpec, RedfishSwitch, Secret
from bench.lab.power.choose import power_of
from bench.records import Machine as Entry
from tests.net.machines import DISK_SAYS, ONCE, Box, Line
from tests.rack import servers

# Name of the environment variable that has the BMCs' password.
PASSWORD_ENV = "RACK_PASSWORD"
# What stands for the board behind ipmi_sim (ipmi_lan(5), chassis_control): each call has one or several items, each
# with its value where it is set. `set boot none` is what a BMC does that forgets.
BOARD = """#!/bin/sh
next={once}
verb=$1
shift
while [ $# -gt 0 ]; do
    case "$verb $1" in
        "get power") [ "$({switch} status)" = on ] && echo power:1 || echo power:0 ;;
        "get boot") [ -e $next ] && echo boot:pxe || echo boot:none ;;
        "set power") shift; [ "$1" = 1 ] && {switch} on || {switch} off ;;
        "set reset") shift; {switch} off; {switch} on ;;
        "set boot") shift; echo "$1" >>{log}; {keep} [ "$1" = pxe ] && : >$next || rm -f $next ;;
        *) echo "unknown: $verb $*" >>{log}; exit 1 ;;
    esac
    shift
done
"""


@contextmanager
def ipmi_sim(folder: Path, board: Path) -> Iterator[IpmiSwitch]:
    """OpenIPMI's simulator with the program `board` for its chassis."""
    bmc, state = servers.Bmc(servers.free_udp_port()), folder / "state"
    state.mkdir(parents=True)
    kinds = "".join(f"    allowed_auths_{who} none md2 md5 straight\n" for who in ("user", "operator", "admin"))
    (folder / "lan.conf").write_text(
        f'name "rack"\nset_working_mc 0x20\n  startlan 1\n    addr 127.0.0.1 {bmc.port}\n    priv_limit admin\n'
        f"{kinds}    guid a123456789abcdefa123456789abcdef\n  endlan\n"
        f'  chassis_control "{board}"\n'
        f'  user 2 true "{bmc.user}" "{bmc.password}" admin 10 none md2 md5 straight\n'
    )
    (folder / "bmc.emu").write_text(
        "mc_setbmc 0x20\nmc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02 persist_sdr\nmc_enable 0x20\n"
    )
    command = [servers.program("ipmi_sim"), "-n", "-c", str(folder / "lan.conf"), "-f", str(folder / "bmc.emu")]
    with servers.server([*command, "-s", str(state)], folder / "log"):
        servers.wait_for(lambda: servers.udp_bound(bmc.port), "ipmi_sim listens")
        yield IpmiSwitch("127.0.0.1", bmc.user, Secret(env=PASSWORD_ENV), bmc.port)


@contextmanager
def ipmi_for_ever(folder: Path, *, keeps: bool) -> Iterator[IpmiSwitch]:
    """A BMC that takes an order for the next boot for every boot; `keeps`: and does not let go of it."""
    folder.mkdir(parents=True)
    bmc = servers.Bmc(servers.free_udp_port())
    emulator = str(Path(__file__).with_name("ipmi_emulator.py"))
    words = [str(bmc.port), bmc.user, bmc.password, str(orders(folder)), "yes" if keeps else "no"]
    with servers.server([sys.executable, emulator, *words], folder / "log"):
        servers.wait_for(lambda: servers.udp_bound(bmc.port), "the IPMI emulator listens")
        yield IpmiSwitch("127.0.0.1", bmc.user, Secret(env=PASSWORD_ENV), bmc.port)


def board(folder: Path, machine: servers.Machine, *, forgets: bool = False) -> Path:
    """The program by which a BMC switches `machine` and sets its next boot; it notes what it was told to set.

    `forgets`: it takes the order for the next boot, and nothing comes of it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "board"
    path.write_text(
        BOARD.format(
            once=machine.folder / ONCE, switch=machine.switch(), log=orders(folder), keep="exit 0;" if forgets else ""
        )
    )
    path.chmod(0o755)
    return path


def orders(folder: Path) -> Path:
    """Where the board in `folder` notes what its next boot was set to, a line each."""
    return folder / "orders"


@contextmanager
def behind_bmc(netboot: Netboot, folder: Path, one: Box) -> Iterator[Entry]:
    """A machine with its disk first (`disk_first`), switched and told to boot the network once by a BMC."""
    if netboot is Netboot.IPMI:
        with ipmi_sim(folder / "bmc", board(folder / "board", one.machine)) as switch:
            yield by(switch, netboot, one)
        return
    with servers.redfish_bmc(folder / "bmc", one.machine, once=one.machine.folder / ONCE) as bmc:
        yield by(RedfishSwitch(bmc.url, bmc.user, Secret(env=PASSWORD_ENV)), netboot, one)


def by(switch: IpmiSwitch | RedfishSwitch, netboot: Netboot, one: Box) -> Entry:
    """A machine as the bench knows it that has `switch` for its power and its next boot."""
    power = PowerSpec(switch, minimum_off_s=0.1)
    return replace(one.entry, wiring=replace(one.entry.wiring, power=power, netboot=netboot))


def starts_its_disk_by_bmc(one: Box, entry: Entry) -> bytes:
    """Switch it on by its BMC, with nobody from the bench at work; what it said until its own system came up."""
    line, power = Line(one.machine.folder / "serial"), power_of(entry)
    try:
        power.on()
        return line.until(DISK_SAYS)
    finally:
        power.off()
        line.close()


def power_off(entry: Entry) -> None:
    """Switch it off by its BMC."""
    power_of(entry).off()
