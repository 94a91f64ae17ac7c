"""Small files on the machine: read, and replaced as a whole, on disk before anything depends on them."""

from __future__ import annotations

import shlex

from bench.lab.flash.oneshot import ask, done
from bench.lab.ssh import Ssh

_READ_S = 30.0


def read(ssh: Ssh, path: str) -> bytes:
    """Content of a file; empty if there is none. Raises LabError if there is one that cannot be read."""
    quoted = shlex.quote(path)
    return done(ssh, f"[ ! -e {quoted} ] || cat {quoted}", what=f"read {path}", timeout_s=_READ_S)


def replace(ssh: Ssh, path: str, content: bytes) -> None:
    """Put `content` in place of `path`, by `replacing`."""
    done(ssh, replacing(path), what=f"write {path}", stdin=content)


def replacing(path: str, content: str = "cat") -> str:
    """Shell command that puts what `content` prints in place of `path`: beside it, synced, renamed, folder synced."""
    target, beside, folder = shlex.quote(path), shlex.quote(f"{path}.bench-new"), shlex.quote(path.rpartition("/")[0])
    whole = f"{content} >{beside} && sync {beside} && mv -f {beside} {target}"
    return f"{{ {whole}; }} || {{ rm -f {beside}; false; }} && sync {folder}"


def remove(ssh: Ssh, *paths: str) -> None:
    """Remove files that may be there, and have that on disk."""
    if paths:
        folders = " ".join(sorted({shlex.quote(path.rpartition("/")[0]) for path in paths}))
        done(ssh, f"rm -f {' '.join(map(shlex.quote, paths))} && sync {folders}", what=f"remove {', '.join(paths)}")


def listed(ssh: Ssh, folder: str) -> list[str]:
    """Names in a folder, the newest first; none if there is no such folder."""
    names = ask(ssh, f"ls -1t {shlex.quote(folder)} 2>/dev/null").output.decode("utf-8", "surrogateescape")
    return names.splitlines()
