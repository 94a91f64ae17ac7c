"""One look at a machine before it is loaded: its system, its default, what there is of ours. One round trip."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.lab.flash.guard import QUESTIONS, default_told
from bench.lab.flash.oneshot import Left, OneShot
from bench.lab.flash.system import BOOT, System, ask_system
from bench.lab.flash.upload import HASHING_S, PART, Stored
from bench.lab.ssh import Ssh

_HASH = re.compile(r"[0-9a-f]{64}")
# Of each image that is wanted, whole and in part: what is there is not sent again.
_FILES = """
echo @folder; [ -z "$f" ] || ls -1t "$f"
for n in NAMES; do
    [ -n "$f" ] && [ -f "$f/$n" ] && { echo "@stored $n"; wc -c <"$f/$n"; sha256sum <"$f/$n"; }
done
"""


@dataclass(frozen=True)
class Survey:
    """What was seen."""

    system: System
    default: Mapping[str, str]
    """See `read_default`."""
    answers: Mapping[str, str]
    """What the method goes by."""
    left: Left
    folder: tuple[str, ...]
    """Names in the folder of images, the newest first."""
    stored: Mapping[str, Stored]
    """Those of the images that were asked for, and their parts."""


def look(ssh: Ssh, method: OneShot, *, boot: str = BOOT, images: Sequence[str] = ()) -> Survey:
    """Look at the running system with `method` in mind. Raises LabError if it does not answer as Linux does."""
    names = " ".join(shlex.quote(name) for image in images for name in (image, image + PART)) or "''"
    more = QUESTIONS + method.questions + _FILES.replace("NAMES", names)
    system, said = ask_system(ssh, boot=boot, more=more, timeout_s=HASHING_S)
    stored: dict[str, Stored] = {}
    for name, text in said.items():
        words = text.split()
        if name.startswith("stored ") and len(words) > 1 and words[0].isdigit() and _HASH.fullmatch(words[1]):
            stored[name.removeprefix("stored ")] = Stored(int(words[0]), words[1])
    return Survey(system, default_told(ssh, said), said, method.left(said), tuple(said["folder"].splitlines()), stored)
