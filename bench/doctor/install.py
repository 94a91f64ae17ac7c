"""Getting what is missing: packages by apt-get, Intel's microcode into the cache folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.doctor.check import Check
from bench.doctor.programs import RACK
from bench.errors import BenchError
from bench.inventory import find_root


def fetch_microcode(
    *,
    yes: bool,
    echo: Callable[[str], None],
    confirm: Callable[[str], bool] | None,
    file: Path | None = None,
    mirror: str | None = None,
) -> int:
    """Fetch Intel's microcode (or take the package `file`), after its licence was shown and `confirm` said so.

    Returns 0, 130 if it was declined, 2 or 3 if it failed, which is said.
    """
    from bench.images.microcode_package import fetch_package, microcode_cache, wanted

    root = find_root()
    description = wanted(root)
    echo(f"Intel's microcode ({description.package}, Debian's {description.component}) goes to {microcode_cache()}")
    echo(f"its licence: {description.licence}")
    if not yes and (confirm is None or not confirm("Fetch it?")):
        echo("Intel's microcode was not fetched (--yes fetches without asking).")
        return 130
    try:
        package = fetch_package(root, file=file, mirror=mirror)
    except BenchError as error:
        echo(f"Intel's microcode was not fetched: {error}")
        return error.exit_code
    echo(f"{package.version} is in {package.updates}; the licence's full text in {package.folder / 'license'}")
    return 0


def install_packages(
    missing: Sequence[Check], *, yes: bool, echo: Callable[[str], None], confirm: Callable[[str], bool] | None
) -> int:
    packages = list(dict.fromkeys(package for check in missing for package in check.packages))
    if not packages:
        echo("Nothing to install.")
        return 0
    if shutil.which("apt-get") is None:
        echo(f"No apt-get here: install {' '.join(packages)} in your system's way.")
        return 2
    root = [] if os.geteuid() == 0 else ["sudo"]
    if root and shutil.which("sudo") is None:
        echo(f"Neither root nor sudo. As root: apt-get install --no-install-recommends {' '.join(packages)}")
        return 2
    apt_get = [*root, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q"]
    commands = [[*apt_get, "update"], [*apt_get, "install", "-y", "--no-install-recommends", *packages]]
    services = [service for _, _, package, service in RACK if service and package in packages]
    if services and shutil.which("systemctl"):
        # Debian starts a server with its package; the tests start their own, and nobody asked for these.
        commands.append([*root, "systemctl", "disable", "--now", *services])
    for command in commands:
        echo("will run: " + " ".join(command))
    if not yes and (confirm is None or not confirm("Install?")):
        echo("Nothing was installed (--yes installs without asking).")
        return 130
    # apt-get update may fail for a source that has none of these packages: what counts is the installation.
    subprocess.run(commands[0], stdout=sys.stderr, check=False)
    if subprocess.run(commands[1], stdout=sys.stderr, check=False).returncode:
        echo("apt-get failed, see above.")
        return 3
    for command in commands[2:]:
        subprocess.run(command, stdout=sys.stderr, check=False)
    return 0
