"""Bytes from a machine as text that is safe to show: they are hostile."""

from __future__ import annotations


def escape(data: bytes) -> str:
    """Printable ASCII as it is, a backslash doubled, everything else as ``\\xNN``."""
    return "".join("\\\\" if byte == 0x5C else chr(byte) if 0x20 <= byte <= 0x7E else f"\\x{byte:02x}" for byte in data)
