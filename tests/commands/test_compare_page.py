"""The page of `compare --html`: what its text may never hold, and how it behaves in a real browser."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from commands.comparison.page import PARTS, look
from main import main
from tests.browser import Browser, why_no_browser
from tests.commands.golden import bits, figure, make_run

EVIL = "<script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\">"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of four runs: other protocols, several kinds of figures, and one whose texts would be code."""
    folder = tmp_path_factory.mktemp("page")
    runs = folder / "runs"
    make_run(runs / "first" / "1", 310.0, seed=0)
    make_run(runs / "first" / "2", 300.0, seed=1)
    make_run(runs / "second_with_a_long_name_that_does_not_end_soon" / "1", 90.5, lr=1e-3, seconds=900.0)
    bound = bits(3.3, "estimate of a lower bound by uniform dequantisation, probability-flow ODE")
    make_run(runs / "third" / "1", figures={"fd_effnet": figure(1200.0, num_samples=9), "bits_per_dim": bound})
    make_run(runs / "evil<b>&'" / "1", 700.0, status="failed", error=EVIL, model={"class_path": f"models.{EVIL}"})
    out = folder / "page.html"
    assert main(["compare", *map(str, sorted(runs.iterdir())), "--html", str(out)]) == 0
    return out


def data_of(page: Path) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def test_texts_of_runs_are_never_code(page: Path) -> None:
    text = page.read_text()
    assert len(re.findall(r"<script", text)) == 2
    assert "<img" not in text
    assert "<b>" not in text
    assert "evil<b>&'" in data_of(page)["groups"]


def test_nothing_is_loaded_from_elsewhere(page: Path) -> None:
    text = page.read_text()
    assert re.findall(r"(?:src|href)\s*=\s*[\"'](?!#|data:)", text) == []
    assert re.findall(r"url\(|@import|https?://(?!www\.w3\.org/2000/svg)", text) == []
    assert "default-src 'none'" in text


def test_curves_keep_protocols_apart(page: Path) -> None:
    curves = {curve["title"]: curve for curve in data_of(page)["curves"]}
    assert {"fd_effnet · Quality 1", "fd_effnet · Quality 2", "g_loss"} <= set(curves)
    assert [each["run"] for each in curves["fd_effnet · Quality 2"]["series"]] == ["third/1"]
    first = next(each for each in curves["fd_effnet · Quality 1"]["series"] if each["run"] == "first/2")
    assert first["points"][-1] == [2.0, 1800.0, 300.0]
    assert len(curves["g_loss"]["series"]) == 5


def test_costs_stand_beside_figures(page: Path) -> None:
    plot = next(plot for plot in data_of(page)["scatter"] if plot["title"] == "fd_effnet · Quality 1")
    point = next(point for point in plot["points"] if point["label"].startswith("first"))
    assert point["y"] == 305.0  # the mean over two seeds
    assert point["x"]["device hours, evaluations included"] == 1.0
    assert point["x"]["parameters, all networks"] == 190672


