"""A machine whose known-good system is the rescue system, as `bench.health` examines it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from bench.errors import LabError
from bench.lab.capture import CaptureWriter
from bench.lab.fingerprint import SystemFacts, read_system
from bench.lab.power import PowerState
from bench.lab.power.switched import SwitchedPower
from bench.rescue.session import Rescued

Booting = Callable[[CaptureWriter], AbstractContextManager[Rescued]]
"""`bench.rescue.session.rescued` of a machine, with everything but the capture."""
Check = Callable[[str, bool | None, str], bool]


def examined(
    booting: Booting, power: SwitchedPower, capture: CaptureWriter, check: Check, times: dict[str, float]
) -> SystemFacts | None:
    """Boot it and ask it; what it says, if it can be asked. Trouble is a failed check."""
    facts: SystemFacts | None = None
    heard = False
    try:
        with booting(capture) as there:
            heard = there.heard
            times["ssh"] = there.times["SSH answers"]
            if power.readable:
                state = power.state()
                check("power read back", state is PowerState.ON, f"says {state} after on")
            facts = read_system(there.ssh)
            check("rescue system", True, f"{facts.kernel} after {times['ssh']} s, over the network")
            _first_byte(there, times)
    except LabError as error:
        check("rescue system", False, str(error))
    check("host key", None, "made for this boot: it vouches for the bench's system, and for none of the machine's own")
    if heard:
        check("serial line", True, f"it tells of the boot that answers SSH; {capture.size} bytes")
    elif facts is not None and capture.first is not None:
        check("serial line", False, "bytes came, and not those of the boot that answers SSH: is it another machine's?")
    elif capture.first is not None:
        check("serial line", None, f"{capture.size} bytes, and nobody who says whose they are")
    else:
        check("serial line", False, "no byte in all of a boot")
    return facts


def _first_byte(there: Rescued, times: dict[str, float]) -> None:
    if "first serial byte" in there.times:
        times["first byte"] = there.times["first serial byte"]
