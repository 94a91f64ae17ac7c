"""A serial port and its only reader: one thread from opening to closing, whoever may be interested."""

from __future__ import annotations

import os
import select
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping

import serial

from bench.errors import LabError, UsageError
from bench.lab import uart, urls
from bench.lab.text import escape

READ_BYTES = 1 << 16
# A virtual UART hands over single bytes: let some gather, or reading costs more than the machine's own work.
# A line at 115200 baud brings 46 bytes in the longest of these times.
GATHER_S = (0.00025, 0.004)
GATHER_BYTES = (64, 128)
# How long a reader without a descriptor to wait on (loop://, rfc2217://) blocks before it looks for the order to stop.
BLIND_WAIT_S = 0.05
# After the order to stop, what has arrived is still read, for at most so long.
DRAIN_S = 1.0
# How often a port that has gone is tried again.
RETRY_S = 0.2
COMPONENT = "port"

# TypeError and ValueError: what pyserial raises when a device vanishes between two of its own calls.
_GONE = (serial.SerialException, OSError, TypeError, ValueError)


class Port:
    """An open port. `received` gets every chunk, `failed` once the reason if the port closes or breaks for good.

    With `reconnect_s` a port that closes or breaks is opened again for so long before it has failed: `lost` gets the
    reason, `found` the seconds without a port. All are called by the reader thread and must not raise. Any URL that
    `serial.serial_for_url` knows is accepted, and those of `bench.lab.urls`. Raises LabError (component ``port``) if it
    does not open.
    """

    def __init__(
        self,
        url: str,
        *,
        baud: int = 115200,
        received: Callable[[bytes], None],
        failed: Callable[[str], None],
        reconnect_s: float = 0.0,
        lost: Callable[[str], None] = lambda _: None,
        found: Callable[[float], None] = lambda _: None,
    ) -> None:
        urls.register()
        self.url = url
        self._baud = baud
        self._received, self._failed, self._lost, self._found = received, failed, lost, found
        self._reconnect_s = reconnect_s
        try:
            self.device = self._open()
        except (serial.SerialException, OSError, ValueError) as error:
            said = str(error)
            raise LabError(f"{url}: does not open: {said}", component=COMPONENT, witness=said) from error
        self._counted = uart.counters(self.device)
        # Of a device that has gone nothing can be asked: what it told with its last bytes counts.
        self._last = self._counted
        self._earlier: Counter[str] = Counter()
        self._gather_s = GATHER_S[0]
        self._stop = threading.Event()
        self._wake_read, self._wake_write = os.pipe()
        self._thread = threading.Thread(target=self._pump, name=f"reader of {url}", daemon=True)
        self._thread.start()

    def _open(self) -> serial.SerialBase:
        # `exclusive`: a second reader would take bytes away, and pyserial lets it unless told.
        device: serial.SerialBase = serial.serial_for_url(
            self.url, baudrate=self._baud, timeout=0, write_timeout=5, exclusive=True
        )
        try:
            uart.claim(device)
            urls.check_welcome(device)
        except BaseException:
            uart.release(device)
            device.close()
            raise
        return device

    def send(self, data: bytes) -> None:
        """Send to the machine. Raises LabError if the port is away or takes nothing."""
        try:
            self.device.write(data)
        except _GONE as error:
            raise LabError(f"{self.url}: takes nothing: {error}", component=COMPONENT, witness=str(error)) from error

    def line_errors(self) -> Mapping[str, int] | None:
        """Errors that the UART has counted since opening (`bench.lab.uart.ERRORS`); None where nobody counts.

        They go on over a device that was lost and came back.
        """
        return self._errors(uart.counters(self.device))

    def _errors(self, now: Mapping[str, int] | None) -> dict[str, int] | None:
        if now is None or self._counted is None:
            return None
        return {name: self._earlier[name] + now[name] - self._counted[name] for name in uart.ERRORS}

    def close(self) -> None:
        """Read what has arrived, end the reader, close the device. Harmless when repeated."""
        if self._stop.is_set():
            return
        self._stop.set()
        os.write(self._wake_write, b"x")
        self._thread.join()
        uart.release(self.device)
        self.device.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _pump(self) -> None:
        while True:
            try:
                self._read_until_stopped()
                return
            except _GONE as error:
                if self._stop.is_set():
                    return
                why = escape(f"{type(error).__name__}: {error}".encode())
            if not self._open_again(why):
                return

    def _read_until_stopped(self) -> None:
        wait = self._wait_descriptor if _descriptor(self.device) is not None else self._wait_blind
        deadline = None
        while True:
            stopping = self._stop.is_set()
            if stopping and deadline is None:
                deadline = time.monotonic() + DRAIN_S
            if not stopping:
                wait()
            data = self.device.read(READ_BYTES)
            if data:
                if self._counted is not None:
                    self._last = uart.counters(self.device) or self._last
                self._received(data)
                self._pace(len(data))
            if deadline is not None and (not data or time.monotonic() > deadline):
                return

    def _open_again(self, why: str) -> bool:
        """Whether the port is there again; `failed` has been called if not."""
        if not self._reconnect_s:
            self._failed(why)
            return False
        self._lost(why)
        self._earlier = Counter(self._errors(self._last) or self._earlier)
        gone_at = time.monotonic()
        while not self._stop.is_set():
            try:
                self.device.close()
                self.device = self._open()
            except (*_GONE, UsageError) as error:
                away_s = time.monotonic() - gone_at
                if away_s > self._reconnect_s:
                    now = escape(str(error).encode())
                    self._failed(f"{why}; not there again within {self._reconnect_s:g} s: {now}")
                    return False
                self._stop.wait(RETRY_S)
            else:
                self._counted = self._last = uart.counters(self.device)
                self._found(time.monotonic() - gone_at)
                return True
        return False

    def _wait_descriptor(self) -> None:
        ready = select.select([self.device.fileno(), self._wake_read], [], [])[0]
        if self._wake_read not in ready:
            time.sleep(self._gather_s)

    def _pace(self, size: int) -> None:
        """Gather longer if little came at once, less long if much did."""
        if size < GATHER_BYTES[0]:
            self._gather_s = min(2 * self._gather_s, GATHER_S[1])
        elif size > GATHER_BYTES[1]:
            self._gather_s = max(self._gather_s / 2, GATHER_S[0])

    def _wait_blind(self) -> None:
        self.device.timeout = BLIND_WAIT_S
        first = self.device.read(1)
        self.device.timeout = 0
        if first:
            self._received(first)


def _descriptor(device: serial.SerialBase) -> int | None:
    try:
        return int(device.fileno())
    except (AttributeError, OSError):  # io.UnsupportedOperation is an OSError
        return None
