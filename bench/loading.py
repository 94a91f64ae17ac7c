"""How far a load came on its way into a machine: the first step that is missing, and what bears witness to it.

Read from the capture alone: the lab's steps (`LabEventKind.LOADING`), the steps that were to come (in the event
`LOADED`), and what firmware and boot loader said on the serial line.
"""

from __future__ import annotations

from collections.abc import Sequence

from bench.parse.boot_words import refused_by_secure_boot, sayings
from bench.records import OWN_SYSTEM_ANSWERS, PROVED, Capture, Finding, LabEvent, LabEventKind

# A step → who has not done it if it is missing, and in which words.
_MISSING: dict[str, tuple[str, str]] = {
    "discover": ("network card", "the machine has not asked for an address"),
    "offer": ("DHCP", "the machine asked for an address and was offered none"),
    "lease": ("DHCP", "the machine was offered an address and did not take it"),
    "loader": ("TFTP", "the boot loader was not fetched"),
    "script": ("boot loader", "the boot loader did not fetch its script"),
    "kernel": ("boot loader", "the kernel was not fetched"),
    "initrd": ("boot loader", "the initrd was not fetched"),
}
_ALL_CAME = ("boot loader", "all was fetched, and what was fetched did not come to its first record")


def first_missing(capture: Capture, *, window: int | None = None) -> Finding | None:
    """What is to be said of a boot that has no trace, if it was loaded over the network; else None.

    A step is done if it or one behind it came: a proxy does not see each of them.
    """
    steps = _expected(capture)
    if not steps:
        return None
    loading = [event for event in capture.events if event.kind is LabEventKind.LOADING]
    came = [event for event in loading if event.witness.get("step") in steps]
    done = max((steps.index(event.witness["step"]) for event in came), default=-1)
    component, what = _MISSING[steps[done + 1]] if done + 1 < len(steps) else _ALL_CAME
    witness = _witness(came, done, steps)
    trouble = _trouble(loading, after=came[-1].at_s if came else 0.0)
    if trouble is not None:
        component = trouble.witness.get("component", trouble.witness.get("step", component))
        what = f"{what}: {trouble.witness.get('what', 'trouble')}"
        witness["trouble"] = _words(trouble)
    said = sayings(capture.data)
    if said:
        witness["last of firmware and loader"] = f"{said[-1].who}: {said[-1].words}"
        complaints = [one for one in said if one.complaint]
        if complaints:
            witness["complaint"] = f"{complaints[-1].who}: {complaints[-1].words}"
        if refused := next((one for one in said if refused_by_secure_boot(one)), None):
            component, what = "firmware", f"Secure Boot refuses what is not signed: {refused.words}"
    return Finding(component, what, window=window, witness=witness)


def own_system_to_end_s(events: Sequence[LabEvent]) -> float | None:
    """Seconds from the first answer of a machine's own system to the last record of what it was made to start, the
    proof of a boot loader not counted; None if there is no such answer, or no end. So `nox -s bench` measures."""
    end = next((event for event in events if event.kind is LabEventKind.MARKER), None)
    if end is None:
        return None
    ready = [e.at_s for e in events if e.at_s < end.at_s and e.witness.get("step") in (OWN_SYSTEM_ANSWERS, PROVED)]
    return end.at_s - ready[-1] if ready else None


def _expected(capture: Capture) -> list[str]:
    for event in capture.events:
        if event.kind is LabEventKind.LOADED:
            return [step for step in event.witness.get("steps", "").split() if step in _MISSING]
    return []


def _witness(came: list[LabEvent], done: int, steps: list[str]) -> dict[str, str]:
    if done < 0:
        return {"last step": "none"}
    last = next(event for event in reversed(came) if event.witness["step"] == steps[done])
    return {"last step": _words(last), "steps": " ".join(dict.fromkeys(event.witness["step"] for event in came))}


def _trouble(loading: list[LabEvent], *, after: float) -> LabEvent | None:
    """What broke: a server that died outranks all; else the last trouble since the last step."""
    troubles = [event for event in loading if _is_trouble(event)]
    dead = [event for event in troubles if event.witness.get("component") == "dnsmasq"]
    late = [event for event in troubles if event.at_s >= after]
    return dead[0] if dead else late[-1] if late else None


def _is_trouble(event: LabEvent) -> bool:
    what = event.witness.get("what", "")
    if event.witness.get("step") == "trouble":
        return True
    return event.witness.get("step") in ("TFTP", "HTTP") and what.startswith(("broken", "refused", "tftp failed"))


def _words(event: LabEvent) -> str:
    rest = (f"{name} {text}" for name, text in event.witness.items() if name not in ("step", "what"))
    return f"{event.witness.get('step', '')} at {event.at_s:.2f} s ({', '.join(rest)})"
