"""What all tests share: a loaded computer never fails a test, and a failing example can be repeated."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("bench", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("bench")
# No test writes into a store that somebody works with.
os.environ.pop("BENCH_STORE", None)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of the suites."""
    parser.addoption("--rewrite-verdicts", action="store_true", help="write the verdicts of tests/captures/ anew")
