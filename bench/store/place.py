"""Where the store of a folder of results is: a file in it, or wherever ``BENCH_STORE`` says."""

from __future__ import annotations

import os
from pathlib import Path

import sqlalchemy as sa

from bench.errors import UsageError

VARIABLE = "BENCH_STORE"
FILE = "bench.sqlite"
# SQLAlchemy's name of the driver that we depend on, for URLs that name none.
_DRIVERS = {"postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg"}


def place_of(results: Path) -> Path | str:
    """What `bench.store.Store` opens: the file in `results`, or the URL in ``BENCH_STORE``.

    Raises UsageError for what is no URL.
    """
    text = os.environ.get(VARIABLE, "")
    if not text:
        return results / FILE
    if "://" not in text:
        raise UsageError(f"{VARIABLE}: {text!r} is no URL: postgresql://USER@HOST/DATABASE, say")
    return text


def is_there(results: Path) -> bool:
    """Whether there is a store to be read; one with a URL is taken to be."""
    place = place_of(results)
    return not isinstance(place, Path) or place.exists()


def url_of(place: Path | str) -> sa.URL:
    """SQLAlchemy's URL of a path or URL. Raises UsageError, without showing what may be a password."""
    if isinstance(place, Path) or "://" not in place:
        return sa.URL.create("sqlite", database=str(place))
    try:
        url = sa.engine.make_url(place)
    except (sa.exc.ArgumentError, ValueError) as error:
        scheme = place.partition("://")[0]
        raise UsageError(f"{VARIABLE}: this {scheme}:// URL cannot be read: {scheme}://USER@HOST/DATABASE") from error
    return url.set(drivername=_DRIVERS.get(url.drivername, url.drivername))


def shown(url: sa.URL) -> str:
    """A URL for people, without its password; of a file its path."""
    if url.drivername == "sqlite":
        return str(url.database)
    return url.render_as_string(hide_password=True)
