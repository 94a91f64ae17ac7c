"""Table ``[virtual.microcode]``: how the processors of a virtual machine take microcode."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from bench.errors import UsageError
from bench.inventory.values import STRICT
from bench.x86.microcode_processor import Act, ProcessorRules

Revision = Annotated[int, Field(ge=0, le=0xFFFFFFFF)]


class ActTable(BaseModel):
    """An ``[[virtual.microcode.acts]]``: a processor that does not play its part."""

    model_config = STRICT
    processor: Annotated[int, Field(ge=0)]
    at: Literal["write"] = "write"
    does: Literal["refuse", "hang", "reset"]


class MicrocodeTable(BaseModel):
    """Table ``[virtual.microcode]``."""

    model_config = STRICT
    bios_revision: Revision
    siblings: Literal[1, 2] = 1
    refuses: list[Annotated[int, Field(ge=1, le=0xFFFFFFFF)]] = []
    takes_older: bool = True
    acts: list[ActTable] = []


def processor_rules(
    path: Path, table: MicrocodeTable, *, signature: int, platform_id: int, processors: int
) -> ProcessorRules:
    """The rules that a table states. Raises UsageError (file, key) for what does not fit the machine."""
    if processors % table.siblings:
        raise UsageError(
            f"{path}: virtual.microcode.siblings: {table.siblings} do not divide virtual.processors = {processors}"
        )
    for number, act in enumerate(table.acts):
        if act.processor >= processors:
            raise UsageError(
                f"{path}: virtual.microcode.acts[{number}].processor: there is no processor {act.processor}; "
                f"allowed: 0 to {processors - 1}"
            )
        if act.processor in [other.processor for other in table.acts[:number]]:
            raise UsageError(f"{path}: virtual.microcode.acts[{number}].processor: {act.processor} has an act already")
    return ProcessorRules(
        signature=signature,
        platform_id=platform_id,
        bios_revision=table.bios_revision,
        siblings=table.siblings,
        refuses=frozenset(table.refuses),
        takes_older=table.takes_older,
        acts=tuple((act.processor, Act(act.does)) for act in table.acts),
    )
