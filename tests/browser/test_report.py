"""The report in a real browser: Debian's chromium, driven by Playwright; no server, no network.

Screenshots of each kind of page go to ``build/report-screenshots``: look at them.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bench.cli_report import build_report
from tests.report_lab import make_results

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]
SHOTS = Path(__file__).resolve().parents[2] / "build" / "report-screenshots"
VIEWS = {"wide": (1280, 900), "phone": (390, 800)}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = make_results(tmp_path_factory.mktemp("lab") / "results")
    return build_report(results, jobs=1).index.parent


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium")
    assert path, "no chromium here: ./setup --with-browser installs Debian's"
    # Chromium's sandbox does not run as root.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()


class Watched:
    """A page whose console errors and requests are kept."""

    def __init__(self, context: BrowserContext, site: Path) -> None:
        self.page: Page = context.new_page()
        self.trouble: list[str] = []
        self._site = site.as_uri()
        self.page.on("console", lambda m: self.trouble.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.trouble.append(str(error)))
        self.page.on("requestfailed", self._failed)
        self.page.on("request", self._request)

    def _request(self, request: Any) -> None:
        if not request.url.startswith((self._site, "data:", "blob:")):
            self.trouble.append(f"leaves the folder: {request.url}")

    def _failed(self, request: Any) -> None:
        # A click that came before the page was whole breaks off what was still on its way.
        if "ERR_ABORTED" not in (request.failure or ""):
            self.trouble.append(f"failed: {request.url}: {request.failure}")

    def go(self, name: str) -> Page:
        self.page.goto(f"{self._site}/{name}")
        return self.page


@pytest.fixture
def watched(chromium: Browser, site: Path) -> Iterator[Watched]:
    """A wide, light window; the test fails if the console has an error or a request left the folder."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light")
    found = Watched(context, site)
    yield found
    context.close()
    assert found.trouble == []


def kinds(site: Path) -> dict[str, str]:
    """A page of each kind, the fullest of it."""

    def fullest(pattern: str) -> str:
        return max(site.glob(pattern), key=lambda p: p.stat().st_size).relative_to(site).as_posix()

    red = next(
        p for p in site.glob("runs/*.html") if 'id="divergence"' in p.read_text() and "serial-1" in p.read_text()
    )
    hostile = next(p for p in site.glob("runs/*/serial-1.html") if "document.title" in p.read_text())
    return {
        "overview": "index.html",
        "news": "news.html",
        "runs": "runs.html",
        "lab": "lab.html",
        "microcode": "microcode.html",
        "model": fullest("models/*.html"),
        "image": fullest("images/*.html"),
        "compare": fullest("compare/*.html"),
        "run": red.relative_to(site).as_posix(),
        "serial": f"runs/{red.stem}/serial-1.html",
        "hostile": hostile.relative_to(site).as_posix(),
    }


KINDS = ("overview", "news", "runs", "lab", "microcode", "model", "image", "compare", "run", "serial", "hostile")


def test_from_a_red_cell_it_is_one_click_to_the_divergence_and_one_more_to_its_lines(watched: Watched) -> None:
    page = watched.go("index.html")
    page.locator("#matrix tr", has_text="06-3c-03").locator("a.cell", has_text="FAIL").first.click()
    assert re.search(r"runs/\d+\.html#divergence$", page.url)
    if not page.get_by_role("link", name="The serial lines of it").count():
        page = watched.go("news.html")
        page.locator("tr", has_text="haswell").get_by_role("link", name=re.compile(r"run \d+")).first.click()
    assert page.locator("#divergence h2").is_visible()
    assert page.locator("#divergence tr.differs").count() >= 1
    page.get_by_role("link", name="The serial lines of it").click()
    line = page.locator("li:target")
    assert line.is_visible() and "first divergence" in line.inner_text()


def test_from_a_model_to_a_run_to_its_capture(watched: Watched) -> None:
    page = watched.go("index.html")
    page.get_by_role("link", name="06-55-04").first.click()
    assert page.locator("h1").inner_text().startswith("06-55-04")
    page.locator("tr", has_text="skylake-server").get_by_role("link").first.click()
    # From disk chromium opens a file of an unknown kind as text, whatever `download` says.
    page.get_by_role("link", name=re.compile("capture for")).click()
    page.wait_for_url("**/boot-1.capture")
    assert "bench-capture 1" in page.locator("body").inner_text()
    page.go_back()
    page.get_by_role("link", name="serial log").click()
    assert page.locator("ol.serial li").count() > 100


