"""A virtual machine's power: the QEMU process, spoken to through its monitor (QMP).

Power-on starts QEMU stopped, shakes hands, then lets it run. QEMU is told to pause instead of resetting
(``-action reboot=shutdown,shutdown=pause``), so that the registers of a machine that triple-faulted can
still be read. Power-off is ``quit``, then SIGTERM, then SIGKILL, each with a time limit, to this pid only.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from qemu.qmp import EventListener, QMPClient, QMPError

from bench.errors import LabError
from bench.lab.power import Incident, IncidentKind, Power, PowerState, die_with_parent, loop
from bench.lab.text import escape

COMPONENT = "QEMU"
# A machine with 20 TiB of sparse memory needs some seconds for its bitmaps before it answers.
START_S = 60.0
COMMAND_S = 5.0
# How long each of quit, SIGTERM and SIGKILL may take.
QUIT_S = 5.0
# The registers of a machine that runs are read so often, with this much time between: one look cannot tell a loop.
LOOKS = 3
BETWEEN_LOOKS_S = 0.05
# A processor that only another one can wake: it waits to be started, or has been stopped.
HALTED_FOR_GOOD = "halted, interrupts off"
STOP_OPTIONS = ("-S", "-action", "reboot=shutdown,shutdown=pause")


class QemuPower(Power):
    """Power of one virtual machine. `command` is QEMU's, without monitor and ``-S``, run in `folder`.

    `at_reset`: QEMU's options for a guest that resets or switches off, and ``-S``; by default both end its run.
    `before_run` is called when QEMU has started and the machine has not run yet, `suspended` (from another thread) when
    the machine has been suspended to memory.
    `changed` is called (from another thread) whenever `incident` has something new to say. QEMU's
    standard error is kept in `folder`/qemu.stderr, its command line in `folder`/qemu.command.
    """

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        *,
        changed: Callable[[], None] = lambda: None,
        before_run: Callable[[], None] = lambda: None,
        suspended: Callable[[], None] = lambda: None,
        at_reset: Sequence[str] = STOP_OPTIONS,
    ) -> None:
        self._command = tuple(command)
        self._folder = folder
        self._stderr = folder / "qemu.stderr"
        self._command_file = folder / "qemu.command"
        self.changed = changed
        self._before_run = before_run
        self._suspended = suspended
        self._at_reset = tuple(at_reset)
        self._process: subprocess.Popen[bytes] | None = None
        self._monitor: QMPClient | None = None
        self._incident: Incident | None = None
        self._ended = threading.Event()
        self._expected_end = False

    @property
    def pid(self) -> int | None:
        """QEMU's process id while it runs."""
        return self._process.pid if self._process is not None and not self._ended.is_set() else None

    def on(self) -> Mapping[str, str]:
        """Start QEMU and let the machine run. Raises LabError with QEMU's own words if it does not start."""
        program = self._command[0]
        if shutil.which(program) is None:
            raise LabError(f"{program} is not installed", component=COMPONENT, witness="not found in PATH")
        self._command_file.write_text(shlex.join(self._command) + "\n", encoding="utf-8")
        try:
            loop.call(self._start(), timeout_s=START_S)
            self._before_run()
            loop.call(self._run(), timeout_s=START_S)
        except (QMPError, OSError, EOFError, TimeoutError) as error:
            # What QEMU wrote says more than our end of the broken conversation.
            status = self._kill()
            said = self._said()
            raise LabError(
                f"QEMU does not start ({status}): {said or error}", component=COMPONENT, witness=said or str(error)
            ) from error
        return {"pid": str(self.pid), "state": self.state()}

    async def _start(self) -> None:
        ours, theirs = socket.socketpair()
        monitor = f"socket,id=monitor,fd={theirs.fileno()}"
        command = [*self._command, *self._at_reset, "-chardev", monitor, "-mon", "chardev=monitor,mode=control"]
        wrapper = [sys.executable, "-I", "-S", die_with_parent.__file__, str(os.getpid())]
        with theirs, self._stderr.open("ab") as stderr:
            self._process = subprocess.Popen(
                [*wrapper, *command],
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                pass_fds=(theirs.fileno(),),
            )
        self._watch_end(self._process)
        client = QMPClient("bench")
        # The client logs a lost connection as an error; here that is an incident with a witness of its own.
        client.logger = _silent_logger()
        try:
            await client.connect(ours)
        except BaseException:
            ours.close()
            raise
        self._monitor = client
        listener = EventListener(("SHUTDOWN", "GUEST_PANICKED", "SUSPEND"))
        client.register_listener(listener)
        self._listening = asyncio.get_running_loop().create_task(self._listen(listener))

    async def _run(self) -> None:
        assert self._monitor is not None
        await self._monitor.execute("cont")

    def _watch_end(self, process: subprocess.Popen[bytes]) -> None:
        """Have `_process_ended` called in the loop's thread as soon as the process ends."""
        running = asyncio.get_running_loop()
        handle = os.pidfd_open(process.pid)

        def ended() -> None:
            running.remove_reader(handle)
            os.close(handle)
            status = process.wait()
            if not self._expected_end:
                self.note(
                    Incident(
                        IncidentKind.LOST, {"QEMU": _status(status), "said": self._said(), "pid": str(process.pid)}
                    )
                )
            self._ended.set()

        running.add_reader(handle, ended)

    async def _listen(self, listener: EventListener) -> None:
        async for event in listener:
            data = event.get("data")
            reason = str(data.get("reason", "")) if isinstance(data, dict) else ""
            if event["event"] == "SUSPEND":
                self._suspended()
            elif event["event"] == "SHUTDOWN" and reason == "guest-reset":
                self.note(Incident(IncidentKind.RESET, {"QEMU": "reset by the guest"}))
            elif not reason.startswith("host-"):
                self.note(Incident(IncidentKind.LOST, {"QEMU": f"{event['event']} {reason}".strip()}))

    def note(self, incident: Incident) -> None:
        """Something has happened to the machine. The first incident counts."""
        if self._incident is None:
            self._incident = incident
        self.changed()

    def off(self) -> Mapping[str, str]:
        """End QEMU. Raises LabError if even SIGKILL does not."""
        loop.settle(timeout_s=START_S)  # Ctrl-C may have come in the middle of a start
        if self._process is None:
            return {"state": PowerState.OFF, "how": "was never on"}
        already = self._ended.is_set()
        self._expected_end = True
        how = "already gone" if already else self._quit()
        status = self._kill()
        self._hang_up()
        return {"state": self.state(), "how": how, "QEMU": status}

    def _quit(self) -> str:
        process = self._process
        assert process is not None
        if self._monitor is not None:
            heard = True
            try:
                loop.call(self._monitor.execute("quit"), timeout_s=COMMAND_S)
            except TimeoutError:
                heard = False
            except (QMPError, OSError, EOFError):
                pass  # it went before it could answer
            if self._ended.wait(QUIT_S if heard else 0):
                return "quit"
        process.terminate()
        return "SIGTERM" if self._ended.wait(QUIT_S) else "SIGKILL"

    def _kill(self) -> str:
        """Make sure that the process is gone; its exit status in words."""
        process = self._process
        if process is None:
            return "not started"
        self._expected_end = True
        if not self._ended.wait(0):
            process.kill()
        if not self._ended.wait(QUIT_S):
            raise LabError(
                f"QEMU (pid {process.pid}) does not end",
                component=COMPONENT,
                witness=f"pid {process.pid} after SIGKILL",
            )
        return _status(process.returncode)

    def _hang_up(self) -> None:
        monitor, self._monitor = self._monitor, None
        if monitor is not None:
            with suppress(QMPError, OSError, EOFError, TimeoutError):
                loop.call(self._disconnect(monitor), timeout_s=COMMAND_S)

    async def _disconnect(self, monitor: QMPClient) -> None:
        self._listening.cancel()
        await monitor.disconnect()

    def state(self) -> PowerState:
        """ON while the QEMU process exists."""
        return PowerState.OFF if self.pid is None else PowerState.ON

    def incident(self) -> Incident | None:
        """A reset or a loss, as soon as QEMU or its end said so."""
        return self._incident

    def processor(self) -> Mapping[str, str]:
        """Registers of processor 0 as QEMU shows them; empty if QEMU does not answer any more.

        While the machine runs they are read LOOKS times; see `over_time`.
        """
        if self._monitor is None or self._ended.is_set():
            return {}
        looks: list[dict[str, str]] = []
        try:
            status: Any = self._ask("query-status")
            while not looks or (len(looks) < LOOKS and status["status"] == "running"):
                if looks:
                    time.sleep(BETWEEN_LOOKS_S)
                looks.append(registers(str(self._ask("human-monitor-command", {"command-line": "info registers"}))))
        except (QMPError, OSError, EOFError, TimeoutError) as error:
            return {"QEMU": f"does not answer: {type(error).__name__}", **over_time(looks)}
        return {"QEMU": str(status["status"]), **over_time(looks)}

    def processors(self) -> Mapping[int, str]:
        """What each processor does, in the words of `registers`; empty if QEMU does not answer."""
        try:
            shown = str(self._ask("human-monitor-command", {"command-line": "info registers -a"}))
        except (QMPError, OSError, EOFError, TimeoutError):
            return {}
        parts = _PROCESSOR.split(shown)
        return {int(n): registers(text).get("processor", "") for n, text in zip(parts[1::2], parts[2::2], strict=True)}

    def _ask(self, command: str, arguments: Mapping[str, object] | None = None) -> object:
        assert self._monitor is not None
        return loop.call(self._monitor.execute(command, dict(arguments) if arguments else None), timeout_s=COMMAND_S)

    def _said(self) -> str:
        """The last lines that QEMU wrote, without its complaints about features that it cannot play."""
        try:
            lines = self._stderr.read_bytes().splitlines()
        except OSError:
            return ""
        return escape(b" | ".join(line for line in lines if b"warning: TCG doesn't support" not in line)[-500:])


