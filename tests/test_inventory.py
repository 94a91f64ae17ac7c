"""The inventory: what is in it, and what is said about a file that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import UsageError
from bench.hardware import Wiring
from bench.inventory import UNITS, find_root, load_inventory
from bench.records import Machine
from bench.x86.microcode_processor import Act, ProcessorRules
from bench.x86.signature import processor

REPO = Path(__file__).parents[1]

GOOD = """\
name = "haswell"
signature = "06-3c-03"
platform_id = 1
memory = "8 GiB"
maxphyaddr = 39

[virtual]
cpu = "Haswell"
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "firmware-images").mkdir()
    (tmp_path / "inventory" / "virtual").mkdir(parents=True)
    return tmp_path


def put(root: Path, text: str, name: str = "haswell") -> None:
    (root / "inventory" / "virtual" / f"{name}.toml").write_text(text)


def complaint(root: Path) -> str:
    with pytest.raises(UsageError) as error:
        load_inventory(root)
    return str(error.value).replace(str(root) + "/", "")


class TestTheLabsOwnInventory:
    machines = load_inventory(REPO)

    def test_it_has_the_models_from_conroe_to_ice_lake_and_the_special_ones(self) -> None:
        assert len(self.machines) >= 17
        assert {m.model for m in self.machines.values()} >= {
            "06-0f-0b", "06-17-0a", "06-1a-05", "06-2c-02", "06-2a-07", "06-3a-09", "06-3c-03", "06-3d-04",
            "06-5e-03", "06-55-04", "06-55-07", "06-6a-06", "06-5f-01",
        }  # fmt: skip
        special = [m for m in self.machines.values() if "special" in m.tags]
        assert any(not m.nx for m in special)
        assert any(m.maxphyaddr == 36 for m in special)
        assert any(m.la57 and m.maxphyaddr == 52 for m in special)
        assert any(m.maxphyaddr == 46 and m.memory_bytes == 20 << 40 for m in special)

    def test_all_are_virtual_and_have_the_quirk_of_tcg(self) -> None:
        for machine in self.machines.values():
            assert machine.virtual is not None
            assert machine.quirks == ("qemu-tcg-rsvd-without-p",)

    def test_no_two_machines_are_of_one_model(self) -> None:
        models = [m.model for m in self.machines.values() if "full-only" not in m.tags]
        assert len(models) == len(set(models)), "a table per CPU model would mix them"

    def test_the_model_is_what_the_signature_says(self) -> None:
        for machine in self.machines.values():
            assert machine.model == str(processor(machine.signature))


def test_a_machine_is_read_with_every_key(root: Path) -> None:
    put(
        root,
        """\
name = "la-57"
signature = 0x000806f8
platform_id = 7
memory = "20 TiB"
maxphyaddr = 52
nx = false
la57 = true
mac = "52:54:00:12:34:56"
allow_beyond_ram = true
allow_updates = true
tags = ["special", "sparse"]

[virtual]
accelerator = "tcg"
cpu = "Icelake-Server"
properties = ["model=143", "hypervisor=off"]
""",
        "la-57",
    )
    machine = load_inventory(root)["la-57"]
    assert machine.virtual is not None
    assert machine == Machine(
        name="la-57",
        signature=0x806F8,
        memory_bytes=20 << 40,
        maxphyaddr=52,
        nx=False,
        la57=True,
        virtual=type(machine.virtual)("Icelake-Server", ("model=143", "hypervisor=off"), "tcg"),
        platform_id=7,
        allow_beyond_ram=True,
        allow_updates=True,
        quirks=(),
        tags=("special", "sparse"),
        wiring=Wiring(mac="52:54:00:12:34:56"),
    )


def test_without_files_the_inventory_is_empty(root: Path) -> None:
    assert load_inventory(root) == {}