def test_written_samples_are_shown_as_text(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs" / "a" / "1")
    for path in (run / "samples").iterdir():
        path.with_suffix(".txt").write_text(f"To be <b>at {path.stem}</b>")
        path.unlink()
    out = tmp_path / "x.html"
    assert main(["compare", str(run), "--html", str(out)]) == 0
    (samples,) = data_of(out)["grids"]
    assert [grid["text"] for grid in samples["grids"]] == [f"To be <b>at kimg{i:010.3f}</b>" for i in range(3)]
    why = why_no_browser()
    if why is not None:
        pytest.skip(why)
    with Browser(tmp_path / "profile", 1280, 900) as browser:
        browser.open(out)
        assert browser.run("return document.querySelector('#grids pre').textContent").endswith("at kimg000002.000</b>")
        assert browser.run("return document.images.length") == 0
        assert [line for line in browser.console() if not line.startswith("INFO")] == []


def test_a_run_alone_has_no_costs_to_choose_by(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs" / "a" / "1")
    assert main(["compare", str(run), "--html", str(tmp_path / "x.html")]) == 0
    assert data_of(tmp_path / "x.html")["scatter"] == []
    assert len(data_of(tmp_path / "x.html")["curves"]) == 2


def test_grids_know_when_they_were_drawn_and_are_no_more_than_asked_for(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs" / "a" / "1")
    for grids, kimg in ((12, [0, 1, 2]), (2, [0, 2]), (1, [2]), (0, [])):
        assert main(["compare", str(run), "--html", str(tmp_path / "x.html"), "--grids", str(grids)]) == 0
        kept = [grid for each in data_of(tmp_path / "x.html")["grids"] for grid in each["grids"]]
        assert [grid["kimg"] for grid in kept] == kimg
        assert [grid["seconds"] for grid in kept] == [900.0 * at for at in kimg]  # 450 s for 500 samples


def test_only_settings_that_differ_are_listed(page: Path) -> None:
    text = page.read_text()
    section = text[text.index('id="table-settings-that-differ"') :]
    assert "model.init_args.adversarial.init_args.lr" in section
    assert "model.init_args.width" not in section


def test_runs_differ_in_colour_or_shape() -> None:
    looks = [look(group) for group in range(50)]
    assert len({each[:2] for each in looks}) == 50
    shapes = re.findall(r'<symbol id="(\w+)"', (PARTS / "page.html").read_text())
    assert {each[1] for each in looks} == set(shapes)


def luminance(colour: str) -> float:
    """Of #rrggbb, as WCAG 2 defines it."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", [0, 1])
def test_colours_have_contrast_enough(scheme: int) -> None:
    """WCAG 2, level AA: 4.5 for text, 3 for the marks and lines of charts; light, then dark."""
    found = re.findall(r":root \{(.*?)\}", (PARTS / "style.css").read_text(), re.DOTALL)
    colours = dict(re.findall(r"--(\w+): (#\w{6})", found[scheme]))
    for behind in ("back", "panel"):
        for name in ("text", "soft", "accent", "best", *(f"g{i}" for i in range(10))):
            light, dark = sorted((luminance(colours[name]), luminance(colours[behind])), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= (3 if name[0] == "g" else 4.5), (name, behind)


# In a browser.


@pytest.fixture(scope="module")
def browsers(page: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Browser]]:
    why = why_no_browser()
    if why is not None:
        pytest.skip(why)
    desk = Browser(tmp_path_factory.mktemp("profile"), 1280, 900)
    phone = Browser(tmp_path_factory.mktemp("profile"), 390, 844, "dark")
    with desk, phone:
        for browser in (desk, phone):
            browser.open(page)
        yield {"desk": desk, "phone": phone}


@pytest.fixture
def desk(browsers: dict[str, Browser]) -> Browser:
    return browsers["desk"]


def column(browser: Browser, table: str, number: int) -> list[str]:
    return browser.run(
        "return [...document.querySelectorAll(`#table-${arguments[0]} tbody tr`)]"
        ".map((row) => row.children[arguments[1]].textContent)",
        table, number,
    )  # fmt: skip


def click(browser: Browser, selector: str) -> None:
    browser.run("document.querySelector(arguments[0]).click()", selector)


def test_no_errors_and_nothing_taken_over(browsers: dict[str, Browser]) -> None:
    for browser in browsers.values():
        browser.run("document.getElementById('more').open = true")
        assert browser.run("return document.title") == "Comparison of 5 runs"
        assert browser.run("return document.querySelectorAll('svg').length") >= 3
        assert [line for line in browser.console() if not line.startswith("INFO")] == []


def test_the_console_is_read(desk: Browser) -> None:
    """A page whose script fails is seen to fail."""
    desk.run("setTimeout(() => { throw new Error('planted') }, 0)")
    assert any("planted" in line for line in desk.console())


def test_columns_sort_both_ways(desk: Browser) -> None:
    head = "#table-quality-1 thead th:nth-child(3)"
    click(desk, f"{head} button")
    assert desk.run("return document.querySelector(arguments[0]).ariaSort", head) == "ascending"
    assert column(desk, "quality-1", 2) == ["90.5", "305.0 ± 7.1", "700"]
    click(desk, f"{head} button")
    assert desk.run("return document.querySelector(arguments[0]).ariaSort", head) == "descending"
    assert column(desk, "quality-1", 2) == ["700", "305.0 ± 7.1", "90.5"]
    click(desk, "#table-quality-1 thead th:nth-child(1) button")
    assert column(desk, "quality-1", 0)[0].startswith("evil")
    assert desk.run("return document.querySelector(arguments[0]).ariaSort", head) == "none"


def test_the_slider_changes_the_pictures(desk: Browser) -> None:
    slide = (
        "const slider = document.getElementById('at'); slider.value = arguments[0];"
        "slider.dispatchEvent(new Event('input'));"
        "return [...document.querySelectorAll('#grids img')].map((image) => [image.src, image.alt])"
    )
    first, last = desk.run(slide, 0), desk.run(slide, 2)
    assert [alt.split(" after ")[1] for _, alt in first] == ["0 kimg, 0 s"] * 4
    assert [alt.split(" after ")[1] for _, alt in last] == ["2 kimg, 30 min"] * 4
    assert all(a != b for (a, _), (b, _) in zip(first, last, strict=True))
    click(desk, "[name=equal][value=seconds]")
    assert desk.run("return document.getElementById('at').ariaValueText || "
                    "document.getElementById('at').getAttribute('aria-valuetext')") == "30 min"  # fmt: skip


def test_every_picture_has_words(browsers: dict[str, Browser]) -> None:
    for browser in browsers.values():
        words = browser.run("return [...document.images].map((image) => image.alt)")
        assert len(words) == 4
        assert all(words)
        labels = browser.run(
            "return [...document.querySelectorAll('svg:not([aria-hidden])')].map((svg) => svg.ariaLabel)"
        )
        assert len(labels) > 5
        assert all(labels)
        assert any("first/1: 310 after 2 kimg, 30 min; first/2: 300" in label for label in labels)
        unnamed = "return [...document.querySelectorAll('table')].filter((table) => !table.caption.textContent).length"
        assert browser.run(unnamed) == 0


def test_the_first_screen_says_what_is_best_for_how_much(browsers: dict[str, Browser]) -> None:
    below = (
        "scrollTo(0, 0); const of = (selector) => document.querySelector(selector).getBoundingClientRect();"
        "return [of('#table-at-a-glance tbody tr:last-child').bottom - innerHeight,"
        " of('#table-at-a-glance tbody td').right - innerWidth]"
    )
    for browser in browsers.values():
        down, right = browser.run(below)
        assert down < 0
        assert right < 0  # without scrolling the table
    assert column(browsers["desk"], "at-a-glance", 1) == ["700", "305.0 ± 7.1", "90.5", ""]
    assert column(browsers["desk"], "at-a-glance", 2) == ["", "", "", "1,200"]


def test_headings_are_in_order(desk: Browser) -> None:
    levels = desk.run("return [...document.querySelectorAll('h1, h2, h3')].map((heading) => heading.tagName)")
    assert levels[0] == "H1"
    assert set(levels[1:]) == {"H2"}


def press(browser: Browser, key: str, code: int, text: str = "") -> None:
    for kind in ("keyDown", "keyUp"):
        browser.developer("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, text=text)


def test_the_keyboard_is_enough(desk: Browser) -> None:
    head = "#table-training-time thead th:nth-child(3)"
    press(desk, "Tab", 9)  # from here on, what has the focus is marked
    desk.run("document.querySelector(arguments[0]).focus()", f"{head} button")
    assert desk.run("return getComputedStyle(document.activeElement).outlineStyle") == "solid"
    press(desk, "Enter", 13, "\r")
    assert desk.run("return document.querySelector(arguments[0]).ariaSort", head) == "ascending"
    assert column(desk, "training-time", 2)[0] == "15 min"
    desk.run("document.getElementById('at').focus()")
    before = desk.run("return document.querySelector('#grids img').alt")
    press(desk, "ArrowLeft", 37)
    assert desk.run("return document.querySelector('#grids img').alt") != before
    press(desk, "ArrowRight", 39)
    desk.run("document.querySelector('#figure-curves svg').focus()")
    said = "return document.querySelector('#figure-curves output').textContent"
    press(desk, "ArrowRight", 39)
    first = desk.run(said)
    assert first.endswith("after 0.5 kimg, 7.5 min")
    press(desk, "ArrowRight", 39)
    assert desk.run(said).endswith("after 1 kimg, 15 min")
    press(desk, "ArrowLeft", 37)
    assert desk.run(said) == first


def test_a_figure_stands_against_each_cost_and_names_do_not_cover_one_another(browsers: dict[str, Browser]) -> None:
    boxes = (
        "return [...document.querySelectorAll('#cost-charts svg')].map((svg) => [...svg.querySelectorAll('.name')]"
        ".map((name) => { const box = name.getBBox(); return [box.x, box.y, box.x + box.width, box.y + box.height] }))"
    )
    for browser in browsers.values():
        charts = browser.run(boxes)
        assert len(charts) == 5
        for chart in charts:
            assert chart
            for i, a in enumerate(chart):
                assert a[0] >= 0
                assert a[2] <= 560
                for b in chart[:i]:
                    covered = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
                    assert min(covered) < 4  # letters have room above and below


def test_numbers_are_printed_whole(desk: Browser) -> None:
    lines = (
        "const lines = (cell) => { const all = document.createRange(); all.selectNodeContents(cell);"
        " return new Set([...all.getClientRects()].map((box) => Math.round(box.bottom))).size };"
        "return Math.max(...[...document.querySelectorAll('td.number')].filter((c) => c.textContent).map(lines))"
    )
    desk.developer("Emulation.setEmulatedMedia", media="print")
    try:
        assert desk.run("return getComputedStyle(document.querySelector('.controls')).display") == "none"
        assert desk.run(lines) == 1
    finally:
        desk.developer("Emulation.setEmulatedMedia", media="")


def test_without_scripts_the_tables_stand_alone(page: Path, desk: Browser) -> None:
    desk.developer("Emulation.setScriptExecutionDisabled", value=True)
    try:
        desk.open(page)
        displays = (
            "return [...document.querySelectorAll('.scripted')].every((e) => getComputedStyle(e).display === 'none')"
        )
        assert desk.run(displays)
        assert column(desk, "at-a-glance", 1) == ["700", "305.0 ± 7.1", "90.5", ""]
    finally:
        desk.developer("Emulation.setScriptExecutionDisabled", value=False)
        desk.open(page)


def test_runs_can_be_hidden(desk: Browser) -> None:
    count = "return document.querySelectorAll('#figure-curves .curve').length"
    before = desk.run(count)
    click(desk, "#legend input")
    assert desk.run(count) < before
    click(desk, "#legend input")
    assert desk.run(count) == before
    none, all_of_them = (f"#legend button:nth-of-type({i})" for i in (2, 1))
    click(desk, none)
    assert desk.run(count) == 0
    click(desk, all_of_them)
    assert desk.run(count) == before


def test_curves_go_against_time_too(desk: Browser) -> None:
    names = "return [...document.querySelectorAll('#figure-curves svg text:last-of-type')].map((t) => t.textContent)"
    axis = "return document.querySelector('#figure-curves svg').getAttribute('aria-label')"
    assert "kimg (thousand training examples)" in desk.run(axis), desk.run(names)
    click(desk, "[name=against][value='1']")
    assert "wall time, minutes" in desk.run(axis)
    click(desk, "[name=against][value='0']")


def test_a_phones_page_does_not_scroll_sideways(browsers: dict[str, Browser]) -> None:
    phone = browsers["phone"]
    assert phone.run("return window.innerWidth") == 390
    assert phone.run("return document.documentElement.scrollWidth") <= 390
    wide = phone.run(
        "return [...document.querySelectorAll('.scroll')].some((box) => box.scrollWidth > box.clientWidth)"
    )
    assert wide  # what is wide scrolls in its own box


def test_both_colour_schemes(browsers: dict[str, Browser]) -> None:
    colour = "return getComputedStyle(document.body).backgroundColor"
    assert browsers["desk"].run(colour) == "rgb(255, 255, 255)"
    assert browsers["phone"].run(colour) == "rgb(20, 23, 27)"
