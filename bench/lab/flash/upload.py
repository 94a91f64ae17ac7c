"""An image onto the machine: under another name first, on disk, read back there, and only then under its own.

The name is the content's hash, so that what is there already is not sent again; that it is what its name says is
computed on the machine every time. A part that was left by a lab that died is removed with the next prune.
"""

from __future__ import annotations

import hashlib
import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass

from bench.errors import LabError
from bench.lab.flash.oneshot import ask, done
from bench.lab.load import Note
from bench.lab.ssh import Ssh

HASH_DIGITS = 16
PART = ".part"
# Nothing is so slow that it sends no chunk in so long.
CHUNK_S = 30.0
HASHING_S = 120.0
_CHUNK_BYTES = 32 << 10


@dataclass(frozen=True)
class Image:
    """A file to be had on the machine."""

    what: str
    """``kernel`` or ``initrd``."""
    content: bytes

    @property
    def sha256(self) -> str:
        """Of the content."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def name(self) -> str:
        """Its file's name on the machine."""
        return f"{self.sha256[:HASH_DIGITS]}.{self.what}"


def upload(ssh: Ssh, folder: str, image: Image, note: Note) -> str:
    """Have `image` in `folder` on the machine; its path there.

    Raises LabError: SshError if the connection fails, with the part left to the next prune.
    """
    path = f"{folder}/{image.name}"
    begun = time.monotonic()
    if _hash_there(ssh, path) == image.sha256:
        done(ssh, f"touch {shlex.quote(path)}", what="mark it as used")
        note(_step("verified", image, begun, "was there already"))
        return path
    note({"step": "uploading", "file": path, "bytes": str(len(image.content))})
    part = path + PART
    try:
        _send(ssh, part, image.content)
        found = _hash_there(ssh, part, first=f"sync {shlex.quote(part)} && ")
        if found != image.sha256:
            words = f"SHA-256 there is {found or 'not to be had'}, here {image.sha256}"
            raise LabError(f"{ssh.component}: {path}: {words}", component=ssh.component, witness=words)
    except LabError as error:
        if not hasattr(error, "trouble"):  # the connection still works
            ask(ssh, f"rm -f {shlex.quote(part)}")
        raise
    into = f"mv -f {shlex.quote(part)} {shlex.quote(path)} && sync {shlex.quote(folder)}"
    done(ssh, into, what=f"rename {part}", timeout_s=HASHING_S)
    note(_step("verified", image, begun, "uploaded"))
    return path


def _step(name: str, image: Image, begun: float, how: str) -> Mapping[str, str]:
    took = time.monotonic() - begun
    return {
        "step": name, "what": image.what, "how": how, "sha256": image.sha256, "bytes": str(len(image.content)),
        "took": f"{took:.2f} s",
    }  # fmt: skip


def _hash_there(ssh: Ssh, path: str, *, first: str = "") -> str:
    """SHA-256 of a file, computed by the machine from what its file system gives back; empty: there is none."""
    finished = ask(ssh, f"{first}sha256sum <{shlex.quote(path)}", timeout_s=HASHING_S)
    return finished.output.decode("ascii", "replace").split()[0] if finished.output.split() else ""


def _send(ssh: Ssh, path: str, content: bytes) -> None:
    with ssh.sftp(timeout_s=CHUNK_S) as sftp, sftp.writing(path) as file:
        for start in range(0, len(content), _CHUNK_BYTES):
            file.write(content[start : start + _CHUNK_BYTES])
