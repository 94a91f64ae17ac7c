"""Baselines and regressions, retention, and what a lab's history of more than 2,000 runs says."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import pytest

from bench import manifest
from bench.errors import FormatError, UsageError
from bench.records import Finding, ScenarioResult, Verdict
from bench.report.baselines import Known, bless, blessed_runs, known_tests, load_baselines
from bench.report.comparison import Difference, compare_sides
from bench.report.fingerprint import fingerprint
from bench.report.history import Check, sample, series
from bench.report.regressions import Change, Word, compare
from bench.report.retention import Keep, check, prunable, prune, seal
from bench.store import RunRecord, Store, StoredRun
from tests.lab_history import History, make_history

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
LETTERS = {"P": Verdict.PASS, "F": Verdict.FAIL, "M": Verdict.MISS, "E": Verdict.ERROR, "D": Verdict.DONE,
           "S": Verdict.SKIP}  # fmt: skip
FINDING = Finding("handler", "PUD entry is 0x0, the model has 0x1063, in step 3", 1, 5, 3, "pud", 0x1063, 0)
OTHER = Finding("handler", "a fault is missing", 1, 5, 3, "missing")
TEST = Check("haswell", "linux/6.1", "sweep")


def runs_of(letters: str, *, scenario: str = "sweep", first: int = 1, one_image: bool = False) -> list[StoredRun]:
    """A run a letter: P pass, F fail, f fail in another way, M miss, E error, D done, S skip, - not tried."""
    found = []
    for number, letter in enumerate(letters, start=first):
        finding = {"F": (FINDING,), "f": (OTHER,)}.get(letter, ())
        scenarios = [ScenarioResult("other", Verdict.PASS)]
        if letter != "-":
            scenarios.append(ScenarioResult(scenario, LETTERS[letter.upper()], findings=finding))
        record = RunRecord(
            started=NOW - timedelta(days=100 - number),
            machine="haswell",
            model="06-3c-03",
            signature=0x306C3,
            image="linux/6.1",
            image_sha256="aa" if one_image else f"{number:x}",
            virtual=False,
            verdict=Verdict.PASS,
            seconds=1.0,
            capture="",
            scenarios=tuple(scenarios),
        )
        found.append(StoredRun(number, record))
    return found


def test_what_two_builds_are_made_of_is_told_once_and_makes_no_test_differ() -> None:
    runs = runs_of("PP", one_image=True)
    made = [{"release": "6.1", "compiler": "gcc"}, {"release": "6.12", "compiler": "gcc"}]
    named = [replace(r.record, image=f"linux/{n}", details=d) for n, (r, d) in enumerate(zip(runs, made, strict=True))]
    comparison = compare_sides([StoredRun(n, r) for n, r in enumerate(named)], "linux/0", "linux/1")
    assert comparison.differences == (Difference("", "", "", "release", "6.1", "6.12"),)
    assert (comparison.tests, comparison.equal) == (2, 2)


def word(known: str, now: str, *, one_image: bool = False) -> Word | None:
    """What becomes of a test that the baseline knows as `known` (empty: does not know)."""
    table = {"": None, "P": Known("PASS"), "F": Known("FAIL", fingerprint(FINDING)), "S": Known("SKIP"),
             "D": Known("DONE"), "U": Known("UNSTABLE", passed=7, judged=10)}  # fmt: skip
    baseline = {TEST._replace(scenario="other"): Known("PASS")}
    if table[known]:
        baseline[TEST] = table[known]
    changes = {c.test: c for c in compare(runs_of(now, one_image=one_image), baseline)}
    return changes[TEST].word if TEST in changes else None


@pytest.mark.parametrize(
    ("known", "now", "expected"),
    [
        ("P", "PPP", None),
        ("P", "PPF", Word.REGRESSION),
        ("P", "FFF", Word.REGRESSION),
        ("P", "PFP", None),
        ("P", "PFFFP", None),
        ("F", "FFP", Word.FIXED),
        ("F", "FFF", Word.STILL_FAILING),
        ("F", "FFf", Word.NEW_FAILURE),
        ("", "F", Word.NEW_FAILURE),
        ("S", "F", Word.NEW_FAILURE),
        ("", "P", Word.NEW_PASS),
        ("S", "P", Word.NEW_PASS),
        ("", "D", Word.APPEARED),
        ("", "S", Word.APPEARED),
        ("S", "S", None),
        ("P", "PS", Word.DISAPPEARED),
        ("P", "PP-", Word.DISAPPEARED),
        ("P", "PFPF", Word.UNSTABLE),
        ("U", "PPP", Word.UNSTABLE),
        ("U", "F", Word.UNSTABLE),
        ("P", "PM", None),
        ("P", "ME", None),
        ("", "M", None),
        ("P", "FM", Word.REGRESSION),
    ],
)
def test_the_words(known: str, now: str, expected: Word | None) -> None:
    assert word(known, now) == expected


def test_one_image_that_passes_and_fails_is_unstable_at_once() -> None:
    assert word("P", "PF", one_image=True) is Word.UNSTABLE
    assert word("P", "PF") is Word.REGRESSION


def test_a_flaky_test_says_k_of_n() -> None:
    (change,) = [c for c in compare(runs_of("PFPFPP"), {}) if c.test == TEST]
    assert change.sample and (change.sample.passed, change.sample.judged) == (4, 6)


def test_a_regression_names_the_last_good_and_the_first_bad_run() -> None:
    (change,) = [c for c in compare(runs_of("PPMFFMF"), {TEST: Known("PASS")}) if c.test == TEST]
    assert change.before and change.since and (change.before.run, change.since.run) == (2, 4)


def test_a_run_of_one_scenario_by_hand_makes_nothing_disappear() -> None:
    runs = runs_of("PP")
    baseline = {TEST._replace(scenario=f"s{n}"): Known("PASS") for n in range(9)}
    assert {c.word for c in compare(runs, baseline) if c.known} == {None}


def test_a_demonstration_is_no_news() -> None:
    runs = [replace(r, record=replace(r.record, image="early-pf/v3.9+hidden-bug")) for r in runs_of("FFF")]
    assert compare(runs, {}) == []


def test_a_fingerprint_groups_what_differs_only_in_numbers() -> None:
    same = replace(FINDING, summary="PUD entry is 0x2063, the model has 0x3063, in step 14", window=9)
    assert fingerprint(same) == fingerprint(FINDING) != fingerprint(OTHER)


# --- baseline files ---------------------------------------------------------------------------------------------------


def test_a_blessed_baseline_is_a_short_file_that_reads_back(tmp_path: Path) -> None:
    flaky = runs_of("PFPF", scenario="a b", first=10)
    (path,) = bless(tmp_path, [*runs_of("PPPP"), *runs_of("FFFF", scenario="ping-pong", first=20), *flaky], now=NOW)
    assert path.read_text() == (
        "# Written by `bench results bless`; review it as code: it says what is no news.\n"
        'machine = "haswell"\nmodel = "06-3c-03"\n\n'
        '[image."linux/6.1"]\nrun = 23\nblessed = 2026-11-24T12:00:00+00:00\n\n'
        '[image."linux/6.1".scenario]\n'
        f'"a b" = "UNSTABLE 2 of 4"\nother = "PASS"\nping-pong = "FAIL {fingerprint(FINDING)}"\nsweep = "PASS"\n'
    )
    baselines = load_baselines(tmp_path)
    assert known_tests(baselines)[TEST] == Known("PASS")
    assert blessed_runs(baselines.values()) == {23}


def test_blessing_again_changes_nothing_if_nothing_is_new(tmp_path: Path) -> None:
    bless(tmp_path, runs_of("PPP"), now=NOW)
    assert bless(tmp_path, runs_of("PPPPP"), now=NOW + timedelta(days=1)) == []


def test_lab_trouble_does_not_make_a_baseline_forget(tmp_path: Path) -> None:
    bless(tmp_path, runs_of("P"), now=NOW)
    bless(tmp_path, runs_of("MM", first=5), now=NOW)
    assert known_tests(load_baselines(tmp_path))[TEST] == Known("PASS")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("machine = [", "not a baseline"),
        ('machine = "a"\n', "key 'model'"),
        (
            'machine="a"\nmodel="b"\n[image.x]\nrun=1\nblessed=2026-01-01\n[image.x.scenario]\ny="GOOD"',
            "image.x.scenario.y",
        ),
    ],
)
def test_a_broken_baseline_names_file_and_key(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(FormatError, match=r"a\.toml") as raised:
        load_baselines(tmp_path)
    assert said in str(raised.value)


# --- a lab's history --------------------------------------------------------------------------------------------------


@cache
def history() -> History:
    return make_history(seed=20261124)


@cache
def stored() -> tuple[StoredRun, ...]:
    return tuple(StoredRun(n, r) for n, r in enumerate(history().runs, start=1))


@cache
def changes(tmp: Path) -> tuple[Change, ...]:
    bless(tmp, stored()[: history().blessed], now=NOW)
    return tuple(compare(stored(), known_tests(load_baselines(tmp))))


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[Word | None, set[Check]]:
    by_word: dict[Word | None, set[Check]] = {}
    for change in changes(tmp_path_factory.mktemp("baselines")):
        by_word.setdefault(change.word, set()).add(change.test)
    return by_word


@pytest.mark.slow
def test_a_history_of_over_2000_runs_gives_exactly_what_was_planted(found: dict[Word | None, set[Check]]) -> None:
    planted = history().planted
    assert len(history().runs) >= 2000, f"seed {history().seed}"
    assert found[Word.REGRESSION] == planted.regressions
    assert found[Word.FIXED] == planted.fixed
    assert found[Word.UNSTABLE] == planted.unstable
    assert found[Word.STILL_FAILING] == planted.still_failing
    assert found[Word.NEW_FAILURE] == planted.new_failures
    assert found[Word.NEW_PASS] == planted.new_passes
    assert found[Word.DISAPPEARED] == planted.disappeared
    assert Word.APPEARED not in found
    assert planted.taken_back <= found[None]


@pytest.mark.slow
def test_a_planted_regression_is_dated_to_its_night(tmp_path: Path) -> None:
    for change in changes(tmp_path):
        if change.word is Word.REGRESSION:
            assert change.since and change.before
            planted = history().planted.since[change.test]
            nights = {int(r.image_sha256[:4], 16) for r in (change.before, change.since)}
            assert min(nights) < planted <= max(nights)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_other_seeds_too(seed: int, tmp_path: Path) -> None:
    other = make_history(seed)
    runs = [StoredRun(n, r) for n, r in enumerate(other.runs, start=1)]
    bless(tmp_path, runs[: other.blessed], now=NOW)
    words = compare(runs, known_tests(load_baselines(tmp_path)))
    assert {c.test for c in words if c.word is Word.REGRESSION} == other.planted.regressions, f"seed {seed}"


def test_lab_trouble_never_enters_a_series() -> None:
    one = series(runs_of("PMEF"))[TEST]
    assert [r.verdict for r in one.results] == [Verdict.PASS, Verdict.FAIL]
    assert [r.run for r in one.trouble] == [2, 3]
    assert sample([]) is None


# --- retention --------------------------------------------------------------------------------------------------------


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Twelve runs of one cell a day apart, with captures; the last three fail."""
    folder = tmp_path / "results"
    with Store(folder / "bench.sqlite") as store:
        for run in runs_of("PPPPPPPPPFFF"):
            capture = folder / "captures" / f"{run.record.started:%Y-%m-%d}" / f"run-{run.id}"
            (capture / "boot-1").mkdir(parents=True)
            (capture / "boot-1" / "serial.bin").write_bytes(b"x" * run.id)
            store.save_run(replace(run.record, capture=str(capture)))
    return folder


