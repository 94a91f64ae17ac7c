"""Modules out of a kernel's package, with what they depend on, as the two small systems want them."""

from __future__ import annotations

import lzma
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from bench.images.packages import files_of

_MODULE = re.compile(r"(?:usr/)?lib/modules/(?P<release>[^/]+)/.*/(?P<name>[^/]+)\.ko(?P<packed>\.xz)?")
# The zero byte that ends one begins the next.
_INFO = {name: re.compile(rb"(?:^|\0)" + name + rb"=([^\0]*)(?=\0)") for name in (b"depends", b"alias")}


def modules_in(deb: Path) -> tuple[str, dict[str, bytes]]:
    """The kernel's name for itself (``uname -r``), and name (with underscores) → content of every module."""
    there: dict[str, bytes] = {}
    release = ""
    for path, content in files_of(deb):
        if (match := _MODULE.fullmatch(path)) and isinstance(content, bytes):
            release = match["release"]
            packed = match["packed"]
            there[match["name"].replace("-", "_")] = lzma.decompress(content) if packed else content
    return release, there


def in_order(there: Mapping[str, bytes], names: Iterable[str]) -> list[str]:
    """`names` and what they depend on, each after what it depends on; what is not there is built in."""
    order: list[str] = []

    def want(name: str) -> None:
        if name in order or name not in there:
            return
        for each in depends(there[name]):
            want(each)
        order.append(name)

    for name in names:
        want(name)
    return order


def depends(module: bytes) -> list[str]:
    """The names of the modules that a module says it needs."""
    found = _INFO[b"depends"].search(module)
    return [each.replace("-", "_") for each in found[1].decode().split(",") if each] if found else []


def by_list(deb: Path, listings: Mapping[str, tuple[str, ...]]) -> dict[str, bytes | str]:
    """All modules of the listings in one folder, and each listing as a file of ``etc/``: names in the order of loading,
    for a system whose machine is known beforehand."""
    _, there = modules_in(deb)
    found: dict[str, bytes | str] = {}
    for listing, names in listings.items():
        order = in_order(there, names)
        found |= {f"lib/modules/{name}.ko": there[name] for name in order}
        found[f"etc/{listing}"] = "".join(f"{name}.ko\n" for name in order).encode()
    return found


def by_alias(deb: Path, groups: Mapping[str, tuple[str, ...]]) -> dict[str, bytes | str]:
    """All modules of the groups, and what `modprobe` goes by: a system loads those that its hardware asks for."""
    release, there = modules_in(deb)
    order = in_order(there, (name for names in groups.values() for name in names))
    folder = f"lib/modules/{release}"
    deps, aliases = [], []
    for name in order:
        # From the nearest to the farthest: modprobe loads them from the end (depmod(8), modules.dep(5)).
        needed = in_order(there, depends(there[name]))[::-1]
        deps.append(f"{name}.ko:{''.join(f' {each}.ko' for each in needed)}\n")
        aliases += [f"alias {alias.decode()} {name}\n" for alias in _INFO[b"alias"].findall(there[name])]
    found: dict[str, bytes | str] = {f"{folder}/{name}.ko": there[name] for name in order}
    found[f"{folder}/modules.dep"] = "".join(deps).encode()
    found[f"{folder}/modules.alias"] = "".join(aliases).encode()
    found[f"{folder}/modules.symbols"] = b""
    return found
