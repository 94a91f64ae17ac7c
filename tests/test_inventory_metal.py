"""Machines of metal in the inventory: every key, every conflict, and that no secret gets in."""

from __future__ import annotations

import tempfile
import tomllib
from pathlib import Path

import jsonschema
import pytest

from bench.errors import UsageError
from bench.hardware import (
    AfterPowerLoss,
    CommandSwitch,
    Cuts,
    IpmiSwitch,
    PduSwitch,
    RedfishSwitch,
    Secret,
    SshAccess,
    WakeSwitch,
)
from bench.inventory import load_inventory, schema, survey
from bench.records import Machine

REPO = Path(__file__).parents[1]
EXAMPLES = REPO / "inventory" / "examples"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGmyD/lF97plBgyhBb7QxizdRNkEQyIoExgJCp95fgVU"

GOOD = f"""\
name = "box"
signature = "06-9e-0a"
memory = "16 GiB"
maxphyaddr = 39
mac = "70:85:c2:00:00:31"
ip = "10.20.0.31"

[serial]
url = "/dev/serial/by-path/x"

[power]
backend = "ipmi"
host = "bmc"
user = "bench"
password_env = "BMC"

[ssh]
host = "10.20.0.31"
user = "root"
host_key = "{KEY}"
"""
POWER = 'backend = "ipmi"\nhost = "bmc"\nuser = "bench"\npassword_env = "BMC"\n'


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "firmware-images").mkdir()
    (tmp_path / "inventory" / "machines").mkdir(parents=True)
    return tmp_path


def put(root: Path, text: str, name: str = "box") -> None:
    (root / "inventory" / "machines" / f"{name}.toml").write_text(text)


def other(name: str = "two") -> str:
    """A second machine that shares nothing with the first."""
    words = {'"box"': f'"{name}"', "00:31": "00:32", "10.20.0.31": "10.20.0.32", "path/x": "path/y", '"bmc"': '"bmc2"'}
    text = GOOD
    for old, new in words.items():
        text = text.replace(old, new)
    return text


def complaint(root: Path) -> str:
    with pytest.raises(UsageError) as error:
        load_inventory(root)
    return str(error.value).replace(str(root) + "/", "")


class TestTheExampleRack:
    found = survey(EXAMPLES)

    def test_nothing_in_it_is_wrong_or_doubtful(self) -> None:
        assert [str(problem) for problem in self.found.problems] == []

    def test_it_shows_every_backend_and_every_way_to_a_serial_line(self) -> None:
        machines = self.found.machines.values()
        switches = [switch for m in machines if (p := m.wiring.power) for switch in (p.switch, p.ac) if switch]
        assert {type(switch) for switch in switches} == {
            IpmiSwitch, RedfishSwitch, PduSwitch, CommandSwitch, WakeSwitch
        }  # fmt: skip
        assert {m.serial_url.partition(":")[0] for m in machines if not m.serial_url.startswith("/")} == {
            "rfc2217", "socket", "ipmi-sol"
        }  # fmt: skip

    def test_the_server(self) -> None:
        machine = self.found.machines["xeon-2u"]
        assert machine.virtual is None and machine.model == "06-55-04"
        assert machine.serial_url == "ipmi-sol://bench@10.20.1.21:623?password_env=BENCH_BMC_XEON_2U"
        power = machine.wiring.power
        assert power is not None
        assert power.switch == IpmiSwitch("10.20.1.21", "bench", Secret(env="BENCH_BMC_XEON_2U"))
        assert power.ac == PduSwitch("http://pdu-host:16421", "rack-2", ("3", "11"))
        assert (power.after_power_loss, power.settle_s) == (AfterPowerLoss.LAST, 30)

    def test_the_desktop_with_relays(self) -> None:
        power = self.found.machines["desktop-relay"].wiring.power
        assert power is not None and isinstance(power.switch, CommandSwitch)
        assert power.switch.cuts is Cuts.CHASSIS and not power.switch.on
        assert power.switch.short_press == ("relayctl", "2", "pulse", "0.3")

    def test_the_machine_that_is_woken(self) -> None:
        machine = self.found.machines["old-desktop"]
        power = machine.wiring.power
        assert power is not None and isinstance(power.switch, WakeSwitch) and isinstance(power.ac, CommandSwitch)
        assert power.switch.mac == machine.wiring.mac and power.switch.ssh == machine.wiring.ssh
        assert isinstance(power.ac.ssh, SshAccess) and power.ac.ssh.host == "power-host"

    @pytest.mark.parametrize("path", sorted(EXAMPLES.glob("machines/*.toml")), ids=lambda path: path.stem)
    def test_the_schema_agrees_by_a_validator_that_is_not_ours(self, path: Path) -> None:
        jsonschema.validate(tomllib.loads(path.read_text()), schema("machines"))


