"""Config fragments: ``firmware-images/configs/NAME.config``, in Kconfig's own form, each option under a comment."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.errors import UsageError

CONFIGS = Path("firmware-images") / "configs"

_SET = re.compile(r"CONFIG_([A-Z0-9a-z_]+)=(y|\d+|0x[0-9a-f]+|\"[^\"\n]*\")")
_UNSET = re.compile(r"# CONFIG_([A-Z0-9a-z_]+) is not set")


@dataclass(frozen=True)
class Option:
    """An option that a fragment asks for; `value` is as Kconfig writes it, ``n`` for one that is not set."""

    name: str
    value: str
    where: str
    """File and line."""


def read_fragments(root: Path, names: Iterable[str]) -> dict[str, Option]:
    """The options of the fragments `names`, by name.

    Raises UsageError for a line that is neither option nor comment, an option without a comment straight above it,
    and one that is asked for twice with different values.
    """
    found: dict[str, Option] = {}
    for name in names:
        path = root / CONFIGS / f"{name}.config"
        if not path.is_file():
            known = ", ".join(sorted(each.stem for each in (root / CONFIGS).glob("*.config")))
            raise UsageError(f"no config fragment {name!r}; there are: {known or 'none'} ({CONFIGS}/)")
        for option in _read(path):
            before = found.setdefault(option.name, option)
            if before.value != option.value:
                raise UsageError(
                    f"{option.where}: CONFIG_{option.name} is {option.value} here and {before.value} at {before.where}"
                )
    return found


def _read(path: Path) -> Iterable[Option]:
    commented = False
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        where = f"{path}:{number}"
        unset = _UNSET.fullmatch(line)
        if unset is None and line.startswith("#"):
            commented = True
            continue
        given = _SET.fullmatch(line)
        if line and not given and not unset:
            raise UsageError(f"{where}: {line!r} is neither CONFIG_X=value, nor '# CONFIG_X is not set', nor a comment")
        if line and not commented:
            raise UsageError(f"{where}: {line}: without a comment straight above it that says why")
        commented = False
        if given:
            yield Option(given[1], given[2], where)
        elif unset:
            yield Option(unset[1], "n", where)


def parse_config(text: str) -> dict[str, str]:
    """The options of a ``.config``; those that are not set have the value ``n``."""
    options = {}
    for line in text.splitlines():
        if unset := _UNSET.fullmatch(line):
            options[unset[1]] = "n"
        elif line.startswith("CONFIG_"):
            name, _, value = line.removeprefix("CONFIG_").partition("=")
            options[name] = value
    return options


def render_config(options: Mapping[str, str]) -> str:
    """`options` in the form of a ``.config``."""
    lines = (f"# CONFIG_{k} is not set" if v == "n" else f"CONFIG_{k}={v}" for k, v in options.items())
    return "".join(line + "\n" for line in lines)


def check_config(wanted: Mapping[str, Option], got: Mapping[str, str], release: str) -> None:
    """Raises UsageError for the options that Kconfig did not take as they were asked for."""
    lost = [option for option in wanted.values() if got.get(option.name, "n") != option.value]
    if lost:
        each = "; ".join(f"{o.where}: CONFIG_{o.name}={o.value} became {got.get(o.name, 'unknown')}" for o in lost)
        raise UsageError(f"Linux {release} does not take what the fragments ask for (a dependency is missing): {each}")
