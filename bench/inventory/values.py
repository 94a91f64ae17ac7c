"""Values of the inventory's keys: what is allowed, and what is said about the rest."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
import struct
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, StringConstraints, WithJsonSchema

from bench.errors import UsageError
from bench.x86 import signature as signatures

UNITS = {"MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
STRICT = ConfigDict(extra="forbid", strict=True)
NAME_PATTERN = r"^[a-z0-9][a-z0-9-]{0,40}$"
# How the bench can reach a serial line; what comes behind is pyserial's or `bench.lab.urls`'.
SERIAL_SCHEMES = ("rfc2217", "socket", "ipmi-sol")


def memory_bytes(value: object) -> int:
    """The size in bytes of a text such as ``8 GiB``."""
    match = re.fullmatch(r"([0-9]+) ?([A-Za-z]*)", value) if isinstance(value, str) else None
    if match is None or match[2] not in UNITS:
        raise ValueError(f'not a memory size: a whole number and a unit ({", ".join(UNITS)}), such as "8 GiB"')
    size = int(match[1]) * UNITS[match[2]]
    if size < 64 * UNITS["MiB"]:
        raise ValueError("less than 64 MiB, in which a payload, its script and firmware do not fit")
    return size


def _signature(value: object) -> int:
    try:
        if isinstance(value, str):
            return signatures.parse_model(value)
        if isinstance(value, int) and not isinstance(value, bool):
            signatures.processor(value)
            return value
    except UsageError as error:
        raise ValueError(f"impossible signature: {error}") from error
    raise ValueError(
        'not a signature: CPUID leaf 1 EAX such as 0x000906ea, or family-model-stepping such as "06-9e-0a"'
    )


def _mac(value: str) -> str:
    digits = value.lower()
    if not re.fullmatch(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", digits):
        raise ValueError("not a MAC address: six pairs of hexadecimal digits with colons, such as 52:54:00:12:34:56")
    if int(digits[:2], 16) & 1:
        raise ValueError("a group address (bit 0 of the first byte is set), which no machine has")
    if digits == "00:00:00:00:00:00":
        raise ValueError("all zero, which no machine has")
    return digits


def _ip(value: str) -> str:
    return str(ipaddress.ip_address(value))


def _serial_url(value: str) -> str:
    url = urlsplit(value)
    if not url.scheme:
        if not value.startswith("/dev/"):
            raise ValueError(f"neither a device in /dev/ nor one of {', '.join(f'{s}://' for s in SERIAL_SCHEMES)}")
        return value
    if url.scheme not in SERIAL_SCHEMES:
        raise ValueError(f"unknown scheme; allowed: {', '.join(f'{s}://' for s in SERIAL_SCHEMES)} and devices")
    if url.password is not None:
        raise ValueError("a password has no place in the inventory: ?password_env=NAME or ?password_file=PATH")
    if url.scheme != "ipmi-sol" and not (url.hostname and url.port):
        raise ValueError(f"host and port are missing: {url.scheme}://HOST:PORT")
    return value


def _http_url(value: str) -> str:
    url = urlsplit(value)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ValueError("not of the form http://HOST:PORT or https://HOST")
    if url.username is not None or url.password is not None:
        raise ValueError("user and password have keys of their own, and the password is not in the inventory")
    return value.rstrip("/")


def _host_key(value: str) -> str:
    """Type and key as in known_hosts. The key names its own type first (RFC 4253, section 6.6)."""
    words = value.split()
    if len(words) < 2:
        raise ValueError("not a host key: type and key as in known_hosts, such as `ssh-keyscan HOST` shows them")
    try:
        blob = base64.b64decode(words[1], validate=True)
        (length,) = struct.unpack_from(">I", blob)
        named = blob[4 : 4 + length].decode("ascii")
    except (binascii.Error, struct.error, UnicodeDecodeError) as error:
        raise ValueError("not a host key: what stands behind its type is no key") from error
    if named != words[0]:
        raise ValueError(f"not a host key: it is called {words[0]} and says that it is {named!r}")
    return " ".join(words[:2])


def _command(value: list[str]) -> list[str]:
    if not value or not all(value):
        raise ValueError('a program and its arguments, none of them empty, such as ["relay", "3", "on"]')
    return value


Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
Memory = Annotated[
    int,
    BeforeValidator(memory_bytes),
    WithJsonSchema({"type": "string", "pattern": "^[0-9]+ ?(MiB|GiB|TiB)$"}),
]
Signature = Annotated[
    int,
    BeforeValidator(_signature),
    WithJsonSchema(
        {"anyOf": [{"type": "string", "pattern": "^[0-9a-f]{2}-[0-9a-f]{2}-[0-9a-f]{2}$"}, {"type": "integer"}]}
    ),
]
Mac = Annotated[str, AfterValidator(_mac)]
Ip = Annotated[str, AfterValidator(_ip)]
SerialUrl = Annotated[str, AfterValidator(_serial_url)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]
HostKey = Annotated[str, AfterValidator(_host_key)]
Command = Annotated[list[str], AfterValidator(_command)]
Host = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9.:_-]*$")]
Port = Annotated[int, Field(ge=1, le=65535)]
EnvironmentName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Text = Annotated[str, StringConstraints(min_length=1)]
Seconds = Annotated[float, Field(gt=0, le=3600, strict=False)]
