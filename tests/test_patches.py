"""The patch series of `firmware-images/patches/`: what they may and may not do to a kernel."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from bench.errors import UsageError
from bench.images.kernel import prepare
from bench.images.kernel_description import parse_release
from bench.images.kernel_patches import PATCHES, PatchSet, changed_files, load_patches
from bench.images.kernel_source import Wishes

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / PATCHES
RELEASES = ("6.1.192", "6.12.117", "7.3.4")
ON_TOP = sorted(str(p.parent.relative_to(FOLDER)) for p in FOLDER.rglob("series.toml") if p.parent.name != "trace")
TRACED = ("linux-6.1-trace", "linux-6.12-trace", "linux-7.3-trace")

# Where each call of the trace has to be: context that fits twice would put it elsewhere.
HOOKS = {
    "bench_trace_begin": "x86_64_start_kernel",
    "bench_trace_boot": "x86_64_start_kernel",
    "bench_trace_ucode": "x86_64_start_kernel",
    "bench_trace_setup": "x86_64_start_kernel",
    "bench_trace_mapping": "init_mem_mapping",
    "bench_trace_final_tables": "init_mem_mapping",
    "bench_trace_final": "init_mem_mapping",
    "bench_trace_end": "setup_arch",
    "bench_trace_fatal": "early_fixup_exception",
    "bench_trace_halt": "early_fixup_exception",
}
SEVERAL = {
    "bench_trace_write": {"alloc_low_pages", "memblock_double_array"},
    "bench_trace_read": {"default_find_smp_config", "mpparse_find_mptable"},
    "bench_trace_ucode_before": {"load_ucode_bsp", "load_ucode_ap"},
    "bench_trace_ucode_after": {"load_ucode_bsp", "load_ucode_ap"},
    "bench_trace_ucode_file": {"__load_ucode_intel", "get_microcode_blob"},
    "bench_trace_ucode_chosen": {"apply_microcode_early"},
}


def lines(patches: PatchSet, sign: str) -> list[str]:
    """The lines that all patches add or remove, bare."""
    text = "\n".join(p.data.decode() for p in patches.patches)
    return [line[1:].strip() for line in text.splitlines() if line.startswith(sign) and line[:3] != sign * 3]


@pytest.mark.parametrize("release", RELEASES)
def test_the_trace_only_adds_lines_but_for_three_of_the_kernel(release: str) -> None:
    patches = load_patches(ROOT, ["trace"], parse_release(release))
    removed = Counter(lines(patches, "-"))
    pool = "if (next_early_pgt >= EARLY_DYNAMIC_PAGE_TABLES) {"
    expected = Counter({"call do_early_exception": 1, pool: 3})
    if parse_release(release) < (7, 0):
        expected["static unsigned int __initdata next_early_pgt;"] = 1
    assert removed == expected
    assert {line for line in lines(patches, "+") if line and "bench" not in line} <= {
        "unsigned int __initdata next_early_pgt;"
    }


def test_the_trace_brings_the_header_that_the_payload_uses() -> None:
    copies = dict(load_patches(ROOT, ["trace"], parse_release("6.1")).copies)
    header = (ROOT / "firmware-images/payloads/include/bench_wire.h").read_bytes()
    assert copies["arch/x86/kernel/bench/bench_wire.h"] == header


def test_every_file_of_the_trace_gets_into_the_kernel() -> None:
    copies = dict(load_patches(ROOT, ["trace"], parse_release("6.1")).copies)
    ours = {p.name for p in (FOLDER / "trace").iterdir() if p.suffix in (".c", ".h", ".S")}
    assert {Path(to).name for to in copies} == ours | {"Makefile", "bench_wire.h"}
    makefile = copies["arch/x86/kernel/bench/Makefile"].decode()
    objects = {f"{Path(name).stem}.o" for name in ours if not name.endswith(".h")}
    assert set(re.findall(r"\S+\.o\b", makefile)) == objects


def variables(source: str) -> list[str]:
    """The declarations of variables at file level in C `source`, without types, functions and constants."""
    text = re.sub(r"/\*.*?\*/|//[^\n]*|^#[^\n]*(\\\n[^\n]*)*", "", source, flags=re.DOTALL | re.MULTILINE)
    while "{" in text:
        # A function's body ends its declaration; any other braces belong to one.
        text = re.sub(r"(\)\s*)?\{[^{}]*\}", lambda m: ");" if m[1] else "", text)
    found = [" ".join(statement.split()) for statement in text.split(";")]
    return [s for s in found if s and not re.match(r"typedef|extern|enum$|struct \w+$|.*\)$", s) and " const " not in s]


@pytest.mark.parametrize("path", sorted((FOLDER / "trace").glob("*.c")), ids=lambda p: p.name)
def test_state_of_the_trace_lies_neither_in_bss_nor_beside_the_pool(path: Path) -> None:
    for variable in variables(path.read_text()):
        assert re.search(r" __bench_data =", variable), variable


def test_variables_are_found_in_c() -> None:
    source = "int a;\nstatic struct s {\n int x; } b[2] __bench_data = { { 0 } };\nvoid f(void)\n{\n int c = 0;\n}\n"
    assert variables(source + "static const int d = 1;\nstruct s { int x; };\n") == [
        "int a",
        "static struct s b[2] __bench_data =",
    ]


@pytest.mark.parametrize("series", ON_TOP)
def test_a_series_on_top_leaves_the_trace_alone(series: str) -> None:
    patches = load_patches(ROOT, [series], parse_release("6.1.192"))
    assert not patches.copies
    for line in (*lines(patches, "+"), *lines(patches, "-")):
        assert "bench" not in line.replace("bench_pool_limit", ""), line


@pytest.mark.parametrize("series", [s for s in ON_TOP if s.startswith("mutants/")])
def test_a_mutant_is_small_and_says_what_is_wrong(series: str) -> None:
    (patch,) = load_patches(ROOT, [series], parse_release("6.1.192")).patches
    head, _, diff = patch.data.decode().partition("--- a/")
    assert len(head.split()) >= 5
    assert diff.count("\n@@ ") <= 3 and diff.count("\n+") <= 9
    assert re.match(r"mutants/[0-9]{2}-", series)


@pytest.mark.parametrize("series", ON_TOP)
def test_a_series_for_one_release_is_refused_for_others(series: str) -> None:
    with pytest.raises(UsageError, match=r"has nothing for Linux 7\.3"):
        load_patches(ROOT, [series], parse_release("7.3.4"))


def test_the_trace_is_refused_for_a_release_that_it_was_not_made_for() -> None:
    with pytest.raises(UsageError, match=r"has nothing for Linux 5\.10"):
        load_patches(ROOT, ["trace"], parse_release("5.10.1"))


def patched(image: str, *extra: str) -> dict[str, str]:
    """The files that the series of `image` change, as they become. Raises UsageError where a patch does not apply.

    The source is fetched and unpacked if it is not there; nothing is compiled.
    """
    build = prepare(ROOT, image, extra, None, None, lambda _: None)
    store, tree = build.fetch(Wishes()), build.tree
    with tree.locked():
        build.unpack(tree, store)
        changed = changed_files(build.patches, 1, tree.pristine)
    return {path: data.decode() for path, data in changed.items() if data is not None}


def calls(files: dict[str, str]) -> Counter[tuple[str, str]]:
    """(call of the trace, function that it is in) in the kernel's own files."""
    found: Counter[tuple[str, str]] = Counter()
    for path, text in files.items():
        if not path.endswith(".c") or "/bench/" in path:
            continue
        function = ""
        for line in text.splitlines():
            if head := re.match(r"\w[^;=]*?(\w+)\((?:[^;]*)$", line):
                function = head[1]
            found.update((name, function) for name in re.findall(r"\t(bench_trace_\w+)\(", line))
    return found


@pytest.mark.kernels
@pytest.mark.timeout(600)
@pytest.mark.parametrize("image", TRACED)
def test_every_call_of_the_trace_is_in_the_function_that_it_is_meant_for(image: str) -> None:
    found = calls(patched(image))
    single = Counter(dict.fromkeys(HOOKS.items(), 1))
    assert Counter({key: n for key, n in found.items() if key[0] in HOOKS}) == single
    for name, functions in SEVERAL.items():
        there = {function for hook, function in found if hook == name}
        assert there and there <= functions
    assert {name for name, _ in found} == HOOKS.keys() | SEVERAL.keys()


@pytest.mark.kernels
@pytest.mark.timeout(600)
@pytest.mark.parametrize("series", ON_TOP)
def test_a_series_on_top_applies_and_moves_no_call(series: str) -> None:
    assert calls(patched("linux-6.1-trace", series)) == calls(patched("linux-6.1-trace"))
