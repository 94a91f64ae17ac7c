"""A kernel of a few instructions in the Linux boot protocol's form, for tests of the lab itself.

Its 16-bit code writes a text to the UART at 0x3f8 and then ends in one of the ways of `ENDS`.
"""

from __future__ import annotations

from pathlib import Path

# Real-mode code is entered at file offset 0x200 with CS = DS + 0x20 (Documentation/arch/x86/boot.rst).
_CODE = 0x268
_SPIN = b"\xeb\xfe"
ENDS = {
    "halt": b"\xfa\xf4" + _SPIN,  # cli; hlt
    "spin": b"\xfa" + _SPIN,
    "reset": b"\xb0\xfe\xe6\x64\xf4" + _SPIN,  # mov al, 0xfe; out 0x64, al: the keyboard controller's reset
    "triple fault": b"\x0f\x01\x1e\xf4\x01\xcc",  # lidt [0x1f4] (six zero bytes); int3
    "chatter": b"\xb0\x2e\xba\xf8\x03\xee\xeb\xf8",  # mov al, '.'; mov dx, 0x3f8; out dx, al; again
    "restart text": b"\xe9",  # completed below: the text once more, for ever
}


def write(path: Path, text: bytes, end: str = "halt") -> Path:
    """Write the kernel to `path`. `text` must not hold a zero byte."""
    # mov si, text; next: lodsb; or al, al; jz end; mov dx, 0x3f8; out dx, al; jmp next
    say = b"\xbe%s" + b"\xac\x08\xc0\x74\x06\xba\xf8\x03\xee\xeb\xf5"
    tail = ENDS[end]
    if end == "restart text":
        tail += (-(14 + 3) & 0xFFFF).to_bytes(2, "little")
    code = say.replace(b"%s", (_CODE + 14 + len(tail)).to_bytes(2, "little")) + tail
    image = bytearray(_CODE) + code + text + b"\0"
    sectors = -(-len(image) // 512) - 1
    image += bytes(512 * (sectors + 1) - len(image))
    image[0x1F1] = sectors
    image[0x1FE:0x200] = b"\x55\xaa"
    image[0x200:0x202] = b"\xeb" + bytes([_CODE - 0x202])
    image[0x202:0x206] = b"HdrS"
    image[0x206:0x208] = (0x20C).to_bytes(2, "little")
    image[0x211] = 1  # loaded high
    image[0x214:0x218] = (0x100000).to_bytes(4, "little")
    image[0x22C:0x230] = (0x7FFFFFFF).to_bytes(4, "little")  # highest address for the initrd
    image[0x238:0x23C] = (2047).to_bytes(4, "little")  # longest command line
    path.write_bytes(bytes(image) + bytes(512))
    return path
