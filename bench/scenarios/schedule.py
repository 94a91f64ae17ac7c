"""Random schedules that follow from a seed.

Only `getrandbits` is drawn upon, the one method of `random.Random` whose results no version of Python has changed,
so that a schedule from an old report can be made again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random as Generator
from typing import TypeVar

from bench.scenarios.files import Random
from bench.scenarios.ground import Ground
from bench.script import ACCESS_SIZES, Step
from bench.wire import Access
from bench.x86.paging import PMD_SIZE
from bench.x86.pc_memory import GIB

T = TypeVar("T")

# The one-byte near return that a fetch finds.
RET = 0xC3
# Guesses before an access that suits pool and memory is made up instead: of an address, of a move's two.
_TRIES = 64
_MOVES = 8


class _Dice:
    """Choices from a generator's bits alone."""

    def __init__(self, seed: int) -> None:
        self._generator = Generator(seed)

    def below(self, limit: int) -> int:
        """A number in [0, limit), each equally likely."""
        bits = (limit - 1).bit_length()
        while True:
            number = self._generator.getrandbits(bits) if bits else 0
            if number < limit:
                return number

    def percent(self, chance: int) -> bool:
        return self.below(100) < chance

    def pick(self, items: Sequence[T]) -> T:
        return items[self.below(len(items))]


class _Scheduler:
    def __init__(self, spec: Random, ground: Ground, *, pool: int, number: int) -> None:
        self._spec = spec
        self._ground = ground
        self._pool = pool
        self._dice = _Dice(spec.seed << 32 | number)
        self._seen: list[int] = []
        self._gigabytes = [max(r.start, g * GIB) for r in ground.ram for g in range(r.start // GIB, -(-r.stop // GIB))]

    def steps(self) -> Iterator[Step]:
        """The schedule, `count` choices long; a fetch takes two steps, and digests come on top."""
        for number in range(1, self._spec.count + 1):
            yield from self._choice()
            if self._spec.digest_every and number % self._spec.digest_every == 0:
                yield Step("digest")

    def _choice(self) -> Iterator[Step]:
        if self._dice.percent(self._spec.rejected):
            yield Step("access", Access.READ, self._rejected(), 8, fixup=True)
            return
        do = self._dice.pick(self._spec.do)
        size = self._dice.pick(ACCESS_SIZES)
        virtual = self._ground.layout.virtual
        if do == "fetch" and not self._ground.machine.nx:
            physical = self._free(1)
            yield Step("access", Access.WRITE, virtual(physical), 1, value=RET)
            yield Step("access", Access.FETCH, virtual(physical), 1)
        elif do == "move":
            yield self._move(size)
        elif do == "write":
            physical = self._free(size)
            value = physical & ((1 << 8 * size) - 1)
            yield Step("access", Access.WRITE, virtual(physical), size, value=value)
        else:
            yield Step("access", Access.READ, virtual(self._readable(size)), size)

    def _move(self, size: int) -> Step:
        for _ in range(_MOVES):
            source, target = self._readable(size), self._free(size)
            if abs(source - target) >= size and self._fits((source, size), (target, size)):
                break
        else:
            target = self._aligned(free=True)
            source = target ^ 4
            size = min(size, 4)
        virtual = self._ground.layout.virtual
        return Step("access", Access.MOVE, virtual(source), size, va_to=virtual(target))

    def _readable(self, size: int) -> int:
        return self._physical(size, free=False)

    def _free(self, size: int) -> int:
        return self._physical(size, free=True)

    def _physical(self, size: int, *, free: bool) -> int:
        """An address that one access of `size` bytes may use and that the pool has room for."""
        allowed = self._ground.is_free if free else self._ground.is_ram
        for _ in range(_TRIES if self._fits((0, 1)) else 0):
            physical = self._guess(size)
            if physical >= 0 and allowed(physical, size) and self._fits((physical, size)):
                self._seen.append(physical)
                return physical
        return self._aligned(free=free)

    def _guess(self, size: int) -> int:
        if self._seen and self._dice.percent(self._spec.again):
            return self._dice.pick(self._seen)
        physical = self._dice.pick(self._gigabytes) + self._dice.below(GIB)
        if size > 1 and self._dice.percent(self._spec.straddle):
            border = PMD_SIZE if self._dice.percent(50) else GIB
            physical = physical // border * border - 1 - self._dice.below(size - 1)
        return physical

    def _aligned(self, *, free: bool) -> int:
        """Any address on an 8-byte border: such an access, or two within the 8 bytes, need one page only."""
        allowed = self._ground.is_free if free else self._ground.is_ram
        while True:
            physical = (self._dice.pick(self._gigabytes) + self._dice.below(GIB)) & ~7
            if allowed(physical, 8):
                return physical

    def _fits(self, *accesses: tuple[int, int]) -> bool:
        """True if the pool holds all tables that the accesses of one instruction need at once.

        A smaller pool is reset again and again by a single instruction, which is a scenario of its own.
        """
        ends = {at for start, size in accesses for at in (start, start + size - 1)}
        upper = len({at >> 48 for at in ends}) if self._ground.layout.levels == 5 else 0
        return self._pool >= upper + len({at >> 39 for at in ends}) + len({at >> 30 for at in ends})

    def _rejected(self) -> int:
        """A canonical address outside the direct map: the NULL page, the low half, just past the direct map."""
        layout = self._ground.layout
        offset = self._dice.below(GIB) & ~7
        base = self._dice.pick((0, 0x7FFF_0000_0000, layout.page_offset + layout.maxmem, layout.page_offset - GIB))
        return base + (offset & 0xFF8 if base == 0 else offset)


def schedule(spec: Random, ground: Ground, *, pool: int, number: int) -> Iterator[Step]:
    """The steps of a random schedule for window `number` of its scenario, with a pool of `pool` tables."""
    return _Scheduler(spec, ground, pool=pool, number=number).steps()
