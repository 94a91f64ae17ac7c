"""The sessions of `nox`. They reuse the environment that `./setup` made: none of their own is built.

`.venv/bin/nox` alone runs lint, types and tests; `.venv/bin/nox -s hil` is the bench's main job.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

import nox

nox.needs_version = ">=2024.4"
nox.options.sessions = ["lint", "types", "tests"]
nox.options.default_venv_backend = "none"
nox.options.error_on_missing_interpreters = False

# What `bench` says with its exit code; nox itself makes 1 of any of them.
EXIT_CODES = {
    0: "all agree",
    1: "FAIL: a kernel differs from the reference",
    2: "wrong use or bad configuration",
    3: "MISS or ERROR: the lab failed, or the test's own part",
    130: "interrupted",
}
# An interrupted bench powers its machines off and closes its captures before it goes.
CLEAN_UP_S = 60


def need(session: nox.Session, *distributions: str) -> None:
    """End the session with a clear sentence if nox runs from an environment without `distributions`."""
    # Only what is installed counts: the project's own folder, on nox's path, always seems to have a bench.
    installed = list({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    for name in ("bench", *distributions):
        if not any(importlib.metadata.distributions(name=name, path=installed)):
            session.error(f"no {name} in {sys.prefix}: run ./setup once, then .venv/bin/nox -s {session.name}")


def python(session: nox.Session, *arguments: str) -> None:
    """Run `python -m ARGUMENTS` in the environment that nox runs from."""
    session.run(sys.executable, "-m", *arguments, external=True)


@nox.session
def lint(session: nox.Session) -> None:
    """Format and lint rules."""
    need(session, "ruff")
    python(session, "ruff", "format", "--check", ".")
    python(session, "ruff", "check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """mypy --strict."""
    need(session, "mypy")
    python(session, "mypy", "--strict", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Unit tests: no QEMU, no root, no network."""
    need(session, "pytest", "pytest-timeout", "pytest-xdist", "hypothesis")
    python(session, "pytest", "-n", "auto", *session.posargs)


@nox.session
def payloads(session: nox.Session) -> None:
    """Build the payload with gcc and clang, check the files, boot clang's (clang: `bench doctor --install`)."""
    need(session, "pytest", "pytest-timeout", "hypothesis")
    files = ["tests/test_payload_build.py", "tests/test_payload_pe.py", "tests/lab/test_payload_boot.py"]
    files += ["tests/lab/test_payload_uefi.py"]
    python(session, "pytest", "-m", "(payloads or not lab) and not boot", *files, *session.posargs)


@nox.session
def kernels(session: nox.Session) -> None:
    """Build Linux and build it again: the same bytes (network the first time; 5 to 15 minutes, then one)."""
    need(session, "pytest", "pytest-timeout", "hypothesis")
    python(session, "pytest", "-m", "kernels and not boot and not faults", *session.posargs)


@nox.session
def lab(session: nox.Session) -> None:
    """Tests that boot virtual machines."""
    need(session, "pytest", "pytest-timeout", "hypothesis")
    marks = (
        "lab and not boot and not faults and not payloads and not rack and not microcode and not kernels and not plugin"
    )
    python(session, "pytest", "-m", marks, *session.posargs)


@nox.session
def microcode(session: nox.Session) -> None:
    """Tests with Intel's files and iucode_tool, some of which boot virtual processors (./setup --with-microcode)."""
    need(session, "pytest", "pytest-timeout", "hypothesis")
    python(session, "pytest", "-m", "microcode and not boot and not faults", *session.posargs)


@nox.session
def rack(session: nox.Session) -> None:
    """Tests of the rack's protocols on real servers on loopback (./setup --with-rack)."""
    need(session, "pytest", "pytest-timeout", "pyghmi", "sushy", "sushy-tools", "bcrypt")
    python(session, "pytest", "-m", "rack", "tests/rack", "tests/net", *session.posargs)


