"""What the HTTP server has: content under random names that serve once, for one machine each. No path of any file."""

from __future__ import annotations

import secrets
import threading
from dataclasses import dataclass, field
from pathlib import Path

TOKEN_BYTES = 18


@dataclass(frozen=True)
class Item:
    """Something to be fetched once. `name` is what the machine is to call it; `step` is what fetching it means."""

    token: str
    name: str
    mac: str
    content: bytes | Path
    size: int
    step: str

    @property
    def path(self) -> str:
        """Its path in a URL."""
        return f"/{self.token}/{self.name}"

    def read(self, start: int, count: int) -> bytes:
        """`count` bytes from `start`."""
        if isinstance(self.content, bytes):
            return self.content[start : start + count]
        with self.content.open("rb") as file:
            file.seek(start)
            return file.read(count)


@dataclass
class _Entry:
    item: Item
    got: list[tuple[int, int]] = field(default_factory=list)
    """What has been delivered, as [start, stop) in order and apart from each other."""

    @property
    def spent(self) -> bool:
        return self.got == [(0, self.item.size)] or (self.item.size == 0 and bool(self.got))


class Shelf:
    """The items by token. An item is spent when each of its bytes has been delivered; a broken fetch may go on."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: dict[str, _Entry] = {}

    def put(self, name: str, mac: str, content: bytes | Path, step: str) -> Item:
        """A new item, with a token that nobody can guess."""
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        item = Item(secrets.token_urlsafe(TOKEN_BYTES), name, mac, content, size, step)
        with self._lock:
            self._entries[item.token] = _Entry(item)
        return item

    def find(self, path: str) -> tuple[Item | None, bool]:
        """The item of a URL's path and whether it is spent. Only the very path that was given out is known."""
        token = path.removeprefix("/").partition("/")[0]
        with self._lock:
            entry = self._entries.get(token)
            if entry is None or not secrets.compare_digest(path.encode(), entry.item.path.encode()):
                return None, False
            return entry.item, entry.spent

    def delivered(self, item: Item, start: int, stop: int) -> bool:
        """Note that [start, stop) has gone out; True if with it the item is spent for the first time."""
        with self._lock:
            entry = self._entries.get(item.token)
            if entry is None or entry.spent:
                return False
            entry.got = _joined([*entry.got, (start, stop)])
            return entry.spent

    def remove(self, mac: str) -> int:
        """Forget all items of a machine; how many there were."""
        with self._lock:
            gone = [token for token, entry in self._entries.items() if entry.item.mac == mac]
            for token in gone:
                del self._entries[token]
            return len(gone)


def _joined(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    out: list[tuple[int, int]] = []
    for start, stop in sorted(spans):
        if out and start <= out[-1][1]:
            out[-1] = (out[-1][0], max(stop, out[-1][1]))
        else:
            out.append((start, stop))
    return out
