"""`bench night`: the nightly regression run, from a file."""

from __future__ import annotations

import json as jsons
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.errors import FormatError, UsageError
from bench.terminal import note, say

if TYPE_CHECKING:
    from bench.report.regressions import Change

# What a table may say beside the options of `bench run`.
_ABOUT = "about"
_INTERRUPTED = 130


def night(
    file: Annotated[Path, typer.Argument(help="A file with a [[run]] for each bench run: inventory/nightly/.")],
    results: Annotated[
        Path | None, typer.Option(help="Where captures, store and report go (default: results/).")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on standard output, nothing else.")] = False,
) -> int:
    """Run what FILE names, then say what is new against the baselines, and write the report.

    Exit codes: 1 a regression or a new failure; 3 none of those, but the lab failed somewhere; 0 neither. What already
    failed when it was blessed does not spoil a night.
    """
    from bench.cli_report import build_report
    from bench.cli_results import changes_lines, changes_of, results_folder, stored_runs

    calls = read_calls(file)
    root = _lab_of(file, calls)
    codes = []
    for number, (about, arguments) in enumerate(calls, start=1):
        note(f"night: {number} of {len(calls)}{f', {about}' if about else ''}: bench run {' '.join(arguments)}")
        codes.append(_run(arguments, results, json))
        if codes[-1] == _INTERRUPTED:
            return _INTERRUPTED
    folder = results_folder(results or (root / "results" if root else None))
    changes = changes_of(folder, stored_runs(folder))
    built = build_report(folder, root=root)
    code = verdict_of_the_night(codes, changes)
    if json:
        news = [{**c.test._asdict(), "word": c.word} for c in changes if c.word]
        say(jsons.dumps({"exit_code": code, "runs": codes, "news": news, "report": str(built.index)}, indent=2))
        return code
    for line in changes_lines(changes):
        say(line)
    say(f"open {built.index.resolve()}")
    return code


def _lab_of(file: Path, calls: list[tuple[str, list[str]]]) -> Path | None:
    """The lab whose machines run, if another than this clone's: what is new is looked up where its runs are stored."""
    from bench.inventory import find_root

    labs = {
        find_root(Path(arguments[arguments.index("--lab") + 1])) if "--lab" in arguments else None
        for _, arguments in calls
    }
    if len(labs) > 1:
        raise FormatError("runs of several labs: one file for each of them", source=str(file))
    return labs.pop()


def verdict_of_the_night(codes: list[int], changes: list[Change]) -> int:
    """What counts is what is new; without any baseline, what the runs themselves said."""
    from bench.report.regressions import BAD

    if any(change.word in BAD for change in changes):
        return 1
    if 2 in codes:
        return 2
    blessed = any(change.known for change in changes)
    if 1 in codes and not blessed:
        return 1
    return 3 if 3 in codes else 0


def read_calls(file: Path) -> list[tuple[str, list[str]]]:
    """(about, arguments of `bench run`) of each table. Raises UsageError or FormatError that names file and key."""
    try:
        table = tomllib.loads(file.read_text())
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}") from error
    except ValueError as error:
        raise FormatError(f"not TOML: {error}", source=str(file)) from error
    rows = table.get("run")
    if not isinstance(rows, list) or not rows or set(table) != {"run"}:
        raise FormatError("a night is one [[run]] or more, and nothing else", source=str(file))
    return [(str(row.pop(_ABOUT, "")), _arguments(file, n, row)) for n, row in enumerate(rows, start=1)]


def _arguments(file: Path, number: int, row: dict[str, Any]) -> list[str]:
    arguments = []
    for key, value in row.items():
        option = f"--{key.replace('_', '-')}"
        for one in value if isinstance(value, list) else [value]:
            if one is True:
                arguments.append(option)
            elif isinstance(one, str | int) and one is not False:
                arguments += [option, str(one)]
            else:
                allowed = "text, a number, true, or a list of texts and numbers"
                raise FormatError(f"run {number}: {key} is {one!r}; allowed: {allowed}", source=str(file))
    return arguments


def _run(arguments: list[str], results: Path | None, quiet: bool) -> int:
    """`bench run` with these arguments, in this process; its exit code."""
    import contextlib
    import io

    from bench.cli import app

    if results:
        arguments = [*arguments, "--results", str(results)]
    with contextlib.redirect_stdout(io.StringIO()) if quiet else contextlib.nullcontext():
        return int(app(["run", *arguments], standalone_mode=False) or 0)
