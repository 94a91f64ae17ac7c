"""The command line. Thin: reads options, calls one function, prints. Heavy modules are imported where used."""

from __future__ import annotations

import json as jsons
import os
import sys
from collections.abc import Iterator
from functools import partial
from heapq import merge
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.cli_console import console
from bench.cli_flash import app as flash
from bench.cli_health import health
from bench.cli_images import app as images
from bench.cli_inventory import check, discover, schema
from bench.cli_lock import app as lock
from bench.cli_matrix import replay_cases
from bench.cli_microcode import app as microcode
from bench.cli_netboot import app as netboot
from bench.cli_night import night
from bench.cli_power import power
from bench.cli_recover import recover
from bench.cli_report import report
from bench.cli_results import app as results_app
from bench.cli_run import run
from bench.cli_watch import watch
from bench.describe import printable
from bench.errors import BenchError, UsageError
from bench.records import Capture
from bench.terminal import complain, note, say

app = typer.Typer(
    name="bench",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="Hold x86 machines against a reference simulator of dynamic early page tables. "
    "Exit codes: 0 all agree, 1 a kernel differs, 2 wrong use, 3 the lab failed, 130 interrupted.",
)
inventory_app = typer.Typer(no_args_is_help=True, help="The machines that the bench knows.")
app.add_typer(inventory_app, name="inventory")
app.add_typer(images, name="images")
app.add_typer(flash, name="flash")
app.add_typer(microcode, name="microcode")
app.add_typer(lock, name="lock")
app.add_typer(netboot, name="netboot")
app.add_typer(results_app, name="results")

Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output, nothing else.")]
CaptureArgument = Annotated[
    Path, typer.Argument(help="A run folder, a boot folder, a packed capture or a raw serial log.", metavar="CAPTURE")
]


def main() -> None:
    """Run the command line; errors become one sentence and an exit code."""
    try:
        code = app(standalone_mode=False)
    except BenchError as error:
        complain(str(error))
        code = error.exit_code
    except KeyboardInterrupt:
        complain("interrupted")
        code = 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except Exception as error:
        code = _usage(error)
    sys.exit(code or 0)


def _usage(error: Exception) -> int:
    """What the command line parser has to say (2), or anything unforeseen, which is raised again."""
    show = getattr(error, "show", None)
    if show is None:
        if type(error).__name__ == "Abort":
            complain("interrupted")
            return 130
        raise error
    show()
    return int(getattr(error, "exit_code", 2))


@app.command()
def doctor(
    json: Json = False,
    install: Annotated[bool, typer.Option("--install", help="Install what is missing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before installing.")] = False,
    with_rack: Annotated[
        bool, typer.Option("--with-rack", help="Install the servers that nox -s rack tests against, too.")
    ] = False,
    with_boot: Annotated[
        bool, typer.Option("--with-boot", help="Install what disks of virtual machines and network boot need, too.")
    ] = False,
) -> int:
    """Say what is missing, why it matters and how to get it."""
    from bench.doctor import run_doctor

    # Standard output is for JSON, where that was asked for.
    confirm = partial(typer.confirm, err=json) if sys.stdin.isatty() else None
    groups = [name for name, asked in (("rack", with_rack), ("boot", with_boot)) if asked]
    return run_doctor(json=json, install=install, yes=yes, echo=say, show=note, confirm=confirm, groups=groups)


@inventory_app.command("list")
def inventory_list(json: Json = False) -> int:
    """List the machines with what matters for early page tables."""
    from bench.inventory import find_root, load_inventory

    machines = load_inventory(find_root())
    rows = [
        {
            "machine": m.name,
            "model": m.model,
            "signature": f"0x{m.signature:08x}",
            "memory_bytes": m.memory_bytes,
            "maxphyaddr": m.maxphyaddr,
            "nx": m.nx,
            "la57": m.la57,
            "platform_id": m.platform_id,
            "virtual": m.virtual is not None,
            "quirks": list(m.quirks),
            "tags": list(m.tags),
        }
        for m in machines.values()
    ]
    if json:
        say(jsons.dumps(rows, indent=2))
        return 0
    form = "{:20} {:9} {:10} {:>10} {:>10} {:3} {:5} {}"
    say(form.format("machine", "model", "signature", "memory", "MAXPHYADDR", "NX", "LA57", "kind"))
    for m in machines.values():
        memory = f"{m.memory_bytes / 2**30:g} GiB"
        yes = {True: "yes", False: "-"}
        kind = "virtual: not silicon" if m.virtual else "silicon"
        signature = f"0x{m.signature:08x}"
        say(form.format(m.name, m.model, signature, memory, m.maxphyaddr, yes[m.nx], yes[m.la57], kind))
    return 0