def test_filters_narrow_the_front_page(watched: Watched) -> None:
    page = watched.go("index.html")
    rows = page.locator("#matrix tbody tr:visible")
    total = rows.count()
    page.get_by_label("Search").fill("06-3C")
    assert rows.count() == 1 < total
    assert page.locator("#filters output").inner_text() == f"1 of {total} models"
    page.get_by_label("Search").fill("")
    page.locator("[name=verdict]").select_option("FAIL")
    assert 0 < rows.count() <= total
    page.locator("[name=verdict]").select_option("")
    page.locator("[name=image]").select_option("linux-next/traced")
    assert page.locator("#matrix thead th:visible").count() == 2
    page.locator("[name=kind]").select_option("virtual")
    page.get_by_label("only news").check()
    assert rows.count() < total


def test_runs_are_filtered_by_what_is_typed(watched: Watched) -> None:
    page = watched.go("runs.html")
    page.get_by_label("Search").fill("skylake-server")
    assert page.locator("#runs tbody tr:visible").count() == 1


def test_the_theme_is_switched_and_stays(watched: Watched, site: Path) -> None:
    page = watched.go("index.html")

    def background() -> str:
        return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))

    light = background()
    page.get_by_role("button", name="Switch between dark and light").click()
    dark = background()
    assert dark != light and page.evaluate("document.documentElement.dataset.theme") == "dark"
    watched.go(kinds(site)["run"])
    assert background() == dark
    page.wait_for_selector(".main-svg")
    ink = page.evaluate("getComputedStyle(document.querySelector('.xtitle')).fill")
    page.get_by_role("button", name="Switch between dark and light").click()
    page.wait_for_function("ink => getComputedStyle(document.querySelector('.xtitle')).fill !== ink", arg=ink)


def test_the_keyboard_is_enough(watched: Watched) -> None:
    page = watched.go("index.html")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    seen = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        seen.add(
            page.evaluate("document.activeElement.closest('#matrix') ? 'cell' : document.activeElement.name || ''")
        )
        if "cell" in seen:
            break
    assert {"text", "image", "verdict", "kind", "news", "cell"} <= seen


def test_a_hostile_capture_runs_nothing(watched: Watched, site: Path) -> None:
    for name in [p.relative_to(site).as_posix() for p in site.rglob("*.html") if "hostile" in p.read_text()]:
        page = watched.go(name)
        assert "owned" not in page.title()
        assert page.evaluate("document.querySelectorAll('img, iframe').length") == 0


def test_without_javascript_the_pages_still_read(chromium: Browser, site: Path) -> None:
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{site.as_uri()}/{kinds(site)['run']}")
    assert page.locator("#divergence").is_visible()
    assert page.locator("details summary", has_text="Data of the chart").count() >= 2
    context.close()


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("kind", KINDS)
def test_axe_finds_no_serious_fault_and_nothing_is_wider_than_the_window(
    chromium: Browser, site: Path, kind: str, scheme: str, view: str
) -> None:
    width, height = VIEWS[view]
    context = chromium.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)  # type: ignore[arg-type]
    watched = Watched(context, site)
    page = watched.go(kinds(site)[kind])
    page.wait_for_load_state("load")
    if page.locator("[data-figure]").count():
        page.wait_for_selector(".main-svg")
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"{kind}-{view}-{scheme}.png")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.evaluate(resources.files("axe_playwright_python").joinpath("axe.min.js").read_text())
    found = page.evaluate("axe.run(document, {resultTypes: ['violations'], preload: false})")
    serious = [
        f"{v['id']}: {v['help']}: {n['target']} {n.get('failureSummary', '')}"
        for v in found["violations"]
        if v["impact"] in ("serious", "critical")
        for n in v["nodes"][:3]
    ]
    assert serious == []
    assert watched.trouble == []
    context.close()
