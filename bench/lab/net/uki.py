"""One boot as a program that UEFI starts by itself."""

from __future__ import annotations

from bench.errors import LabError
from bench.lab.load import Load
from bench.lab.net.scripts import check_command_line
from bench.uki import STUB, STUB_PACKAGE, build_uki

COMPONENT = "unified kernel image"


def build(load: Load) -> bytes:
    """The image of a load. Raises LabError if the stub is not installed, UsageError for the command line, FormatError
    for a kernel that UEFI could not start."""
    check_command_line(load.command_line, forbidden="")
    if not STUB.is_file():
        raise LabError(f"package {STUB_PACKAGE} is not installed", component=COMPONENT, witness=str(STUB))
    return build_uki(load.kernel.read_bytes(), load.initrd, load.command_line)
