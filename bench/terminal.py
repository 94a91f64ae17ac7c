"""Lines for people: standard output for results, standard error for progress and complaints."""

from __future__ import annotations

import sys


def say(text: str = "") -> None:
    """A line on standard output."""
    print(text, flush=True)


def complain(text: str) -> None:
    """A line on standard error with our name before it."""
    print(f"bench: {text}", file=sys.stderr)


def note(text: str) -> None:
    """A line on standard error, for progress in a log."""
    print(text, file=sys.stderr, flush=True)
