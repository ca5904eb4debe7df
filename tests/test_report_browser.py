"""The report in a real headless Chromium, from a file: what it shows, that it runs nothing of what rows hold, and that
a keyboard and a screen reader can use it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_rows
from written_runs import write_run

from gendistill.report import write_report

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
expect = sync_api.expect
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs a chromium on the PATH")

ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run", "--disable-component-update",
    "--disable-sync",
]  # fmt: skip
NAMES = ("food", "music", "sport")
HOSTILE_NAMES = ("<img src=x onerror=alert('name')>", "'\"><script>alert('label')</script>", "{{7*7}} ]]> <!--")
DATASET = "<img src=x onerror=alert('set')> &amp; \u202egnp.jsonl"
HOSTILE = (
    "<script>alert(1)</script> was written in the town today.",
    "<img src=x onerror=alert(2)> was seen near the market.",
    "</script><script>alert(3)</script> ended the page again.",
    "{{7*7}} and ${7*7} and #{7*7} stayed as they were.",
    "]]> <!-- --> <![CDATA[ x ]]> came in a row tonight.",
    "\u202edesrever si siht\u202c and \u2066isolated\u2069 and \x00 and \x1b[31m.",
    "<a href=javascript:alert(4) onclick=alert(5)>press</a> said the village.",
    "<style>*{display:none}</style><base href=//evil.example> hid it all.",
    "<svg/onload=alert(6)><iframe srcdoc='<script>alert(7)</script>'> grew.",
    "w" * 1_000_000,
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain")
    rows = tiny_rows(40, 3)
    # Three words or more of the first real row stand in the first chosen text
    candidates = [((row["text"],), NAMES.index(row["label"])) for row in tiny_rows(40, 3, seed=11)]
    write_run(folder / "run", rows, candidates, per_class=10)
    (folder / "run" / "audit.json").write_text(json.dumps(AUDIT), encoding="utf-8")
    return write_report(folder / "run")


STATUSES = (("labels", "passed"), ("poisoning", "failed"), ("balance", "noted"), ("toxicity", "skipped"))
AUDIT = {
    "version": 1, "rows": 30, "real_rows": 84,
    "checks": [
        {"name": name, "title": name, "status": status, "summary": "One sentence.", "figures": {"n": 1},
         "findings": [{"row": 1, "id": "x", "level": "note", "message": "m", "excerpt": "<b>e</b>", "real": "r"}]}
        for name, status in STATUSES
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def hostile_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    rows = [{"text": f"{HOSTILE[k % 9]} Real {k}.", "label": HOSTILE_NAMES[k % 3]} for k in range(60)]
    candidates = [((f"{HOSTILE[k % 10]} New {k}.",), k % 3) for k in range(60)]
    write_run(folder / "run", rows, candidates, per_class=10, data_name=DATASET, every=7)
    finding = {"row": 1, "id": "x", "level": "error", "message": HOSTILE[0], "excerpt": HOSTILE[1], "real": HOSTILE[5]}
    check = {"name": "x", "title": HOSTILE[0], "status": HOSTILE[1], "summary": HOSTILE[2], "findings": [finding],
             "figures": {HOSTILE[0]: HOSTILE[1]}}  # fmt: skip
    (folder / "run" / "audit.json").write_text(json.dumps({"version": 1, "rows": 30, "checks": [check]}))
    return write_report(folder / "run")


class Opened:
    """A page, with everything that went wrong on it and everything that it asked for."""

    def __init__(self, browser: Any, path: Path, **settings: Any) -> None:
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **settings})
        self.page = self.context.new_page()
        self.wrong: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.wrong.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        self.page.on("dialog", lambda dialog: (self.wrong.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())
        self.address = path.as_uri()

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *error: object) -> None:
        self.context.close()

    def count(self) -> str:
        return str(self.page.locator("#count").inner_text())

    def clean(self) -> bool:
        return self.wrong == [] and self.asked == [self.address]


def test_it_opens_without_an_error_and_asks_for_nothing_else(browser: Any, report: Path) -> None:
    with Opened(browser, report) as opened:
        page = opened.page
        assert page.title() == "run: report" and opened.count() == "Showing 20 of 30 texts."
        assert page.locator("main h2").all_inner_texts() == [
            "Result", "Map of the texts", "Objective and accuracy", "Where the candidates went", "The chosen texts",
            "Checks", "Cost of generation", "Configuration",
        ]  # fmt: skip
        assert page.locator("svg.chart").count() == 4
        page.locator("#more").click()
        assert page.locator("#rows > li").count() == 30 and page.locator("#more").is_hidden()
        for summary in page.locator("#rows > li").first.locator("summary").all():
            summary.click()
        expect(page.locator("#rows .side li")).to_have_count(3)
        expect(page.locator("#rows .examples li")).to_have_count(2)
        assert opened.clean(), (opened.wrong, opened.asked)


def test_search_filters_and_sorting(browser: Any, report: Path) -> None:
    with Opened(browser, report) as opened:
        page = opened.page
        first = page.locator("#rows > li .text").first.inner_text()
        page.fill("#query", first.upper())
        expect(page.locator("#rows > li")).to_have_count(1)
        assert opened.count() == "1 text (of 30 in all)."
        page.fill("#query", "no such word anywhere")
        expect(page.locator("#rows > li")).to_have_count(0)
        assert opened.count() == "No text is found (of 30 in all)."
        page.fill("#query", "")
        expect(page.locator("#rows > li")).to_have_count(20)
        page.select_option("#row-class", label="music")
        assert opened.count() == "10 texts (of 30 in all)."
        assert set(page.locator("#rows .tag").all_inner_texts()) == {"music"}
        page.select_option("#row-round", label="1")
        assert opened.count() == "10 texts (of 30 in all)."
        page.select_option("#row-class", value="")
        page.select_option("#row-sort", label="teacher probability, lowest first")
        values = [
            float(text) for text in page.locator("#rows dt:text-is('teacher probability') + dd").all_inner_texts()
        ]
        assert values == sorted(values) and len(set(values)) > 10
        page.select_option("#row-sort", label="teacher probability, highest first")
        values = [
            float(text) for text in page.locator("#rows dt:text-is('teacher probability') + dd").all_inner_texts()
        ]
        assert values == sorted(values, reverse=True)
        assert opened.clean(), (opened.wrong, opened.asked)


def _scores(page: Any) -> list[float]:
    shown = page.locator("#rows > li .facts > div:first-child dd").all_inner_texts()
    return [float(text) for text in shown]


def test_words_shared_with_a_real_row_are_marked(browser: Any, report: Path) -> None:
    with Opened(browser, report) as opened:
        page = opened.page
        page.check("#all-near")
        marks = page.locator("#rows .side mark").all_inner_texts()
        assert marks
        for side in page.locator("#rows .side").all():
            ours = " ".join(_words(side.locator("> div").first.inner_text()))
            for mark in side.locator("li mark").all_inner_texts():
                assert len(_words(mark)) >= 3
            for mark in side.locator("li").first.locator("mark").all_inner_texts():
                words = _words(mark)
                assert all(" ".join(words[k : k + 3]) in ours for k in range(len(words) - 2))


def _words(text: str) -> list[str]:
    return "".join(c.lower() if c.isalnum() else " " for c in text).split()


def test_the_keyboard_reaches_everything(browser: Any, report: Path) -> None:
    with Opened(browser, report) as opened:
        page = opened.page
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "main"
        seen = set()
        for _ in range(60):
            page.keyboard.press("Tab")
            seen.add(page.evaluate("document.activeElement.id"))
        assert {"plane", "map-class", "query", "row-class", "row-round", "row-sort"} <= seen
        page.focus("#plane")
        page.keyboard.press("Home")
        told = page.locator("#readout").inner_text()
        assert "chosen" in told and page.locator("#readout .text").inner_text()
        places = {told}
        for key in ("ArrowRight", "ArrowRight", "ArrowDown", "ArrowLeft", "ArrowUp", "PageDown"):
            page.keyboard.press(key)
            places.add(page.locator("#readout").inner_text())
        assert len(places) >= 4
        page.keyboard.press("Home")
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "row-0"
        page.focus("#plane")
        page.keyboard.press("Escape")
        assert page.locator("#readout").inner_text() == ""
        page.focus("#rows summary")
        page.keyboard.press("Enter")
        expect(page.locator("#rows .side")).to_have_count(1)
        assert opened.clean(), (opened.wrong, opened.asked)


def test_the_map_answers_the_pointer_and_its_controls(browser: Any, report: Path) -> None:
    with Opened(browser, report) as opened:
        page = opened.page
        page.locator("#plane").scroll_into_view_if_needed()
        box = page.locator("#plane").bounding_box()
        for step in range(0, 40):
            page.mouse.move(box["x"] + box["width"] * step / 40, box["y"] + box["height"] / 2)
        assert page.locator("#readout .text").count() == 1
        page.select_option("#map-class", label="music")
        for name in ("real rows", "candidates turned away", "candidates in the pool"):
            page.get_by_role("checkbox", name=name, exact=True).uncheck()
        page.focus("#plane")
        told = set()
        for _ in range(12):
            page.keyboard.press("PageDown")
            told.add(page.locator("#readout p").first.inner_text())
        assert {" ".join(text.split()) for text in told} == {"music, chosen"}
        blank = page.evaluate("document.getElementById('plane').toDataURL()")
        page.get_by_role("checkbox", name="chosen", exact=True).uncheck()
        assert page.evaluate("document.getElementById('plane').toDataURL()") != blank
        assert opened.clean(), (opened.wrong, opened.asked)


def test_the_theme_and_the_copy_button(browser: Any, report: Path) -> None:
    with Opened(browser, report, color_scheme="light") as opened:
        page = opened.page
        paper = "getComputedStyle(document.body).backgroundColor"
        light = page.evaluate(paper)
        page.click("#theme")
        assert page.evaluate(paper) == light and page.locator("#theme").inner_text() == "Theme: light"
        page.click("#theme")
        assert page.evaluate(paper) != light
        page.click("#theme")
        assert page.evaluate(paper) == light
        page.emulate_media(color_scheme="dark")
        assert page.evaluate(paper) != light
        page.emulate_media(media="print")
        assert page.evaluate(paper) == light and page.locator("nav").is_hidden() and page.locator("#search").is_hidden()
        assert page.locator("#result table").is_visible()
        page.emulate_media(media="screen")
        page.click("#copy")
        expect(page.locator("#copied")).not_to_be_empty()
        assert opened.clean(), (opened.wrong, opened.asked)


def test_it_prints(browser: Any, report: Path) -> None:
    with Opened(browser, report) as opened:
        assert opened.page.pdf(format="A4").startswith(b"%PDF")
        opened.page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert opened.page.locator("#rows > li").count() == 30


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
@pytest.mark.parametrize("which", ["report", "hostile_report"])
def test_nothing_is_wider_than_the_window(browser: Any, request: pytest.FixtureRequest, which: str, width: int) -> None:
    with Opened(browser, request.getfixturevalue(which), viewport={"width": width, "height": 800}) as opened:
        page = opened.page
        page.check("#all-near")
        page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        page.wait_for_timeout(100)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_hostile_rows_are_shown_and_nothing_of_them_runs(browser: Any, report: Path, hostile_report: Path) -> None:
    with Opened(browser, report) as opened:
        expected = _elements(opened.page)
    with Opened(browser, hostile_report) as opened:
        page = opened.page
        while page.locator("#more").is_visible():
            page.click("#more")
        assert page.locator("#rows > li").count() == 30
        page.check("#all-near")
        page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        page.wait_for_timeout(200)
        page.focus("#plane")
        for _ in range(31):
            page.keyboard.press("PageDown")
        assert _elements(page) == expected
        assert page.evaluate("document.querySelectorAll('img, iframe, base, object, embed, audio, video').length") == 0
        shown = page.inner_text("body")
        for text in HOSTILE[:5]:
            assert text in shown
        assert r"\u202edesrever si siht\u202c and \u2066isolated\u2069 and \u0000 and \u001b[31m." in shown
        assert "{{7*7}}" in shown and "49 and" not in shown
        assert not set("\u202e\u2066\x00\x1b") & set(shown)
        assert "[4,000 of 1,000,0" in shown and "wwww" in shown
        options = page.locator("#row-class option").all_inner_texts()
        assert set(HOSTILE_NAMES) <= set(options)
        assert r"alert('set')> &amp; \u202egnp.jsonl" in page.locator(".lede").inner_text()
        page.fill("#query", "</script><script>")
        expect(page.locator("#count")).to_contain_text("in all")
        assert page.locator("#rows > li").count() >= 3
        page.select_option("#row-class", label=HOSTILE_NAMES[0])
        assert opened.clean(), (opened.wrong, opened.asked)
        assert page.evaluate("getComputedStyle(document.querySelector('main')).display") == "block"


def _elements(page: Any) -> list[str]:
    """The kinds of elements there are, and how often those that could run or load something."""
    kinds = page.evaluate("[...new Set([...document.querySelectorAll('*')].map((one) => one.localName))].sort()")
    active = page.evaluate("['script', 'style', 'link', 'meta'].map((n) => n + document.querySelectorAll(n).length)")
    ours = {"mark", "aside", "ul", "li", "h4"}  # which of them appear depends on the texts and on what was opened
    return [*(kind for kind in kinds if kind not in ours), *active]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_axe_finds_no_serious_violation(browser: Any, report: Path, scheme: str, width: int) -> None:
    axe = pytest.importorskip("axe_playwright_python", reason="needs axe_playwright_python")
    source = (Path(axe.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
    # The policy of the page forbids axe too: it is lifted for this run alone
    size = {"width": width, "height": 900}
    with Opened(browser, report, bypass_csp=True, color_scheme=scheme, viewport=size) as opened:
        page = opened.page
        page.check("#all-near")
        page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        page.focus("#plane")
        page.keyboard.press("Home")
        page.wait_for_timeout(100)
        page.evaluate(source)
        found = page.evaluate("axe.run()")
        bad = [
            (one["id"], one["impact"], [node["target"] for node in one["nodes"]][:3], one["nodes"][0]["failureSummary"])
            for one in found["violations"]
        ]
        assert len(found["passes"]) > 20
        assert [one for one in bad if one[1] in ("serious", "critical")] == [], bad


# -- a hundred thousand candidates -------------------------------------------------------------------------------

_BUILD = """
import re, sys, time
from pathlib import Path
from gendistill.report import write_report
started = time.monotonic()
path = write_report(Path(sys.argv[1]))
# Of this process alone: getrusage of a child begins at its parent's
peak = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
print(time.monotonic() - started, peak / 1024, path.stat().st_size)
"""


def test_a_hundred_thousand_candidates(browser: Any, tmp_path: Path) -> None:
    """Built in a minute and 1.5 GB, under 15 MB, and searched within two seconds of being opened."""
    rows = [{"text": f"{row['text']} Real number {k}.", "label": row["label"]} for k, row in enumerate(_many(2_860))]
    candidates = [
        ((f"{row['text']} It was said once more, at number {k}.",), NAMES.index(row["label"]))
        for k, row in enumerate(_many(100_000))
    ]
    write_run(tmp_path / "run", rows, candidates, per_class=100, dims=384)
    done = subprocess.run(
        [sys.executable, "-c", _BUILD, str(tmp_path / "run")], capture_output=True, text=True, timeout=240, check=True
    )
    seconds, memory, size = map(float, done.stdout.split())
    with Opened(browser, tmp_path / "run" / "report.html") as opened:
        page = opened.page
        started = time.monotonic()
        page.reload(wait_until="load")
        loaded = time.monotonic() - started
        page.fill("#query", "striker")
        expect(page.locator("#count")).to_contain_text("in all")
        searched = time.monotonic() - started
        told = page.locator("#layers-told").inner_text()
        assert opened.wrong == []
    for said in ("2,000 of 2,0", "1,000 of 20,000 candidates", "4,000 of 79,700 candidates", "300 chosen texts"):
        assert said in told, told
    assert size < 15e6 and memory < 1500 and seconds < 60
    assert loaded < 2 and searched < 2


def _many(count: int) -> list[dict[str, str]]:
    base = tiny_rows(400, 3, seed=5)
    return [base[k % len(base)] for k in range(count)]
