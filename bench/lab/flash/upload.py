"""An image onto the machine: under another name first, on disk, read back there, and only then under its own.

The name is the content's hash, so that what is there already is not sent again; that it is what its name says is
computed on the machine every time. A part that a lab has left that died is gone on with, if it is how the image begins.
"""

from __future__ import annotations

import hashlib
import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from bench.errors import LabError
from bench.lab.flash.oneshot import PATH
from bench.lab.load import Note
from bench.lab.ssh import Ssh
from bench.lab.text import escape

HASH_DIGITS = 16
PART = ".part"
# Nothing is so slow that it takes not a byte in so long.
STALL_S = 30.0
# Exit code of what follows where a file has come whole and is another one.
_OTHER = 4
HASHING_S = 120.0


@dataclass(frozen=True)
class Image:
    """A file to be had on the machine."""

    what: str
    """``kernel`` or ``initrd``."""
    content: bytes

    @cached_property
    def sha256(self) -> str:
        """Of the content."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def name(self) -> str:
        """Its file's name on the machine."""
        return f"{self.sha256[:HASH_DIGITS]}.{self.what}"


@dataclass(frozen=True)
class Stored:
    """A file that is on the machine, by its own account: it has read it back."""

    size_bytes: int
    sha256: str


def upload(ssh: Ssh, folder: str, image: Image, note: Note, *, stored: Mapping[str, Stored] | None = None) -> str:
    """Have `image` in `folder` on the machine, which has `stored` there; its path. One round trip, or none.

    Raises LabError: SshError if the connection fails, with what has come left there, to be gone on with.
    """
    stored, path, begun = stored or {}, f"{folder}/{image.name}", time.monotonic()
    whole = stored.get(image.name)
    if whole is not None and whole.sha256 == image.sha256:
        note(_step("verified", image, begun, "was there already"))
        return path
    start = _resumed(image, stored.get(image.name + PART))
    if start:
        note({"step": "uploading", "file": path, "bytes": str(len(image.content)), "goes on at": str(start)})
        # The upload that was cut may have written more since it was looked at, if its end was not noticed there yet.
        if not _sent(ssh, path, image, start, other_is_error=False):
            start = 0
    if not start:
        note({"step": "uploading", "file": path, "bytes": str(len(image.content))})
        _sent(ssh, path, image, 0)
    note(_step("verified", image, begun, f"uploaded from byte {start} on" if start else "uploaded"))
    return path


def _resumed(image: Image, part: Stored | None) -> int:
    """How many bytes of the part on the machine are how the image begins: all of them, or none."""
    if part is None or part.size_bytes > len(image.content):
        return 0
    same = hashlib.sha256(image.content[: part.size_bytes]).hexdigest() == part.sha256
    return part.size_bytes if same else 0


def _step(name: str, image: Image, begun: float, how: str) -> Mapping[str, str]:
    took = time.monotonic() - begun
    return {
        "step": name, "what": image.what, "how": how, "sha256": image.sha256, "bytes": str(len(image.content)),
        "took": f"{took:.2f} s",
    }  # fmt: skip


# In one command, so that each of these is done or not, whoever is lost meanwhile. The connection that breaks looks like
# the end of the file: what has come by then is kept. What has come whole and is another one is not, nor what found no
# room.
_RECEIVE = """
[ -d "$folder" ] || { mkdir -p "$folder" && sync "${folder%/*}/"; } || exit 1
[ $start != 0 ] || : >"$part"
cat >>"$part" || { rm -f "$part"; exit 1; }
sync "$part" || exit 1
n=$(wc -c <"$part")
[ "$n" -ge $total ] || { echo "$n of $total bytes came" >&2; exit 1; }
s=$(sha256sum <"$part")
s=${s%% *}
[ "$s" = $expected ] || { rm -f "$part"; echo "SHA-256 there is ${s:-not to be had}, here $expected" >&2; exit 4; }
mv -f "$part" "$whole" && sync "$folder"
"""


def _sent(ssh: Ssh, path: str, image: Image, start: int, *, other_is_error: bool = True) -> bool:
    """Send what is missing of `image`; whether it is then there. False, if that is not to be an error, if what has come
    whole is another one."""
    values = {
        "folder": shlex.quote(path.rpartition("/")[0]), "part": shlex.quote(path + PART), "whole": shlex.quote(path),
        "start": start, "total": len(image.content), "expected": image.sha256,
    }  # fmt: skip
    head = "".join(f"{name}={value}\n" for name, value in values.items())
    content = image.content[start:]
    finished = ssh.run(
        PATH + head + _RECEIVE, stdin=content, timeout_s=HASHING_S, stall_s=STALL_S, what=f"upload of {path}"
    )
    if finished.status == _OTHER and not other_is_error:
        return False
    if finished.status:
        words = escape(finished.complaints[-300:].strip()) or f"exit code {finished.status}"
        raise LabError(f"{ssh.component}: {path}: {words}", component=ssh.component, witness=words)
    return True
