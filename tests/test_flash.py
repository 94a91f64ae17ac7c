"""Flashing, as far as it goes without a machine: what is refused, what is written, what is kept."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from bench.errors import FormatError, LabError, UsageError
from bench.hardware import Wiring
from bench.judge import judge
from bench.lab import metal
from bench.lab.flash.choose import FirstThatWorks
from bench.lab.flash.efivarfs import writing
from bench.lab.flash.grub import BEGIN, END, GLUED, Grub, _quoted, _running_entry, without_ours
from bench.lab.flash.guard import require_untouched
from bench.lab.flash.kexec import KexecLoader, image_objections
from bench.lab.flash.load_option import LoadOption, Partition, file_on, gpt_partition, parse_load_option
from bench.lab.flash.loader import FlashLoader
from bench.lab.flash.oneshot import is_program_of_uefi
from bench.lab.flash.plan import METHODS, methods_of
from bench.lab.flash.proof import Proof, Proofs, key_of
from bench.lab.flash.refusals import refusals, room_refusal
from bench.lab.flash.refused import MethodRefused
from bench.lab.flash.system import Room, System
from bench.lab.flash.systemd_boot import SystemdBoot, default_entry
from bench.lab.flash.upload import Image
from bench.lab.load import AlreadyLoaded, Load, Loader, Note
from bench.lab.power import Power, PowerState
from bench.records import KNOWN_GOOD_INSTEAD, STILL_UP, Capture, LabEvent, LabEventKind, Machine, Verdict

MIB = 1 << 20
MACHINE = Machine("box", 0x306C3, 4 << 30, 39, nx=True, la57=False, wiring=Wiring(boot_methods=("grub", "kexec")))
SYSTEM = System(
    user="0",
    kernel="6.1.0",
    boot_id="b",
    command_line="BOOT_IMAGE=/vmlinuz-6.1 root=UUID=1 ro quiet",
    uefi=True,
    efivars=True,
    secure_boot=False,
    lockdown="none",
    kexec_off=False,
    tools=frozenset({"sha256sum", "sync", "grub-editenv", "kexec", "chattr", "dd", "od"}),
    boot=Room("/dev/sda2", 100 * MIB, "/boot", "ext4"),
    esp=Room("/dev/sda1", 10 * MIB, "/boot/efi", "vfat"),
    boot_layers=(),
    root_layers=(),
    crypttab=(),
    grub="/boot/grub",
    grub_has=frozenset({"next_entry", "save_env next_entry", "custom.cfg", "grubenv"}),
    loader="/boot/efi",
    loader_info="systemd-boot 252.39",
    loader_selected="debian.conf",
    loader_default="",
    loader_conf="timeout 0\ndefault debian.conf\n",
    firmware={"bios vendor": "V", "bios version": "1"},
)


class TestRefusals:
    """What a machine says of itself, and what that rules out."""

    def test_a_plain_machine_is_not_refused(self) -> None:
        assert refusals(SYSTEM) == []
        assert [method.objections(SYSTEM) for method in METHODS.values()] == [[], [], []]

    def test_updates_need_a_system_to_fall_back_to_that_loads_none(self) -> None:
        assert "dis_ucode_ldr" in refusals(SYSTEM, updates=True)[0]
        assert refusals(replace(SYSTEM, command_line="BOOT_IMAGE=/v ro dis_ucode_ldr"), updates=True) == []

    @pytest.mark.parametrize(
        ("change", "word"),
        [
            ({"user": "1000"}, "not root"),
            ({"secure_boot": True}, "Secure Boot is on"),
            ({"lockdown": "integrity"}, "locked down (integrity)"),
            ({"boot_layers": ("CRYPT boot_crypt",)}, "/boot is encrypted"),
            ({"root_layers": ("LVM vg-root", "CRYPT sda3_crypt")}, "sda3_crypt, which asks for a passphrase"),
            ({"root_layers": ("CRYPT r",), "crypttab": ("r UUID=1 none luks",)}, "passphrase"),
            ({"tools": frozenset({"sync"})}, "no sha256sum"),
        ],
    )
    def test_each_reason_is_named(self, change: dict[str, object], word: str) -> None:
        (reason,) = refusals(replace(SYSTEM, **change))  # type: ignore[arg-type]
        assert word in reason

    @pytest.mark.parametrize("line", ["r UUID=1 /etc/key luks", "r UUID=1 none luks,tpm2-device=auto"])
    def test_a_root_that_opens_itself_is_none(self, line: str) -> None:
        assert refusals(replace(SYSTEM, root_layers=("CRYPT r",), crypttab=("x y none", line))) == []

    def test_room_is_for_the_images_and_something_for_the_machine(self) -> None:
        assert room_refusal(3 * MIB, 2 * MIB, "/boot/bench") == []
        assert "are needed" in room_refusal(3 * MIB - 1, 2 * MIB, "/boot/bench")[0]

    @pytest.mark.parametrize(
        ("change", "word"),
        [
            ({"grub": ""}, "no grub.cfg"),
            ({"grub_has": frozenset({"grubenv", "custom.cfg", "next_entry"})}, "does not clear next_entry"),
            ({"grub_has": SYSTEM.grub_has - {"custom.cfg"}}, "does not read custom.cfg"),
            ({"grub_has": SYSTEM.grub_has - {"grubenv"}}, "no grubenv"),
            ({"tools": frozenset()}, "no grub-editenv"),
        ],
    )
    def test_a_grub_that_could_not_do_it(self, change: dict[str, object], word: str) -> None:
        (reason,) = Grub().objections(replace(SYSTEM, **change))  # type: ignore[arg-type]
        assert word in reason

    @pytest.mark.parametrize(
        ("change", "word"),
        [
            ({"uefi": False}, "not started by UEFI"),
            ({"loader_info": "GRUB 2.12"}, "GRUB 2.12"),
            ({"efivars": False}, "cannot be written"),
            ({"tools": SYSTEM.tools - {"chattr"}}, "no chattr on the machine"),
            ({"loader_conf": "timeout 0"}, "names no default"),
            ({"loader_default": "@saved"}, "@saved"),
            ({"loader_conf": "default *"}, "a pattern"),
        ],
    )
    def test_a_systemd_boot_whose_default_would_not_stay(self, change: dict[str, object], word: str) -> None:
        (reason,) = SystemdBoot().objections(replace(SYSTEM, **change))  # type: ignore[arg-type]
        assert word in reason

    def test_what_was_chosen_by_hand_goes_before_the_file(self) -> None:
        assert default_entry(SYSTEM) == "debian.conf"
        assert default_entry(replace(SYSTEM, loader_default="other.conf")) == "other.conf"

    def test_uefi_starts_only_what_has_a_pe_header(self) -> None:
        program = b"MZ".ljust(0x3C, b"\0") + struct.pack("<I", 0x80) + bytes(0x40) + b"PE\0\0"
        assert is_program_of_uefi(program)
        assert not is_program_of_uefi(program.replace(b"PE", b"NE")) and not is_program_of_uefi(b"MZ")
        assert METHODS["bootnext"].image_objections(b"HdrS" * 99) == SystemdBoot().image_objections(b"") != []


class TestKexec:
    """What kexec may not start."""

    KERNEL = bytes(0x234) + b"\x01" + bytes(100)

    def test_microcode_is_refused_since_nothing_is_reset(self) -> None:
        initrd = b"070701...kernel/x86/microcode/GenuineIntel.bin"
        for load in (Load(Path("k"), initrd, ""), Load(Path("k"), b"", "", msr_sites=())):
            (reason,) = image_objections(self.KERNEL, load)
            assert "resets nothing" in reason
        assert image_objections(self.KERNEL, Load(Path("k"), b"x", "")) == []

    def test_what_cannot_be_moved_is_refused(self, tmp_path: Path) -> None:
        kernel = tmp_path / "payload"
        kernel.write_bytes(bytes(0x300))
        with pytest.raises(UsageError, match=r"box: ssh: missing"):
            KexecLoader(system_s=1, wait_s=1).load(MACHINE, Load(kernel, b"", ""), _NoPower(), lambda _: None)
        assert "one address only" in image_objections(kernel.read_bytes(), Load(kernel, b"", ""))[0]


class TestGrub:
    """What is written into GRUB's files, and read out of them."""

    def test_custom_cfg_is_only_ever_added_to(self) -> None:
        theirs = b"menuentry 'theirs' { true; }\n"
        assert without_ours(theirs + BEGIN + b"menuentry 'x' {\n}\n" + END) == theirs
        assert without_ours(theirs) == theirs
        assert without_ours(BEGIN + END + theirs + BEGIN + END) == theirs
        assert without_ours(b"theirs\n" + BEGIN + GLUED + END) == b"theirs"
        assert without_ours(b"theirs\n" + BEGIN + GLUED + END + b"more") == b"theirsmore"

    def test_words_that_its_shell_would_change_are_quoted(self) -> None:
        assert _quoted("console=ttyS0,115200 memmap=64M$16M") == "console=ttyS0,115200 'memmap=64M$16M'"
        assert _quoted("a=it's;b") == "'a=it'\"'\"'s;b'"

    CONFIG = b"""\
menuentry 'Debian' --class debian {
\tlinux\t/vmlinuz-6.1 root=UUID=1 ro  quiet
\techo 'Loading'
\tinitrd\t/initrd.img-6.1
}
submenu 'Advanced' {
\tmenuentry 'recovery' {
\t\tlinux\t/vmlinuz-6.1 root=UUID=1 ro single
\t\tinitrd\t/initrd.img-other
\t}
}
"""

    @pytest.mark.parametrize(
        ("words", "initrd"),
        [("root=UUID=1 ro quiet", "/initrd.img-6.1"), ("root=UUID=1 ro single", "/initrd.img-other")],
    )
    def test_the_running_systems_own_entry_is_found(self, words: str, initrd: str) -> None:
        system = replace(SYSTEM, command_line=f"BOOT_IMAGE=(hd0,gpt2)/vmlinuz-6.1 {words}")
        kernel, found, its_initrd = _running_entry(self.CONFIG, system)
        assert (kernel, found.split(), its_initrd) == ("/vmlinuz-6.1", words.split(), initrd)

    def test_a_system_that_no_entry_has_started_is_named(self) -> None:
        with pytest.raises(LabError, match=r"no entry of /boot/grub/grub\.cfg"):
            _running_entry(self.CONFIG, replace(SYSTEM, command_line="BOOT_IMAGE=/other ro"))


