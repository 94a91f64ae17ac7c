"""The HTTP server of boot loaders: once, for one address, bounded, and no path of any file."""

from __future__ import annotations

import http.client
import queue
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.lab.net import http_server
from bench.lab.net.http_server import Fetch, FetchKind, HttpServer
from bench.lab.net.shelf import Item, Shelf
from tests.rack.servers import wait_for

MAC = "52:54:00:77:00:01"
PATIENCE_S = 30


@dataclass
class Site:
    shelf: Shelf
    server: HttpServer
    told: queue.Queue[Fetch]
    refusal: str = ""

    def ask(self, path: str, method: str = "GET", **headers: str) -> tuple[int, bytes, dict[str, str]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        try:
            connection.request(method, path, headers={name.replace("_", "-"): text for name, text in headers.items()})
            answer = connection.getresponse()
            return answer.status, answer.read(), dict(answer.getheaders())
        finally:
            connection.close()

    @property
    def port(self) -> int:
        return int(self.server.server_address[1])

    def event(self) -> Fetch:
        """The next thing told that is not the beginning of a fetch."""
        while (one := self.told.get(timeout=PATIENCE_S)).kind is FetchKind.BEGUN:
            pass
        return one


@pytest.fixture
def site() -> Iterator[Site]:
    shelf, told = Shelf(), queue.Queue[Fetch]()
    made: list[Site] = []

    def allowed(item: Item, address: str) -> str:  # noqa: ARG001
        return made[0].refusal

    server = HttpServer(socket.create_server(("127.0.0.1", 0)), shelf, allowed=allowed, told=told.put)
    made.append(Site(shelf, server, told))
    try:
        yield made[0]
    finally:
        server.close()


def test_an_item_is_served_once(site: Site) -> None:
    item = site.shelf.put("script", MAC, b"#!ipxe\n", "script")
    assert site.ask(item.path)[:2] == (200, b"#!ipxe\n")
    fetched = site.event()
    assert (fetched.kind, fetched.size, fetched.item) == (FetchKind.FETCHED, 7, item)
    assert site.ask(item.path)[:2] == (410, b"")
    assert site.event().detail == "410 script has been fetched already"


def test_a_look_at_the_size_is_no_fetch_and_a_fetch_in_parts_is_one(site: Site, tmp_path: Path) -> None:
    content = bytes(range(256)) * 1000
    (tmp_path / "kernel").write_bytes(content)
    item = site.shelf.put("kernel", MAC, tmp_path / "kernel", "kernel")
    status, body, headers = site.ask(item.path, "HEAD")
    assert (status, body, headers["Content-Length"]) == (200, b"", "256000")
    status, tail, headers = site.ask(item.path, Range="bytes=255000-")
    assert (status, tail, headers["Content-Range"]) == (206, content[255000:], "bytes 255000-255999/256000")
    assert site.event().kind is FetchKind.PART
    assert site.ask(item.path, Range="bytes=0-99")[1] == content[:100]
    assert site.event().kind is FetchKind.PART
    assert site.ask(item.path, Range="bytes=100-254999")[1] == content[100:255000]
    assert site.event().kind is FetchKind.FETCHED
    assert site.ask(item.path, Range="bytes=0-99")[0] == 410


@pytest.mark.parametrize("wanted", ["bytes=7-", "bytes=9-3", "bytes=-5", "lines=1-2", "bytes=0-1,3-4"])
def test_other_ranges_are_refused(site: Site, wanted: str) -> None:
    item = site.shelf.put("script", MAC, b"#!ipxe\n", "script")
    assert site.ask(item.path, Range=wanted)[0] == 416


@pytest.mark.parametrize(
    "path",
    ["/", "/../../etc/passwd", "//etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/{token}", "/{token}/../script",
     "/{token}/script/", "/{token}/script?x=1", "/{token}/kernel", "http://elsewhere/{token}/script"],
)  # fmt: skip
def test_only_the_very_path_that_was_given_out_is_known(site: Site, path: str) -> None:
    item = site.shelf.put("script", MAC, b"#!ipxe\n", "script")
    status, body, _ = site.ask(path.replace("{token}", item.token))
    assert (status, body) == (404, b"")
    refused = site.event()
    assert refused.kind is FetchKind.REFUSED and refused.detail.startswith("404 ")


def test_another_client_is_refused_and_spends_nothing(site: Site) -> None:
    item = site.shelf.put("script", MAC, b"#!ipxe\n", "script")
    site.refusal = "127.0.0.1 was not given to box"
    assert site.ask(item.path)[0] == 403
    assert site.event().detail == "403 script: 127.0.0.1 was not given to box"
    site.refusal = ""
    assert site.ask(item.path)[0] == 200


def test_what_was_withdrawn_is_gone(site: Site) -> None:
    item = site.shelf.put("script", MAC, b"#!ipxe\n", "script")
    other = site.shelf.put("script", "52:54:00:77:00:02", b"#!ipxe\n", "script")
    assert site.shelf.remove(MAC) == 1
    assert [site.ask(one.path)[0] for one in (item, other)] == [404, 200]


def test_what_is_no_request_is_refused_and_what_is_endless_is_cut(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "REQUEST_S", 0.2)
    for said in (b"\x16\x03\x01\r\n\r\n", b"POST / HTTP/1.1\r\n\r\n", b"GET /" + b"a" * 70000 + b" HTTP/1.1\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", site.port), timeout=PATIENCE_S) as client:
            client.sendall(said)
            while client.recv(4096):
                pass
        assert site.event().kind is FetchKind.REFUSED
    with socket.create_connection(("127.0.0.1", site.port), timeout=PATIENCE_S) as client:
        client.sendall(b"GET / HTTP/1.1\r\nX: ")
        assert client.recv(4096) == b"", "a request that does not end is hung up on"


