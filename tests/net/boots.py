"""The payload and kernels as they are booted over the network, and what the captures say."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.hardware import NetworkMode
from bench.images import build_payload
from bench.judge import Judgement
from bench.lab.boot import Limits, Load, boot
from bench.lab.net.loader import NetLoader
from bench.lab.net.segment import Segment, segment
from bench.lab.net.server import BootServer
from bench.records import Machine as Entry
from bench.run import Order, judge_folders, offer
from bench.scenarios import load_scenarios
from bench.script import render
from tests.net.machines import ADDRESSES, NETWORK, REPO

LIMITS = Limits(first_byte_s=120, silence_s=60, total_s=240)
NONCE = 0x0123456789ABCDEF


@contextmanager
def boot_network(
    ports: int = 2, *, mode: NetworkMode = NetworkMode.FULL, **more: Any
) -> Iterator[tuple[Segment, BootServer]]:
    """A segment with the bench's servers on it."""
    with segment(ADDRESSES, ports=ports) as wire, BootServer(replace(NETWORK, mode=mode, **more), wire.place) as server:
        yield wire, server


def payload_load(entry: Entry, scenario: str = "ping-pong") -> tuple[Load, dict[str, object]]:
    """A scenario of v3.9 as it is loaded, and the capture's facts."""
    scenarios = load_scenarios(REPO / "firmware-images" / "scenarios")
    windows, names, skipped = offer(Order(entry, "v3.9", (scenarios[scenario],)))
    assert not skipped
    load = Load(build_payload(REPO).kernel, render(windows, nonce=NONCE), "")
    meta: dict[str, object] = {
        "image": "early-pf/v3.9",
        "nonce": f"{NONCE:x}",
        "scenarios": {str(window.number): names[window.number] for window in windows},
    }
    return load, meta


def boot_payload(
    entry: Entry, server: BootServer | None, folder: Path, *, scenario: str = "ping-pong", limits: Limits = LIMITS,
    cancel: threading.Event | None = None,
) -> Judgement:  # fmt: skip
    """Boot a scenario once, over the network if there is a server, and judge it."""
    load, meta = payload_load(entry, scenario)
    loader = NetLoader(server) if server else None
    boot(entry, load, folder, meta=meta, limits=limits, loader=loader, cancel=cancel)
    return judge_folders([folder])


def events(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


def steps(folder: Path) -> list[str]:
    """The steps that came, each once, in the order of coming."""
    names = [event["witness"]["step"] for event in events(folder) if event["kind"] == "loading"]
    return [name for name in dict.fromkeys(names) if name not in ("TFTP", "HTTP")]
