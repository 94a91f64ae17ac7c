"""What a kernel image fixes before it boots, from its folder in the cache: bzImage and System.map."""

from __future__ import annotations

from pathlib import Path

from bench.errors import FormatError
from bench.images.bzimage import boot_params_offset, read_boot_header
from bench.linux import OPTIONAL_SYMBOLS, SYMBOLS, LinuxFacts


def read_linux_facts(folder: Path, release: str) -> LinuxFacts:
    """The facts of the kernel in `folder`.

    Raises FormatError if the image or its symbols cannot be read, or lack a symbol that the model needs.
    """
    image, system_map = folder / "bzImage", folder / "System.map"
    data = image.read_bytes()
    header = read_boot_header(data, str(image))
    wanted = frozenset(SYMBOLS + OPTIONAL_SYMBOLS)
    symbols: dict[str, int] = {}
    for number, line in enumerate(system_map.read_text(encoding="latin-1").splitlines(), start=1):
        words = line.split()
        if len(words) != 3:
            raise FormatError(f"line {number} is not address, letter and name", source=str(system_map))
        if words[2] in wanted:
            symbols[words[2]] = int(words[0], 16)
    if missing := [name for name in SYMBOLS if name not in symbols]:
        raise FormatError(
            f"has no {', '.join(missing)}: not a kernel with dynamic early page tables", source=str(system_map)
        )
    return LinuxFacts(
        release=release,
        symbols=symbols,
        boot_params_offset=boot_params_offset(data, header),
        pref_address=header.pref_address,
        initrd_limit=header.initrd_limit,
    )