def test_a_flood_of_connections_from_one_address_is_bounded(site: Site) -> None:
    clients = [socket.create_connection(("127.0.0.1", site.port), timeout=PATIENCE_S) for _ in range(40)]
    try:
        assert site.event().detail == "too many connections"
    finally:
        for one in clients:
            one.close()


def test_a_client_that_stalls_is_given_up_and_the_item_is_not_spent(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(http_server, "STALL_S", 0.2)
    with (tmp_path / "kernel").open("wb") as file:
        file.truncate(64 << 20)
    item = site.shelf.put("kernel", MAC, tmp_path / "kernel", "kernel")
    with socket.create_connection(("127.0.0.1", site.port), timeout=PATIENCE_S) as client:
        client.sendall(f"GET {item.path} HTTP/1.1\r\n\r\n".encode())
        broken = site.event()
    assert (broken.kind, broken.item) == (FetchKind.BROKEN, item) and broken.size < item.size
    assert site.ask(item.path, "HEAD")[0] == 200


@pytest.mark.parametrize("stays", [False, True], ids=["hangs up", "is gone without a word"])
def test_a_client_s_next_boot_may_come_from_the_same_port(site: Site, stays: bool) -> None:
    """As GRUB's does: nothing of the old connection may be left in the kernel to take the new one for it."""
    port = 0
    for turn in range(3):
        item = site.shelf.put("kernel", MAC, b"x" * 100_000, "kernel")
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            client.settimeout(PATIENCE_S)
            client.bind(("127.0.0.1", port))
            port = client.getsockname()[1]
            client.connect(("127.0.0.1", site.port))
            client.sendall(f"GET {item.path} HTTP/1.1\r\nHost: here\r\n\r\n".encode())
            assert read_answer(client) == 100_000
            assert site.event().kind is FetchKind.FETCHED, turn
            if stays:
                site.server.forget(["127.0.0.2"])
                site.server.forget(["127.0.0.1"])
                wait_for(lambda: not connections(site.port), "the connection is forgotten, whatever the client does")
        wait_for(lambda: not connections(site.port), "the connection is forgotten")


def test_a_client_of_http_1_0_is_told_the_end_by_hanging_up(site: Site) -> None:
    item = site.shelf.put("kernel", MAC, b"x" * 1000, "kernel")
    with socket.create_connection(("127.0.0.1", site.port), timeout=http_server.HOLD_S / 2) as client:
        client.sendall(f"GET {item.path} HTTP/1.0\r\n\r\n".encode())
        assert b"".join(iter(lambda: client.recv(4096), b"")).endswith(b"\r\n\r\n" + b"x" * 1000)


def read_answer(client: socket.socket) -> int:
    """Bytes of the answer's body."""
    data = b""
    while b"\r\n\r\n" not in data or len(data.partition(b"\r\n\r\n")[2]) < 100_000:
        more = client.recv(65536)
        assert more, data[:200]
        data += more
    return len(data.partition(b"\r\n\r\n")[2])


def connections(port: int) -> list[str]:
    """Those of the kernel, on either side, that a server on `port` has not heard the end of; in whatever state."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [row[3] for row in rows if row[1].endswith(f":{port:04X}") and row[3] != "0A"]