@app.command()
def replay(capture: CaptureArgument, json: Json = False) -> int:
    """Judge a capture again, without lab, store or images: the same verdict every time."""
    from bench.judge import judge
    from bench.parse.capture_file import read_captures
    from bench.report.rows import EXIT_CODES, judgement_rows, judgement_table

    if (code := replay_cases(capture, json=json)) is not None:
        return code
    captures = read_captures(capture)
    judgement = judge(captures)
    seconds = round(sum(c.events[-1].at_s for c in captures if c.events), 2)
    if json:
        say(jsons.dumps({"verdict": judgement.verdict, "runs": judgement_rows(judgement, seconds)}, indent=2))
    else:
        for line in judgement_table(judgement):
            say(line)
    return EXIT_CODES[judgement.verdict]


@app.command()
def explain(
    run: Annotated[str, typer.Argument(help="A run's number in the store, or a capture.", metavar="RUN|CAPTURE")],
    window: Annotated[list[int] | None, typer.Option(help="Only this window (may be repeated).")] = None,
    all_windows: Annotated[bool, typer.Option("--all", help="Every window that did not pass.")] = False,
) -> int:
    """Tell the story of the first divergence: what was touched, what the model says and why, what the machine did."""
    from bench.judge import judge
    from bench.parse.capture_file import read_captures
    from bench.report.explain import explain as story

    where = _capture_of(run)
    if replay_cases(where, json=False) is not None:
        return 0
    if run.isdigit() and where.is_dir() and not list(where.rglob("serial.bin")):
        for line in _kept_of(int(run)):
            say(line)
        return 0
    captures = read_captures(where)
    wanted, limit = frozenset(window or ()), 10**9 if all_windows else 3
    for line in story(judge(captures), windows=wanted, limit=limit, captures=captures, replay=str(where)):
        say(line)
    return 0


def _capture_of(run: str) -> Path:
    """The capture of a run in the store, or the path itself."""
    if not run.isdigit() or Path(run).exists():
        return Path(run)
    from bench.inventory import find_root
    from bench.store import Store, capture_folder, place_of

    results = find_root() / "results"
    with Store(place_of(results)) as store:
        return capture_folder(results, store.run(int(run)).record.capture)


def _kept_of(run: int) -> Iterator[str]:
    """What the store has of a run in which the lab failed before any machine could say something."""
    from bench.inventory import find_root
    from bench.store import Store, place_of

    with Store(place_of(find_root() / "results")) as store:
        record = store.run(run).record
    yield f"{record.machine} {record.model} {record.image}: nothing was captured"
    for row in record.scenarios:
        yield f"{row.verdict:5}  {row.scenario}: {printable(row.reason)}".removesuffix(": ")
        for finding in row.findings:
            seen = "".join(f"; {name}: {value}" for name, value in finding.witness.items())
            yield f"         {finding.component}: {printable(finding.summary + seen)}"


@app.command()
def parse(
    capture: CaptureArgument,
    json: Json = False,
    damage: Annotated[bool, typer.Option("--damage", help="Only what is damaged, repeated or misplaced.")] = False,
) -> int:
    """Show trace records, and what a kernel itself said of early exceptions and microcode, with byte ranges.

    A log without trace records, from whatever kernel and program, gives the kernel's own lines alone.
    """
    from bench.parse.capture_file import read_captures

    for boot, record in enumerate(read_captures(capture), start=1):
        for row, words in _parsed_rows(boot, record, only_damage=damage):
            say(jsons.dumps(row) if json else words)
    return 0


def _parsed_rows(boot: int, capture: Capture, *, only_damage: bool) -> Iterator[tuple[dict[str, Any], str]]:
    """Rows and their words: trace rows in order, each of the kernel's own behind the stretch in which it begins."""
    from bench.parse.kernel import as_json, in_words, read_kernel_log
    from bench.parse.kernel_panic import EarlyException
    from bench.parse.lines import has_record

    said = iter(read_kernel_log(capture.data))
    if only_damage:
        said = (each for each in said if isinstance(each, EarlyException) and (each.truncated or not each.intact))
    rows: list[dict[str, Any]] = []
    if capture.machine or has_record(capture.data):
        rows = list(_parsed(boot, capture.data, capture.nonce))
    if only_damage:
        rows = [row for row in rows if row["mark"] not in ("record", "foreign")]
    elif not capture.machine and all(row["mark"] in ("foreign", "damaged") for row in rows):
        rows = []
    kernels = ((each.span[0], 1, as_json(each), f"{each.span[0]:8d}  kernel     {in_words(each)}") for each in said)
    traces = ((row["span"][0], 0, row, _parsed_line(row)) for row in rows)
    for _, _, row, words in merge(traces, kernels, key=lambda each: each[:2]):
        yield row, words