@given(st.integers(1, 4000), st.sampled_from(sorted(UNITS)), st.sampled_from(["", " "]))
def test_memory_is_a_number_and_a_unit(count: int, unit: str, space: str) -> None:
    from bench.inventory.values import memory_bytes as _memory_bytes

    if count * UNITS[unit] >= 64 << 20:
        assert _memory_bytes(f"{count}{space}{unit}") == count * UNITS[unit]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('memory = "8 GiB"', 'memroy = "8 GiB"', ["memroy: unknown key", "allowed here: name, signature"]),
        ('memory = "8 GiB"', "", ["memory: missing", "required"]),
        ("platform_id", "platform_di", ["platform_di: unknown key", "allowed here: name, signature, platform_id"]),
        ("cpu =", "cqu = 1\ncpu =", ["virtual.cqu: unknown key", "allowed here: accelerator, cpu, properties"]),
        ('"8 GiB"', '"8 GB"', ["memory: '8 GB'", "MiB, GiB, TiB"]),
        ('"8 GiB"', "8", ["memory: 8", "MiB, GiB, TiB"]),
        ('"8 GiB"', '"1 MiB"', ["memory: '1 MiB'", "64 MiB"]),
        ('"8 GiB"', '"600 GiB"', ["memory: does not fit", "maxphyaddr = 39"]),
        ("= 39", "= 31", ["maxphyaddr: 31", "greater than or equal to 32"]),
        ("= 39", "= 53", ["maxphyaddr: 53", "less than or equal to 52"]),
        ("= 39", '= "39"', ["maxphyaddr: '39'", "integer"]),
        ("platform_id = 1", "platform_id = 8", ["platform_id: 8", "less than or equal to 7"]),
        ("platform_id = 1", "nx = 1", ["nx: 1", "boolean"]),
        ('"06-3c-03"', '"06-3C-03"', ["signature: '06-3C-03'", "lower-case", "06-9e-0a"]),
        ('"06-3c-03"', '"06-3c-13"', ["signature: '06-3c-13'", "stepping"]),
        ('"06-3c-03"', '"06-3d-03"', ["signature: impossible: 06-3d-03", "06-3c-00 to 06-3c-0f", "model=61"]),
        ('"06-3c-03"', "0xf00306c3", ["signature: ", "impossible", "0xf0000000", "reserved"]),
        ('"06-3c-03"', "0x001306c3", ["signature: ", "extended family"]),
        ('"06-3c-03"', "true", ["signature: True", "06-9e-0a"]),
        ('"Haswell"', '"Hasswell"', ["virtual.cpu: 'Hasswell'", "allowed: core2duo, Conroe"]),
        ("cpu =", 'accelerator = "xen"\ncpu =', ["virtual.accelerator: 'xen'", "'tcg'"]),
        ("cpu =", 'properties = ["-nx"]\ncpu =', ["virtual.properties[0]: '-nx'", "name=value"]),
        ("cpu =", 'properties = ["a=1,b=2"]\ncpu =', ["virtual.properties[0]", "name=value"]),
        ("cpu =", 'properties = ["nx=off"]\ncpu =', ["virtual.properties[0]", "machine's key 'nx'"]),
        ("cpu =", 'properties = ["stepping=1"]\ncpu =', ["machine's key 'signature'"]),
        ("cpu =", 'properties = ["model=x"]\ncpu =', ["virtual.properties: family and model are decimal numbers"]),
        ("[virtual]", 'mac = "52:54:00:12:34"\n[virtual]', ["mac: '52:54:00:12:34'", "six pairs"]),
        ("[virtual]", 'mac = "01:00:5e:00:00:01"\n[virtual]', ["mac: ", "group address"]),
        ("[virtual]", 'mac = "00:00:00:00:00:00"\n[virtual]', ["mac: ", "all zero"]),
        ('name = "haswell"', 'name = "hasswell"', ["name: 'hasswell' is not the file's name", "'haswell'"]),
        ('name = "haswell"', 'name = "Has well"', ["name: 'Has well'", "lower-case letters, digits and hyphens"]),
        ('name = "haswell"', "name = haswell", ["not TOML", "line 1"]),
        ("[virtual]", "[virtual", ["not TOML", "line 7"]),
    ],
)
def test_a_mistake_is_named_with_file_key_and_what_is_allowed(root: Path, old: str, new: str, says: list[str]) -> None:
    put(root, GOOD.replace(old, new))
    text = complaint(root)
    assert text.startswith("inventory/virtual/haswell.toml: ")
    assert [part for part in says if part not in text] == [], text


def test_the_good_file_is_good(root: Path) -> None:
    put(root, GOOD)
    assert list(load_inventory(root)) == ["haswell"]


def test_two_machines_cannot_have_one_name(root: Path) -> None:
    put(root, GOOD)
    put(root, GOOD, "other")
    text = complaint(root)
    assert "inventory/virtual/other.toml: name: 'haswell' is already the name of" in text
    assert text.endswith("inventory/virtual/haswell.toml")


def test_two_machines_cannot_have_one_mac_however_it_is_written(root: Path) -> None:
    put(root, GOOD.replace("[virtual]", 'mac = "52:54:00:ab:cd:ef"\n[virtual]'))
    other = GOOD.replace("haswell", "other", 1).replace("[virtual]", 'mac = "52:54:00:AB:CD:EF"\n[virtual]')
    put(root, other, "other")
    assert "inventory/virtual/other.toml: mac: 52:54:00:ab:cd:ef is already the MAC of" in complaint(root)


@pytest.mark.parametrize(("memory", "bits", "fits"), [(61, 36, True), (62, 36, False), (2, 32, True), (8, 32, False)])
def test_memory_has_to_leave_room_for_the_chipset(root: Path, memory: int, bits: int, fits: bool) -> None:
    """QEMU 7.2 starts with 61 GiB and 36 bits, and refuses 62 GiB."""
    put(root, GOOD.replace('"8 GiB"', f'"{memory} GiB"').replace("= 39", f"= {bits}"))
    if fits:
        assert load_inventory(root)["haswell"].memory_bytes == memory << 30
    else:
        assert "memory: does not fit" in complaint(root)