@nox.session
def boot(session: nox.Session) -> None:
    """Machines with a disk and a network: SSH flashing, network boot, recovery (--with-boot, --with-rack)."""
    need(session, "pytest", "pytest-timeout", "pytest-xdist", "pyghmi", "sushy", "sushy-tools", "bcrypt")
    python(session, "pytest", "-n", "2", "--dist", "loadfile", "-m", "boot and not faults", *session.posargs)


@nox.session
def faults(session: nox.Session) -> None:
    """What can go wrong with each way of loading, at each step: the machine's own system comes up (an hour)."""
    need(session, "pytest", "pytest-timeout", "pytest-xdist", "pyghmi", "sushy", "sushy-tools", "bcrypt")
    python(session, "pytest", "-n", "2", "--dist", "loadfile", "-m", "faults", *session.posargs)


@nox.session(name="bench")
def benchmark(session: nox.Session) -> None:
    """Times beside a bare recipe's, in the same session: what the bench adds to loading a machine (--with-boot)."""
    need(session)
    # The one that fails if the bench is too slow comes last: nox ends the session there.
    for module in ("tests.bench_netboot", "tests.bench_loading"):
        python(session, module, *session.posargs)


@nox.session
def report(session: nox.Session) -> None:
    """The report in a browser: clicks, filters, theme, accessibility; screenshots in build/report-screenshots."""
    need(session, "pytest", "pytest-timeout", "hypothesis")
    if not importlib.util.find_spec("playwright"):
        session.error("no Playwright here: ./setup --with-browser")
    python(session, "pytest", "-m", "browser", "tests/browser", *session.posargs)


@nox.session
@nox.parametrize("major", ["8", "9"])
def plugin(session: nox.Session, major: str) -> None:
    """The pytest plugin's own suite, under each major version of pytest."""
    need(session, "pytest", "pytest-timeout", "hypothesis")
    there = Path(f"build/pytest-{major}")
    if not there.exists():
        wanted = [f"pytest=={major}.*", "pytest-timeout", "pytest-xdist"]
        python(session, "pip", "install", "--quiet", "--target", str(there), *wanted)
    session.env["PYTHONPATH"] = str(there.resolve())
    python(session, "pytest", "--version")
    marks = "not kernels and not payloads"
    python(session, "pytest", "-m", marks, "tests/test_pytest_plugin.py", *session.posargs)


@nox.session
def hil(session: nox.Session) -> None:
    """Every machine of the inventory × the scenario set, held against the simulator."""
    need(session)
    chosen = any(argument.startswith(("--machine", "--model", "--resume")) for argument in session.posargs)
    machines = [] if chosen else ["--all", "--demonstrate"]
    code = run_to_its_end([sys.executable, "-m", "bench", "run", *machines, *session.posargs])
    if code not in (2, 130) and "--json" not in session.posargs:
        python(session, "bench", "report", *of_the_store(session.posargs))
    line = f"bench run ended with {code}: {EXIT_CODES.get(code, 'it crashed')}"
    if code:
        session.error(line)
    session.log(line)


def of_the_store(arguments: Sequence[str]) -> list[str]:
    """Those of a run's arguments that say where its store is, for its report: `--results DIR` and `--lab FILE`."""
    found: list[str] = []
    for number, argument in enumerate(arguments):
        if argument in ("--results", "--lab"):
            found += arguments[number : number + 2]
        elif argument.startswith(("--results=", "--lab=")):
            found.append(argument)
    return found


def run_to_its_end(command: list[str]) -> int:
    """Run `command`; its exit code. On Ctrl-C (the command gets it as well) wait until it has cleaned up."""
    with subprocess.Popen(command) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            previous = signal.signal(signal.SIGINT, signal.SIG_DFL)
            try:
                process.wait(CLEAN_UP_S)
            except subprocess.TimeoutExpired:
                process.terminate()
            finally:
                signal.signal(signal.SIGINT, previous)
            return 130
