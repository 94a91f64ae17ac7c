"""What the rescue system finds on a machine: its disks, what starts from them, and what is wrong with that.

Texts are escaped: they are the machine's own.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from bench.errors import FormatError, LabError
from bench.lab.fingerprint import split_answers
from bench.lab.flash.efivarfs import value_of
from bench.lab.flash.grub import BEGIN
from bench.lab.flash.load_option import parse_load_option
from bench.lab.flash.oneshot import PREFIX
from bench.lab.ssh import Ssh
from bench.lab.text import escape
from bench.rescue import boot_files
from bench.rescue.boot_files import Entry, sections
from bench.rescue.questions import ANSWER_S, FILE, LEAVE, LOOK, MOUNTS

SECTOR_BYTES = 512
# Of one boot loader: a configuration that names more is not a machine's.
ENTRIES = 16


@dataclass(frozen=True)
class BootFile:
    """A kernel or an initrd that an entry names."""

    path: str
    size_bytes: int
    trouble: str = ""
    """Empty: nothing was found wrong with it."""
    checked: str = ""
    """How far it was looked at."""


@dataclass(frozen=True)
class Start:
    """An entry of a boot loader, and its files."""

    title: str
    files: tuple[BootFile, ...]


@dataclass(frozen=True)
class BootLoader:
    """A boot loader's configuration."""

    kind: str
    """``grub`` or ``systemd-boot``."""
    folder: str
    starts: tuple[Start, ...]
    one_shot: str = ""
    """What its next boot takes instead of the default."""
    ours: bool = False
    """Whether an entry of the bench's is left in it."""


@dataclass(frozen=True)
class Volume:
    """A partition, or a disk without any."""

    name: str
    size_bytes: int
    kind: str
    """As blkid names it: ``ext4``, ``vfat``, ``LVM2_member``, ``crypto_LUKS``, …; empty: nothing that it knows."""
    label: str = ""
    uuid: str = ""
    not_read: str = ""
    """Why nobody looked into it; empty: it was mounted, read-only."""
    system: str = ""
    """The system that is on it, by its os-release."""
    loaders: tuple[BootLoader, ...] = ()
    programs: tuple[str, ...] = ()
    """Programs of UEFI on it."""


@dataclass(frozen=True)
class Disk:
    """A disk, with its partitions or else itself."""

    name: str
    size_bytes: int
    model: str
    table: str
    """``gpt``, ``dos``, or empty."""
    volumes: tuple[Volume, ...]


@dataclass(frozen=True)
class Found:
    """All of it."""

    firmware: str
    secure_boot: bool
    boot_order: tuple[str, ...]
    """UEFI's, by number and name."""
    boot_next: str
    disks: tuple[Disk, ...]
    facts: Mapping[str, str] = field(default_factory=dict)
    """The firmware's fingerprint."""

    @property
    def loaders(self) -> Iterator[tuple[Volume, BootLoader]]:
        """Each boot loader's configuration, and where it lies."""
        return ((v, one) for disk in self.disks for v in disk.volumes for one in v.loaders)

    @property
    def troubles(self) -> tuple[str, ...]:
        """What is wrong, a sentence each."""
        return tuple(self._troubles())

    def _troubles(self) -> Iterator[str]:
        if self.boot_next:
            yield f"BootNext is set: the next boot takes {self.boot_next}"
        for volume, loader in self.loaders:
            where = f"{loader.kind} on {volume.name}"
            if loader.one_shot:
                yield f"{where}: a one-shot is left over: the next boot takes {loader.one_shot}"
            if loader.ours:
                yield f"{where}: an entry of the bench's is left over in {loader.folder}"
            if not loader.starts:
                yield f"{where}: no entry in {loader.folder} starts a kernel"
            for start in loader.starts:
                for file in start.files:
                    if file.trouble:
                        yield f"{where}: {start.title!r} cannot start: {file.path}: {file.trouble}"

    @property
    def whole(self) -> tuple[str, ...]:
        """What a boot loader can start, as far as its files tell."""
        return tuple(
            f"{loader.kind} on {volume.name}: {start.title!r}"
            for volume, loader in self.loaders
            for start in loader.starts
            if not any(file.trouble for file in start.files)
        )


