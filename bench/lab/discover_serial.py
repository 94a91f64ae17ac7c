"""Which of a machine's serial ports leads to which of ours: the machine sends a word of its own out of each."""

from __future__ import annotations

import secrets
import shlex
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from bench.errors import UsageError
from bench.lab.port import Port
from bench.lab.ssh import Ssh
from bench.lab.text import escape

# From the machine's last byte to its arrival here: console servers gather, BMCs poll.
ON_THE_WAY_S = 3.0
# What a port that is held up by its far end may take before the machine gives up on it.
SENDING_S = 15
# More than one, because a console's own words may come in between.
REPEATS = 3
_ROOM_BYTES = 1 << 16

# The settings are put back. Without clocal to open the port for writing would wait for a carrier.
_SEND = """\
PATH=$PATH:/usr/sbin:/sbin:/usr/bin:/bin
d={device}
old=$(stty -F $d -g) || exit 1
stty -F $d {baud} raw -echo clocal -crtscts || exit 1
timeout {seconds} sh -c "for n in {repeats}; do printf '\\r\\n%s\\r\\n' '{word}'; done >$d"
r=$?
stty -F $d "$old"
exit $r
"""


@dataclass(frozen=True)
class Heard:
    """What became of one port of the machine."""

    name: str
    urls: tuple[str, ...]
    """Ours that heard it."""
    trouble: str
    """What the machine said if it could not send; empty: it has sent."""


class Ears:
    """Listens on `urls` (UsageError for one that is given twice, LabError for one that does not open)."""

    def __init__(self, urls: Sequence[str], *, baud: int) -> None:
        if len(set(urls)) != len(urls):
            raise UsageError(f"--serial-url: one is given twice: {', '.join(urls)}")
        self._news = threading.Condition()
        self._heard: dict[str, bytearray] = {url: bytearray() for url in urls}
        self._lost: dict[str, str] = {}
        with ExitStack() as opened:
            for url in urls:
                port = Port(url, baud=baud, received=self._receive(url), failed=self._fail(url))
                opened.callback(port.close)
            self._ports = opened.pop_all()

    def who_heard(self, word: bytes, *, wait_s: float) -> tuple[str, ...]:
        """The URLs on which `word` has come within `wait_s`; as soon as there is one, others get no more time."""
        deadline = time.monotonic() + wait_s
        with self._news:
            while True:
                found = tuple(url for url, data in self._heard.items() if word in data)
                left = deadline - time.monotonic()
                if found or left <= 0:
                    return found
                self._news.wait(left)

    def lost(self) -> Mapping[str, str]:
        """Ports that went away while we listened, and why."""
        with self._news:
            return dict(self._lost)

    def close(self) -> None:
        """Close all ports."""
        self._ports.close()

    def __enter__(self) -> Ears:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _receive(self, url: str) -> Callable[[bytes], None]:
        def received(data: bytes) -> None:
            with self._news:
                self._heard[url] += data
                del self._heard[url][:-_ROOM_BYTES]
                self._news.notify_all()

        return received

    def _fail(self, url: str) -> Callable[[str], None]:
        def failed(why: str) -> None:
            with self._news:
                self._lost[url] = why

        return failed


def probe(ssh: Ssh, names: Sequence[str], ears: Ears, *, baud: int, wait_s: float = ON_THE_WAY_S) -> tuple[Heard, ...]:
    """Have the machine send out of each of its ports `names`, one after the other. Raises SshError."""
    return tuple(_probe(ssh, name, ears, baud, wait_s) for name in names)


def _probe(ssh: Ssh, name: str, ears: Ears, baud: int, wait_s: float) -> Heard:
    word = f"bench-probe {name} {secrets.token_hex(8)}"
    numbers = " ".join(str(number) for number in range(REPEATS))
    device = shlex.quote(f"/dev/{name}")
    command = _SEND.format(device=device, baud=baud, seconds=SENDING_S, repeats=numbers, word=word)
    done = ssh.run(command, timeout_s=4 * SENDING_S)
    trouble = "" if done.status == 0 else escape(done.complaints[-200:].strip()) or f"exit code {done.status}"
    # Also after trouble: a port may have sent before it was held up.
    return Heard(name, ears.who_heard(word.encode(), wait_s=wait_s), trouble)
