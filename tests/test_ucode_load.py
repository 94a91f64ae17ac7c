"""Early microcode loading, generation by generation: what is chosen, who writes it, what is said and how it ends."""

from __future__ import annotations

import pytest

from bench.errors import UsageError
from bench.sim.ucode_load import EarlyLoad, End, LoadOffer, predict_early
from bench.sim.ucode_loaders import LOADERS, loader, loader_of
from bench.x86.early_cpio import UCODE_PATH, build
from bench.x86.microcode_build import set_word
from bench.x86.microcode_processor import Act, ProcessorRules, Restart
from tests.microcode_files import SIGNATURE, update

NAMES = [row.name for row in LOADERS]
FROM_4_19 = NAMES[1:]
ABOVE = 0x80000001


def rules(bios: int = 1, *, platform_id: int = 1, signature: int = SIGNATURE, **more: object) -> ProcessorRules:
    return ProcessorRules(signature, platform_id, bios, **more)  # type: ignore[arg-type]


def load(
    name: str, *updates: bytes, processor: ProcessorRules | None = None, processors: int = 1, line: str = "",
    hypervisor: bool = False, path: str = UCODE_PATH, image: bytes | None = None, phys: int = 0x1000_0000,
    running: tuple[int, ...] = (),
) -> EarlyLoad:  # fmt: skip
    if image is None:
        image = build({path: b"".join(updates)})
    offer = LoadOffer(image, len(image), phys, line, hypervisor, processors, running)
    return predict_early(loader(name), processor or rules(), offer)


def choices(*updates: bytes, bios: int = 1, platform_id: int = 1) -> dict[str, int]:
    """Revision that each generation ends with."""
    return {name: load(name, *updates, processor=rules(bios, platform_id=platform_id)).runs[0] for name in NAMES}


def test_a_newer_update_is_written_and_each_generation_says_so_in_its_words() -> None:
    said = {name: load(name, update(revision=0xF8)).lines for name in NAMES}
    assert said["v3.9"] == ("CPU0 microcode updated early to revision 0xf8, date = 2023-03-06",)
    assert (
        said["v4.19"]
        == said["v6.1"]
        == (
            "microcode: microcode updated early to revision 0xf8, date = 2023-03-06",
            "microcode: sig=0x906ea, pf=0x2, revision=0xf8",
            "microcode: Microcode Update Driver: v2.2.",
        )
    )
    assert said["v6.3"] == (
        "microcode: updated early: 0x1 -> 0xf8, date = 2023-03-06", "microcode: Microcode Update Driver: v2.2.",
    )  # fmt: skip
    assert said["v6.7"] == said["v6.12"] == said["v7.3"] == (
        "microcode: Current revision: 0x000000f8", "microcode: Updated early from: 0x00000001",
    )  # fmt: skip


@pytest.mark.parametrize("bios", [0xF8, 0xF9, ABOVE])
def test_what_is_not_newer_is_not_written(bios: int) -> None:
    for name in NAMES:
        early = load(name, update(revision=0xF8), processor=rules(bios))
        assert early.writes == () and early.runs == (bios,)
    assert load("v7.3", update(revision=0xF8), processor=rules(0xF8)).lines == (
        "microcode: Current revision: 0x000000f8",
    )


def test_revisions_are_compared_unsigned() -> None:
    assert set(choices(update(revision=ABOVE), bios=0x7FFFFFFF).values()) == {ABOVE}


def test_3_9_keeps_the_first_update_of_a_signature_and_the_others_the_newest() -> None:
    chosen = choices(update(revision=5), update(revision=9), update(revision=7))
    assert chosen == {"v3.9": 5} | dict.fromkeys(FROM_4_19, 9)


def test_up_to_6_6_a_better_update_is_looked_for_only_among_those_of_the_best_ones_own_signature() -> None:
    by_table = update(signature=0x906EB, extended=((SIGNATURE, 0x02),), revision=5, total_size=3072)
    chosen = choices(by_table, update(revision=9))
    assert {chosen[name] for name in ("v4.19", "v6.1", "v6.3")} == {5}
    assert {chosen[name] for name in ("v6.7", "v6.12", "v7.3")} == {9}


def test_tables_are_read_by_all_but_3_9_which_looks_for_them_elsewhere() -> None:
    chosen = choices(update(signature=0x806EA, extended=((SIGNATURE, 0x02),), revision=5, total_size=3072))
    assert chosen == {"v3.9": 1} | dict.fromkeys(FROM_4_19, 5)


