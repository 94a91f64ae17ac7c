"""`bench microcode`: Intel's update files, listed, checked, matched and packed."""

from __future__ import annotations

import json as jsons
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.cli_matrix import matrix
from bench.errors import FormatError, UsageError
from bench.terminal import complain, say

if TYPE_CHECKING:
    from bench.sim.ucode_verify import Verified
    from bench.x86.microcode import Update
    from bench.x86.microcode_set import Stored

app = typer.Typer(no_args_is_help=True, help="Intel's microcode updates: files, images, and which one suits.")
app.command("matrix")(matrix)

Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output, nothing else.")]
Paths = Annotated[
    list[Path], typer.Argument(help="Files of updates, folders of them, early cpio images.", metavar="PATH...")
]
Processor = Annotated[str, typer.Option(help="CPUID leaf 1 EAX (0x000906ea), or 06-9e-0a.")]


@app.command("fetch")
def fetch(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask: the licence is accepted.")] = False,
    package: Annotated[Path | None, typer.Option(help="Debian's package as a file, in place of the mirror's.")] = None,
    mirror: Annotated[str | None, typer.Option(help="Address of a mirror of Debian, if this is not one.")] = None,
) -> int:
    """Fetch Intel's files from Debian's non-free-firmware into a cache folder, after showing their licence."""
    from bench.doctor.install import fetch_microcode

    confirm = typer.confirm if sys.stdin.isatty() else None
    return fetch_microcode(yes=yes, echo=say, confirm=confirm, file=package, mirror=mirror)


def _hex(value: int) -> str:
    return f"0x{value:08x}"


def update_row(stored: Stored) -> dict[str, Any]:
    """An update as `ls --json` prints it."""
    update = stored.update
    return {
        "file": stored.file,
        "index": stored.index,
        "signature": _hex(update.signature),
        "platform_flags": _hex(update.platform_flags),
        "revision": _hex(update.revision),
        "date": update.iso_date,
        "data_size": update.data_size,
        "total_size": update.total_size,
        "extended_signatures": [
            {
                "signature": _hex(row.signature),
                "platform_flags": _hex(row.platform_flags),
                "checksum": _hex(row.checksum),
            }
            for row in update.extended
        ],
    }


def _line(stored: Stored) -> str:
    from bench.x86.signature import processor

    update = stored.update
    more = f"  also {', '.join(str(processor(e.signature)) for e in update.extended)}" if update.extended else ""
    return (
        f"{_hex(update.signature)}  {processor(update.signature)}  flags {update.platform_flags:#04x}  "
        f"revision {_hex(update.revision)}  {update.iso_date}  {update.total_size:8d} bytes  "
        f"{stored.file} {stored.index}{more}"
    )


def _updates(paths: list[Path]) -> Iterator[Stored | FormatError]:
    """The updates of all files; of a malformed file those before its first error, then the error."""
    from bench.x86.microcode_set import files_of, stored_updates

    for path in files_of(paths):
        try:
            yield from stored_updates(path)
        except FormatError as error:
            yield error


def _sound(paths: list[Path]) -> list[Stored]:
    """The updates of files that are all well-formed. Raises FormatError for the first that is not."""
    found: list[Stored] = []
    for each in _updates(paths):
        if isinstance(each, FormatError):
            raise each
        found.append(each)
    return found


@app.command("ls")
def list_updates(paths: Paths, json: Json = False) -> int:
    """List the updates in files, folders and early cpio images, in the order in which they lie there.

    --json prints one object an update, a line each: file, index (from 1, within its file), signature, platform_flags,
    revision, date (ISO), data_size, total_size (bytes), extended_signatures. Signatures, flags, revisions and
    checksums are strings of the form 0x%08x; extended_signatures is a list of {signature, platform_flags, checksum},
    empty where there is no table. A malformed file is complained of on standard error, the rest is listed, and the
    exit code is 2.
    """
    status = 0
    for each in _updates(paths):
        if isinstance(each, FormatError):
            complain(str(each))
            status = each.exit_code
        else:
            say(jsons.dumps(update_row(each)) if json else _line(each))
    return status


@app.command("show")
def show(paths: Paths, json: Json = False) -> int:
    """Show every field of each update."""
    for stored in _sound(paths):
        if json:
            update = stored.update
            more = {"offset": update.offset, "checksum": _hex(update.checksum), "metadata_size": update.metadata_size}
            say(jsons.dumps(update_row(stored) | more | {"minimum_revision": _hex(update.minimum_revision)}))
        else:
            say("\n".join(_story(stored)))
    return 0


def _story(stored: Stored) -> Iterator[str]:
    from bench.x86.signature import processor

    update = stored.update
    yield f"{stored.file} {stored.index}, at {update.offset:#x}"
    yield f"  for       {processor(update.signature)} ({_hex(update.signature)}), {_platforms(update.platform_flags)}"
    for row in update.extended:
        yield f"  also for  {processor(row.signature)} ({_hex(row.signature)}), {_platforms(row.platform_flags)}"
    yield f"  revision  {_hex(update.revision)} of {update.iso_date}{_remark(update)}"
    table = update.total_size - 48 - update.data_size
    yield f"  sizes     {update.total_size} bytes: header 48, data {update.data_size}, extended signatures {table}"
    if update.minimum_revision:
        yield f"  late      only from revision {_hex(update.minimum_revision)} on (Linux 6.7+, if asked to check)"


