"""The tables ``[power]`` and ``[power.ac]``: one model a backend, and the record that each becomes."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, Field, model_validator

from bench.hardware import (
    AfterPowerLoss,
    CommandSwitch,
    Cuts,
    IpmiSwitch,
    ManualSwitch,
    PduSwitch,
    PowerSpec,
    RedfishSwitch,
    Secret,
    SshAccess,
    Switch,
    WakeSwitch,
)
from bench.inventory.values import (
    STRICT,
    Command,
    EnvironmentName,
    Host,
    HostKey,
    HttpUrl,
    Ip,
    Mac,
    Port,
    Seconds,
    Text,
)


class Table(BaseModel):
    """A table in which every key is known."""

    model_config = STRICT


class SshTable(Table):
    """Table ``[ssh]``: a way in, to one host key only."""

    host: Annotated[Host, Field(description="Name or address.")]
    port: Port = 22
    user: Text
    host_key: Annotated[HostKey, Field(description="Type and key as in known_hosts; no other is accepted.")]
    key_file: Annotated[str, Field(description="Private key, outside of the repository; without it: the agent.")] = ""

    def record(self) -> SshAccess:
        """As the lab takes it."""
        return SshAccess(self.host, self.user, self.host_key, self.port, self.key_file)


class _Login(Table):
    user: Text
    password_env: Annotated[EnvironmentName | None, Field(description="Environment variable with the password.")] = None
    password_file: Annotated[Text | None, Field(description="File with the password, outside the repository.")] = None

    @model_validator(mode="after")
    def _one_secret(self) -> Self:
        if (self.password_env is None) == (self.password_file is None):
            raise ValueError("one of password_env and password_file is required; the password itself is not kept here")
        return self

    def _secret(self) -> Secret:
        return Secret(self.password_env or "", self.password_file or "")


class IpmiTable(_Login):
    """``backend = "ipmi"``."""

    backend: Literal["ipmi"]
    host: Host
    port: Port = 623

    def record(self) -> IpmiSwitch:
        """As the lab takes it."""
        return IpmiSwitch(self.host, self.user, self._secret(), self.port)


class RedfishTable(_Login):
    """``backend = "redfish"``."""

    backend: Literal["redfish"]
    url: HttpUrl
    system: Annotated[str, Field(description="Path of the system, if the BMC has more than one.")] = ""
    ca_file: str = ""
    insecure: Annotated[bool, Field(description="Take any certificate.")] = False

    def record(self) -> RedfishSwitch:
        """As the lab takes it."""
        return RedfishSwitch(self.url, self.user, self._secret(), self.system, self.ca_file, self.insecure)


class PduTable(Table):
    """``backend = "pdudaemon"``."""

    backend: Literal["pdudaemon"]
    url: HttpUrl
    pdu: Text
    outlets: Annotated[list[Text], Field(min_length=1, description="All of them; a dual supply has two.")]

    def record(self) -> PduSwitch:
        """As the lab takes it."""
        return PduSwitch(self.url, self.pdu, tuple(self.outlets))


class CommandTable(Table):
    """``backend = "command"``: programs, here or, with a table ``ssh``, on another host."""

    backend: Literal["command"]
    cuts: Cuts = Field(strict=False, description="What is gone when it is off: the chassis' supply, or the mains.")
    on: Command | None = None
    off: Command | None = None
    short_press: Command | None = None
    long_press: Command | None = None
    status: Annotated[Command | None, Field(description="Prints on or off.")] = None
    reset: Command | None = None
    ssh: SshTable | None = None

    @model_validator(mode="after")
    def _a_pair(self) -> Self:
        switch = (self.on is not None, self.off is not None)
        finger = (self.short_press is not None, self.long_press is not None)
        if (switch, finger) not in (((True, True), (False, False)), ((False, False), (True, True))):
            raise ValueError("either on and off, or short_press and long_press, are required")
        return self

    def record(self) -> CommandSwitch:
        """As the lab takes it."""
        return CommandSwitch(
            self.cuts,
            on=tuple(self.on or ()),
            off=tuple(self.off or ()),
            short_press=tuple(self.short_press or ()),
            long_press=tuple(self.long_press or ()),
            status=tuple(self.status or ()),
            reset=tuple(self.reset or ()),
            ssh=self.ssh.record() if self.ssh else None,
        )


class WakeTable(Table):
    """``backend = "wake-on-lan"``: a packet to switch on, a command on the machine itself to switch off."""

    backend: Literal["wake-on-lan"]
    mac: Annotated[Mac | None, Field(description="Without it: the machine's own mac.")] = None
    broadcast: Ip
    port: Port = 9
    off: Text = "poweroff"

    def record(self, mac: str, ssh: SshAccess) -> WakeSwitch:
        """As the lab takes it."""
        return WakeSwitch(self.mac or mac, self.broadcast, ssh, self.port, self.off)


class ManualTable(Table):
    """``backend = "manual"``: a person, who is asked."""

    backend: Literal["manual"]
    cuts: Cuts = Field(Cuts.AC, strict=False)

    def record(self) -> ManualSwitch:
        """As the lab takes it."""
        return ManualSwitch(self.cuts)


# What cuts the mains of a machine whose own switch does not.
AcTable = Annotated[PduTable | CommandTable | ManualTable, Field(discriminator="backend")]


class PowerKeys(Table):
    """Keys of ``[power]`` beside the backend's own."""

    after_power_loss: Annotated[
        AfterPowerLoss | None, Field(strict=False, description="What the firmware does when the mains come back.")
    ] = None
    minimum_off_s: Seconds = 5.0
    answer_s: Seconds = 15.0
    settle_s: Seconds = 15.0
    bmc_start_s: Seconds = 180.0
    ac: AcTable | None = None

    def spec(self, switch: Switch) -> PowerSpec:
        """As the lab takes it."""
        ac = self.ac.record() if self.ac is not None else None
        return PowerSpec(
            switch, ac, self.after_power_loss, self.minimum_off_s, self.answer_s, self.settle_s, self.bmc_start_s
        )


class IpmiPower(IpmiTable, PowerKeys):
    """``[power]`` with a BMC that speaks IPMI."""


class RedfishPower(RedfishTable, PowerKeys):
    """``[power]`` with a BMC that speaks Redfish."""


class PduPower(PduTable, PowerKeys):
    """``[power]`` with outlets."""


class CommandPower(CommandTable, PowerKeys):
    """``[power]`` with programs."""


class WakePower(WakeTable, PowerKeys):
    """``[power]`` with Wake-on-LAN."""


class ManualPower(ManualTable, PowerKeys):
    """``[power]`` with a person."""


PowerTable = Annotated[
    IpmiPower | RedfishPower | PduPower | CommandPower | WakePower | ManualPower, Field(discriminator="backend")
]
