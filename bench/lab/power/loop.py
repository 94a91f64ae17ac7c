"""The one thread in which asyncio runs: QEMU's monitors are spoken to here, and QEMU is started from here.

Started from here because a process that dies with its parent dies with the *thread* that started it
(prctl(2), PR_SET_PDEATHSIG); this thread lives as long as the bench.
"""

from __future__ import annotations

import asyncio
import atexit
import threading
from collections.abc import Coroutine
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, TypeVar

T = TypeVar("T")

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None


def call(work: Coroutine[Any, Any, T], *, timeout_s: float) -> T:
    """Run `work` in the loop's thread and wait for its result. Raises TimeoutError, and what `work` raises."""
    future = asyncio.run_coroutine_threadsafe(work, running_loop())
    try:
        return future.result(timeout_s)
    except FutureTimeoutError:
        raise TimeoutError(f"no answer within {timeout_s:g} s") from None
    finally:
        future.cancel()  # does nothing to work that is done


def settle(*, timeout_s: float) -> None:
    """Return when the loop has taken notice of all that was asked or cancelled so far."""

    async def nothing() -> None:
        await asyncio.sleep(0)

    call(nothing(), timeout_s=timeout_s)


def running_loop() -> asyncio.AbstractEventLoop:
    """The loop, started on first use."""
    global _loop
    with _lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            thread = threading.Thread(target=_loop.run_forever, name="monitors", daemon=True)
            thread.start()
            atexit.register(_end, _loop, thread)
        return _loop


def _end(loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    loop.call_soon_threadsafe(loop.stop)
    thread.join(1)
    if not thread.is_alive():
        loop.close()