class TestQuirks:
    ROW = """\
[[quirk]]
name = "tcg-error-code"
effect = "qemu-tcg-rsvd-without-p"
applies = { accelerator = "tcg" }
source = "measured with QEMU"
"""

    def load(self, root: Path, text: str) -> Machine:
        put(root, GOOD)
        (root / "inventory" / "quirks.toml").write_text(text)
        return load_inventory(root)["haswell"]

    def test_a_machine_has_the_quirks_that_apply_to_it(self, root: Path) -> None:
        assert self.load(root, self.ROW).quirks == ("qemu-tcg-rsvd-without-p",)
        other = self.ROW.replace("}", ', signature = "06-3c-04" }')
        assert self.load(root, other).quirks == ()

    @pytest.mark.parametrize(
        ("old", "new", "says"),
        [
            ('"qemu-tcg-rsvd-without-p"', '"qemu-tcg"', "quirk[0].effect: 'qemu-tcg'"),
            ("accelerator", "acelerator", "quirk[0].applies.acelerator: unknown key; allowed here: accelerator"),
            ("source", "sauce", "quirk[0].sauce: unknown key"),
            ('source = "measured with QEMU"', "", "quirk[0].source: missing"),
            ('{ accelerator = "tcg" }', "{}", "quirk[0].applies: {}: at least one of accelerator, signature"),
            ("[[quirk]]", "[[quirks]]", "quirks: unknown key; allowed here: quirk"),
        ],
    )
    def test_a_mistake_in_a_row_is_named(self, root: Path, old: str, new: str, says: str) -> None:
        with pytest.raises(UsageError) as error:
            self.load(root, self.ROW.replace(old, new))
        assert f"inventory/quirks.toml: {says}" in str(error.value)


class TestFindRoot:
    def test_it_is_found_from_a_folder_below(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("BENCH_ROOT", raising=False)
        deep = root / "a" / "b"
        deep.mkdir(parents=True)
        assert find_root(deep) == root

    def test_the_environment_names_it(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("BENCH_ROOT", str(root))
        monkeypatch.chdir("/")
        assert find_root() == root
        assert find_root(REPO) == REPO, "what is named in the call goes before the environment"

    def test_elsewhere_the_error_says_how_to_name_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("BENCH_ROOT", raising=False)
        with pytest.raises(UsageError, match="BENCH_ROOT"):
            find_root(tmp_path)

    def test_a_wrong_environment_is_not_passed_over(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("BENCH_ROOT", str(tmp_path))
        monkeypatch.chdir(REPO)
        with pytest.raises(UsageError, match=f"BENCH_ROOT={tmp_path} has no inventory"):
            find_root()


MICROCODE = """\
name = "cooperlake"
signature = "06-55-0b"
platform_id = 3
memory = "1 GiB"
maxphyaddr = 46

[virtual]
cpu = "Cooperlake"
processors = 4

[virtual.microcode]
bios_revision = 0x80000001
siblings = 2
refuses = [0x7002b01]
takes_older = false

[[virtual.microcode.acts]]
processor = 3
does = "hang"
"""


class TestProcessorsThatTakeMicrocode:
    def test_the_table_becomes_rules_of_the_machines_own_signature_and_platform(self, root: Path) -> None:
        put(root, MICROCODE, "cooperlake")
        spec = load_inventory(root)["cooperlake"].virtual
        assert spec is not None
        assert spec.processors == 4
        assert spec.microcode == ProcessorRules(
            0x5065B, 3, 0x80000001, siblings=2, refuses=frozenset({0x7002B01}), takes_older=False, acts=((3, Act.HANG),)
        )

    @pytest.mark.parametrize(
        ("old", "new", "says"),
        [
            ("bios_revision = 0x80000001", "", "virtual.microcode.bios_revision: missing; it is required"),
            ("0x80000001", "0x100000000", "virtual.microcode.bios_revision: 4294967296: "),
            ("siblings = 2", "siblings = 3", "virtual.microcode.siblings: 3: Input should be 1 or 2"),
            ("processors = 4", "processors = 3", "siblings: 2 do not divide virtual.processors = 3"),
            ("[0x7002b01]", "[0]", "virtual.microcode.refuses[0]: 0: "),
            ('"hang"', '"burn"', "virtual.microcode.acts[0].does: 'burn': Input should be 'refuse', 'hang' or 'reset'"),
            ("processor = 3", "processor = 4", "acts[0].processor: there is no processor 4; allowed: 0 to 3"),
            ("siblings", "sibling", "virtual.microcode.sibling: unknown key; allowed here: bios_revision, siblings"),
        ],
    )
    def test_what_is_wrong_is_named(self, root: Path, old: str, new: str, says: str) -> None:
        put(root, MICROCODE.replace(old, new), "cooperlake")
        assert says in complaint(root)

    def test_one_processor_has_one_act(self, root: Path) -> None:
        put(root, MICROCODE + '[[virtual.microcode.acts]]\nprocessor = 3\ndoes = "reset"\n', "cooperlake")
        assert "acts[1].processor: 3 has an act already" in complaint(root)