def test_an_update_without_flags_is_for_every_platform_from_7_3_on_only() -> None:
    assert choices(update(platform_flags=0, revision=9)) == dict.fromkeys(NAMES[:-1], 1) | {"v7.3": 9}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda u: u + update(revision=3)[:-1],
        lambda u: u + b"\0",
        lambda u: u + bytes(47),
        lambda u: u + bytes(48),
        lambda u: set_word(update(seed=3), "revision", 7, fix_checksum=False) + u,
        lambda u: u + set_word(update(), "loader_revision", 2),
        lambda u: u + set_word(update(), "header_version", 2),
        lambda u: u + set_word(update(), "total_size", 0),
        lambda u: u + update(extended=((1, 1),), total_size=3072)[:-4] + bytes(4),
    ],
)
def test_one_bad_update_or_a_tail_discards_the_whole_file(spoil: object) -> None:
    content = spoil(update(revision=9))  # type: ignore[operator]
    for name in NAMES:
        assert load(name, content).writes == (), name


def test_a_table_count_too_large_by_2_to_the_30_passes_the_size_test_from_6_7_on_and_reads_on() -> None:
    good = update(extended=((0x906EB, 0x02),), revision=9, total_size=3072)
    table = len(good) - 32
    count = (1 + (1 << 30)).to_bytes(4, "little")
    checksum = ((int.from_bytes(good[table + 4 : table + 8], "little") - (1 << 30)) & 0xFFFFFFFF).to_bytes(4, "little")
    wrapped = good[:table] + count + checksum + good[table + 8 :]
    end = len(build({UCODE_PATH: wrapped})) - len(wrapped)
    for name in FROM_4_19:
        early = load(name, wrapped, update(revision=3))
        assert early.writes == ()
        beyond = [at for at, size in early.accesses if size == 12]
        assert bool(beyond) is (loader(name).table_size_bits == 32), (name, end)


@pytest.mark.parametrize("name", NAMES)
def test_the_name_is_compared_by_its_beginning(name: str) -> None:
    trap = build({UCODE_PATH + ".old": update(revision=5), UCODE_PATH: update(revision=9)})
    assert load(name, image=trap).runs == (5,)


def test_data_that_is_not_aligned_is_refused_in_silence() -> None:
    for name in NAMES:
        early = load(name, update(revision=9), phys=0x1000_0004)
        assert early.runs == (1,) and "not 16-byte aligned" in early.writes[0].why_not and early.end is End.BOOTS


@pytest.mark.parametrize("name", FROM_4_19)
def test_it_does_not_look_under_a_hypervisor_or_where_it_is_switched_off(name: str) -> None:
    for early in (
        load(name, update(revision=9), hypervisor=True),
        load(name, update(revision=9), line="quiet dis_ucode_ldr"),
    ):
        assert early.looked and early.lines == () and early.accesses == () and early.runs == (1,)
    assert not load(name, update(revision=9), line="no_dis_ucode_ldr dis_ucode_ldr=1").looked


def test_the_first_loaders_look_always_and_7_3_has_a_switch_more() -> None:
    assert load("v3.9", update(revision=9), hypervisor=True, line="dis_ucode_ldr").runs == (9,)
    line = "microcode=force_minrev,dis_ucode_ldr"
    assert (
        load("v7.3", update(revision=9), line=line).looked and not load("v6.12", update(revision=9), line=line).looked
    )


def test_without_an_initrd_nothing_is_found() -> None:
    assert load("v6.1", image=b"").lines == (
        "microcode: sig=0x906ea, pf=0x2, revision=0x1", "microcode: Microcode Update Driver: v2.2.",
    )  # fmt: skip


def test_granite_rapids_does_not_jump_over_one_revision() -> None:
    def run(name: str, bios: int) -> EarlyLoad:
        given = update(signature=0xA06D1, platform_flags=0x95, revision=0x10003F0)
        newer = update(signature=0xA06D1, platform_flags=0x95, revision=0x1000406)
        return load(name, given, newer, processor=rules(bios, signature=0xA06D1, platform_id=0))

    assert run("v6.7", 1).runs == (0x1000406,)
    assert run("v7.3", 1).runs == (0x10003F0,)
    assert run("v7.3", 1).lines[0] == "microcode: Erratum GNR98: skipping revision 0x1000406."
    assert run("v7.3", 0x1000405).runs == (0x1000406,)


# --- several processors ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_core_is_written_once_and_siblings_share(name: str) -> None:
    early = load(name, update(revision=9), processors=8, processor=rules(siblings=2))
    assert [w.processor for w in early.writes] == [0, 2, 4, 6]
    assert early.runs == early.shown == (9,) * 8


def test_3_9_prints_a_line_for_each_processor_and_the_others_one() -> None:
    assert len(load("v3.9", update(revision=9), processors=4).lines) == 4
    assert sum("updated early" in line for line in load("v6.1", update(revision=9), processors=4).lines) == 1


