"""What dnsmasq says, line by line (2.90 with ``log-dhcp``), as events. Lines of no interest here are None."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum


class NetEventKind(StrEnum):
    """What a server saw."""

    DISCOVER = "discover"
    OFFER = "offer"
    REQUEST = "request"
    LEASE = "lease"
    """DHCPACK; of a proxy: the boot file was told."""
    REFUSED = "refused"
    """A DHCP message that was not answered, or with no; `detail` is the reason."""
    CLIENT = "client"
    """What the client says that it is (`detail`, option 60 or 77)."""
    TFTP_SENT = "tftp sent"
    TFTP_FAILED = "tftp failed"
    """The transfer broke off; `detail` is how."""
    TFTP_ABSENT = "tftp absent"
    """A file was asked for that is not offered."""
    READ = "read"
    """The file of hosts was read anew."""


@dataclass(frozen=True)
class NetEvent:
    """One line. `mac` and `address` are empty where the line does not have them."""

    kind: NetEventKind
    mac: str = ""
    address: str = ""
    file: str = ""
    detail: str = ""
    exchange: str = ""
    """Number of the DHCP exchange."""


_MAC = r"(?P<mac>[0-9a-f]{2}(?::[0-9a-f]{2}){5})"
_IP = r"(?P<address>\d+\.\d+\.\d+\.\d+)"
_DHCP = r"^dnsmasq-dhcp: (?:(?P<exchange>\d+) )?"
_TFTP = r"^dnsmasq-tftp: "
# The DHCP message → what it is; the first pattern that fits counts.
_PATTERNS: tuple[tuple[str, NetEventKind], ...] = (
    (
        _DHCP + rf"DHCP(?:DISCOVER|REQUEST|INFORM)\([^)]+\) (?:{_IP} )?{_MAC} "
        r"(?P<detail>ignored|no address .+|address .+|wrong .+|unknown .+|lease not found|static lease .+)$",
        NetEventKind.REFUSED,
    ),
    (_DHCP + rf"DHCPNAK\([^)]+\) {_IP} {_MAC}(?: (?P<detail>.+))?$", NetEventKind.REFUSED),
    (_DHCP + rf"DHCPDISCOVER\([^)]+\) (?:{_IP} )?{_MAC} *$", NetEventKind.DISCOVER),
    (_DHCP + rf"DHCPOFFER\([^)]+\) {_IP} {_MAC}", NetEventKind.OFFER),
    (_DHCP + rf"DHCPREQUEST\([^)]+\) {_IP} {_MAC}", NetEventKind.REQUEST),
    (_DHCP + rf"DHCPACK\([^)]+\) {_IP} {_MAC}", NetEventKind.LEASE),
    (_DHCP + rf"PXE\([^)]+\) {_MAC} proxy$", NetEventKind.OFFER),
    (_DHCP + rf"PXE\([^)]+\) {_IP} {_MAC} (?P<file>\S+)", NetEventKind.LEASE),
    (_DHCP + r"(?:vendor|user) class: (?P<detail>.+)$", NetEventKind.CLIENT),
    (r"^dnsmasq(?:-dhcp)?: read (?P<file>/.+)$", NetEventKind.READ),
    (_TFTP + rf"sent (?P<file>/.+) to {_IP}$", NetEventKind.TFTP_SENT),
    (_TFTP + rf"failed sending (?P<file>/.+) to {_IP}(?P<detail>)$", NetEventKind.TFTP_FAILED),
    (_TFTP + rf"file (?P<file>.+) not found(?: for {_IP})?$", NetEventKind.TFTP_ABSENT),
    (_TFTP + rf"(?P<detail>error \d+ .+) received from {_IP}$", NetEventKind.TFTP_FAILED),
)
# The system's time and the process id, which some ways to log put in front.
_STAMP = re.compile(r"^(?:[A-Z][a-z]{2} +\d+ [\d:]{8} )?(dnsmasq(?:-[a-z]+)?)(?:\[\d+\])?: ")
_COMPILED = tuple((re.compile(pattern), kind) for pattern, kind in _PATTERNS)


def read_line(line: str) -> NetEvent | None:
    """The event of one line of the log."""
    line = _STAMP.sub(r"\1: ", line)
    for pattern, kind in _COMPILED:
        if found := pattern.match(line):
            return NetEvent(kind, **{name: text or "" for name, text in found.groupdict().items()})
    return None
