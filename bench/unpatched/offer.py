"""What a boot offers a kernel without a trace, written down before it boots."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.linux import Offer, Unpatched
from bench.records import Machine

if TYPE_CHECKING:
    from bench.images.kernel_image import KernelImage

# Such a kernel says nothing by itself; where it finds no root file system, panic=-1 ends the boot.
CONSOLE = "console=ttyS0,115200 earlyprintk=serial,ttyS0,115200 panic=-1"


def describe_boot(
    kernel: KernelImage, machine: Machine, command_line: str, initrd: bytes, variant: str, *, entry: str = ""
) -> Unpatched:
    """`kernel` on the virtual `machine`; `entry` as `linux.Offer` has it, by the machine's firmware if it is empty.

    Raises FormatError if the image or its symbols cannot be read.
    """
    # What builds images is not needed where a capture is judged.
    from bench.images.linux_facts import read_linux_facts

    virtual = machine.virtual
    properties = virtual.properties if virtual else ()
    offer = Offer(
        memory_bytes=machine.memory_bytes,
        signature=machine.signature,
        maxphyaddr=machine.maxphyaddr,
        nx=machine.nx,
        hypervisor_bit=virtual is not None and "hypervisor=off" not in properties,
        entry=entry or (virtual.firmware if virtual else "bios"),
        command_line=command_line,
        initrd_bytes=len(initrd),
    )
    return Unpatched(read_linux_facts(kernel.folder, kernel.release), offer, variant)