def test_what_the_first_processor_refuses_the_others_write_again_up_to_6_6_and_not_from_6_7_on() -> None:
    for name in NAMES:
        early = load(name, update(revision=9), processors=4, processor=rules(refuses=frozenset({9})))
        writes = [w.processor for w in early.writes]
        if name == "v4.19":
            assert (early.end, early.at, writes[:2]) == (End.RETRY, 1, [0, 1])
        else:
            assert writes == ([0] if loader(name).table_size_bits == 32 else [0, 1, 2, 3])
            assert early.end is End.BOOTS and early.runs == (1,) * 4


def test_a_second_processor_that_refuses_hangs_4_19_at_its_start_and_no_later_release() -> None:
    for name in NAMES:
        early = load(name, update(revision=9), processors=3, processor=rules(acts=((1, Act.REFUSE),)))
        if name == "v4.19":
            assert (early.end, early.at) == (End.RETRY, 1)
        else:
            assert early.runs == (9, 1, 9)


def test_a_processor_that_was_left_behind_is_told_by_the_driver() -> None:
    early = load("v6.1", update(revision=9), processors=3, processor=rules(acts=((1, Act.REFUSE),)))
    assert [line for line in early.lines if "sig=" in line] == [
        f"microcode: sig=0x906ea, pf=0x2, revision=0x{revision}" for revision in (9, 1, 9)
    ]


@pytest.mark.parametrize(("act", "at"), [(Act.HANG, 0), (Act.RESET, 0), (Act.RESET, 2)])
def test_a_write_that_does_not_come_back_ends_the_boot_there(act: Act, at: int) -> None:
    for name in NAMES:
        early = load(name, update(revision=9), processors=4, processor=rules(acts=((at, act),)))
        assert (str(early.end), early.at) == (str(act), at)
        assert not any("Update Driver" in line or "Current revision" in line for line in early.lines)


def test_another_processor_that_hangs_is_waited_for_without_end_up_to_6_6_and_left_behind_from_6_7_on() -> None:
    for name in NAMES:
        early = load(name, update(revision=9), processors=3, processor=rules(acts=((1, Act.HANG),)))
        if loader(name).waits_for_others:
            assert (early.end, early.at) == (End.HANG, 1)
        else:
            assert early.end is End.BOOTS and early.shown == (9, None, 9)


def test_a_sibling_that_updates_a_core_later_is_not_seen_by_the_first_up_to_6_6() -> None:
    acting = rules(siblings=2, acts=((0, Act.REFUSE),))
    early = load("v6.1", update(revision=9), processors=2, processor=acting)
    assert (early.runs, early.shown) == ((9, 9), (1, 9))
    assert any("updated early" in line for line in early.lines)


# --- restarts, releases ----------------------------------------------------------------------------------------------


def test_an_update_outlives_kexec_and_init_and_no_reset() -> None:
    assert [restart for restart in Restart if restart.keeps_updates] == [Restart.KEXEC, Restart.INIT]
    assert load("v6.1", update(revision=9), running=(9,)).writes == ()


def test_a_release_has_its_generation() -> None:
    table = {
        "3.9.6": "v3.9", "3.10.4": "v3.9", "4.19.0": "v4.19", "5.10.13": "v4.19", "6.1.192": "v6.1", "6.6.9": "v6.3",
        "6.6.81": "v6.7", "6.7": "v6.7", "6.12.107": "v6.7", "6.12.117": "v6.12", "7.3.4-1~bpo13+1": "v7.3",
    }  # fmt: skip
    assert {release: loader_of(release).name for release in table} == table
    for old in ("3.8", "3.13", "4.9.300"):
        with pytest.raises(UsageError):
            loader_of(old)
    with pytest.raises(UsageError, match=r"there are v3\.9, v4\.19"):
        loader("v5")


def test_a_long_name_is_warned_of_at_each_search() -> None:
    path = UCODE_PATH + ".backup-of-last-year"
    for name, searches in {"v3.9": 1, "v6.1": 3, "v7.3": 2}.items():
        lines = load(name, update(revision=9), path=path, processors=3).lines
        assert sum(line.startswith("File ") for line in lines) == searches, name
    # Nothing was loaded: 7.3 does not look again, 6.1 does for every processor.
    refusing = rules(refuses=frozenset({9}))
    for name, searches in {"v6.1": 3, "v7.3": 1}.items():
        lines = load(name, update(revision=9), path=path, processors=3, processor=refusing).lines
        assert sum(line.startswith("File ") for line in lines) == searches, name