class TestLoadOption:
    """UEFI's layouts."""

    def test_it_is_what_efibootmgr_writes(self) -> None:
        """As a Debian installation has it: HD(1,GPT,…,0x800,0x8000)/File(\\EFI\\debian\\shimx64.efi), taken apart."""
        guid = bytes.fromhex("d2fb7f00e4ba4a4f9a1c6a5c1d0e2f30")
        paths = file_on(Partition(1, 0x800, 0x8000, guid), "/EFI/debian/shimx64.efi")
        drive = "04012a0001000000" + "0008000000000000" + "0080000000000000" + guid.hex() + "0202"
        name = "\\EFI\\debian\\shimx64.efi\0".encode("utf-16-le")
        file = "0404" + (4 + len(name)).to_bytes(2, "little").hex() + name.hex()
        assert paths.hex() == drive + file + "7fff0400"
        packed = LoadOption("debian", paths).pack()
        assert packed[:6] == struct.pack("<IH", 1, len(paths)) and packed[6:20] == "debian\0".encode("utf-16-le")

    def test_it_is_read_as_it_was_written(self) -> None:
        option = LoadOption("bench-0 é", b"\x7f\xff\x04\x00", "a b\0".encode("utf-16-le"))
        assert parse_load_option(option.pack()) == option

    @pytest.mark.parametrize("data", [b"", b"1234567", b"\1\0\0\0\4\0a\0b\0", b"\1\0\0\0\xff\0\0\0"])
    def test_what_is_none_is_said(self, data: bytes) -> None:
        with pytest.raises(FormatError):
            parse_load_option(data)

    def test_a_partition_is_found_in_the_table(self) -> None:
        table = bytearray(64 << 10)
        struct.pack_into("<8s", table, 512, b"EFI PART")
        struct.pack_into("<QII", table, 512 + 72, 2, 128, 128)
        guid = bytes(range(16))
        struct.pack_into("<16s16sQQ", table, 1024 + 128, bytes(16), guid, 2048, 4095)
        assert gpt_partition(bytes(table), 512, 2) == Partition(2, 2048, 2048, guid)
        for number in (0, 1, 129):
            with pytest.raises(FormatError):
                gpt_partition(bytes(table), 512, number)
        with pytest.raises(FormatError, match="no GPT"):
            gpt_partition(bytes(2048), 512, 1)

    def test_a_value_is_written_with_its_attributes_at_once(self) -> None:
        command = writing("BootNext-g", b"\xe0\x0b")
        assert "printf '\\007\\000\\000\\000\\340\\013' | dd of=/sys/firmware/efi/efivars/BootNext-g bs=64k" in command