def kept(results: Path, *words: str, evidence: frozenset[int] = frozenset()) -> list[int]:
    with Store(results / "bench.sqlite") as store:
        runs = store.runs()
        gone = prunable(runs, Keep.parse(words), results=results, evidence=evidence, now=NOW)
        prune(store, gone)
        left = [r.id for r in store.runs() if Path(r.record.capture).exists()]
        assert {r.id for r in store.runs() if r.pruned} == {p.run.id for p in gone}
        assert len(store.runs()) == 12
        assert check(store.runs(), results).complaints == ()
    return sorted(left)


def test_pruning_keeps_the_latest_and_what_a_standing_failure_rests_on(results: Path) -> None:
    assert kept(results, "1") == [9, 10, 12]


def test_pruning_keeps_what_a_baseline_names_and_what_is_young(results: Path) -> None:
    assert kept(results, "2", "95d", evidence=frozenset({3})) == [3, 6, 7, 8, 9, 10, 11, 12]


def test_pruning_touches_nothing_outside_the_results(results: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with Store(results / "bench.sqlite") as store:
        runs = [replace(r, record=replace(r.record, capture=str(elsewhere))) for r in store.runs()]
    assert prunable(runs, Keep(), results=results, evidence=frozenset(), now=NOW) == []


def test_a_rule_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match="90d"):
        Keep.parse(["many"])


