"""A small HTTP server for boot loaders: GET, HEAD and one range of what is on a `Shelf`, and nothing else.

Clients are hostile: time, connections and what is read of a request are bounded, and nothing of it is ever a path.
"""

from __future__ import annotations

import array
import fcntl
import re
import select
import socket
import struct
import termios
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer, ThreadingMixIn

from bench.lab.net.shelf import Item, Shelf
from bench.lab.text import escape

# All clients together, and one address: a loader has one or two connections open.
CONNECTIONS, CONNECTIONS_EACH = 128, 16
# To the end of the request's head; without a byte taken; and for the whole answer, with what a slow line may add.
REQUEST_S, STALL_S, ANSWER_S, SLOWEST_BYTES_S = 10.0, 30.0, 60.0, 20_000
# A client that has everything hangs up, or has started what it fetched and never will.
HOLD_S = 10.0
BLOCK_BYTES = 1 << 16
LOOK_S = 0.01
_RANGE = re.compile(r"bytes=(\d{1,15})-(\d{0,15})")
_SAID_BYTES = 120


class FetchKind(StrEnum):
    """What became of a request."""

    BEGUN = "begun"
    FETCHED = "fetched"
    """All of an item has gone out."""
    PART = "part"
    BROKEN = "broken"
    """The client went away, or took too long."""
    REFUSED = "refused"


@dataclass(frozen=True)
class Fetch:
    """One request and what became of it."""

    kind: FetchKind
    address: str
    seconds: float = 0.0
    size: int = 0
    """Bytes that went out."""
    item: Item | None = None
    detail: str = ""
    """Why it was refused, or how it broke."""


