"""The question whether somebody else gives addresses: its frame, and which frames are an answer."""

from __future__ import annotations

import socket
import struct

from hypothesis import given
from hypothesis import strategies as st

from bench.lab.net.probe import DhcpServer, checksum, discover, offer_in, other_servers

MAC = bytes.fromhex("525400770001")


def reply(
    kind: int = 2, exchange: int = 7, server_id: bytes = b"\x0a\0\0\x05", *, ports: tuple[int, int] = (67, 68)
) -> bytes:
    frame = bytearray(discover(MAC, exchange))
    frame[6:12] = bytes.fromhex("0200000000aa")
    frame[26:30] = bytes([10, 0, 0, 9])
    struct.pack_into("!HH", frame, 34, *ports)
    at = frame.index(b"\x63\x82\x53\x63") + 4
    options = bytes([53, 1, kind]) + (bytes([54, 4]) + server_id if server_id else b"") + b"\xff"
    return bytes(frame[:at]) + options


def test_the_question_is_a_broadcast_of_a_card_of_ours() -> None:
    frame = discover(MAC, 0x12345678)
    assert frame[:14] == b"\xff" * 6 + MAC + b"\x08\x00"
    assert checksum(frame[14:34]) == 0
    assert struct.unpack_from("!HHH", frame, 34) == (68, 67, len(frame) - 34)
    assert struct.unpack_from("!H", frame, 16)[0] == len(frame) - 14
    assert struct.unpack_from("!I", frame, 46)[0] == 0x12345678
    assert frame[70:76] == MAC


def test_an_offer_of_our_exchange_names_the_server() -> None:
    assert offer_in(reply(), 7) == DhcpServer("10.0.0.5", "02:00:00:00:00:aa")
    assert offer_in(reply(server_id=b""), 7) == DhcpServer("10.0.0.9", "02:00:00:00:00:aa")


def test_anything_else_is_no_answer() -> None:
    assert offer_in(reply(exchange=8), 7) is None
    assert offer_in(reply(kind=5), 7) is None
    assert offer_in(reply(ports=(68, 67)), 7) is None


@given(st.binary(max_size=600))
def test_no_frame_upsets_it(data: bytes) -> None:
    offer_in(data, 7)
    offer_in(reply()[: len(data)], 7)
    offer_in(reply()[:290] + data, 7)


def test_who_answers_is_found_and_silence_is_nobody() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs:
        assert other_servers(ours, listen_s=0.01) == ()
        exchange = struct.unpack_from("!I", theirs.recv(2048), 46)[0]
        assert other_servers(ours, listen_s=0.01) == (), "an answer to an earlier question is none to this one"
        assert offer_in(reply(exchange=exchange), exchange) is not None