class TestProofs:
    """What was proved is kept as long as nothing that it depends on changes."""

    def test_it_is_kept_and_found_and_forgotten(self, tmp_path: Path) -> None:
        proofs, proof = Proofs(tmp_path / "proofs"), Proof(True, "started once", "2026-11-24", 40.5)
        key = key_of(MACHINE, "grub", SYSTEM, {"grub.cfg": "1"})
        assert proofs.find(MACHINE, "grub", key) is None
        proofs.keep(MACHINE, "grub", key, proof)
        assert proofs.find(MACHINE, "grub", key) == proof
        proofs.forget(MACHINE, "grub")
        assert proofs.find(MACHINE, "grub", key) is None

    @pytest.mark.parametrize(
        ("method", "system", "default"),
        [
            ("bootnext", SYSTEM, {"grub.cfg": "1"}),
            ("grub", replace(SYSTEM, firmware={**SYSTEM.firmware, "bios version": "2"}), {"grub.cfg": "1"}),
            ("grub", SYSTEM, {"grub.cfg": "2"}),
            ("grub", replace(SYSTEM, boot_layers=("LVM vg-boot",)), {"grub.cfg": "1"}),
        ],
    )
    def test_another_firmware_or_loader_is_proved_anew(
        self, method: str, system: System, default: Mapping[str, str]
    ) -> None:
        before = key_of(MACHINE, "grub", SYSTEM, {"grub.cfg": "1", "saved_entry": "a"})
        assert key_of(MACHINE, method, system, default) != before
        assert key_of(MACHINE, "grub", SYSTEM, {"grub.cfg": "1", "saved_entry": "b"}) == before

    def test_a_file_that_is_none_is_no_proof(self, tmp_path: Path) -> None:
        Proofs(tmp_path).keep(MACHINE, "grub", "k" * 64, Proof(True, "", "", 0))
        (file,) = tmp_path.iterdir()
        file.write_text("{}")
        assert Proofs(tmp_path).find(MACHINE, "grub", "k" * 64) is None


