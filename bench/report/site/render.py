"""Templates and files of the site. Every value that a template shows is escaped, and stripped of control characters."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from functools import cache
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from bench.describe import printable
from bench.errors import UsageError

_PLAIN = re.compile(r"[^A-Za-z0-9.-]+")


class Writer:
    """Writes files below `out`, if they are not there with the same content already."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.written: list[str] = []
        self.unchanged = 0
        self.seen: set[str] = set()

    def put(self, name: str, data: bytes) -> None:
        """One file; its folder is made."""
        self.seen.add(name)
        path = self.out / name
        if path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data:
            self.unchanged += 1
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        self.written.append(name)


def slug(text: str) -> str:
    """A file name for any text; different texts have different names."""
    plain = _PLAIN.sub("-", text).strip("-.")[:80] or "unnamed"
    if plain == text:
        return plain
    return f"{plain}-{hashlib.sha256(text.encode('utf-8', 'backslashreplace')).hexdigest()[:6]}"


@cache
def plotly() -> tuple[str, bytes]:
    """Name and content of Plotly's script. Raises UsageError if Plotly is not installed."""
    try:
        data = resources.files("plotly").joinpath("package_data/plotly.min.js").read_bytes()
        return f"plotly-{metadata.version('plotly')}.min.js", data
    except (ModuleNotFoundError, FileNotFoundError) as error:
        raise UsageError("the report's charts need Plotly: pip install 'bench[report]', or ./setup") from error


def assets() -> Iterator[tuple[str, bytes]]:
    """Style sheet and scripts."""
    yield plotly()
    for name in ("site.css", "site.js"):
        yield name, resources.files("bench.report.site").joinpath(f"assets/{name}").read_bytes()


@cache
def _environment(filters: tuple[tuple[str, Callable[..., Any]], ...]) -> Any:
    try:
        import jinja2
    except ModuleNotFoundError as error:
        raise UsageError("the report needs Jinja2: pip install 'bench[report]', or ./setup") from error
    import markupsafe

    def shown(value: Any) -> Any:
        return printable(value) if isinstance(value, str) and not isinstance(value, markupsafe.Markup) else value

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("bench.report.site", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= dict(filters)
    return environment


def render(template: str, filters: tuple[tuple[str, Callable[..., Any]], ...], **values: Any) -> bytes:
    """A page. `root` is the way back to the site's top, such as ``../``."""
    text = (
        _environment(filters)
        .get_template(template)
        .render(version=metadata.version("bench"), plotly_name=plotly()[0], **{"root": "", "here": "", **values})
    )
    return str(text).encode("utf-8", "backslashreplace")
