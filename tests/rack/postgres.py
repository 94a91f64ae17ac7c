"""A PostgreSQL server of the tests' own: in a folder, on a unix socket, for nobody else."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.rack.servers import server, wait_for

PROGRAMS = Path("/usr/lib/postgresql")
USER = "bench"
PASSWORD = "correct-horse"


def program(name: str) -> str:
    """Of the newest version; Debian keeps them off the path."""
    found = sorted(PROGRAMS.glob(f"*/bin/{name}"), key=lambda path: float(path.parts[-3]))
    assert found, f"{name} is not installed (package postgresql): bench doctor --install --with-rack"
    return str(found[-1])


@contextmanager
def database() -> Iterator[str]:
    """URL of an empty database, without the password that its server wants."""
    with tempfile.TemporaryDirectory(prefix="bench-pg-", dir="/tmp") as name:
        folder = Path(name)
        # The server refuses to be root's.
        other = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
        secret = folder / "secret"
        secret.write_text(f"{PASSWORD}\n")
        if other:
            who = pwd.getpwnam("postgres")
            for path in (folder, secret):
                os.chown(path, who.pw_uid, who.pw_gid)
        data = folder / "data"
        make = [program("initdb"), "-D", str(data), "-U", USER, "--pwfile", str(secret), "-A", "scram-sha-256"]
        done = subprocess.run([*other, *make, "-N"], capture_output=True, text=True, cwd="/")
        assert done.returncode == 0, done.stderr
        options = ["-k", str(folder), "-c", "listen_addresses=", "-c", "fsync=off"]
        command = [*other, program("postgres"), "-D", str(data), *options]
        log = folder.with_name(f"{folder.name}.log")
        try:
            with server(command, log):
                wait_for(lambda: "ready to accept connections" in log.read_text(), "PostgreSQL starts")
                yield f"postgresql://{USER}@/postgres?host={folder}"
        finally:
            log.unlink(missing_ok=True)
            shutil.rmtree(data, ignore_errors=True)
