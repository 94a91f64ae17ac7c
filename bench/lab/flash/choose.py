"""The first of several ways to load a machine that nothing rules out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench.lab.flash.refused import MethodRefused
from bench.lab.load import Load, Loader, Note
from bench.lab.power import Power
from bench.records import Machine


class FirstThatWorks(Loader):
    """Tries `loaders`, the preferred one first."""

    def __init__(self, loaders: Sequence[Loader]) -> None:
        self._loaders = tuple(loaders)
        self._tried: list[Loader] = []
        # Which one it will be is not known before the machine is asked.
        self.delay_s = max(loader.delay_s for loader in loaders)

    def load(self, machine: Machine, load: Load, power: Power, note: Note) -> Mapping[str, str]:
        """See Loader. Raises the last refusal, with all the reasons, if none of them works."""
        reasons: list[str] = []
        refused: MethodRefused | None = None
        for loader in self._loaders:
            self._tried.append(loader)
            try:
                return loader.load(machine, load, power, note)
            except MethodRefused as error:
                note({"step": "refused", "method": error.method, "why": "; ".join(error.reasons)})
                reasons += [f"{error.method}: {reason}" for reason in error.reasons]
                refused = error
        assert refused is not None
        raise MethodRefused(machine.name, "no way to load it", reasons) from refused

    def starting(self, power: Power) -> Power:
        """See Loader: by the one that was taken."""
        return self._tried[-1].starting(power) if self._tried else power

    def fall_back(self, machine: Machine) -> Mapping[str, str]:
        """See Loader: of every one that was tried."""
        witness: dict[str, str] = {}
        for loader in reversed(self._tried):
            witness = {**loader.fall_back(machine), **witness}  # the one that was taken is told of
        return witness
