"""What is in the way of flashing a machine, whatever the method; each reason is a sentence for whoever owns it."""

from __future__ import annotations

from bench.lab.flash.system import System

# Key files and tokens by which an encrypted root opens without a person (crypttab(5)).
_UNATTENDED = ("tpm2-device=", "fido2-device=", "pkcs11-uri=", "keyscript=")


# With this word Linux's early loader of microcode does nothing.
NO_EARLY_LOADER = "dis_ucode_ldr"


def fallback_objection(command_line: str) -> str:
    """Why a known-good system with this command line is none to fall back to from an update; empty if it is."""
    if NO_EARLY_LOADER in command_line.split():
        return ""
    return (
        f"its known-good system was started without {NO_EARLY_LOADER}: it would load microcode of its own: "
        f"{command_line!r}"
    )


def refusals(system: System, *, updates: bool = False) -> list[str]:
    """Reasons against flashing at all; empty: none was found. `updates`: the image offers microcode."""
    found: list[str] = []
    if system.user != "0":
        found.append(f"the SSH user is not root (user id {system.user}): files in /boot are root's")
    if system.secure_boot:
        found.append("Secure Boot is on: firmware starts no image that is not signed; switch it off in its setup")
    if system.lockdown not in ("", "none"):
        found.append(f"the kernel is locked down ({system.lockdown}): boot without lockdown= or Secure Boot")
    if any(layer.startswith("CRYPT") for layer in system.boot_layers):
        found.append("/boot is encrypted: the boot loader would ask for its passphrase, and nobody is there")
    for name in _asking(system):
        found.append(f"the root file system lies on {name}, which asks for a passphrase: an unattended boot would hang")
    if updates and (objection := fallback_objection(system.command_line)):
        found.append(objection)
    missing = {"sha256sum", "sync"} - system.tools
    if missing:
        found.append(f"no {', '.join(sorted(missing))} on the machine")
    return found


def room_refusal(free_bytes: int, needed_bytes: int, where: str) -> list[str]:
    """Whether `needed_bytes` fit, with something left for the machine's own updates."""
    margin = 1 << 20
    if free_bytes >= needed_bytes + margin:
        return []
    return [f"{where}: {free_bytes} bytes are free, {needed_bytes + margin} are needed: `bench flash prune` makes room"]


def _asking(system: System) -> list[str]:
    names = [layer.split()[1] for layer in system.root_layers if layer.startswith("CRYPT ") and len(layer.split()) > 1]
    return [name for name in names if not _opens_itself(name, system.crypttab)]


def _opens_itself(name: str, crypttab: tuple[str, ...]) -> bool:
    for line in crypttab:
        words = line.split()
        if words[:1] == [name]:
            key, options = (*words[2:4], "", "")[:2]
            return key not in ("", "none", "-") or any(option in options for option in _UNATTENDED)
    return False
