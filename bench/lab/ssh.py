"""SSH to hosts whose key is pinned, with a deadline on everything.

The pinned key is checked before anything of ours, user name included, is sent; there is no way to accept another.
`Channel.recv_exit_status` is not used: it heeds no time limit (paramiko issue 1815).
"""

from __future__ import annotations

import base64
import binascii
import io
import logging
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import paramiko
from paramiko.pkey import UnknownKeyType

from bench.errors import LabError, UsageError
from bench.hardware import SshAccess
from bench.lab.text import escape

# paramiko logs a traceback for every connection that ends badly; here each becomes an SshError.
logging.getLogger("paramiko").addHandler(logging.NullHandler())

COMPONENT = "SSH"
CONNECT_S = 15.0
OUTPUT_BYTES = 1 << 20
# How often an answer is looked for, at first and at last.
_POLL_S = (0.001, 0.02)
_CHUNK_BYTES = 32 << 10


class SshError(LabError):
    """The way to the host failed; `trouble` is one word for how."""

    def __init__(self, message: str, trouble: str, *, component: str, witness: str = "") -> None:
        super().__init__(message, component=component, witness=witness)
        self.trouble = trouble
        """``unreachable``, ``refuses`` (host key, user, key) or ``hangs``."""


@dataclass(frozen=True)
class Finished:
    """What a command came to."""

    status: int
    """Its exit code; -1 if a signal ended it."""
    output: bytes
    complaints: bytes


@dataclass(frozen=True)
class Way:
    """How a host is reached that this computer does not reach by itself, and with a key that is in no file."""

    connect: Callable[[str, int, float], socket.socket]
    """From host, port and seconds, a connected socket. Raises LabError."""
    private_key: bytes = field(repr=False)
    """An Ed25519 key in OpenSSH's form, for this connection alone."""