def look(ssh: Ssh) -> Found:
    """Look at the disks of the machine on which the rescue system runs; nothing is written. Raises LabError."""
    done = ssh.run(LOOK, timeout_s=ANSWER_S)
    said = split_answers(done.output)
    try:
        if "end" not in said:
            words = escape((done.output + done.complaints)[-200:])
            raise LabError(f"{ssh.component}: the rescue system does not answer: {words}", component="rescue system")
        found = read(said)
        return _with_files(ssh, found)
    finally:
        ssh.run(LEAVE, timeout_s=ANSWER_S)


def read(said: dict[str, str]) -> Found:
    """The answer to `LOOK`, without a look at the files that entries name."""
    options = {number.removeprefix("Boot"): _name(shown) for number, shown in sections(said, "boot option")}
    order = value_of(said["boot order"])
    numbers = [f"{int.from_bytes(order[at : at + 2], 'little'):04X}" for at in range(0, len(order) - 1, 2)]
    following = value_of(said["boot next"])
    after = f"{int.from_bytes(following[:2], 'little'):04X}" if following else ""
    disks = []
    for name, text in sections(said, "disk"):
        values = boot_files.environment(text)
        own = boot_files.environment(said.get(f"device {name}", ""))
        parts = values.get("PARTS", "").split()
        disks.append(
            Disk(
                name,
                int(own.get("SECTORS", "0")) * SECTOR_BYTES,
                values.get("MODEL", "").strip(),
                own.get("PTTYPE", ""),
                tuple(_volume(part, said) for part in parts or ([name] if "TYPE" in own else [])),
            )
        )
    return Found(
        firmware=said["firmware"],
        secure_boot=said["secure boot"].split()[-1:] == ["1"],
        boot_order=tuple(f"{number} {options.get(number, '')}".strip() for number in numbers),
        boot_next=f"{after} {options.get(after, '')}".strip(),
        disks=tuple(disks),
    )


def _name(shown: str) -> str:
    try:
        return escape(parse_load_option(value_of(shown)).description.encode())
    except FormatError:
        return ""


def _volume(name: str, said: dict[str, str]) -> Volume:
    values = boot_files.environment(said.get(f"device {name}", ""))
    kind = values.get("TYPE", "")
    why = values.get("REFUSED", "")
    if not why and "MOUNTED" not in values:
        why = f"{kind} is none of ext4, xfs, btrfs and vfat" if kind else "nothing on it that blkid knows"
    system = boot_files.environment(said.get(f"system {name}", "")).get("PRETTY_NAME", "").strip('"')
    return Volume(
        name,
        int(values.get("SECTORS", "0")) * SECTOR_BYTES,
        kind,
        values.get("LABEL", ""),
        values.get("UUID", ""),
        why,
        system,
        tuple(_loaders(name, said)),
        tuple(said.get(f"programs {name}", "").splitlines()),
    )


def _loaders(name: str, said: dict[str, str]) -> Iterator[BootLoader]:
    for where, config in sections(said, "grub"):
        device, _, folder = where.partition(" ")
        if device == name:
            variables = boot_files.environment(said.get(f"grubenv {where}", ""))
            ours = BEGIN.decode().strip() in said.get(f"custom {where}", "")
            entries = boot_files.grub_entries(config)
            yield BootLoader("grub", folder, _starts(entries), variables.get("next_entry", ""), ours)
    for where, _ in sections(said, "loader"):
        device, _, folder = where.partition(" ")
        if device != name:
            continue
        found, ours = [], False
        for place, text in sections(said, "entry"):
            of, _, path = place.partition(" ")
            if of == name and path.startswith(f"{folder}/loader/entries/"):
                ours = ours or path.rpartition("/")[2].startswith(PREFIX)
                if entry := boot_files.loader_entry(text):
                    found.append(entry)
        following = escape(value_of(said["loader one-shot"]).decode("utf-16-le", "replace").rstrip("\0").encode())
        yield BootLoader("systemd-boot", folder or "/", _starts(found), following, ours)


