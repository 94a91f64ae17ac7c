"""``inventory/lab.toml``: what all machines of the lab share. Without the file the lab has none of it."""

from __future__ import annotations

import ipaddress
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, Field, StringConstraints, model_validator

from bench.hardware import BootNetwork, NetworkMode
from bench.inventory.power_keys import Table
from bench.inventory.values import STRICT, Port


def _interface_address(value: str) -> str:
    try:
        found = ipaddress.IPv4Interface(value)
    except ValueError:
        raise ValueError("not an IPv4 address with the length of its prefix, such as 10.77.0.1/24") from None
    if "/" not in value or found.ip in (found.network.network_address, found.network.broadcast_address):
        raise ValueError("not the address of a computer with the length of its prefix, such as 10.77.0.1/24")
    return str(found)


def _ipv4(value: str) -> str:
    return str(ipaddress.IPv4Address(value))


def _prefix(value: str) -> str:
    found = ipaddress.IPv6Address(value)
    if int(found) & (1 << 64) - 1:
        raise ValueError("not a prefix of 64 bits: its last 64 bits are not zero; such as fd77::")
    return str(found)


# IFNAMSIZ (include/uapi/linux/if.h); a comma or a space would end the name in dnsmasq's configuration.
Interface = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,14}$")]


class BootNetworkTable(Table):
    """Table ``[boot_network]``: where machines boot from the network."""

    interface: Annotated[Interface, Field(description="The only one on which anybody is answered.")]
    address: Annotated[str, AfterValidator(_interface_address), Field(description="Ours there: 10.77.0.1/24.")]
    mode: NetworkMode = Field(
        NetworkMode.FULL, strict=False, description="full: we give addresses; proxy: the site's server does."
    )
    pool: Annotated[
        list[Annotated[str, AfterValidator(_ipv4)]] | None,
        Field(min_length=2, max_length=2, description="First and last address for machines without a key ip."),
    ] = None
    router_advertisements: bool = True
    ipv6_prefix: Annotated[str, AfterValidator(_prefix)] = "fd77::"
    http_port: Port = 8069

    @model_validator(mode="after")
    def _fits(self) -> Self:
        network = ipaddress.IPv4Interface(self.address).network
        if self.pool is None:
            return self
        if self.mode is NetworkMode.PROXY:
            raise ValueError("pool: with mode = \"proxy\" addresses are the site's server's to give")
        first, last = map(ipaddress.IPv4Address, self.pool)
        if first not in network or last not in network or first > last:
            raise ValueError(f"pool: {first} to {last} is no range in {network}")
        if first <= ipaddress.IPv4Interface(self.address).ip <= last:
            raise ValueError("pool: has our own address in it")
        return self

    def record(self) -> BootNetwork:
        """As the lab takes it."""
        return BootNetwork(
            self.interface,
            self.address,
            self.mode,
            (self.pool[0], self.pool[1]) if self.pool else None,
            self.router_advertisements,
            self.ipv6_prefix,
            self.http_port,
        )


class LabFile(BaseModel):
    """The file ``lab.toml``."""

    model_config = STRICT
    boot_network: BootNetworkTable | None = None


def network_problems(network: BootNetwork | None, *, mac: str, ip: str, netboots: bool) -> list[str]:
    """What is wrong with a machine's keys for the lab's boot network."""
    if not netboots:
        return []
    if network is None:
        return ["boot_methods: 'pxe' needs a table [boot_network] in lab.toml"]
    problems = [] if mac else ["mac: missing: boot_methods has 'pxe', and only known cards are answered"]
    if network.mode is NetworkMode.FULL:
        subnet = ipaddress.IPv4Interface(network.address)
        if not ip and network.pool is None:
            problems.append("ip: missing: boot_methods has 'pxe', and the boot network has no pool")
        elif ip and ipaddress.ip_address(ip) not in subnet.network:
            problems.append(f"ip: {ip} is not in the boot network, {subnet.network}")
        elif ip == str(subnet.ip):
            problems.append(f"ip: {ip} is our own address on the boot network")
    return problems
