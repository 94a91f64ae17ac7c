"""``lab.toml``: the boot network, and what a machine's file has to say to boot from it."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import pytest

from bench.hardware import BootNetwork, Netboot, NetworkMode, PxeLoader
from bench.inventory import schema, survey

LAB = '[boot_network]\ninterface = "eno2"\naddress = "10.77.0.1/24"\n'
MACHINE = """\
name = "box"
signature = "06-3c-03"
memory = "8 GiB"
maxphyaddr = 39
mac = "52:54:00:77:00:01"
ip = "10.77.0.101"
firmware = "uefi"
boot_methods = ["pxe"]
[serial]
url = "rfc2217://console:7000"
[power]
backend = "command"
cuts = "chassis"
on = ["true"]
off = ["true"]
status = ["true"]
"""


def problems(tmp_path: Path, *, lab: str = LAB, machine: str = MACHINE) -> list[str]:
    (tmp_path / "machines").mkdir(exist_ok=True)
    (tmp_path / "machines" / "box.toml").write_text(machine)
    (tmp_path / "lab.toml").write_text(lab)
    return [str(problem).removeprefix(f"{tmp_path}/") for problem in survey(tmp_path).problems]


def test_a_machine_that_boots_from_the_network_knows_it(tmp_path: Path) -> None:
    more = MACHINE.replace('["pxe"]', '["pxe"]\nnetboot = "order"\npxe_loader = "uki"')
    assert problems(tmp_path, machine=more) == []
    wiring = survey(tmp_path).machines["box"].wiring
    assert wiring.boot_network == BootNetwork("eno2", "10.77.0.1/24")
    assert (wiring.netboot, wiring.pxe_loader) == (Netboot.ORDER, PxeLoader.UKI)


def test_every_key_of_the_network(tmp_path: Path) -> None:
    lab = LAB + 'pool = ["10.77.0.50", "10.77.0.60"]\nrouter_advertisements = false\nhttp_port = 80\n'
    assert problems(tmp_path, lab=lab, machine=MACHINE.replace('ip = "10.77.0.101"\n', "")) == []
    network = survey(tmp_path).machines["box"].wiring.boot_network
    assert network == BootNetwork(
        "eno2", "10.77.0.1/24", NetworkMode.FULL, ("10.77.0.50", "10.77.0.60"), False, http_port=80
    )


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"eno2"', '"eno2,eth0"', "lab.toml: boot_network.interface: 'eno2,eth0'"),
        ('"10.77.0.1/24"', '"10.77.0.1"', "lab.toml: boot_network.address: '10.77.0.1': not the address"),
        ('"10.77.0.1/24"', '"10.77.0.0/24"', "not the address of a computer"),
        ('"10.77.0.1/24"', '"10.77.0.1/24"\nmode = "both"', "lab.toml: boot_network.mode: 'both'"),
        ('"10.77.0.1/24"', '"10.77.0.1/24"\npool = ["10.77.0.60", "10.77.0.50"]', "is no range in 10.77.0.0/24"),
        ('"10.77.0.1/24"', '"10.77.0.1/24"\npool = ["10.77.0.1", "10.77.0.50"]', "has our own address in it"),
        (
            '"10.77.0.1/24"',
            '"10.77.0.1/24"\nmode = "proxy"\npool = ["10.77.0.50", "10.77.0.60"]',
            "the site's server's to give",
        ),
        ('"10.77.0.1/24"', '"10.77.0.1/24"\nipv6_prefix = "fd77::1"', "not a prefix of 64 bits"),
        ('"10.77.0.1/24"', '"10.77.0.1/24"\nport = 1', "lab.toml: boot_network.port: unknown key; allowed here: "),
    ],
)
def test_a_wrong_network_is_named(tmp_path: Path, old: str, new: str, said: str) -> None:
    found = problems(tmp_path, lab=LAB.replace(old, new))
    assert any(said in one for one in found), found


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('mac = "52:54:00:77:00:01"\n', "", "mac: missing: boot_methods has 'pxe'"),
        ('ip = "10.77.0.101"\n', "", "ip: missing: boot_methods has 'pxe', and the boot network has no pool"),
        ("10.77.0.101", "10.78.0.101", "ip: 10.78.0.101 is not in the boot network, 10.77.0.0/24"),
        ("10.77.0.101", "10.77.0.1", "ip: 10.77.0.1 is our own address"),
        ('["pxe"]', '["pxe"]\npxe_loader = "pxelinux"', "pxe_loader: 'pxelinux' needs firmware = 'bios'"),
        ('"uefi"', '"bios"\npxe_loader = "uki"', "pxe_loader: 'uki' needs firmware = 'uefi'"),
        ('["pxe"]', '["pxe"]\npxe_loader = "lilo"', "pxe_loader: 'lilo'"),
        ('["pxe"]', '["pxe"]\nnetboot = "ipmi"', "netboot: 'ipmi' is the BMC of [power], whose backend is another"),
        (
            '["pxe"]',
            '["pxe"]\nnetboot = "bootnext"',
            "netboot: 'bootnext' is set by the machine's own system: it needs [ssh]",
        ),
        (
            'firmware = "uefi"\nboot_methods = ["pxe"]',
            'firmware = "bios"\nboot_methods = ["pxe"]\nnetboot = "bootnext"',
            "netboot: 'bootnext' is UEFI's: it needs firmware = 'uefi'",
        ),
        (
            'firmware = "uefi"\nboot_methods = ["pxe"]',
            'firmware = "bios"\nboot_methods = ["pxe"]\npxe_loader = "uki-http"',
            "pxe_loader: 'uki-http' needs firmware = 'uefi'",
        ),
        ('["pxe"]', '["pxe"]\nnetboot = "redfish"', "netboot: 'redfish' is the BMC of [power], whose backend is"),
        ('["pxe"]', '["pxe"]\nsecure_boot = true', "secure_boot: boot_methods has 'pxe', and this firmware"),
    ],
)
def test_a_machine_that_does_not_fit_is_named(tmp_path: Path, old: str, new: str, said: str) -> None:
    found = problems(tmp_path, machine=MACHINE.replace(old, new))
    assert [one for one in found if one.startswith("machines/box.toml: ") and said in one], found


SSH = """\
[ssh]
host = "10.77.0.101"
user = "root"
host_key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGmyD/lF97plBgyhBb7QxizdRNkEQyIoExgJCp95fgVU"
"""


def test_its_own_system_may_select_the_network_and_http_may_be_the_way(tmp_path: Path) -> None:
    more = MACHINE.replace('["pxe"]', '["pxe"]\nnetboot = "bootnext"\npxe_loader = "uki-http"') + SSH
    assert problems(tmp_path, machine=more) == []
    wiring = survey(tmp_path).machines["box"].wiring
    assert (wiring.netboot, wiring.pxe_loader) == (Netboot.BOOTNEXT, PxeLoader.UKI_HTTP)


def test_without_a_network_nobody_boots_from_it(tmp_path: Path) -> None:
    assert problems(tmp_path, lab="") == [
        "machines/box.toml: boot_methods: 'pxe' needs a table [boot_network] in lab.toml"
    ]
    assert problems(tmp_path, lab="", machine=MACHINE.replace('["pxe"]', "[]")) == []


def test_the_schema_takes_what_the_reader_takes() -> None:
    jsonschema.validate({"boot_network": {"interface": "eno2", "address": "10.77.0.1/24"}}, schema("lab"))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"boot_network": {"interface": "eno2"}}, schema("lab"))
