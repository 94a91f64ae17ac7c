"""The form of a scenario file, and reading a folder of them."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator

from bench.errors import UsageError
from bench.scenarios import terms
from bench.script import ACCESS_SIZES, UPDATE_ALIGNMENT
from bench.wire import VARIANTS
from bench.x86.paging import PMD_SIZE

POOL_TABLES = 64
# Where the image is linked: a kernel that is loaded here has phys_base 0.
LINKED_AT = "16 MiB"


def _bytes(text: str) -> str:
    terms.size(text)
    return text


def _place(text: str) -> str:
    if terms.size(text) % PMD_SIZE:
        raise ValueError(f"{text!r} is not a multiple of 2 MiB")
    return text


def _variant(name: str) -> str:
    if name not in VARIANTS:
        raise ValueError(f"{name!r} is not one of {', '.join(VARIANTS)}")
    return name


def _access_size(value: int) -> int:
    if value not in ACCESS_SIZES:
        raise ValueError(f"{value} is not one of 1, 2, 4, 8")
    return value


Address = Annotated[str, AfterValidator(terms.checked)]
Bytes = Annotated[str, AfterValidator(_bytes)]
Place = Annotated[str, AfterValidator(_place)]
Variant = Annotated[str, AfterValidator(_variant)]
AccessSize = Annotated[int, AfterValidator(_access_size)]
Pool = Annotated[int, Field(ge=1, le=POOL_TABLES)]
Mistake = Annotated[int, Field(ge=1, le=63)]


class StrictModel(BaseModel):
    """Unknown keys and wrong types are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Sweep(StrictModel):
    """Physical addresses in equal steps; those that are not RAM (for writes: free RAM) are left out."""

    start: Address = Field(alias="from")
    step: Address
    count: int = Field(ge=1, le=1024)


class AccessStep(StrictModel):
    """One access, or several of one kind."""

    do: Literal["read", "write", "fetch", "move"]
    at: Address | None = None
    virt: Address | None = None
    around: Address | None = None
    sweep: Sweep | None = None
    to: Address | None = None
    to_virt: Address | None = None
    to_around: Address | None = None
    size: AccessSize = 8
    before: int | None = Field(default=None, ge=1, le=7)
    value: str | None = None
    fixup: bool = False
    plant: bool = True
    times: int = Field(default=1, ge=1, le=256)

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if sum(x is not None for x in (self.at, self.virt, self.around, self.sweep)) != 1:
            raise ValueError("needs one of 'at', 'virt', 'around' and 'sweep'")
        targets = sum(x is not None for x in (self.to, self.to_virt, self.to_around))
        if targets != (self.do == "move"):
            raise ValueError("a move needs one of 'to', 'to_virt' and 'to_around', other accesses have none")
        straddles = self.around is not None or self.to_around is not None
        if straddles and self.size < 2:
            raise ValueError("an access of one byte straddles no border")
        if self.before is not None and not (straddles and self.before < self.size):
            raise ValueError("'before' is the bytes below the border of 'around', fewer than 'size'")
        if self.value is not None:
            if self.do != "write":
                raise ValueError("only a write has a 'value'")
            if not 0 <= terms.evaluate(self.value, {}) < 1 << (8 * self.size):
                raise ValueError(f"value {self.value} does not fit {self.size} bytes")
        if not self.plant and self.do != "fetch":
            raise ValueError("'plant' belongs to 'fetch'")
        return self


class MarkStep(StrictModel):
    """A step that accesses no memory of the script's choice."""

    do: Literal["final", "digest", "dump"]


class UpdateStep(StrictModel):
    """An update of microcode, offered to the processor by the payload itself."""

    do: Literal["ucode"]
    update: Literal["newest", "older", "wrong-signature", "wrong-flags", "bad-checksum"] = "newest"
    align: int = Field(default=0, ge=0, lt=UPDATE_ALIGNMENT)
    """Bytes behind a multiple of 64 at which its header lies; a multiple of 16 is what the manual wants."""


