"""dnsmasq's configuration, its hosts and its log; the loaders' scripts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench.errors import UsageError
from bench.hardware import BootNetwork, NetworkMode
from bench.lab.net import scripts
from bench.lab.net.dnsmasq_config import Host, configuration, hosts, tftp_folder
from bench.lab.net.dnsmasq_log import NetEvent, NetEventKind, read_line

NETWORK = BootNetwork("eno2", "10.77.0.1/24")
MAC = "52:54:00:77:00:01"


def lines(network: BootNetwork) -> list[str]:
    return configuration(network, Path("/run/x")).splitlines()


@pytest.mark.parametrize("mode", list(NetworkMode))
def test_one_interface_known_cards_only_and_each_its_own_files(mode: NetworkMode) -> None:
    config = lines(replace(NETWORK, mode=mode))
    assert [line for line in config if line.startswith("interface=")] == ["interface=eno2"]
    assert {"bind-interfaces", "except-interface=lo", "dhcp-ignore=tag:!known", "tftp-unique-root=mac"} <= set(config)
    assert tftp_folder(Path("/run/x"), MAC) == Path("/run/x/tftp/52-54-00-77-00-01")


def test_firmware_that_boots_by_http_gets_a_url_and_its_own_name_back() -> None:
    url = "dhcp-boot=tag:http,http://10.77.0.1:8069/boot.efi"
    full, beside = lines(NETWORK), lines(replace(NETWORK, mode=NetworkMode.PROXY))
    assert {url, "dhcp-match=set:http,option:client-arch,16", "dhcp-option-force=tag:http,60,HTTPClient"} <= set(full)
    assert {url, "dhcp-pxe-vendor=PXEClient,HTTPClient"} <= set(beside)
    assert not [line for line in beside if "option-force" in line] and not [line for line in full if "vendor" in line]


def test_addresses_are_ours_to_give_in_full_mode_only() -> None:
    pool = replace(NETWORK, pool=("10.77.0.50", "10.77.0.60"))
    ranges = [line for line in lines(pool) if line.startswith("dhcp-range=1")]
    assert ranges == [
        "dhcp-range=10.77.0.0,static,255.255.255.0,1h",
        "dhcp-range=10.77.0.50,10.77.0.60,255.255.255.0,1h",
    ]
    beside = lines(replace(NETWORK, mode=NetworkMode.PROXY))
    assert [line for line in beside if line.startswith("dhcp-range=1")] == ["dhcp-range=10.77.0.0,proxy,255.255.255.0"]
    assert "dhcp-authoritative" in lines(NETWORK) and "dhcp-authoritative" not in beside
    assert "enable-ra" not in lines(replace(NETWORK, router_advertisements=False))


def test_beside_a_site_s_server_only_those_are_known_who_are_offered_something() -> None:
    machines = [Host(MAC, "10.77.0.101", offered=True), Host("52:54:00:77:00:02", "10.77.0.102")]
    assert hosts(NETWORK, machines) == f"{MAC},10.77.0.101\n52:54:00:77:00:02,10.77.0.102\n"
    assert hosts(replace(NETWORK, mode=NetworkMode.PROXY), machines) == f"{MAC}\n"


K = NetEventKind
LOG = [
    ("dnsmasq-dhcp: 1718 DHCPDISCOVER(boot0) 52:54:00:77:00:01 ", NetEvent(K.DISCOVER, MAC, exchange="1718")),
    (
        "dnsmasq-dhcp: 1718 DHCPOFFER(boot0) 10.77.0.101 52:54:00:77:00:01 ",
        NetEvent(K.OFFER, MAC, "10.77.0.101", exchange="1718"),
    ),
    (
        "Nov 24 22:39:36 dnsmasq-dhcp[14143]: 1718 DHCPACK(boot0) 10.77.0.101 52:54:00:77:00:01 box",
        NetEvent(K.LEASE, MAC, "10.77.0.101", exchange="1718"),
    ),
    (
        "dnsmasq-dhcp: 3 DHCPDISCOVER(boot0) 52:54:00:77:00:01 no address available",
        NetEvent(K.REFUSED, MAC, detail="no address available", exchange="3"),
    ),
    ("dnsmasq-dhcp: 3 DHCPDISCOVER(boot0) 52:54:00:77:00:01 ignored", NetEvent(K.REFUSED, MAC, "", "", "ignored", "3")),
    ("dnsmasq-dhcp: 3 PXE(boot0) 52:54:00:77:00:01 proxy", NetEvent(K.OFFER, MAC, exchange="3")),
    (
        "dnsmasq-tftp: sent /run/x/boot.ipxe to 10.77.0.101",
        NetEvent(K.TFTP_SENT, "", "10.77.0.101", "/run/x/boot.ipxe"),
    ),
    (
        "dnsmasq-tftp: error 8 User aborted the transfer received from 10.77.0.101",
        NetEvent(K.TFTP_FAILED, address="10.77.0.101", detail="error 8 User aborted the transfer"),
    ),
    (
        "dnsmasq-tftp: failed sending /run/x/boot.bios to 10.77.0.101",
        NetEvent(K.TFTP_FAILED, address="10.77.0.101", file="/run/x/boot.bios"),
    ),
    (
        "dnsmasq-tftp: file /run/x/pxelinux.cfg/default not found for 10.77.0.101",
        NetEvent(K.TFTP_ABSENT, address="10.77.0.101", file="/run/x/pxelinux.cfg/default"),
    ),
    ("Nov 24 22:43:01 dnsmasq-dhcp[17221]: read /run/x/hosts", NetEvent(K.READ, file="/run/x/hosts")),
    ("dnsmasq-dhcp: 3 sent size:  4 option: 51 lease-time  1h", None),
    ("dnsmasq-tftp: sent nothing to nobody", None),
]


@pytest.mark.parametrize(("line", "event"), LOG)
def test_a_line_of_the_log_is_what_it_says(line: str, event: NetEvent | None) -> None:
    assert read_line(line) == event


@pytest.mark.parametrize("bad", ["a\nkernel http://elsewhere/", "a\x1b[2J", "\xe4", "x" * 2048])
def test_a_command_line_cannot_say_anything_else_to_a_loader(bad: str) -> None:
    for write in (
        lambda: scripts.ipxe("u", "", bad),
        lambda: scripts.pxelinux("u", "", bad),
        lambda: scripts.grub("s", "/u", "", bad),
    ):
        with pytest.raises(UsageError, match="command line: "):
            write()


def test_what_a_loader_would_expand_is_refused() -> None:
    with pytest.raises(UsageError, match=r"'\$' cannot be passed on"):
        scripts.ipxe("u", "", "root=${net0/mac}")
    with pytest.raises(UsageError, match="cannot be passed on"):
        scripts.grub("s", "/u", "", "a='b'")
    assert b"if linux (http,s)/u 'a=$b' 'c;d'; then if true; then boot; fi; fi\n" in scripts.grub(
        "s", "/u", "", "a=$b c;d"
    )


def test_each_script_names_kernel_initrd_and_command_line() -> None:
    assert b"kernel --name kernel K a b || goto out\n" in scripts.ipxe("K", "I", "a b")
    assert b"kernel --name kernel K a b initrd=initrd || goto out\n" in scripts.ipxe("K", "I", "a b")
    assert b"initrd" not in scripts.ipxe("K", "", "a")
    assert b"  LINUX K\n  INITRD I\n  APPEND a b\n" in scripts.pxelinux("K", "I", "a b")
    assert b"; then if initrd (http,s:1)/I; then boot" in scripts.grub("s:1", "/K", "/I", "a")