class Ssh:
    """An open connection; close it, or use it in a `with`. `way`: by another way than the system's own.

    Raises SshError (component ``SSH HOST``), UsageError if the pinned key or the key file cannot be read.
    """

    def __init__(self, access: SshAccess, *, timeout_s: float = CONNECT_S, way: Way | None = None) -> None:
        self.component = f"{COMPONENT} {access.host}"
        self.round_trips = 0
        """Commands so far."""
        self._access = access
        key_type, key = pinned(access.host_key)
        name = access.host if access.port == 22 else f"[{access.host}]:{access.port}"
        self._client = paramiko.SSHClient()
        self._client.get_host_keys().add(name, key_type, key)
        self._client.set_missing_host_key_policy(paramiko.RejectPolicy())
        try:
            self._connect(timeout_s, way)
        except BaseException:
            self._client.close()
            raise

    def _connect(self, timeout_s: float, way: Way | None) -> None:
        access, begun = self._access, time.monotonic()
        key_file = str(Path(access.key_file).expanduser()) if access.key_file else None
        if key_file and not Path(key_file).is_file():
            raise UsageError(f"{self.component}: no key file {key_file}")
        key = paramiko.Ed25519Key.from_private_key(io.StringIO(way.private_key.decode())) if way else None
        line = way.connect(access.host, access.port, timeout_s) if way else None
        try:
            self._client.connect(
                access.host,
                access.port,
                access.user,
                pkey=key,
                key_filename=key_file,
                allow_agent=not (key_file or key),
                look_for_keys=False,
                timeout=timeout_s,
                banner_timeout=timeout_s,
                auth_timeout=timeout_s,
                channel_timeout=timeout_s,
                sock=line,
            )
        except paramiko.BadHostKeyException as error:
            offered = f"{error.key.get_name()} {error.key.get_base64()}"
            raise self._failed(f"shows another host key than the pinned one: {offered}", "refuses", offered) from error
        except paramiko.PasswordRequiredException as error:
            raise UsageError(f"{self.component}: {key_file} has a passphrase: load it into an agent") from error
        except paramiko.AuthenticationException as error:
            words = str(error)
            trouble = "hangs" if "timeout" in words.lower() else "refuses"
            raise self._failed(f"does not let {access.user} in: {words}", trouble, words) from error
        except (TimeoutError, paramiko.ssh_exception.NoValidConnectionsError) as error:
            raise self._failed(f"port {access.port}: {error}", "unreachable", str(error)) from error
        except (paramiko.SSHException, OSError, EOFError) as error:
            words = f"{type(error).__name__}: {error}"
            # A server that took the connection and then said nothing; RejectPolicy's refusal is among the others.
            hangs = time.monotonic() - begun >= 0.95 * timeout_s
            refuses = "not found in known_hosts" in words or "Incompatible" in words
            trouble = "hangs" if hangs else "refuses" if refuses else "unreachable"
            raise self._failed(words, trouble, words) from error

    def _failed(self, message: str, trouble: str, witness: str) -> SshError:
        safe = escape(message.encode())
        return SshError(
            f"{self.component}: {safe}", trouble, component=self.component, witness=escape(witness.encode())
        )

    def run(
        self, command: str, *, timeout_s: float, stdin: bytes = b"", stall_s: float = 0.0, what: str = ""
    ) -> Finished:
        """Run `command` by the user's login shell, all in `timeout_s`; output beyond 1 MiB is thrown away.

        `stall_s`: `stdin` may take as long as it likes, but not so long without a byte being taken; `timeout_s` begins
        behind it. `what`: errors call the command so. Raises SshError if it does not end in time or the connection
        breaks.
        """
        what = what or f"`{command}`"
        self.round_trips += 1
        deadline = time.monotonic() + timeout_s
        try:
            with self._channel(timeout_s) as channel:
                channel.exec_command(command)
                if stall_s:
                    _send(channel, stdin, stall_s)
                    deadline = time.monotonic() + timeout_s
                elif stdin:
                    channel.sendall(stdin)
                channel.shutdown_write()
                return self._attend(channel, what, deadline, timeout_s)
        except _Stalled as error:
            raise self._failed(f"{what}: {error}", "hangs", str(error)) from error
        except TimeoutError as error:
            raise self._late(what, timeout_s) from error
        except (paramiko.SSHException, OSError, EOFError) as error:
            words = f"{type(error).__name__}: {error}"
            trouble = "hangs" if "Timeout" in words else "unreachable"
            raise self._failed(f"{what}: {words}", trouble, words) from error

    @contextmanager
    def _channel(self, timeout_s: float) -> Iterator[paramiko.Channel]:
        transport = self._client.get_transport()
        if transport is None:
            raise EOFError("the connection is closed")
        channel = transport.open_session(timeout=timeout_s)
        try:
            channel.settimeout(timeout_s)
            yield channel
        finally:
            channel.close()

    def _attend(self, channel: paramiko.Channel, what: str, deadline: float, timeout_s: float) -> Finished:
        output, complaints = bytearray(), bytearray()
        pause_s = _POLL_S[0]
        while True:
            # Read the flag first: what came before it was set is then still read.
            ended = channel.exit_status_ready()
            while channel.recv_ready():
                output += channel.recv(1 << 16)
            while channel.recv_stderr_ready():
                complaints += channel.recv_stderr(1 << 16)
            del output[OUTPUT_BYTES:], complaints[OUTPUT_BYTES:]
            if ended and (channel.eof_received or channel.closed):
                # A command that a signal has ended and a connection that broke are told apart by what is left of it.
                transport = channel.get_transport()
                if channel.exit_status == -1 and not (transport and transport.is_active()):
                    raise EOFError("the connection broke")
                return Finished(channel.exit_status, bytes(output), bytes(complaints))
            if time.monotonic() > deadline:
                raise self._late(what, timeout_s)
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _POLL_S[1])

    def _late(self, what: str, timeout_s: float) -> SshError:
        words = f"no end within {timeout_s:g} s"
        return self._failed(f"{what}: {words}", "hangs", words)

    def close(self) -> None:
        """Hang up."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


class _Stalled(TimeoutError):
    """A command takes no more of what it is fed."""


def _send(channel: paramiko.Channel, content: bytes, stall_s: float) -> None:
    """Feed a command that may end before it has taken all. Raises _Stalled."""
    at, taken = 0, time.monotonic()
    channel.settimeout(_POLL_S[1])
    while at < len(content) and not channel.exit_status_ready():
        try:
            at += channel.send(content[at : at + _CHUNK_BYTES])
            taken = time.monotonic()
        except TimeoutError as error:
            if time.monotonic() - taken > stall_s:
                words = f"nothing was taken for {stall_s:g} s, after {at} of {len(content)} bytes"
                raise _Stalled(words) from error


def pinned(host_key: str) -> tuple[str, paramiko.PKey]:
    """Type and key of a pinned host key in the form of known_hosts. Raises UsageError if it is none."""
    words = host_key.split()
    try:
        if len(words) < 2:
            raise ValueError("it has the form: type and key, as in known_hosts")
        return words[0], paramiko.PKey.from_type_string(words[0], base64.b64decode(words[1], validate=True))
    except (ValueError, binascii.Error, paramiko.SSHException, UnknownKeyType) as error:
        raise UsageError(f"host_key {host_key!r}: not a host key: {error}; `ssh-keyscan HOST` shows it") from error


def greets(host: str, port: int, *, timeout_s: float) -> bool:
    """Whether an SSH server says its name there in time. A forwarded port takes connections although nobody listens."""
    try:
        with socket.create_connection((host, port), timeout_s) as one:
            one.settimeout(timeout_s)
            return one.recv(4) == b"SSH-"
    except OSError:
        return False


def port_open(host: str, port: int, *, timeout_s: float) -> bool:
    """Whether somebody takes a TCP connection there."""
    try:
        socket.create_connection((host, port), timeout_s).close()
    except OSError:
        return False
    return True