def _parsed(boot: int, data: bytes, nonce: int | None) -> Iterator[dict[str, Any]]:
    from bench.parse.trace import parse_trace

    for s in parse_trace(data, nonce=nonce).stretches:
        row: dict[str, Any] = {"kind": "trace", "boot": boot, "mark": s.mark, "span": list(s.span)}
        if s.line:
            fields = {k: f"{v:x}" if isinstance(v, int) else v for k, v in s.line.fields.items()}
            row |= {"seq": s.line.seq, "record": s.line.kind, "fields": fields}
        else:
            row["text"] = data[s.span[0] : s.span[1]].decode("ascii", "backslashreplace")
        if s.why:
            row["why"] = s.why
        yield row


def _parsed_line(row: dict[str, Any]) -> str:
    where = f"{row['span'][0]:8d}  {row['mark']:9}"
    if "record" in row:
        fields = " ".join(f"{k}={printable(v)}" for k, v in row["fields"].items())
        text = f"#{row['seq']:<5x} {row['record']:7} {fields}"
    else:
        text = printable(row["text"])
    return f"{where}  {text}" + (f"  <- {row['why']}" if "why" in row else "")


@app.command()
def sim(
    addresses: Annotated[Path, typer.Argument(help="One virtual address in hex per line; - for standard input.")],
    variant: Annotated[str, typer.Option(help="Handler variant, such as seed-2012, v3.9, la57.")],
    pool: Annotated[int, typer.Option(min=1, max=64, help="Page tables in the pool.")] = 64,
    page_offset: Annotated[str | None, typer.Option(help="PAGE_OFFSET in hex, if not the variant's own.")] = None,
    json: Json = False,
) -> int:
    """Run a list of faulting addresses through the reference handler, one call each."""
    from bench.sim.handler_list import fault_list, parse_address_list

    try:
        offset = None if page_offset is None else int(page_offset, 16)
    except ValueError:
        raise UsageError(f"--page-offset {page_offset!r} is not a hexadecimal number") from None
    if str(addresses) == "-":
        lines, source = sys.stdin.read().splitlines(), "standard input"
    else:
        try:
            lines, source = addresses.read_text(errors="backslashreplace").splitlines(), str(addresses)
        except OSError as error:
            raise UsageError(f"{addresses}: {error.strerror}") from error
    wanted = list(parse_address_list(lines, source))
    for row in fault_list(variant, pool, wanted, offset):
        say(jsons.dumps(row) if json else " ".join(f"{k}={v}" for k, v in row.items()))
    return 0


@results_app.command("list")
def results_list(
    limit: Annotated[int, typer.Option(help="The newest so many.")] = 20,
    json: Json = False,
) -> int:
    """List stored runs, the newest last."""
    from bench.inventory import find_root
    from bench.store import Store, place_of

    with Store(place_of(find_root() / "results")) as store:
        rows = store.runs(limit=limit)
    for row in reversed(rows):
        r = row.record
        if json:
            fields = {"machine": r.machine, "model": r.model, "image": r.image, "capture": r.capture}
            say(jsons.dumps({"id": row.id, "started": r.started.isoformat(), "verdict": r.verdict} | fields))
        else:
            started = f"{r.started:%Y-%m-%d %H:%M:%S}"
            say(f"{row.id:5d}  {started}  {r.verdict:5}  {r.machine:20} {r.model:9} {r.image:28} {r.capture}")
    if not rows and not json:
        say("No run is stored yet; `bench run --machine NAME` makes one.")
    return 0


@results_app.command("pack")
def results_pack(
    run: Annotated[str, typer.Argument(help="A run's number in the store, or a boot folder.", metavar="RUN|CAPTURE")],
    file: Annotated[Path, typer.Argument(help="The file to write; it must not exist.")],
) -> int:
    """Pack a capture into one file, with all that a replay needs."""
    from bench.parse.capture_file import pack, read_captures

    captures = read_captures(_capture_of(run))
    if len(captures) != 1:
        raise UsageError(f"{run}: has {len(captures)} boots; name the folder of one of them (boot-1, …)")
    try:
        with file.open("xb") as out:
            out.write(pack(captures[0]))
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}") from error
    say(f"{file}: {file.stat().st_size} bytes; bench replay {file}")
    return 0


inventory_app.command()(check)
inventory_app.command()(schema)
inventory_app.command()(discover)
app.command()(run)
app.command()(power)
app.command()(report)
app.command()(night)
app.command()(watch)
app.command()(console)
app.command()(health)
app.command()(recover)