def test_each_difference_of_the_default_is_named() -> None:
    require_untouched("box", {"grub.cfg": "1"}, {"grub.cfg": "1"})
    with pytest.raises(
        LabError, match=r"grub.cfg was 1, is 2; BootOrder was 0001, is gone; entry x was not there, is 3"
    ) as error:
        require_untouched("box", {"grub.cfg": "1", "BootOrder": "0001"}, {"grub.cfg": "2", "entry x": "3"})
    assert error.value.component == "boot loader"


class _NoPower(Power):
    """A switch that nobody may touch."""

    def on(self) -> Mapping[str, str]:
        raise AssertionError

    def off(self) -> Mapping[str, str]:
        raise AssertionError

    def state(self) -> PowerState:
        raise AssertionError


class _Way(Loader):
    """A loader that refuses, or does not."""

    def __init__(self, name: str, *, refuses: bool) -> None:
        self.name, self.refuses, self.back = name, refuses, 0

    def load(self, machine: Machine, load: Load, power: Power, note: Note) -> Mapping[str, str]:  # noqa: ARG002
        if self.refuses:
            raise MethodRefused(machine.name, self.name, [f"{self.name} cannot"])
        return {"loader": self.name}

    def fall_back(self, machine: Machine) -> Mapping[str, str]:  # noqa: ARG002
        self.back += 1
        return {"loader": self.name}


