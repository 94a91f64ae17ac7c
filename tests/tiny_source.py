"""A tree that is built as a kernel is: release in its Makefile, tinyconfig, allnoconfig, bzImage; two C files.

The build system under test is the bench's own (sources, patches, options, trees, cache), so a tree that real make,
gcc, patch, tar and git finish in a fraction of a second is as good as Linux, which `nox -s kernels` builds.
`HOME/gate`, if it is there, is a pipe that compilation waits for after it has written to the pipe `HOME/reached`.
"""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

MAKEFILE = """\
# A tiny kernel.
VERSION = 6
PATCHLEVEL = 1
SUBLEVEL = {sublevel}

tinyconfig:
\t@echo "CONFIG_TINY=y" >.config
# Options that it does not know, or that lack what they need, are dropped without a word.
allnoconfig:
\t@grep -v UNKNOWN $(KCONFIG_ALLCONFIG) >.config
bzImage: arch/x86/boot/bzImage System.map
arch/x86/boot/bzImage: vmlinux
\t@mkdir -p arch/x86/boot && objcopy -O binary vmlinux $@
System.map: vmlinux
\t@nm vmlinux >$@
vmlinux: init.o tables.o
\t@echo "  LD      $@"
\t@ld -e begin -o $@ init.o tables.o
tables.o: init.o
# As kbuild does: what has no note of its command is made again, and the note is written last.
%.o: %.c FORCE
\t@if [ ! -f .$@.cmd ] || [ $< -nt $@ ]; then \\
\t  echo "  CC      $@"; \\
\t  if [ $@ = tables.o ] && [ -p $(HOME)/gate ]; then \\
\t    printf half >$@; echo here >$(HOME)/reached; cat $(HOME)/gate >/dev/null; fi; \\
\t  $(CC) $(KCFLAGS) -g -c -o $@ $< && touch .$@.cmd; fi
FORCE:
"""
INIT = """\
int tables(void);
int before(void) { return 1; }

int begin(void)
{
\treturn tables();
}
"""
TABLES = """\
static const char where[] = __FILE__;

int tables(void)
{
\treturn 64 + where[0];
}
"""
PATCH = """\
A line about it.

--- a/tables.c
+++ b/tables.c
@@ -3,4 +3,4 @@
 int tables(void)
 {
-\treturn 64 + where[0];
+\treturn 65 + where[0];
 }
"""
CONFIG = "# Sixty-four bits.\nCONFIG_64BIT=y\n# Not that one.\n# CONFIG_OTHER is not set\n"


def files(sublevel: int = 9) -> dict[str, str]:
    """The tree, by path."""
    return {"Makefile": MAKEFILE.format(sublevel=sublevel), "init.c": INIT, "tables.c": TABLES}


def archive(path: Path, sublevel: int = 9) -> str:
    """Write the tree as an archive; its SHA-256."""
    with tarfile.open(path, "w:xz") as tar:
        for name, text in files(sublevel).items():
            member = tarfile.TarInfo(f"linux-6.1.{sublevel}/{name}")
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def package(path: Path, sublevel: int = 9) -> str:
    """Write Debian's package of such a source (deb(5)); its SHA-256."""
    inner = path.with_suffix(".inner.tar.xz")
    archive(inner, sublevel)
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:xz") as tar:
        tar.add(inner, "./usr/src/linux-source-6.1.tar.xz")
    members = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", "data.tar.xz": data.getvalue()}
    with path.open("wb") as out:
        out.write(b"!<arch>\n")
        for name, content in members.items():
            out.write(f"{name:16}{0:<12}{0:<6}{0:<6}{'100644':8}{len(content):<10}`\n".encode())
            out.write(content + b"\n" * (len(content) % 2))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def repository(path: Path) -> str:
    """Make a git repository with the tree; its commit."""
    path.mkdir()
    for name, text in files().items():
        (path / name).write_text(text)
    who = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    for command in (["init", "-q"], ["add", "."], [*who, "commit", "-qm", "tree"]):
        subprocess.run(["git", *command], cwd=path, check=True)
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=path, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def project(root: Path, *, source: str = "", series: Sequence[str] = (), config: str = CONFIG) -> Path:
    """A project with the kernel `tiny`, from an archive unless `source` is another table's text. Returns `root`."""
    kernels = root / "firmware-images" / "kernels"
    for folder in (kernels, root / "firmware-images" / "configs", root / "inventory"):
        folder.mkdir(parents=True, exist_ok=True)
    if not source:
        digest = archive(kernels / "linux.tar.xz")
        source = f'kind = "tarball"\nfile = "linux.tar.xz"\nrelease = "6.1.9"\nsha256 = "{digest}"\n'
    names = ", ".join(f'"{name}"' for name in series)
    (kernels / "tiny.toml").write_text(
        f'name = "tiny"\nabout = "a tree that is built as a kernel is"\nseries = [{names}]\n\n[source]\n{source}\n'
        '[config]\nbase = "tinyconfig"\nfragments = ["early"]\n'
    )
    (root / "firmware-images" / "configs" / "early.config").write_text(config)
    return root


def patch_series(root: Path, name: str = "one", *, patch: str = PATCH, row: str = "", more: str = "") -> None:
    """A series of one patch, with the keys `row` in its table."""
    folder = root / "firmware-images" / "patches" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "0001-change.patch").write_text(patch)
    (folder / "series.toml").write_text(
        f'about = "changes a number"\n{more}\n[[patch]]\nfile = "0001-change.patch"\n{row}\n'
    )


BUILDER = """\
import signal, sys
from pathlib import Path
from bench.images.kernel import build_kernel
signal.signal(signal.SIGINT, signal.default_int_handler)
image = build_kernel(Path(sys.argv[1]), "tiny", cache=Path(sys.argv[2]),
                     tell=lambda p: print(p.stage, p.text, flush=True))
print("done", image.sha256, image.found, flush=True)
"""


def start_build(root: Path, cache: Path, home: Path) -> subprocess.Popen[str]:
    """A build in a process of its own, which prints its stages and at last ``done SHA256 FOUND``."""
    command = [sys.executable, "-c", BUILDER, str(root), str(cache)]
    environment = os.environ | {"HOME": str(home), "PYTHONPATH": str(Path(__file__).parent.parent)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