def test_check_finds_every_way_in_which_files_and_store_disagree(results: Path) -> None:
    with Store(results / "bench.sqlite") as store:
        folders = {r.id: Path(r.record.capture) for r in store.runs()}
        assert check(store.runs(), results).whole == 12
        (folders[1] / "boot-1" / "serial.bin").write_bytes(b"y")
        (folders[2] / "boot-1" / "serial.bin").unlink()
        (folders[3] / "boot-1" / "more").touch()
        (folders[4] / "manifest.json").write_text("{}")
        value = json.loads((folders[5] / "manifest.json").read_text())
        value["files"] = []
        (folders[5] / "manifest.json").write_text(json.dumps(value))
        (folders[6] / "boot-1" / "serial.bin").unlink()
        (folders[6] / "boot-1").rmdir()
        (folders[6] / "manifest.json").unlink()
        folders[6].rmdir()
        (results / "captures" / "2026-01-01" / "interrupted").mkdir(parents=True)
        found = check(store.runs(), results)
    said = {int(text.split(":")[0].removeprefix("run ")): text for text in found.complaints}
    assert set(said) == {1, 2, 3, 4, 5, 6}
    assert "changed" in said[1] and "is gone" in said[2] and "added" in said[3]
    assert "not the manifest" in said[4] and "not the manifest" in said[5] and "captures are gone" in said[6]
    assert [p.name for p in found.orphans] == ["interrupted"]
    assert found.whole == 6


def test_captures_of_an_older_bench_can_be_sealed(results: Path) -> None:
    with Store(results / "bench.sqlite") as store:
        folder = Path(store.run(4).record.capture)
        (folder / manifest.NAME).unlink()
        old = replace(store.run(4), manifest="")
        found = check([old], results)
        assert [r.id for r in found.unsealed] == [4]
        assert seal(store, found.unsealed, results) == 1
        assert manifest.differences(folder, manifest.sha256_of(folder / manifest.NAME)) == []
