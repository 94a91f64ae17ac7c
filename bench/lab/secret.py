"""Secrets, read where the inventory says that they lie, at the moment at which they are needed."""

from __future__ import annotations

import os
from pathlib import Path

from bench.errors import UsageError
from bench.hardware import Secret


def reveal(secret: Secret, *, whose: str) -> str:
    """The secret itself: keep it out of texts, logs and command lines. `whose` names it in errors.

    Raises UsageError if the variable is not set, or the file is not there, empty, or readable by others.
    """
    if secret.env:
        if not (value := os.environ.get(secret.env)):
            raise UsageError(f"{whose}: set the environment variable {secret.env} to its password")
        return value
    path = Path(secret.file).expanduser()
    try:
        if path.stat().st_mode & 0o077:
            raise UsageError(f"{whose}: {path} can be read by others: chmod 600 {path}")
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{whose}: {path}, which holds its password, cannot be read: {error}") from error
    if not lines or not lines[0]:
        raise UsageError(f"{whose}: {path}: its first line, the password, is empty")
    return lines[0]