class TestTheSchema:
    @pytest.mark.parametrize("kind", ["machines", "virtual", "quirks"])
    def test_is_one(self, kind: str) -> None:
        jsonschema.Draft202012Validator.check_schema(schema(kind))  # type: ignore[arg-type]

    def test_our_own_virtual_machines_fit_it(self) -> None:
        for path in (REPO / "inventory" / "virtual").glob("*.toml"):
            jsonschema.validate(tomllib.loads(path.read_text()), schema("virtual"))

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ("memory", "memroy"),
            ('"16 GiB"', "16"),
            ('"ipmi"', '"ipmy"'),
            ("host =", "hots ="),
            ("password_env", "password"),
        ],
    )
    def test_a_mistake_does_not_fit_it(self, old: str, new: str) -> None:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(tomllib.loads(GOOD.replace(old, new)), schema("machines"))


def test_the_good_file_is_good(root: Path) -> None:
    put(root, GOOD)
    machine = load_inventory(root)["box"]
    assert isinstance(machine, Machine) and machine.serial_url == "/dev/serial/by-path/x"
    assert machine.wiring.ssh == SshAccess("10.20.0.31", "root", KEY)
    assert [str(problem) for problem in survey(root / "inventory").problems] == []


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('[serial]\nurl = "/dev/serial/by-path/x"\n', "", "serial: missing; it is required"),
        ("[serial]", "[serail]", "serail: unknown key; allowed here: name, signature"),
        ("url = ", "baud = 9\nurl = ", "serial.baud: 9"),
        ("/dev/serial/by-path/x", "ttyS0", "serial.url: 'ttyS0': neither a device in /dev/ nor one of rfc2217://"),
        ("/dev/serial/by-path/x", "telnet://h:1", "serial.url: 'telnet://h:1': unknown scheme; allowed: rfc2217://"),
        ("/dev/serial/by-path/x", "socket://host", "serial.url: 'socket://host': host and port are missing"),
        ("/dev/serial/by-path/x", "ipmi-sol://u:pw@h", "a password has no place in the inventory"),
        ("/dev/serial/by-path/x", "ipmi-sol://h", "is not of the form ipmi-sol://USER@HOST?password_env=NAME"),
        (
            '"ipmi"',
            '"ipmy"',
            "power.backend: 'ipmy': allowed: 'ipmi', 'redfish', 'pdudaemon', 'command', 'wake-on-lan'",
        ),
        ('backend = "ipmi"\n', "", "power.backend: missing; it is required; allowed: 'ipmi', 'redfish'"),
        ('host = "bmc"\n', "", "power.host: missing; it is required"),
        ("host = ", "hots = ", "power.hots: unknown key; allowed here: "),
        ("password_env", "password", "power.password: unknown key; allowed here: "),
        ('password_env = "BMC"\n', "", "power: one of password_env and password_file is required"),
        ('password_env = "BMC"', 'password_env = "B M"', "power.password_env: 'B M'"),
        ('"BMC"\n', '"BMC"\nminimum_off_s = 0\n', "power.minimum_off_s: 0"),
        ('"BMC"\n', '"BMC"\nafter_power_loss = "maybe"\n', "power.after_power_loss: 'maybe'"),
        (POWER, 'backend = "pdudaemon"\nurl = "http://h:1"\npdu = "p"\noutlets = []\n', "power.outlets: []"),
        (POWER, 'backend = "pdudaemon"\nurl = "h:1"\npdu = "p"\noutlets = ["1"]\n', "not of the form http://HOST:PORT"),
        (
            POWER,
            'backend = "pdudaemon"\nurl = "http://h"\npdu = "p"\noutlets = ["1"]\nafter_power_loss = "off"\n',
            "power.after_power_loss: 'off': the machine would stay off when its outlet is switched on",
        ),
        (POWER, 'backend = "command"\ncuts = "ac"\non = ["x"]\n', "power: either on and off, or short_press and"),
        (POWER, 'backend = "command"\ncuts = "ac"\non = []\noff = ["x"]\n', "power.on: []: a program"),
        (POWER, 'backend = "command"\ncuts = "dc"\non = ["x"]\noff = ["x"]\n', "power.cuts: 'dc'"),
        (POWER, 'backend = "wake-on-lan"\nbroadcast = "x"\n', "power.broadcast: 'x'"),
        ('"BMC"\n', '"BMC"\n[power.ac]\nbackend = "ipmi"\n', "power.ac.backend: 'ipmi': allowed: 'pdudaemon'"),
        (
            '"BMC"\n',
            '"BMC"\n[power.ac]\nbackend = "command"\ncuts = "chassis"\non = ["x"]\noff = ["x"]\n',
            "power.ac.cuts: 'chassis': what stands in [power.ac] cuts \"ac\"",
        ),
        (f'host_key = "{KEY}"\n', "", "ssh.host_key: missing"),
        (KEY, "ssh-ed25519", "ssh.host_key: 'ssh-ed25519': not a host key: type and key as in known_hosts"),
        (KEY, "ssh-ed25519 QUJD", "not a host key: what stands behind its type is no key"),
        (KEY, KEY.replace("ed25519", "rsa"), "it is called ssh-rsa and says that it is 'ssh-ed25519'"),
        ('user = "root"', 'user = "root"\nkey_file = "id"', "ssh.key_file: 'id' is relative"),
        ('"10.20.0.31"\n\n', '"10.20.0.331"\n\n', "ip: '10.20.0.331'"),
        ("[serial]", 'boot_methods = ["floppy"]\n[serial]', "boot_methods[0]: 'floppy'"),
        ("[serial]", 'quirks = ["odd"]\n[serial]', "quirks: no row 'odd' in quirks.toml"),
        ("maxphyaddr = 39", "maxphyaddr = 34", "memory: does not fit: RAM ends above what maxphyaddr = 34 reaches"),
    ],
)
def test_a_mistake_is_named_with_file_key_and_what_is_allowed(root: Path, old: str, new: str, says: str) -> None:
    assert old in GOOD
    put(root, GOOD.replace(old, new, 1))
    text = complaint(root)
    assert text.startswith("inventory/machines/box.toml: ")
    assert says in text


