"""Programs that switch: here, or on another host over SSH; on and off, or a finger on the front-panel button."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from collections.abc import Mapping, Sequence

from bench.hardware import CommandSwitch
from bench.lab.power import PowerState
from bench.lab.power.device import Action, Device
from bench.lab.power.failure import Failure
from bench.lab.ssh import Finished, Ssh, SshError
from bench.lab.text import escape

_SAID_BYTES = 200


class CommandDevice(Device):
    """A `CommandSwitch`. Component ``command PROGRAM`` or ``SSH power host HOST``."""

    def __init__(self, switch: CommandSwitch, *, answer_s: float) -> None:
        self._switch = switch
        self._answer_s = answer_s
        self.cuts = switch.cuts
        self.readable = bool(switch.status)
        self.resets = bool(switch.reset)
        first = (switch.on or switch.short_press)[0]
        self.component = f"SSH power host {switch.ssh.host}" if switch.ssh else f"command {first}"
        self.presses = bool(switch.short_press)

    def act(self, action: Action) -> Mapping[str, str]:
        """Run the program for it. A press that switches on is only given to a machine that is known to be off."""
        switch = self._switch
        command = {
            Action.ON: switch.short_press or switch.on,
            Action.OFF: switch.long_press or switch.off,
            Action.RESET: switch.reset,
        }[action]
        if not command:
            raise self.fail(Failure.REFUSES, f"has no command for {action}")
        if action is Action.ON and self.presses and self.readable and self.read() is PowerState.ON:
            return {"said": "is on already"}
        return {"said": self._said(self._run(command))}

    def read(self) -> PowerState:
        """Run `status`, which prints ``on`` or ``off``."""
        if not self.readable:
            return PowerState.UNKNOWN
        said = self._said(self._run(self._switch.status))
        try:
            return PowerState(said)
        except ValueError:
            words = f"status prints {said!r}, neither on nor off"
            raise self.fail(Failure.GARBLED, words, words) from None

    def _said(self, done: Finished) -> str:
        return escape(done.output[:_SAID_BYTES].strip())

    def _run(self, command: Sequence[str]) -> Finished:
        done = self._run_there(command) if self._switch.ssh else self._run_here(command)
        if done.status:
            said = escape((done.complaints or done.output)[-_SAID_BYTES:].strip())
            words = f"`{shlex.join(command)}` ends with {done.status}: {said}"
            raise self.fail(Failure.REFUSES, words, words)
        return done

    def _run_there(self, command: Sequence[str]) -> Finished:
        assert self._switch.ssh is not None
        try:
            with Ssh(self._switch.ssh, timeout_s=self._answer_s) as host:
                return host.run(shlex.join(command), timeout_s=self._answer_s)
        except SshError as error:
            raise self.fail(Failure(error.trouble), str(error), error.witness) from error

    def _run_here(self, command: Sequence[str]) -> Finished:
        words = shlex.join(command)
        try:
            # A session of its own, so that whatever it has started can be ended with it.
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            said = f"`{words}` does not start: {error.strerror}"
            raise self.fail(Failure.UNREACHABLE, said, said) from error
        try:
            output, complaints = process.communicate(timeout=self._answer_s)
        except subprocess.TimeoutExpired:
            said = f"`{words}` does not end within {self._answer_s:g} s"
            raise self.fail(Failure.HANGS, f"hangs: {said}", said) from None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            for pipe in (process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()
        return Finished(process.returncode, output, complaints)
