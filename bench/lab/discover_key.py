"""Which host key an SSH server shows to somebody who knows none yet. It proves nothing: a person compares it."""

from __future__ import annotations

import base64
import hashlib
import socket
from dataclasses import dataclass

import paramiko

from bench.errors import LabError
from bench.lab.ssh import COMPONENT, CONNECT_S
from bench.lab.text import escape


@dataclass(frozen=True)
class ShownKey:
    """A host key that nobody vouches for."""

    key: str
    """Type and key as in known_hosts."""
    fingerprint: str
    """As `ssh-keygen -lf` shows it: ``SHA256:…``."""


def shown_key(host: str, port: int, *, timeout_s: float = CONNECT_S) -> ShownKey:
    """Ask the server for its key and hang up; no user name is sent. Raises LabError."""
    component = f"{COMPONENT} {host}"
    try:
        with socket.create_connection((host, port), timeout_s) as line:
            transport = paramiko.Transport(line)
            try:
                transport.banner_timeout = timeout_s
                transport.start_client(timeout=timeout_s)
                key = transport.get_remote_server_key()
            finally:
                transport.close()
    except (paramiko.SSHException, OSError, EOFError) as error:
        words = escape(f"{type(error).__name__}: {error}".encode())
        raise LabError(f"{component}: port {port}: {words}", component=component, witness=words) from error
    digest = base64.b64encode(hashlib.sha256(key.asbytes()).digest()).decode().rstrip("=")
    return ShownKey(f"{key.get_name()} {key.get_base64()}", f"SHA256:{digest}")
