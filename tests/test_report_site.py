"""The site: hostile bytes stay text, every link leads somewhere, and only what changed is written."""

from __future__ import annotations

import re
import shutil
import sqlite3
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from bench.cli_report import build_report
from bench.images.microcode_package import Package
from bench.report.site import Built
from bench.report.site.microcode import wilson
from bench.report.site.newest import newest_known
from bench.report.site.render import slug
from bench.store import Store
from bench.x86.microcode_build import build_update
from tests.report_lab import make_results

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_results(tmp_path_factory.mktemp("lab") / "results")


@pytest.fixture(scope="module")
def site(results: Path) -> Path:
    return build_report(results, jobs=1).index.parent


class Page(HTMLParser):
    """What a browser would make of a page: its elements, identifiers, links and text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "script" not in self.open:
            self.text.append(data)

    def values(self, name: str) -> list[str]:
        return [value for _, attributes in self.tags if (value := attributes.get(name)) is not None]


def pages(site: Path) -> dict[str, Page]:
    return {p.relative_to(site).as_posix(): Page(p) for p in sorted(site.rglob("*.html"))}


@pytest.fixture(scope="module")
def read(site: Path) -> dict[str, Page]:
    return pages(site)


def test_there_is_a_page_of_each_kind(read: dict[str, Page]) -> None:
    kinds = {re.sub(r"[^/]*$", "", name) or name for name in read}
    assert kinds >= {"index.html", "news.html", "runs.html", "lab.html", "microcode.html"}
    assert kinds >= {"models/", "images/", "compare/", "runs/"}
    assert any(re.fullmatch(r"runs/\d+/serial-1\.html", name) for name in read)


def test_every_link_leads_to_a_file_and_every_anchor_to_an_element(site: Path, read: dict[str, Page]) -> None:
    broken = []
    for name, page in read.items():
        for link in page.values("href") + page.values("src"):
            if link.startswith("data:"):
                continue
            path, _, anchor = link.partition("#")
            target = ((site / name).parent / unquote(path)).resolve() if path else site / name
            key = target.relative_to(site.resolve()).as_posix() if path else name
            if not target.is_file() or (anchor and anchor not in read[key].values("id")):
                broken.append((name, link))
    assert broken == []


def test_nothing_is_fetched_from_anywhere_else(site: Path) -> None:
    for path in [*site.rglob("*.html"), site / "assets" / "site.css", site / "assets" / "site.js"]:
        assert not re.search(r"(?:src|href|url|import|fetch)[=(\s\"']+(?:https?:)?//", path.read_text()), path


def test_a_hostile_capture_is_text_on_every_page(site: Path, read: dict[str, Page]) -> None:
    for name, page in read.items():
        scripts = [a for tag, a in page.tags if tag == "script"]
        assert all(a.get("src") or a.get("type") == "application/json" for a in scripts), name
        assert not [tag for tag, _ in page.tags if tag in ("img", "iframe", "object", "i2")], name
        assert not [a for _, a in page.tags if any(key.startswith("on") for key in a)], name
        raw = (site / name).read_text(encoding="utf-8")
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", raw), name
    told = "".join(t for p in read.values() for t in p.text)
    assert "<script>document.title='owned'</script>" in told
    assert r"\x1b[2J\x1b]0;owned\x07\x9b31m red \x00\x00 NUL \xff\xfe\xc3( broken" in told.replace("\\\\", "\\")
    assert "{{ 7 * 7 }} {% raw %} &lt;b&gt; </code></li></ol><h1>out</h1>" in told


def test_a_line_of_a_megabyte_is_cut_and_says_so(site: Path, read: dict[str, Page]) -> None:
    name = next(n for n, p in read.items() if "serial-1" in n and "document.title" in "".join(p.text))
    assert (site / name).stat().st_size < 2_000_000
    assert re.search(r"… 10\d{5} more characters", "".join(read[name].text))


def test_damaged_lines_and_the_divergent_record_are_marked(read: dict[str, Page]) -> None:
    serial = {n: p for n, p in read.items() if "serial-1" in n}
    marked = [a.get("class") or "" for p in serial.values() for tag, a in p.tags if tag == "li"]
    assert any("mark-damaged" in c for c in marked) and any("mark-kernel" in c for c in marked)
    red = next(p for p in serial.values() if "first divergence: " in "".join(p.text))
    assert len([a for tag, a in red.tags if tag == "li" and "grave" in (a.get("class") or "")]) >= 1


def test_each_chart_has_its_data_as_a_table(read: dict[str, Page]) -> None:
    charts = 0
    for name, page in read.items():
        drawn = page.values("data-figure")
        charts += len(drawn)
        captions = "".join(page.text).count("Data of the chart")
        assert captions == len(drawn) == len([v for v in page.values("id") if v.startswith("figure-")]), name
    assert charts > 12


def test_the_charts_are_what_plotly_takes(site: Path) -> None:
    import json

    import plotly.graph_objects as go

    seen = set()
    for path in site.rglob("*.html"):
        for name, text in re.findall(r'id="figure-([a-z]+)[^"]*">(.*?)</script>', path.read_text(), re.DOTALL):
            if name in seen:
                continue
            seen.add(name)
            # The script puts colours in where the figure has names of custom properties.
            figure = json.loads(re.sub(r'"var:--[a-z-]+"', '"#123456"', text))
            go.Figure(figure["data"], figure["layout"])
    assert seen == {"trend", "boot", "pool", "faults", "transitions"}


def test_a_red_cell_leads_to_its_divergence_and_that_to_its_serial_line(site: Path, read: dict[str, Page]) -> None:
    index = read["index.html"]
    red = [
        a["href"]
        for tag, a in index.tags
        if tag == "a" and a.get("class") == "cell" and "#divergence" in (a["href"] or "")
    ]
    drawn = [h for h in red if h and "serial-1.html" in (site / h.split("#")[0]).read_text()]
    assert drawn
    run = read[drawn[0].split("#")[0]]
    assert "divergence" in run.values("id")
    assert any(re.search(r"serial-1\.html#L\d+$", h) for h in run.values("href"))


def test_a_second_build_writes_nothing(results: Path, site: Path) -> None:
    assert site.is_dir()
    again = build_report(results, jobs=1)
    assert (again.written, again.removed, again.runs_drawn) == ([], [], 0)
    assert again.unchanged > 100


@pytest.fixture
def own(results: Path, site: Path, tmp_path: Path) -> Path:
    """A copy of results and site that a test may change."""
    assert site.parent == results
    copy = Path(shutil.copytree(results, tmp_path / "results"))
    with sqlite3.connect(copy / "bench.sqlite") as connection:
        connection.execute("UPDATE runs SET capture = replace(capture, ?, ?)", (str(results), str(copy)))
    connection.close()
    return copy


def site_names(own: Path) -> set[str]:
    return {p.relative_to(own / "reports").as_posix() for p in (own / "reports").rglob("*.html")}


def build(own: Path) -> Built:
    return build_report(own, jobs=1)


def test_a_new_run_writes_its_page_and_those_that_tell_of_it(own: Path) -> None:
    build(own)
    with Store(own / "bench.sqlite") as store:
        last = store.runs(limit=1)[0].record
        new = store.save_run(replace(last, machine="m062a07", model="06-2a-07", image="early-pf/v3.9", capture=""))
    built = build(own)
    assert f"runs/{new}.html" in built.written and "index.html" in built.written
    assert "models/06-2a-07.html" in built.written
    assert {n for n in built.written if n.startswith("models/")} < {n for n in site_names(own) if "models" in n}
    assert [n for n in built.written if n.startswith("runs/")] == [f"runs/{new}.html"]


def test_a_lost_page_is_made_again_and_pruned_captures_are_gone_from_the_page(own: Path) -> None:
    build(own)
    with Store(own / "bench.sqlite") as store:
        run = next(r for r in store.runs() if r.record.capture.endswith("-haswell") and r.manifest)
        page = own / "reports" / "runs" / f"{run.id}.html"
        page.unlink()
        assert f"runs/{run.id}.html" in build(own).written and page.exists()
        store.mark_pruned([run.id])
    shutil.rmtree(own / "captures")
    built = build(own)
    assert f"runs/{run.id}/serial-1.html" in built.removed or not (page.parent / str(run.id)).exists()
    assert "captures were removed on" in page.read_text()


def test_a_page_is_made_again_if_its_captures_were_edited_and_sealed_anew(own: Path) -> None:
    build(own)
    with Store(own / "bench.sqlite") as store:
        run = next(r for r in store.runs() if r.record.capture.endswith("-haswell") and r.manifest)
    with sqlite3.connect(own / "bench.sqlite") as connection:
        connection.execute("UPDATE runs SET manifest = 'other' WHERE id = ?", (run.id,))
    connection.close()
    built = build(own)
    assert built.runs_drawn == 1 and f"runs/{run.id}.html" in built.written


def test_names_of_files_are_plain_and_never_the_same() -> None:
    names = ["a/b", "a-b", "a b", "../../etc/passwd", "<script>", "", ".", "..", "a\x00b", "é"]
    slugs = [slug(n) for n in names]
    assert len(set(slugs)) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9.-]+", s) and not s.startswith(".") for s in slugs)


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (5, 10, 0.2366, 0.7634), (0, 0, 0.0, 1.0), (81, 263, 0.2553, 0.3662)],
)
def test_the_interval_is_wilsons(k: int, n: int, low: float, high: float) -> None:
    """The last row is the example of Newcombe 1998, Statistics in Medicine 17, table I."""
    assert wilson(k, n) == pytest.approx((low, high), abs=5e-5)


def test_the_newest_known_microcode_is_that_of_intels_files_for_the_flags(tmp_path: Path) -> None:
    folder = tmp_path / "1.2" / "intel-ucode"
    folder.mkdir(parents=True)
    updates = [
        build_update(signature=0x306C3, platform_flags=flags, revision=revision, date=0x03062023, data=bytes(2000))
        for flags, revision in ((0x2, 0x27), (0x2, 0x28), (0x10, 0x30))
    ]
    (folder / "06-3c-03").write_bytes(b"".join(updates))
    package = Package(tmp_path / "1.2", "1.2")
    assert newest_known(package, "06-3c-03", 0x306C3, 0x2) == "0x00000028 of 2023-03-06, in Intel's files of 1.2"
    assert newest_known(package, "06-3c-03", 0x306C3, 0x1) == "none in Intel's files of 1.2"
    assert newest_known(package, "06-55-04", 0x50654, 0x1) == "none in Intel's files of 1.2"
    assert newest_known(None, "06-3c-03", 0x306C3, 0x2) == ""