def _starts(entries: tuple[Entry, ...] | list[Entry]) -> tuple[Start, ...]:
    """The entries, with their files not looked at yet."""
    return tuple(
        Start(entry.title, tuple(BootFile(path, 0) for path in (entry.kernel, *entry.initrds)))
        for entry in list(entries)[:ENTRIES]
    )


def _with_files(ssh: Ssh, found: Found) -> Found:
    """`found`, with what can be said of each file that an entry names."""
    mounts = [volume.name for disk in found.disks for volume in disk.volumes if not volume.not_read]
    named = {file.path for _, loader in found.loaders for start in loader.starts for file in start.files}
    if not named:
        return found
    asked = [f"{MOUNTS}/{mount}{path}" for path in sorted(named) for mount in mounts]
    program = FILE + "".join(f"file {shlex.quote(path)}\n" for path in asked) + "echo @end\n"
    said = split_answers(ssh.run(program, timeout_s=ANSWER_S).output)
    files = {path: text.split() for path, text in sections(said, "file")}
    unpacked = _unpacked(ssh, files)

    def judged(volume: Volume, file: BootFile, *, kernel: bool) -> BootFile:
        # Its own file system first; a configuration may lie on another one than what it starts.
        places = [f"{MOUNTS}/{mount}{file.path}" for mount in sorted(mounts, key=lambda name: name != volume.name)]
        place = next((each for each in places if files.get(each)), "")
        if not place:
            return replace(file, trouble="missing")
        size, begin = int(files[place][0]), (*files[place], "")[1]
        if not kernel:
            return BootFile(file.path, size, boot_files.initrd_trouble(begin, size), "how it begins")
        trouble, header = boot_files.kernel_trouble(bytes.fromhex(begin), size)
        if header is None or place not in unpacked:
            return BootFile(file.path, size, trouble, "its header and its length")
        said = unpacked[place]
        return BootFile(file.path, size, "" if said == "whole" else f"damaged: {said}", "unpacked")

    def with_files(volume: Volume) -> Volume:
        loaders = []
        for loader in volume.loaders:
            starts = tuple(
                replace(start, files=tuple(judged(volume, file, kernel=n == 0) for n, file in enumerate(start.files)))
                for start in loader.starts
            )
            loaders.append(replace(loader, starts=starts))
        return replace(volume, loaders=tuple(loaders))

    disks = tuple(replace(disk, volumes=tuple(map(with_files, disk.volumes))) for disk in found.disks)
    return replace(found, disks=disks)


def _unpacked(ssh: Ssh, files: Mapping[str, list[str]]) -> dict[str, str]:
    """Place of a kernel that can be unpacked there → ``whole``, or what the program that unpacks it says."""
    wanted = ""
    for place, words in files.items():
        if len(words) < 2:
            continue
        _, header = boot_files.kernel_trouble(bytes.fromhex(words[1]), int(words[0]))
        if header is not None:
            at = header.setup_bytes + header.payload_offset
            wanted += f"at {shlex.quote(place)} {at + 1} {header.payload_bytes}\n"
    if not wanted:
        return {}
    by_begin = "".join(
        f'        {begin}*) packed "$1" "$2" "$(($3 - {less}))" "{program}";;\n'
        for begin, (program, less) in boot_files.UNPACKERS.items()
    )
    program = (
        f'{FILE}\nat() {{\n    case $(tail -c "+$2" "$1" | head -c 6 | od -An -v -tx1 | tr -d " \\n") in\n'
        f"{by_begin}    esac\n}}\n{wanted}echo @end\n"
    )
    said = split_answers(ssh.run(program, timeout_s=ANSWER_S).output)
    return {place: text or "it ended without a word" for place, text in sections(said, "packed")}