_REGISTER = re.compile(r"\b(RIP|RSP|RFL|EIP|ESP|EFL|CR[0234]|EFER|HLT)=([0-9a-fA-F]+)")
_PROCESSOR = re.compile(r"^CPU#(\d+)", re.MULTILINE)
_CODE_SEGMENT = re.compile(r"^CS =([0-9a-fA-F]{4})", re.MULTILINE)
_NAMES = {"EIP": "rip", "ESP": "rsp", "EFL": "rflags", "RFL": "rflags"}
_INTERRUPT_FLAG = 1 << 9


def registers(shown: str) -> dict[str, str]:
    """What ``info registers`` shows (QEMU 7.2, target/i386/cpu-dump.c), as the witness of a boot's end.

    ``processor`` says in words whether it runs, waits for an interrupt or can never wake up; EIP and
    ESP, outside of 64-bit mode, go by the 64-bit names.
    """
    found = {_NAMES.get(name, name.lower()): int(value, 16) for name, value in _REGISTER.findall(shown)}
    if not found:
        return {}
    halted, interrupts = found.pop("hlt", 0), found.get("rflags", 0) & _INTERRUPT_FLAG
    words = "running" if not halted else "halted, interrupts on" if interrupts else HALTED_FOR_GOOD
    witness = {"processor": words, **{name: f"0x{value:016x}" for name, value in found.items()}}
    if segment := _CODE_SEGMENT.search(shown):
        witness["cs"] = f"0x{int(segment[1], 16):04x}"
    return witness


def over_time(looks: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Several looks at the registers as one witness: the last look, and in ``looks`` the RIP of each.

    ``processor`` is what all of them agree on; else the processor runs and waits in turn, as an idle system does.
    """
    seen = [look for look in looks if look]
    if not seen:
        return {}
    witness = dict(seen[-1])
    if len({look["processor"] for look in seen}) > 1:
        witness["processor"] = "running and halted in turn"
    if len(seen) > 1:
        witness["looks"] = " ".join(look.get("rip", "?") for look in seen)
    return witness


def _status(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"killed by signal {-code}"


def _silent_logger() -> logging.Logger:
    logger = logging.getLogger("bench.qmp")
    logger.propagate = False
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
    return logger