def _platforms(flags: int) -> str:
    from bench.x86.signature import platform_ids

    ids = ", ".join(map(str, platform_ids(flags)))
    return f"platform flags {flags:#04x} (platform id {ids})" if flags else "any platform (flags 0)"


def _remark(update: Update) -> str:
    return "; bit 31 is set: a revision for tests, not for users" if update.revision >> 31 else ""


@app.command("match")
def match(
    paths: Paths,
    signature: Processor,
    platform_id: Annotated[int | None, typer.Option(min=0, max=7, help="Platform id (MSR 0x17, bits 52:50).")] = None,
    flags: Annotated[str | None, typer.Option(help="Platform flags in hex, instead of the id; 0: any.")] = None,
    revision: Annotated[str | None, typer.Option(help="Running revision in hex: only what is newer suits.")] = None,
    json: Json = False,
) -> int:
    """Say which update suits a processor: of those that are for it, the one with the highest revision (unsigned).

    Of equals the first in order of the files. With --json: an object as of `ls`, or null. What each kernel's loader
    chooses out of a file can differ: some take the first, and one bad update spoils a file.
    """
    from bench.x86.microcode_set import best_match
    from bench.x86.signature import platform_flag

    if (platform_id is None) == (flags is None):
        raise UsageError("give either --platform-id or --flags")
    mask = platform_flag(platform_id) if platform_id is not None else hexadecimal(flags or "", "--flags")
    above = None if revision is None else hexadecimal(revision, "--revision")
    found = best_match(_sound(paths), _signature(signature), mask, above=above)
    if json:
        say(jsons.dumps(update_row(found) if found else None))
    else:
        say(_line(found) if found else "None suits.")
    return 0


def hexadecimal(text: str, option: str) -> int:
    """An option's value of up to 32 bits. Raises UsageError."""
    try:
        value = int(text, 16)
    except ValueError:
        raise UsageError(f"{option} {text!r} is not a hexadecimal number") from None
    if not 0 <= value < 1 << 32:
        raise UsageError(f"{option} {text!r} has more than 32 bits")
    return value


def _signature(text: str) -> int:
    from bench.x86.signature import parse_model, processor

    if "-" in text:
        return parse_model(text)
    value = hexadecimal(text, "--signature")
    processor(value)
    return value


@app.command("verify")
def verify(paths: Paths, json: Json = False) -> int:
    """Hold files against every rule of the format, and say what Linux would do with each.

    Linux checks fewer rules (not dates, sizes or reserved words), and discards a whole file for one update that it
    finds bad. Of an early image it reads the first file whose name begins as it should; others are named as not read.
    Processors refuse updates whose data is not 16-byte aligned in the image: Linux does not look. The exit code is 2
    if any rule is broken.
    """
    from bench.sim.ucode_verify import verify as verify_file
    from bench.x86.microcode_set import content_of, files_of

    status = 0
    for path in files_of(paths):
        with content_of(path) as content:
            found = verify_file(content, str(path))
        status = 2 if found.errors else status
        _say_verified(path, found, json)
    return status


def _say_verified(path: Path, found: Verified, json: bool) -> None:
    if json:
        rows = [{"source": e.source, "offset": e.offset, "error": str(e.args[0])} for e in found.errors]
        row = {"file": str(path), "sound": not found.errors, "linux_reads_it": found.linux_reads_it, "errors": rows}
        say(jsons.dumps(row | {"notes": found.notes}))
        return
    linux = "Linux reads it" if found.linux_reads_it else "Linux discards all of it"
    say(f"{'BROKEN' if found.errors else 'sound':7} {path}: {linux}")
    for line in (*found.errors, *found.notes):
        say(f"{'':7} {line}")


@app.command("build")
def build(
    paths: Paths,
    output: Annotated[Path, typer.Option("--output", "-o", help="The early cpio image to write; must not exist.")],
    signature: Annotated[
        list[str] | None, typer.Option(help="Only updates for this processor (may be repeated).")
    ] = None,
    json: Json = False,
) -> int:
    """Write an early cpio image: updates as Linux looks for them, their data 16-byte aligned, each once.

    Put it in front of an initrd: cat IMAGE INITRD > BOTH. Updates keep their order.
    """
    from bench.x86.microcode_set import early_image
    from bench.x86.signature import processor

    wanted = [_signature(text) for text in signature or []]
    updates = [s for s in _sound(paths) if not wanted or any(own in wanted for own, _ in s.update.identities)]
    if not updates:
        raise UsageError(f"no update is for {', '.join(str(processor(each)) for each in wanted)}")
    image = early_image(updates)
    try:
        with output.open("xb") as out:
            out.write(image)
    except OSError as error:
        raise UsageError(f"{output}: {error.strerror}") from error
    if json:
        say(jsons.dumps({"image": str(output), "bytes": len(image), "updates": [update_row(s) for s in updates]}))
    else:
        say(f"{output}: {len(image)} bytes, {len(updates)} updates")
    return 0
