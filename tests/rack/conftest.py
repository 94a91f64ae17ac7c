"""What the tests of the rack share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lab import tiny_kernel


@pytest.fixture(scope="session")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A kernel of a few instructions that says hello on the serial line and halts."""
    return tiny_kernel.write(tmp_path_factory.mktemp("kernel") / "kernel", b"hello from the machine\r\n", "halt")
