"""A kernel of a few instructions in the Linux boot protocol's form, for tests of the lab itself.

Its 16-bit code does one of `BEFORE`, writes a text to the UART at 0x3f8, and then one of `ENDS`.
"""

from __future__ import annotations

from pathlib import Path

# Real-mode code is entered at file offset 0x200, with DS at the file's begin (Documentation/arch/x86/boot.rst).
_CODE = 0x268
_SPIN = b"\xeb\xfe"  # jmp $
ENDS = {
    "halt": b"\xfa\xf4" + _SPIN,  # cli; hlt
    "spin": b"\xfa" + _SPIN,
    "reset": b"\xb0\xfe\xe6\x64\xf4" + _SPIN,  # mov al, 0xfe; out 0x64, al: the keyboard controller's reset
    "triple fault": b"\x0f\x01\x1e\x00\x00\xcc",  # lidt [0] (six zero bytes: no vectors at all); int3
    # again: mov dx, 0x3fd; in al, dx; test al, 0x20; jz again; mov al, '.'; mov dl, 0xf8; out dx, al; jmp again
    "chatter": b"\xba\xfd\x03\xec\xa8\x20\x74\xf8\xb0\x2e\xb2\xf8\xee\xeb\xf1",
}
# Leaf, and the register that counts (as the ModRM byte of mov eax, REG).
_CPUID = ((1, 0xC0), (0x80000001, 0xD0), (0x80000008, 0xC0), (7, 0xC8))
_CPUID_BYTES = 4 * len(_CPUID)


def _say_cpuid() -> bytes:
    """The registers of `_CPUID` to the UART, four bytes each, little-endian."""
    code = b""
    for leaf, register in _CPUID:
        # mov eax, leaf; xor ecx, ecx; cpuid; mov eax, register; mov dx, 0x3f8; mov cl, 4
        code += b"\x66\xb8" + leaf.to_bytes(4, "little") + b"\x66\x31\xc9\x0f\xa2"
        code += b"\x66\x89" + bytes([register]) + b"\xba\xf8\x03\xb1\x04"
        # again: out dx, al; shr eax, 8; dec cl; jnz again
        code += b"\xee\x66\xc1\xe8\x08\xfe\xc9\x75\xf7"
    return code


def cpuid(data: bytes) -> tuple[int, ...]:
    """CPUID 1.EAX, 0x80000001.EDX, 0x80000008.EAX and 7.ECX as a kernel that ends in ``cpuid`` said them."""
    return tuple(int.from_bytes(data[at : at + 4], "little") for at in range(0, _CPUID_BYTES, 4))


def write(path: Path, text: bytes, end: str = "halt") -> Path:
    """Write the kernel to `path`. `text` must not hold a zero byte; `end` is of `ENDS`, or ``cpuid``."""
    before = _say_cpuid() if end == "cpuid" else b""
    tail = ENDS["halt" if end == "cpuid" else end]
    # mov si, text; next: lodsb; or al, al; jz tail; mov ah, al
    say = b"\xbe%s\xac\x08\xc0\x74\x11\x88\xc4"
    # busy: mov dx, 0x3fd; in al, dx; test al, 0x20; jz busy; mov dl, 0xf8; mov al, ah; out dx, al; jmp next
    say += b"\xba\xfd\x03\xec\xa8\x20\x74\xf8\xb2\xf8\x88\xe0\xee\xeb\xea"
    text_at = _CODE + len(before) + len(say) + len(tail)
    code = before + say.replace(b"%s", text_at.to_bytes(2, "little")) + tail
    image = bytearray(_CODE) + code + text + b"\0"
    sectors = max(4, -(-len(image) // 512) - 1)
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
