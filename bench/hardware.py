"""How a machine of metal is wired: its power, its way in over SSH. Frozen, as the inventory says it.

No secret is in these records, only where it lies: the name of an environment variable, or a file.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Cuts(StrEnum):
    """What goes away when a switch is off. A reset is neither: the power stays."""

    CHASSIS = "chassis"
    """The board's main supply, as the front button or a BMC does it; standby power, BMC and Wake-on-LAN stay."""
    AC = "ac"
    """The mains, standby power included."""


class AfterPowerLoss(StrEnum):
    """What the firmware does when the mains come back (its setting "Restore on AC power loss")."""

    ON = "on"
    LAST = "last"
    """What it was before: on, if it was running when the mains went."""
    OFF = "off"


@dataclass(frozen=True)
class Secret:
    """Where a secret lies: in the environment, or in a file outside of the repository. One of the two."""

    env: str = ""
    """Name of the environment variable that holds it."""
    file: str = ""
    """Path of a file whose first line it is; ``~`` is the user's home."""


@dataclass(frozen=True)
class SshAccess:
    """A way in over SSH, to one host key only."""

    host: str
    user: str
    host_key: str
    """Type and key as in known_hosts: ``ssh-ed25519 AAAA…``."""
    port: int = 22
    key_file: str = ""
    """Private key; empty: the agent has it."""


@dataclass(frozen=True)
class IpmiSwitch:
    """A BMC that speaks IPMI 2.0 over LAN."""

    host: str
    user: str
    password: Secret
    port: int = 623


@dataclass(frozen=True)
class RedfishSwitch:
    """A BMC that speaks Redfish."""

    url: str
    user: str
    password: Secret
    system: str = ""
    """Path of the system, such as ``/redfish/v1/Systems/1``; empty: the only one that there is."""
    ca_file: str = ""
    """Certificates that vouch for the BMC; empty: the system's own."""
    insecure: bool = False
    """Take any certificate."""


@dataclass(frozen=True)
class PduSwitch:
    """Outlets of a PDU that PDUDaemon drives. A machine with two supplies has two; off is when both are."""

    url: str
    """Of PDUDaemon's HTTP listener, such as ``http://pdu-host:16421``."""
    pdu: str
    """The PDU's name in PDUDaemon's configuration."""
    outlets: tuple[str, ...]


@dataclass(frozen=True)
class CommandSwitch:
    """Programs that switch, run here or, with `ssh`, on another host. Exit code 0 is success.

    Either `on` and `off`, or `short_press` and `long_press` of a relay on the front-panel header, which
    return when the button is released. `status` prints ``on`` or ``off``. `reset` pulses the reset line.
    """

    cuts: Cuts
    on: tuple[str, ...] = ()
    off: tuple[str, ...] = ()
    short_press: tuple[str, ...] = ()
    long_press: tuple[str, ...] = ()
    status: tuple[str, ...] = ()
    reset: tuple[str, ...] = ()
    ssh: SshAccess | None = None


@dataclass(frozen=True)
class WakeSwitch:
    """Wake-on-LAN to switch on, a command over SSH on the machine itself to switch off.

    A machine that hangs cannot be switched off so: give it an AC switch beside it.
    """

    mac: str
    broadcast: str
    ssh: SshAccess
    port: int = 9
    off: str = "poweroff"


@dataclass(frozen=True)
class ManualSwitch:
    """A person, who is asked."""

    cuts: Cuts


@dataclass(frozen=True)
class ProcessSwitch:
    """The process of a virtual machine with a disk: its mains."""


Switch = ProcessSwitch | IpmiSwitch | RedfishSwitch | PduSwitch | CommandSwitch | WakeSwitch | ManualSwitch


@dataclass(frozen=True)
class PowerSpec:
    """All that powers a machine, and how much time it may take."""

    switch: Switch
    """What on and off use."""
    ac: Switch | None = None
    """Cuts the mains of a machine whose `switch` does not: the last resort, and a cold start when asked for."""
    after_power_loss: AfterPowerLoss | None = None
    """None: not known."""
    minimum_off_s: float = 5.0
    """From off to the next on: capacitors, and the surge that a supply survives."""
    answer_s: float = 15.0
    """One command, from sending it to the device's answer."""
    settle_s: float = 15.0
    """From the device's answer to the state that it promised."""
    bmc_start_s: float = 180.0
    """From mains to a BMC that answers."""


class Netboot(StrEnum):
    """Who has a machine boot from the network."""

    ORDER = "order"
    """The firmware's own order: network first, then the disk. Without an offer it goes on to the disk."""
    IPMI = "ipmi"
    """The BMC, asked over IPMI for the next boot only."""
    REDFISH = "redfish"
    """The BMC, asked over Redfish for the next boot only."""
    BOOTNEXT = "bootnext"
    """UEFI firmware, asked by the machine's own system for the next boot only: disk first in the boot order."""


class OwnSystem(StrEnum):
    """Where a machine's known-good system is."""

    DISK = "disk"
    RESCUE = "rescue"
    """It has none: where one is needed, the rescue system is booted over the network."""


class PxeLoader(StrEnum):
    """What the firmware loads from the network, and what loads the kernel then."""

    IPXE = "ipxe"
    PXELINUX = "pxelinux"
    """BIOS only."""
    GRUB = "grub"
    UKI = "uki"
    """A unified kernel image, which needs no loader. UEFI only."""
    UKI_HTTP = "uki-http"
    """The same, fetched by firmware's own HTTP client (UEFI 2.10, 24.7)."""

    @property
    def firmware(self) -> str:
        """The only firmware that it is for, ``bios`` or ``uefi``; empty: there is one for either."""
        return {"pxelinux": "bios", "uki": "uefi", "uki-http": "uefi"}.get(self.value, "")


class NetworkMode(StrEnum):
    """Who gives addresses on the boot network."""

    FULL = "full"
    """We do, and nobody else may."""
    PROXY = "proxy"
    """The site's own server; we say beside it what to boot."""


@dataclass(frozen=True)
class BootNetwork:
    """The network on which machines boot, as ``lab.toml`` says it."""

    interface: str
    address: str
    """Ours on it, with the length of the prefix: ``10.77.0.1/24``."""
    mode: NetworkMode = NetworkMode.FULL
    pool: tuple[str, str] | None = None
    """First and last address for machines without one of their own (full mode only)."""
    router_advertisements: bool = True
    """Tell IPv6 hosts that there is no router, which iPXE otherwise waits for (13 s)."""
    ipv6_prefix: str = "fd77::"
    http_port: int = 8069


@dataclass(frozen=True)
class Wiring:
    """What a machine of metal has beside its processor."""

    power: PowerSpec | None = None
    ssh: SshAccess | None = None
    mac: str = ""
    ip: str = ""
    firmware: str = ""
    """``bios`` or ``uefi``; empty: not known."""
    boot_methods: tuple[str, ...] = ()
    """Ways to load it, the preferred one first."""
    time_to_post_s: float | None = None
    """From power-on to the boot loader, as the inventory has it; None: not known."""
    learnt_post_s: float | None = field(default=None, compare=False)
    """No less than that, as `bench.health` has measured it; None: never."""
    netboot: Netboot = Netboot.ORDER
    pxe_loader: PxeLoader = PxeLoader.IPXE
    boot_network: BootNetwork | None = None
    """Where it boots from the network, if the lab has such a place."""
    secure_boot: bool = False
    """Its firmware starts signed programs only, and ours are not."""
    known_good: OwnSystem = OwnSystem.DISK
    notes: str = field(default="", compare=False)
