"""The keys of one boot of the rescue system: made for it, in memory, worth nothing when the machine is off."""

from __future__ import annotations

from dataclasses import dataclass, field

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bench.images.small_system import dropbear_key, keys_archive

_RAW, _SSH = serialization.Encoding.Raw, serialization.Encoding.OpenSSH
_PLAIN = serialization.NoEncryption()


@dataclass(frozen=True)
class BootKeys:
    """What logs in and what the system is known by. The secret halves are not shown."""

    private_key: bytes = field(repr=False)
    """Of whoever logs in, in OpenSSH's form."""
    host_key: str
    """Public, as in known_hosts."""
    archive: bytes = field(repr=False)
    """What goes behind the initrd: the host key, who may log in, the host's name."""


def make_keys(host_name: str) -> BootKeys:
    """New keys, of which nothing is written to any disk."""
    user, host = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    secret = host.private_bytes(_RAW, serialization.PrivateFormat.Raw, _PLAIN)
    public = host.public_key().public_bytes(_RAW, serialization.PublicFormat.Raw)
    return BootKeys(
        user.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, _PLAIN),
        _line(host),
        keys_archive(
            host_key=dropbear_key(secret, public),
            authorized_keys=[_line(user)],
            more={"etc/hostname": f"{host_name}\n".encode()},
        ),
    )


def _line(key: Ed25519PrivateKey) -> str:
    return key.public_key().public_bytes(_SSH, serialization.PublicFormat.OpenSSH).decode()
