"""Disk, system and keys of a virtual machine with a disk, made before it is run and kept for the next.

The two keys are a user's own, for virtual machines alone: one to log in, one by which the machine is known.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bench.cache import cache_folder
from bench.errors import UsageError
from bench.images.disk import build_disk
from bench.images.disk_layers import LAYERED
from bench.images.known_good import LAYERED_SYSTEM, SYSTEM
from bench.images.small_system import SmallSystem, build_system, dropbear_key, keys_archive
from bench.records import HostFiles, Machine

_RAW, _SSH = serialization.Encoding.Raw, serialization.Encoding.OpenSSH
_PLAIN = serialization.NoEncryption()


def with_files(machine: Machine, root: Path, *, keys: Path | None = None) -> Machine:
    """`machine` with what it is started with, if it is one with a disk; other machines as they are.

    The first call of all fetches packages and takes a minute. Raises UsageError, LabError.
    """
    spec = machine.virtual
    if spec is None or spec.host is None or spec.host.files is not None:
        return machine
    folder = keys or keys_folder()
    user, host = _key(folder / "user"), _key(folder / "host")
    disk, own = None, own_system(machine)
    if own:
        archive = keys_archive(host_key=_for_dropbear(host), authorized_keys=[public_line(user)])
        disk = build_disk(spec.host.disk, build_system(root, own), archive).path
    files = HostFiles(disk, folder / "user", public_line(host))
    return replace(machine, virtual=replace(spec, host=replace(spec.host, files=files)))


def own_system(machine: Machine) -> SmallSystem | None:
    """What a virtual machine has on its disk; None for one that has none, and for real ones."""
    host = machine.virtual and machine.virtual.host
    if not host or host.disk == "none":
        return None
    return LAYERED_SYSTEM if host.disk in LAYERED else SYSTEM


def keys_folder() -> Path:
    """``$XDG_CACHE_HOME/bench/keys``, in ``~/.cache`` if that is not set."""
    return cache_folder("keys")


def public_line(key: Ed25519PrivateKey) -> str:
    """The public half, as in authorized_keys and known_hosts."""
    return key.public_key().public_bytes(_SSH, serialization.PublicFormat.OpenSSH).decode()


def _for_dropbear(key: Ed25519PrivateKey) -> bytes:
    private = key.private_bytes(_RAW, serialization.PrivateFormat.Raw, _PLAIN)
    return dropbear_key(private, key.public_key().public_bytes(_RAW, serialization.PublicFormat.Raw))


def _key(path: Path) -> Ed25519PrivateKey:
    """The key in `path`; made, once, if there is none."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        text = Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, _PLAIN
        )
        beside = path.with_name(f"{path.name}.{os.getpid()}")
        beside.touch(0o600, exist_ok=False)
        beside.write_bytes(text)
        try:
            os.link(beside, path)  # unlike a rename this refuses to replace what another bench has made
        except FileExistsError:
            pass
        finally:
            beside.unlink()
    key = serialization.load_ssh_private_key(path.read_bytes(), None)
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageError(f"{path}: no Ed25519 key; remove it, and a new one is made")
    return key