class Random(StrictModel):
    """A schedule that follows from the seed, the machine's memory and the window's number in the scenario."""

    seed: int = Field(ge=0, lt=1 << 32)
    count: int = Field(ge=1, le=1000)
    do: list[Literal["read", "write", "move", "fetch"]] = Field(default=["read", "write"], min_length=1)
    again: int = Field(default=20, ge=0, le=100)
    straddle: int = Field(default=0, ge=0, le=100)
    rejected: int = Field(default=0, ge=0, le=100)
    digest_every: int = Field(default=0, ge=0)


class RandomStep(StrictModel):
    """Steps chosen by a seed. `again`, `straddle` and `rejected` are percentages."""

    random: Random


def _kind(step: Any) -> str:
    if isinstance(step, dict):
        if "random" in step:
            return "schedule"
        if step.get("do") == "ucode":
            return "ucode"
        return "mark" if step.get("do") in ("final", "digest", "dump") else "access"
    return {"RandomStep": "schedule", "MarkStep": "mark", "UpdateStep": "ucode"}.get(type(step).__name__, "access")


AnyStep = Annotated[
    Annotated[AccessStep, Tag("access")]
    | Annotated[MarkStep, Tag("mark")]
    | Annotated[RandomStep, Tag("schedule")]
    | Annotated[UpdateStep, Tag("ucode")],
    Discriminator(_kind),
]


class Needs(StrictModel):
    """What the machine must have. `memory` is a physical address that its RAM must reach."""

    memory: Bytes | None = None
    maxphyaddr_min: int | None = None
    maxphyaddr_max: int | None = None
    nx: bool | None = None
    la57: bool | None = None


class Scenario(StrictModel):
    """One scenario file."""

    name: str
    about: str = Field(min_length=10)
    set: Literal["hil", "long"] = "hil"
    variants: list[Variant] = Field(min_length=1)
    pool: list[Pool] = Field(min_length=1)
    place: list[Place] = Field(default=[LINKED_AT], min_length=1)
    mend: list[Mistake] = []
    """Mistakes of the seed that are mended, beside those that would end the window at once."""
    leave: list[Mistake] = []
    """Mistakes of the seed that stay even if they end the window at once."""
    rounds: int = Field(default=1, ge=1, le=64)
    needs: Needs = Needs()
    steps: list[AnyStep] = []
    each: list[AnyStep] = []
    """One window for each of these steps, made after `steps`."""

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if not self.steps and not self.each:
            raise ValueError("has neither 'steps' nor 'each'")
        if both := sorted(set(self.mend) & set(self.leave)):
            raise ValueError(f"mistake {both[0]} is in both 'mend' and 'leave'")
        return self


def load_scenarios(root: Path) -> dict[str, Scenario]:
    """The scenarios of the folder `root`, by name (the file's name without .toml), in the order of names.

    Raises UsageError that names file and key.
    """
    paths = sorted(root.glob("*.toml"))
    if not paths:
        raise UsageError(f"{root}: no scenario files (*.toml)")
    return {path.stem: read_scenario(path) for path in paths}


def read_scenario(path: Path) -> Scenario:
    """One scenario file. Raises UsageError that names file and key."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path}: {error}") from error
    if "name" in content:
        raise UsageError(f"{path}: name: the file's name is the scenario's name")
    try:
        return Scenario.model_validate({**content, "name": path.stem})
    except ValidationError as error:
        raise UsageError("\n".join(f"{path}: {complaint(e)}" for e in error.errors())) from error


def complaint(error: Any) -> str:
    """``steps[3].size: …`` from pydantic's location, without the tags of the union of steps."""
    where = ""
    for part in error["loc"]:
        if isinstance(part, int):
            where += f"[{part}]"
        elif part not in ("access", "mark", "schedule", "ucode"):
            where += f".{part}" if where else part
    message = error["msg"].removeprefix("Value error, ")
    return f"{where}: {message}" if where else message
