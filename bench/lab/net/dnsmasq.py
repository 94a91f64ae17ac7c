"""dnsmasq as a child: started, listened to, told of new hosts, ended; its death is noticed and named."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path

from bench.errors import LabError
from bench.hardware import BootNetwork
from bench.lab.net import child
from bench.lab.net.dnsmasq_config import CONFIG, HOSTS, TFTP, Host, configuration, hosts
from bench.lab.net.dnsmasq_log import NetEvent, NetEventKind, read_line
from bench.lab.net.place import Place
from bench.lab.text import escape

PROGRAM = "dnsmasq"
COMPONENT = "dnsmasq"
# To its first word, and to its word that it has read the hosts.
ANSWER_S = 15.0
_LAST_LINES = 20
NOBODY = 65534
_CAPABILITIES = "+net_admin,+net_raw,+net_bind_service"
# A change of user undoes the order to die with the parent (prctl(2)): it is given again.
_SETPRIV = ("setpriv", "--pdeathsig=KILL")
_AS_NOBODY = (
    *(f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", f"--bounding-set=-all,{_CAPABILITIES}"),
    *(f"--inh-caps=-all,{_CAPABILITIES}", f"--ambient-caps=-all,{_CAPABILITIES}"),
)


class Dnsmasq:
    """A running dnsmasq. `told` gets each event, `died` its last words; both from a thread of their own.

    Raises LabError (component ``dnsmasq``) if it does not start.
    """

    def __init__(
        self,
        network: BootNetwork,
        place: Place,
        folder: Path,
        machines: Iterable[Host],
        *,
        told: Callable[[NetEvent], None],
        died: Callable[[str], None],
    ) -> None:
        self._network, self._folder = network, folder
        self._told, self._died = told, died
        self._last: deque[str] = deque(maxlen=_LAST_LINES)
        self._ending = False
        self._ready, self._read, self._gone = threading.Event(), threading.Event(), threading.Event()
        self._write_hosts(machines)
        (folder / TFTP).mkdir(exist_ok=True)
        (folder / CONFIG).write_text(configuration(network, folder), encoding="ascii")
        program = shutil.which(PROGRAM, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
        if program is None:
            raise LabError("dnsmasq is not installed (package dnsmasq-base)", component=COMPONENT, witness="not found")
        # In its "debug mode" it neither leaves us nor changes its user: that would undo the order to die with us, and a
        # user namespace forbids it. It is made nobody beforehand.
        command = [program, "--no-daemon", "--log-facility=-", f"--conf-file={folder / CONFIG}", "--pid-file"]
        if not place.own_user:
            os.chown(folder, NOBODY, NOBODY)
        self._process = child.start([*place.prefix, *_SETPRIV, *(() if place.own_user else _AS_NOBODY), *command])
        self._thread = threading.Thread(target=self._listen, name="dnsmasq's log", daemon=True)
        self._thread.start()
        if not self._ready.wait(ANSWER_S) or self._gone.is_set():
            self.close()
            raise LabError(f"dnsmasq does not start: {self.last_words}", component=COMPONENT, witness=self.last_words)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return not self._gone.is_set()

    @property
    def last_words(self) -> str:
        """Its last lines."""
        return " | ".join(list(self._last)[-3:]) or "it said nothing"

    def offer(self, machines: Iterable[Host]) -> None:
        """Replace the hosts, and return when dnsmasq has read them. Raises LabError if it does not, or is dead."""
        self._write_hosts(machines)
        self._read.clear()
        if self.alive:
            self._process.send_signal(signal.SIGHUP)
            self._read.wait(ANSWER_S)
        if not self._read.is_set() or not self.alive:
            raise LabError(
                f"dnsmasq has not read the new hosts: {self.last_words}", component=COMPONENT, witness=self.last_words
            )

    def close(self) -> None:
        """End it; harmless when it has ended."""
        self._ending = True
        child.end(self._process)
        self._thread.join(ANSWER_S)
        child.close_pipes(self._process)

    def _write_hosts(self, machines: Iterable[Host]) -> None:
        new = self._folder / f"{HOSTS}.new"
        new.write_text(hosts(self._network, machines), encoding="ascii")
        new.replace(self._folder / HOSTS)

    def _listen(self) -> None:
        assert self._process.stderr is not None
        for raw in self._process.stderr:
            line = escape(raw.rstrip(b"\n"))
            self._last.append(line)
            event = read_line(line)
            if event is None:
                continue
            if event.kind is NetEventKind.READ:
                self._ready.set()
                self._read.set()
            else:
                self._told(event)
        status = self._process.wait()
        self._gone.set()
        self._ready.set()
        self._read.set()
        if not self._ending:
            how = f"signal {-status}" if status < 0 else f"exit code {status}"
            self._died(f"dnsmasq (pid {self.pid}) ended by itself, {how}: {self.last_words}")