@pytest.mark.parametrize("key", ["password_file", "key_file"])
def test_a_secret_in_the_repository_is_refused(root: Path, key: str) -> None:
    inside = root / "secret"
    if key == "password_file":
        put(root, GOOD.replace('password_env = "BMC"', f'password_file = "{inside}"'))
    else:
        put(root, GOOD.replace('user = "root"', f'user = "root"\nkey_file = "{inside}"'))
    assert f"{key}: {inside} lies in the repository" in complaint_unshortened(root)


def complaint_unshortened(root: Path) -> str:
    with pytest.raises(UsageError) as error:
        load_inventory(root)
    return str(error.value)


class TestConflicts:
    @pytest.mark.parametrize(
        ("old", "new", "says"),
        [
            ("00:32", "00:31", "mac: 70:85:c2:00:00:31 is already the MAC of"),
            ('ip = "10.20.0.32"', 'ip = "10.20.0.31"', "ip: 10.20.0.31 is already the address of"),
            ("path/y", "path/x", "serial.url: /dev/serial/by-path/x is already the serial port of"),
            ('"bmc2"', '"bmc"', "power: bmc:623 is already the BMC of"),
            ('"two"', '"box"', "name: 'box' is already the name of"),
        ],
    )
    def test_two_machines_cannot_share(self, root: Path, old: str, new: str, says: str) -> None:
        put(root, GOOD)
        put(root, other(), "two")
        load_inventory(root)
        put(root, other().replace(old, new), "two")
        text = complaint(root)
        assert text.startswith(f"inventory/machines/two.toml: {says}") and text.endswith("inventory/machines/box.toml")

    def test_one_outlet_among_several(self, root: Path) -> None:
        outlets = 'backend = "pdudaemon"\nurl = "http://h:1"\npdu = "p"\nafter_power_loss = "on"\noutlets = {}\n'
        put(root, GOOD.replace(POWER, outlets.format('["1", "2"]')))
        put(root, other().replace(POWER.replace('"bmc"', '"bmc2"'), outlets.format('["2", "3"]')), "two")
        assert "two.toml: power: p outlet 2 of http://h:1 is already the outlet of" in complaint(root)

    def test_one_device_by_two_names(self, root: Path) -> None:
        with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
            (Path(folder) / "ttyUSB7").touch()
            for name in ("by-path", "by-id"):
                (Path(folder) / name).symlink_to("ttyUSB7")
            put(root, GOOD.replace("/dev/serial/by-path/x", f"{folder}/by-path"))
            put(root, other().replace("/dev/serial/by-path/y", f"{folder}/by-id"), "two")
            assert f"two.toml: serial.url: {folder}/ttyUSB7 is already the serial port of" in complaint(root)

    def test_a_survey_shows_all_of_them(self, root: Path) -> None:
        put(root, GOOD)
        put(root, other().replace("00:32", "00:31").replace("path/y", "path/x"), "two")
        put(root, "name = ", "three")
        found = survey(root / "inventory")
        assert [problem.path.stem for problem in found.errors] == ["three", "two", "two"]
        assert set(found.machines) == {"box", "two"}


class TestDoubts:
    def doubts(self, root: Path, old: str, new: str) -> list[str]:
        assert old in GOOD
        put(root, GOOD.replace(old, new))
        load_inventory(root)
        return [problem.text for problem in survey(root / "inventory").problems if not problem.error]

    def test_a_name_by_order_of_plugging_in(self, root: Path) -> None:
        (text,) = self.doubts(root, "/dev/serial/by-path/x", "/dev/ttyUSB0")
        assert "whichever adapter was plugged in first" in text and "/dev/serial/by-path/" in text

    def test_no_power(self, root: Path) -> None:
        (text,) = self.doubts(root, "[power]\n" + POWER, "")
        assert text.startswith("power: missing")

    def test_a_machine_that_only_its_own_system_switches_off(self, root: Path) -> None:
        (text,) = self.doubts(root, POWER, 'backend = "wake-on-lan"\nbroadcast = "10.20.0.255"\n')
        assert "cannot switch off a machine that hangs" in text

    def test_an_outlet_that_may_not_start_the_machine(self, root: Path) -> None:
        outlet = 'backend = "pdudaemon"\nurl = "http://h:1"\npdu = "p"\noutlets = ["1"]\n'
        (text,) = self.doubts(root, POWER, outlet)
        assert text.startswith("power.after_power_loss: missing")
