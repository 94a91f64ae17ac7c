"""A unified kernel image: kernel, initrd and command line in one program that UEFI starts by itself.

Debian's systemd stub takes them as sections ``.linux``, ``.initrd`` and ``.cmdline`` (systemd-stub(7)).
"""

from __future__ import annotations

import shutil
import struct
import subprocess
import tempfile
from pathlib import Path

from bench.errors import LabError
from bench.lab.load import Load
from bench.lab.net.scripts import check_command_line
from bench.lab.text import escape

STUB = Path("/usr/lib/systemd/boot/efi/linuxx64.efi.stub")
OBJCOPY_S = 60.0
COMPONENT = "unified kernel image"
_ALIGN = 0x1000
# PE: offset of the header's offset, of the count of sections and the size of the optional header in it (Microsoft's
# "PE Format"); a row of the section table has 40 bytes, with virtual size and address at 8.
_PE_OFFSET, _COFF_BYTES, _ROW_BYTES = 0x3C, 24, 40


def build(load: Load) -> bytes:
    """The image of a load. Raises LabError if stub or objcopy are not installed, UsageError for the command line."""
    check_command_line(load.command_line, forbidden="")
    program = shutil.which("objcopy")
    if not STUB.is_file() or program is None:
        package = "systemd-boot-efi" if program else "binutils"
        raise LabError(f"package {package} is not installed", component=COMPONENT, witness=f"{STUB}, objcopy")
    at = _end(STUB.read_bytes())
    with tempfile.TemporaryDirectory() as scratch:
        words = [program]
        contents = {".cmdline": load.command_line.encode(), ".initrd": load.initrd, ".linux": load.kernel.read_bytes()}
        for name, content in contents.items():
            if not content:
                continue
            path = Path(scratch) / name
            path.write_bytes(content)
            words += [f"--add-section={name}={path}", f"--change-section-vma={name}={at:#x}"]
            at = -(-(at + len(content)) // _ALIGN) * _ALIGN
        image = Path(scratch) / "image"
        done = subprocess.run([*words, str(STUB), str(image)], capture_output=True, timeout=OBJCOPY_S)
        if done.returncode:
            said = escape(done.stderr[-300:].strip())
            raise LabError(f"objcopy fails: {said}", component=COMPONENT, witness=said)
        return image.read_bytes()


def _end(stub: bytes) -> int:
    """The first free address behind the stub's sections, relative to where it is loaded, plus where it is linked."""
    (pe,) = struct.unpack_from("<I", stub, _PE_OFFSET)
    (count,) = struct.unpack_from("<H", stub, pe + 6)
    (optional,) = struct.unpack_from("<H", stub, pe + 20)
    (base,) = struct.unpack_from("<Q", stub, pe + _COFF_BYTES + 24)
    rows = (pe + _COFF_BYTES + optional + n * _ROW_BYTES for n in range(count))
    ends = [sum(struct.unpack_from("<II", stub, row + 8)) for row in rows]
    return int(base) - (-int(max(ends)) // _ALIGN) * _ALIGN