class TestChoice:
    """Which way a machine is loaded."""

    LOAD = Load(Path("k"), b"", "")

    def test_the_next_is_taken_when_one_is_refused_and_each_is_withdrawn(self) -> None:
        ways = [_Way("a", refuses=True), _Way("b", refuses=False), _Way("c", refuses=False)]
        steps: list[Mapping[str, str]] = []
        chosen = FirstThatWorks(ways)
        assert chosen.load(MACHINE, self.LOAD, _NoPower(), steps.append) == {"loader": "b"}
        assert [dict(step) for step in steps] == [{"step": "refused", "method": "a", "why": "a cannot"}]
        assert chosen.fall_back(MACHINE) == {"loader": "b"}
        assert [way.back for way in ways] == [1, 1, 0]

    def test_all_reasons_are_told_if_nothing_is_left(self) -> None:
        with pytest.raises(MethodRefused, match=r"box: no way to load it: a: a cannot; b: b cannot"):
            FirstThatWorks([_Way("a", refuses=True), _Way("b", refuses=True)]).load(
                MACHINE, self.LOAD, _NoPower(), lambda _: None
            )

    def test_it_goes_by_the_inventory(self) -> None:
        assert isinstance(metal.loader_of(MACHINE), FirstThatWorks)
        one = replace(MACHINE, wiring=Wiring(boot_methods=("bootnext",)))
        assert isinstance(metal.loader_of(one), FlashLoader)
        loaded = replace(MACHINE, wiring=Wiring(boot_methods=("loaded",)))
        assert isinstance(metal.loader_of(loaded), AlreadyLoaded)
        with pytest.raises(UsageError, match="boot_methods: none"):
            metal.loader_of(replace(MACHINE, wiring=Wiring()))

    def test_only_methods_that_keep_something_are_looked_at(self) -> None:
        assert [method.name for method in methods_of(MACHINE)] == ["grub"]
        with pytest.raises(UsageError, match="boot_methods: kexec"):
            methods_of(replace(MACHINE, wiring=Wiring(boot_methods=("kexec",))))

    def test_an_image_without_pe_header_is_refused_before_the_machine_is_touched(self, tmp_path: Path) -> None:
        kernel = tmp_path / "k"
        kernel.write_bytes(bytes(0x400))
        loader = FlashLoader(METHODS["bootnext"], wait_s=1, proofs=Proofs(tmp_path))
        with pytest.raises(MethodRefused, match="no PE header"):
            loader.load(MACHINE, Load(kernel, b"", ""), _NoPower(), lambda _: None)
        assert loader.fall_back(MACHINE)["withdrawn"] == "nothing was prepared"


def test_an_image_is_named_by_its_content() -> None:
    one, other = Image("kernel", b"a"), Image("kernel", b"b")
    assert one.name == "ca978112ca1bbdca.kernel" and one.name != other.name


@pytest.mark.parametrize(
    ("step", "component", "words"),
    [(KNOWN_GOOD_INSTEAD, "boot loader", "own system came up"), (STILL_UP, "machine", "own system did not go down")],
)
def test_the_machines_own_system_instead_of_the_image_is_a_miss_that_says_so(
    step: str, component: str, words: str
) -> None:
    events = (
        LabEvent(LabEventKind.LOADING, 1.0, 0, {"step": step, "boot id": "b"}),
        LabEvent(LabEventKind.SILENCE, 9.0, 20),
    )
    text = b"Linux version 6.1.0 (known-good)\r\n"
    judgement = judge([Capture("c", text, events, "box", "06-3c-03", "linux", nonce=5, scenarios={0: "plain"})])
    (window,) = judgement.windows
    assert window.verdict is Verdict.MISS and window.finding is not None
    assert window.finding.component == component and words in window.finding.summary
