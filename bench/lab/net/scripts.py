"""What each boot loader is told: fetch this kernel and this initrd once, start them, and else go on to the next medium.

A line of a machine's own would start something else: what cannot stand in a loader's line is refused.
"""

from __future__ import annotations

from bench.errors import UsageError

BAUD = 115200
GRUB_TRIES = 3
# A kernel's own limit (COMMAND_LINE_SIZE, arch/x86/include/asm/setup.h), with its terminating zero.
COMMAND_LINE_BYTES = 2048


def check_command_line(text: str, *, forbidden: str) -> None:
    """Raise UsageError for a command line that a loader would not pass on as it is."""
    wrong = sorted({one for one in text if one in forbidden or not " " <= one <= "~"})
    if wrong:
        raise UsageError(f"command line: {wrong[0]!r} cannot be passed on by this boot loader: {text!r}")
    if len(text) >= COMMAND_LINE_BYTES:
        raise UsageError(f"command line: {len(text)} bytes, a kernel takes {COMMAND_LINE_BYTES - 1}")


def ipxe_first(script_url: str) -> bytes:
    """What iPXE gets by TFTP: where its script is, which serves once."""
    return f"#!ipxe\nchain --autofree {script_url} || exit 1\n".encode()


def ipxe_on(server: str) -> bytes:
    """What an iPXE in a card's ROM gets by TFTP if another loader is wanted."""
    return (
        "#!ipxe\n"
        "iseq ${platform} efi && goto efi ||\n"
        f"chain --autofree tftp://{server}/boot.bios || exit 1\n"
        "exit 1\n"
        ":efi\n"
        f"chain --autofree tftp://{server}/boot.efi || exit 1\n"
    ).encode()


def ipxe(kernel_url: str, initrd_url: str, command_line: str) -> bytes:
    """iPXE's script. An EFI stub finds its initrd by name only, and a BIOS kernel needs no name."""
    check_command_line(command_line, forbidden="$")
    initrd = f"initrd --name initrd {initrd_url} || goto out\n" if initrd_url else ""
    named = " initrd=initrd" if initrd_url else ""
    return (
        "#!ipxe\n"
        "iseq ${platform} efi && goto efi ||\n"
        f"kernel --name kernel {kernel_url} {command_line} || goto out\n"
        "goto rest\n"
        ":efi\n"
        f"kernel --name kernel {kernel_url} {command_line}{named} || goto out\n"
        ":rest\n"
        f"{initrd}"
        "boot || goto out\n"
        ":out\n"
        "exit 1\n"
    ).encode()


def pxelinux(kernel_url: str, initrd_url: str, command_line: str) -> bytes:
    """PXELINUX's configuration (6.04; lpxelinux.0 fetches by HTTP)."""
    check_command_line(command_line, forbidden="")
    initrd = f"  INITRD {initrd_url}\n" if initrd_url else ""
    append = f"  APPEND {command_line}\n" if command_line else ""
    return (
        f"SERIAL 0 {BAUD}\nDEFAULT bench\nPROMPT 0\nTIMEOUT 0\nONERROR hd\n"
        f"LABEL bench\n  LINUX {kernel_url}\n{initrd}{append}"
        "LABEL hd\n  LOCALBOOT -1\n"
    ).encode()


def grub_first(server: str) -> bytes:
    """What is built into GRUB's image: its configuration is with us, whoever gave the address."""
    return f"configfile (tftp,{server})/grub.cfg\nexit\n".encode()


def grub(server: str, kernel_path: str, initrd_path: str, command_line: str) -> bytes:
    """GRUB's configuration (2.06). `server` is host and port, the paths are those of the URLs."""
    check_command_line(command_line, forbidden="'")
    words = " ".join(f"'{word}'" for word in command_line.split())
    initrd = f"initrd (http,{server}){initrd_path}" if initrd_path else "true"
    # Its patience with the network is short: on a busy one it gives up where a second try goes well.
    attempt = f"if linux (http,{server}){kernel_path} {words}; then if {initrd}; then boot; fi; fi\n"
    return (f"serial --unit=0 --speed={BAUD}\nterminal_output serial\n" + attempt * GRUB_TRIES + "exit\n").encode()