class HttpServer(ThreadingMixIn, TCPServer):
    """Serves on a socket that listens already. `allowed` says why an address may not have an item (empty: it may).

    `own_path`: what a path that is the same for all stands for, from this address.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(
        self,
        listening: socket.socket,
        shelf: Shelf,
        *,
        allowed: Callable[[Item, str], str],
        told: Callable[[Fetch], None],
        own_path: Callable[[str, str], str] = lambda path, _: path,
    ) -> None:
        super().__init__(listening.getsockname()[:2], _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listening
        self.shelf, self.allowed, self.told, self.own_path = shelf, allowed, told, own_path
        self._lock = threading.Lock()
        self._open: Counter[str] = Counter()
        self._connections: dict[socket.socket, str] = {}
        self._thread = threading.Thread(target=self.serve_forever, args=(0.1,), name="HTTP", daemon=True)
        self._thread.start()

    def verify_request(self, request: object, client_address: tuple[str, int]) -> bool:
        """Refuse a client that has too many connections, before a thread is made for it."""
        address = client_address[0]
        assert isinstance(request, socket.socket)
        with self._lock:
            full = self._open.total() >= CONNECTIONS or self._open[address] >= CONNECTIONS_EACH
            if not full:
                self._open[address] += 1
                self._connections[request] = address
        if full:
            self.told(Fetch(FetchKind.REFUSED, address, detail="too many connections"))
        return not full

    def process_request_thread(self, request: object, client_address: tuple[str, int]) -> None:
        """One client, in a thread of its own."""
        assert isinstance(request, socket.socket)
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._lock:
                self._open[client_address[0]] -= 1
                self._connections.pop(request, None)

    def handle_error(self, request: object, client_address: tuple[str, int]) -> None:
        """A client that went away is told of in its handler."""

    def close(self) -> None:
        """Stop listening and hang up on everybody; harmless the second time."""
        self.shutdown()
        self.server_close()
        self._thread.join()
        self.forget()

    def forget(self, addresses: Collection[str] | None = None) -> None:
        """Hang up on all clients at `addresses` (default: on everybody), and have the kernel forget them at once."""
        with self._lock:
            for one, address in self._connections.items():
                if addresses is None or address in addresses:
                    with suppress(OSError):
                        _leave_nothing(one)
                        one.shutdown(socket.SHUT_RDWR)


def _leave_nothing(connection: socket.socket) -> None:
    """Closing it is to leave no trace in the kernel, where it would wait for an answer of a loader that is gone.

    GRUB 2.06 counts its ports from the same number at each start (grub-core/net/tcp.c), so that its next boot would
    come as the old connection and be refused for half a minute.
    """
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class _Handler(BaseHTTPRequestHandler):
    server: HttpServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "bench", ""
    timeout = REQUEST_S

    def setup(self) -> None:
        super().setup()
        self._begun = time.monotonic()
        self._limit = self._hang_up_after(REQUEST_S)

    def finish(self) -> None:
        self._limit.cancel()
        with suppress(OSError):
            super().finish()

    def _hang_up_after(self, seconds: float) -> threading.Timer:
        def hang_up() -> None:
            with suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(seconds, hang_up)
        timer.daemon = True
        timer.start()
        return timer

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002
        """Also what the parser of requests calls for one that it does not understand."""
        self._refuse(code, message or "not understood")

    def log_message(self, format: str, *args: object) -> None:
        """Events go to `told`."""

    def _refuse(self, code: int, why: str) -> None:
        self.close_connection = True
        self._tell(FetchKind.REFUSED, detail=f"{code} {why}")
        with suppress(OSError):
            super().send_response_only(code)
            self.send_header("Content-Length", "0")
            self.send_header("Connection", "close")
            self.end_headers()

    def _tell(self, kind: FetchKind, *, size: int = 0, item: Item | None = None, detail: str = "") -> None:
        seconds = time.monotonic() - self._begun
        self.server.told(Fetch(kind, self.client_address[0], round(seconds, 3), size, item, detail))

    def _answer(self, *, body: bool) -> None:
        self.close_connection = True
        item, spent = self.server.shelf.find(self.server.own_path(self.path, self.client_address[0]))
        asked = escape(self.path.encode("latin-1", "replace")[:_SAID_BYTES])
        if item is None:
            return self._refuse(404, f"{asked} is nothing that is offered")
        if why := self.server.allowed(item, self.client_address[0]):
            return self._refuse(403, f"{item.name}: {why}")
        if spent:
            return self._refuse(410, f"{item.name} has been fetched already")
        span = self._span(item)
        if span is None:
            return self._refuse(416, f"{item.name}: no such range: {self.headers.get('Range', '')[:60]}")
        start, stop = span
        whole = (start, stop) == (0, item.size)
        self.send_response_only(200 if whole and "Range" not in self.headers else 206)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(stop - start))
        if "Range" in self.headers:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{item.size}")
        self.send_header("Connection", "close")
        self.end_headers()
        if body:
            self._send(item, start, stop)
        return None

    def _span(self, item: Item) -> tuple[int, int] | None:
        asked = self.headers.get("Range")
        if asked is None:
            return 0, item.size
        found = _RANGE.fullmatch(asked.strip())
        if found is None:
            return None
        start, stop = int(found[1]), min(int(found[2]) + 1 if found[2] else item.size, item.size)
        return (start, stop) if start < stop else None

    def _send(self, item: Item, start: int, stop: int) -> None:
        self._limit.cancel()
        self._limit = self._hang_up_after(ANSWER_S + (stop - start) / SLOWEST_BYTES_S)
        self.connection.settimeout(STALL_S)
        self._tell(FetchKind.BEGUN, item=item)
        at = start
        try:
            while at < stop:
                block = item.read(at, min(BLOCK_BYTES, stop - at))
                if not block:
                    raise OSError("the file has become shorter")
                self.connection.sendall(block)
                at += len(block)
            self._until_acknowledged()
        except OSError as error:
            self._tell(FetchKind.BROKEN, size=at - start, item=item, detail=str(error) or type(error).__name__)
            return
        spent = self.server.shelf.delivered(item, start, at)
        self._tell(FetchKind.FETCHED if spent else FetchKind.PART, size=at - start, item=item)
        with suppress(OSError):
            self._until_hung_up()
            _leave_nothing(self.connection)

    def _until_hung_up(self) -> None:
        """The client goes first, if it is still there: it may not have looked at all that it has.

        By HTTP/1.0 (PXELINUX 6.04) it waits for us.
        """
        if self.request_version == "HTTP/1.0":
            self.connection.shutdown(socket.SHUT_WR)
        self.connection.settimeout(HOLD_S)
        deadline = time.monotonic() + HOLD_S
        while time.monotonic() < deadline and self.connection.recv(BLOCK_BYTES):
            pass

    def _until_acknowledged(self) -> None:
        """The last bytes are only on their way; the client has them when its kernel or firmware says so (tcp(7)).

        UEFI's client resets the connection as soon as it has the last byte, which it then has not acknowledged: for two
        segments it need not (RFC 1122, 4.2.3.2).
        """
        held_back = 2 * self.connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)
        try:
            self._acknowledged()
        except ConnectionResetError:
            left = array.array("i", [0])
            fcntl.ioctl(self.connection, termios.TIOCOUTQ, left)
            if left[0] > held_back:
                raise

    def _acknowledged(self) -> None:
        deadline = time.monotonic() + STALL_S
        left = array.array("i", [1])
        hung_up = False
        while left[0]:
            fcntl.ioctl(self.connection, termios.TIOCOUTQ, left)
            if not left[0]:
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"{left[0]} bytes not acknowledged within {STALL_S:g} s")
            if hung_up or not select.select([self.connection], [], [], LOOK_S)[0]:
                time.sleep(LOOK_S if hung_up else 0)
            else:
                hung_up = not self.connection.recv(BLOCK_BYTES)
