"""Runs a kernel's make: with a fixed environment, counting what it compiles, and reading its first error."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bench.errors import LabError, UsageError

# Where {tree} stands, the tree's own path is put: what is made there must not know it.
VARIABLES = (
    ("ARCH", "x86_64"),
    ("CC", "gcc"),
    ("HOSTCC", "gcc"),
    ("KCFLAGS", "-ffile-prefix-map={tree}=."),
    ("KAFLAGS", "-ffile-prefix-map={tree}=."),
    # Empty, but given: else a tree within a git clone gets a "+" at the end of its release.
    ("LOCALVERSION", ""),
    ("KBUILD_BUILD_TIMESTAMP", "1970-01-01 00:00:00 UTC"),
    ("KBUILD_BUILD_USER", "bench"),
    ("KBUILD_BUILD_HOST", "bench"),
    ("KBUILD_BUILD_VERSION", "1"),
)
_INHERITED = ("PATH", "HOME", "TMPDIR")
_OBJECT = re.compile(rb"^  (?:CC|AS) +(?!\[M\])(\S+)")
# file:line: or file:line:column: as compilers and assemblers write it; the linker names object and section.
_ERROR = re.compile(r"^(\S[^:\n]*):(\d+)(?::\d+)?: (?:(?:fatal )?error:|Error:) ?(.*)", re.MULTILINE | re.IGNORECASE)
_LINK_ERROR = re.compile(r"^(?:\S*ld: )?(.*(?:undefined reference to|multiple definition of).*)", re.MULTILINE)
_OTHER_ERROR = re.compile(r"^(.*(?:\*\*\* |[Ee]rror[: ]).*)", re.MULTILINE)
_NO_ROOM = re.compile(
    r"^.*(?:No space left on device|[Cc]annot allocate memory|memory exhausted|Killed signal).*", re.MULTILINE
)
_TICK_S = 1.0


@dataclass
class Counter:
    """How many objects were compiled, and the newest of them."""

    objects: int = 0
    newest: str = ""
    _rest: bytes = field(default=b"", repr=False)

    def feed(self, data: bytes) -> None:
        """Count in the next bytes of make's output, cut anywhere."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if match := _OBJECT.match(line):
                self.objects += 1
                self.newest = match[1].decode(errors="replace")


def make(
    tree: Path,
    targets: list[str],
    *,
    log: Path,
    keep: int,
    jobs: int = 1,
    variables: tuple[tuple[str, str], ...] = (),
    tick: Callable[[Counter], None] = lambda _: None,
) -> Counter:
    """Run make for `targets` in `tree`; what it says is appended to `log`.

    `tick` is called at least each second. Descriptor `keep` is inherited. If we are interrupted, make and all that
    it started are ended first. Raises UsageError with the first error's file and line, LabError if the computer
    ran out of disk or memory.
    """
    environment = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    environment |= {"LC_ALL": "C", "TZ": "UTC", "SOURCE_DATE_EPOCH": "0"}
    given = [f"{k}={v.replace('{tree}', str(tree))}" for k, v in (*VARIABLES, *variables)]
    counter = Counter()
    begin = log.stat().st_size if log.exists() else 0
    with log.open("ab") as out:
        process = subprocess.Popen(
            ["make", f"-j{jobs}", *given, *targets], cwd=tree, env=environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, pass_fds=(keep,), start_new_session=True,
        )  # fmt: skip
        assert process.stdout is not None
        try:
            _follow(process, out.write, counter, tick)
        except BaseException:
            _end(process)
            raise
        finally:
            # Not before make has ended: it would die of its next word, with files half written.
            process.stdout.close()
    if process.returncode:
        with log.open("rb") as said:
            said.seek(begin)
            _explain(said.read().decode(errors="replace"), targets, log)
    return counter


def _follow(
    process: subprocess.Popen[bytes], write: Callable[[bytes], int], counter: Counter, tick: Callable[[Counter], None]
) -> None:
    assert process.stdout is not None
    told = time.monotonic()
    while True:
        if select.select([process.stdout], [], [], _TICK_S)[0]:
            data = os.read(process.stdout.fileno(), 1 << 16)
            if not data:
                break
            write(data)
            counter.feed(data)
        if time.monotonic() - told >= _TICK_S:
            tick(counter)
            told = time.monotonic()
    process.wait()


def _end(process: subprocess.Popen[bytes]) -> None:
    """End make's whole session: gently first, so that it removes half-written files."""
    for number, wait_s in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 10.0)):
        try:
            os.killpg(process.pid, number)
            process.wait(wait_s)
            return
        except ProcessLookupError:
            process.wait()
            return
        except subprocess.TimeoutExpired:
            continue


def _explain(said: str, targets: list[str], log: Path) -> None:
    what = f"make {' '.join(targets)} failed"
    if match := _NO_ROOM.search(said):
        raise LabError(f"{what}: {match[0].strip()}; the full log is {log}", component="build computer")
    if match := _ERROR.search(said):
        raise UsageError(f"{what}: {match[1]}:{match[2]}: {match[3]}; the full log is {log}")
    other = _LINK_ERROR.search(said) or _OTHER_ERROR.search(said)
    raise UsageError(f"{what}: {other[1].strip() if other else 'no error was printed'}; the full log is {log}")
