"""The rescue system's image and the keys of a boot: what is in them and what is not, and the same every time."""

from __future__ import annotations

import base64
import gzip
import io
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import paramiko
import pytest

from bench.images import modules, rescue
from bench.images.kernel_cache import write_manifest
from bench.images.modules import by_alias
from bench.images.rescue import build_rescue
from bench.images.small_system import (
    OUTPUTS,
    archive,
    find_system,
    keys_archive,
    removable_systems,
    verify_systems,
)
from bench.lab.ssh import Way
from bench.rescue.keys import make_keys

ROOT = Path(__file__).resolve().parent.parent


# --- keys ------------------------------------------------------------------------------------------------------------


def test_a_boot_s_keys_fit_each_other_and_the_secret_halves_are_not_shown() -> None:
    keys = make_keys("box")
    user = paramiko.Ed25519Key.from_private_key(io.StringIO(keys.private_key.decode()))
    assert f"{user.get_name()} {user.get_base64()}\n".encode() in keys.archive
    assert b"root/.ssh/authorized_keys" in keys.archive and b"etc/hostname" in keys.archive
    # dropbear's form: the seed, then the public key.
    public = base64.b64decode(keys.host_key.split()[1])[-32:]
    at = keys.archive.index(public, keys.archive.index(b"etc/dropbear/dropbear_ed25519_host_key"))
    seed = keys.archive[at - 32 : at]
    assert paramiko.Ed25519Key(data=base64.b64decode(keys.host_key.split()[1])).get_name() == "ssh-ed25519"
    shown = repr(keys) + repr(Way(lambda *_: socket.socket(), keys.private_key))
    assert "PRIVATE" not in shown and repr(seed)[2:-1] not in shown
    assert make_keys("box").archive != keys.archive


@pytest.mark.slow
def test_they_are_nobody_s_but_root_s_in_the_archive() -> None:
    done = subprocess.run(["cpio", "-itv", "--quiet"], input=make_keys("box").archive, capture_output=True, check=True)
    rows = {line.split()[-1]: line.split()[0] for line in done.stdout.decode().splitlines()}
    assert rows["etc/dropbear/dropbear_ed25519_host_key"] == rows["root/.ssh/authorized_keys"] == "-rw-------"


# --- the image -------------------------------------------------------------------------------------------------------


def module(*, depends: str = "", aliases: tuple[str, ...] = ()) -> bytes:
    info = "".join(f"alias={alias}\0" for alias in aliases)
    return b"\x7fELF\0license=GPL\0" + f"{info}depends={depends}\0name=x\0".encode()


def test_modules_come_with_what_they_depend_on_and_all_that_they_are_asked_for_by(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    there = {
        "card": module(depends="phy-lib,core", aliases=("pci:v1d1", "pci:v1d2", "pci:v1d3")),
        "phy-lib": module(depends="core"),
        "core": module(),
        "other": module(),
    }

    def files_of(_: Path) -> Iterator[tuple[str, bytes]]:
        return ((f"lib/modules/6.1/kernel/drivers/{name}.ko", data) for name, data in there.items())

    monkeypatch.setattr(modules, "files_of", files_of)
    found = by_alias(Path("deb"), {"network": ("card", "built_in")})
    folder = "lib/modules/6.1"
    assert sorted(found) == [
        *(f"{folder}/{name}.ko" for name in ("card", "core")),
        *(f"{folder}/modules.{name}" for name in ("alias", "dep", "symbols")),
        f"{folder}/phy_lib.ko",
    ]
    assert found[f"{folder}/modules.dep"] == b"core.ko:\nphy_lib.ko: core.ko\ncard.ko: phy_lib.ko core.ko\n"
    assert found[f"{folder}/modules.alias"] == b"".join(b"alias pci:v1d%d card\n" % n for n in (1, 2, 3))


def test_equal_input_gives_equal_bytes_in_whatever_order() -> None:
    tree: dict[str, bytes | str] = {"init": b"#!/bin/sh\n", "bin/sh": "busybox", "etc/x": b"y"}
    assert archive(tree, ["init"]) == archive(dict(reversed(tree.items())), {"init"})
    assert keys_archive(host_key=b"k", authorized_keys=["a"]) == keys_archive(host_key=b"k", authorized_keys=["a"])


def test_the_newest_build_is_found_and_the_others_may_go(tmp_path: Path) -> None:
    folders = [tmp_path / (digit * 64) for digit in "abc"]
    for number, folder in enumerate(folders):
        folder.mkdir()
        for name in OUTPUTS:
            (folder / name).write_text(f"{name} {number}")
        inputs = {"n": number}
        manifest = {"name": rescue.NAME, "hash": folder.name, "built": f"2026-01-0{3 - number}", "inputs": inputs}
        write_manifest(folder, manifest, OUTPUTS)
    (folders[2] / "manifest.json").unlink()
    found = find_system(rescue.SYSTEM, cache=tmp_path)
    assert found is not None and found[0].kernel.parent == folders[0], "the newest"
    assert [item.path for item in removable_systems(tmp_path)] == folders[1:]
    assert len(verify_systems(cache=tmp_path)) == 2
    (folders[0] / "initrd").write_text("another")
    (trouble, *_) = verify_systems([rescue.NAME], cache=tmp_path)[0].troubles
    assert "initrd: has changed" in trouble


@pytest.mark.boot
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_it_is_made_again_byte_by_byte_and_has_drivers_and_no_keys(tmp_path: Path) -> None:
    one, two = (build_rescue(ROOT, cache=tmp_path / name) for name in ("a", "b"))
    assert one.identity == two.identity
    assert [path.read_bytes() for path in (one.kernel, one.initrd)] == [
        path.read_bytes() for path in (two.kernel, two.initrd)
    ]
    listing = subprocess.run(
        ["cpio", "-it", "--quiet"], input=gzip.decompress(one.initrd.read_bytes()), capture_output=True, check=True
    )
    names = {Path(line).name for line in listing.stdout.decode().splitlines()}
    wanted = {"e1000.ko", "e1000e.ko", "igb.ko", "r8169.ko", "virtio_net.ko", "nvme.ko", "ahci.ko", "ext4.ko"}
    assert wanted | {"init", "dropbear", "efibootmgr", "dmidecode"} <= names
    assert not {name for name in names if "authorized_keys" in name or "host_key" in name}
