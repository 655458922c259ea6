"""The page in a real browser: it draws, it reacts, it asks the network for nothing, and it fits a narrow screen."""

import os
import re
import shutil
import time

import pytest

from multirate.lab.reporting import report
from multirate.lab.results import Outcome, TrialResult
from multirate.lab.storage import Storage
from multirate.lab.studies import figure2, table2
from multirate.lab.yardstick.families import FAMILIES

EVIL = "<b>&\"'</b><script>document.title='hacked'</script>"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def missing(reason):
    """Skip, but never where all tests are meant to run."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def browser():
    path = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if path is None:
        missing("no Chromium: apt-get install chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("no Playwright: pip install playwright")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


def curves(factor):
    steps = list(range(6))
    layers = {node: [factor * 1e-3 * 0.9**step for step in steps] for node in (EVIL, "hidden", "output")}
    return {
        "step": steps[1:], "train_loss": [2.0 * 0.7**step for step in steps[1:]], "epoch": [0, 1, 2],
        "epoch_step": [0, 3, 6], "epoch_seconds": [0.0, 1.0, 2.0], "test_loss": [2.3, 0.9, 0.4],
        "test_accuracy": [0.1, 0.8, 0.9], "rate_steps": steps, "layer_rates": layers,
        "weights": {EVIL: [0.5] * 6, "global": [0.4] * 6}, "rates": {EVIL: layers},
        "agreement": {EVIL: {node: [0.1 * step for step in steps] for node in layers}},
    }  # fmt: skip


def result(task, name, seed, loss):
    return TrialResult(
        task, name, seed, epochs=2, steps=6, diverged=loss is None, test_loss=loss,
        test_accuracy=None if loss is None else 1 - loss, seconds=2.0, settings={EVIL: EVIL}, command=EVIL,
        versions={}, revision=None, hardware="", best_epoch=2,
    )  # fmt: skip


def address_of(storage):
    """Make the report of a folder without its pictures, and return where the page is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "draw_png", lambda chart, subject: b"")
        return report.make_report(storage).page.as_uri()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A report on two tasks, with sweeps, a long name, and a level and a layer whose name is an attack."""
    storage = Storage(tmp_path_factory.mktemp("report"))
    names = [f"{name}:lr={lr}" for name in ("adam", "adam-hd") for lr in ("0.001", "0.01", "0.1")]
    names.append("adam-cam-hd-3:hyper_lr=0.0003:reading=scaled+cosine")
    for task in ("digits/ffnn", "digits/logistic"):
        for place, name in enumerate(names):
            for seed in (0, 1):
                loss = None if name == "adam:lr=0.1" and seed else 0.1 + 0.05 * place + 0.01 * seed
                storage.add(Outcome(result(task, name, seed, loss), curves(1 + place + seed)))
    return address_of(storage)


@pytest.fixture(scope="module")
def table_address(tmp_path_factory):
    """A report on a study with a paper's figures, several baselines and a swept option."""
    storage = Storage(tmp_path_factory.mktemp("table"))
    ratios = [figure2.variant(ratio, 0.0) for ratio in figure2.RATIOS]
    names = ["adam", "adam-hd", "adam-cam-hd", *ratios]
    storage.write_plan({"optimizers": names, "study": "table2"})
    for task in table2.TASKS:
        for place, name in enumerate(names):
            for seed in (0, 1):
                loss = None if (name, seed) == (ratios[2], 1) else 0.02 + 0.001 * place + 0.002 * seed
                storage.add(Outcome(result(task, name, seed, loss), curves(1 + place + seed)))
    return address_of(storage)


@pytest.fixture(scope="module")
def yardstick_address(tmp_path_factory):
    """A report on a yardstick: bars of scores, and maps with the scores written in."""
    storage = Storage(tmp_path_factory.mktemp("yardstick"))
    ours = [name for family in ("multirate-adamw", "multirate-sgd") for name in FAMILIES[family].candidates]
    names = [FAMILIES["adam-tuned"].candidates[3], *FAMILIES["prodigy"].candidates, *ours]
    storage.write_plan({"optimizers": names, "study": "yardstick"})
    for task in ("yardstick/digits-logistic", "yardstick/mnist-ffnn"):
        for place, name in enumerate(names):
            storage.add(Outcome(result(task, name, 0, 0.1 + 0.05 * place), curves(1 + place)))
    return address_of(storage)


def wait_until(page, expression):
    """Wait for JavaScript to be true; Playwright's own way needs `eval`, which the page forbids."""
    end = time.monotonic() + 20
    while not page.evaluate(expression):
        assert time.monotonic() < end, f"never true: {expression}"
        page.wait_for_timeout(50)


class Visit:
    """A page, with everything that it complained about or asked for."""

    def __init__(self, browser, address, width):
        self.page = browser.new_page(viewport={"width": width, "height": 900})
        self.complaints, self.requests = [], []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(address)
        wait_until(
            self.page,
            "Object.keys(charts).every(id => document.querySelector("
            "`#${id} .scatterlayer .trace, #${id} .hm, #${id} .barlayer .trace`))",
        )


@pytest.fixture
def visit(browser, address):
    visits = []

    def open_page(width, where=address):
        visits.append(Visit(browser, where, width))
        return visits[-1]

    yield open_page
    for each in visits:
        each.page.close()


def charts_of(page):
    """Return for every chart what it should show and, when all of it is drawn, nothing else."""
    drawn = page.evaluate(
        """Object.entries(charts).map(([id, figure]) => {
            const kinds = {scatter: 0, heatmap: 0, bar: 0};
            for (const trace of figure.data) kinds[trace.type] += 1;
            const place = document.getElementById(id);
            const count = what => place.querySelectorAll(what).length;
            const names = figure.data.filter(trace => trace.showlegend).map(trace => trace.name);
            return [id, {...kinds, legend: new Set(names).size},
                    {scatter: count(".scatterlayer .trace"), heatmap: count(".heatmaplayer .hm"),
                     bar: count(".barlayer .trace"), legend: count(".legend .traces")}];
        })"""
    )
    for identifier, wanted, found in drawn:
        assert wanted["scatter"] + wanted["heatmap"] + wanted["bar"] > 0
        assert found == wanted, identifier
    return [wanted for _, wanted, _ in drawn]


def test_every_chart_is_drawn_in_full(visit):
    seen = visit(1280)
    drawn = charts_of(seen.page)
    # The profile, and for each of two tasks: learning, robustness, rates of layers and of a level, each as a map too,
    # weights, agreement.
    assert len(drawn) == 1 + 2 * 8
    assert seen.complaints == []


@pytest.mark.parametrize("width", [420, 1280])
def test_a_study_with_a_paper_s_table_is_drawn_in_full(visit, table_address, width):
    seen = visit(width, table_address)
    # The profile, and for each of three tasks: learning, the swept option, rates of layers and of a level, each as a
    # map too, weights, agreement.
    assert len(charts_of(seen.page)) == 1 + 3 * 8
    titles = seen.page.locator("main h3").all_inner_texts()
    assert titles.count("Beside the paper") == 1
    assert titles.count("Against the baselines") == titles.count("Result against weights") == 3
    rows = seen.page.locator("section", has=seen.page.locator("h3", has_text="Beside the paper")).locator("tbody tr")
    assert rows.count() == 3 * (4 + len(figure2.RATIOS))
    assert rows.locator("td.mark").count() > 0
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
    assert seen.complaints == []


@pytest.mark.parametrize("width", [420, 1280])
def test_a_yardstick_is_drawn_with_its_bars_and_the_numbers_in_its_maps(visit, yardstick_address, width):
    seen = visit(width, yardstick_address)
    bars, maps, *others = charts_of(seen.page)
    assert (bars["bar"], maps["heatmap"]) == (1, 4)
    assert len(others) > 10
    # Four methods of ours on two tasks from seven starting rates.
    assert seen.page.locator("#chart1 .heatmaplayer .heatmap-label").count() == 4 * 2 * 7
    methods = 2 + 1 + 4
    assert seen.page.locator("#chart0 .barlayer .point").count() == methods
    assert seen.page.locator("#chart0 .barlayer .bartext").count() == methods
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
    assert seen.complaints == []


def test_nothing_is_asked_of_the_network(visit, address):
    seen = visit(1280)
    assert [url for url in seen.requests if not url.startswith(("data:", "blob:"))] == [address]
    answer = seen.page.evaluate("fetch('http://127.0.0.1:9/').then(() => 'sent', () => 'refused')")
    assert answer == "refused"
    assert any("Content Security Policy" in text for text in seen.complaints)


def test_a_click_in_the_legend_hides_a_line_and_another_shows_it(visit):
    page = visit(1280).page
    chart = page.locator("#chart1")
    lines = "place.data.filter(trace => trace.name === 'adam:lr=0.001').map(trace => trace.visible ?? true)"
    visible = f"(() => {{ const place = document.getElementById('chart1'); return {lines}; }})()"
    paths = chart.locator(".scatterlayer .trace")
    before = paths.count()
    assert set(page.evaluate(visible)) == {True}
    entry = chart.locator(".legend .traces", has_text=re.compile(r"^adam:lr=0\.001$"))
    entry.locator(".legendtoggle").click()
    wait_until(page, f"{visible}.every(shown => shown === 'legendonly')")
    # Three panels, in each a line and its band; bands without any height are not drawn.
    assert paths.count() == before - page.evaluate(
        "document.getElementById('chart1').data.filter(trace => trace.legendgroup === 'adam:lr=0.001').length"
    )
    entry.locator(".legendtoggle").click()
    wait_until(page, f"{visible}.every(shown => shown === true)")
    assert paths.count() == before


def test_names_are_shown_as_the_text_they_are(visit):
    page = visit(1280).page
    assert page.title() == "Optimizers compared"
    assert page.locator("main script, main b").count() == 0
    assert page.locator("main h3", has_text=f"Agreement at the level “{EVIL}”").count() == 2
    assert page.locator("main code", has_text=EVIL).count() > 0
    entries = page.evaluate("[...document.querySelectorAll('.legendtext')].map(text => text.textContent)")
    assert EVIL in entries
    bold = "[...document.querySelectorAll('.legendtext tspan')].filter(part => part.style.fontWeight).length"
    assert page.evaluate(bold) == 0


@pytest.mark.parametrize("width", [360, 420, 760, 1280])
def test_nothing_sticks_out_of_the_page(visit, width):
    seen = visit(width)
    page = seen.page
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("document.body.scrollWidth") <= width
    outside = page.evaluate(
        """[...document.querySelectorAll('.card, .chart, .chart svg.main-svg, h1, h2, h3, p')]
            .filter(each => each.getBoundingClientRect().right > innerWidth + 0.5).map(each => each.outerHTML)"""
    )
    assert outside == []
    below = page.evaluate(
        """[...document.querySelectorAll('.chart')].filter(chart => {
            const legend = chart.querySelector('.legend .bg');
            if (!legend) return false;
            const top = legend.getBoundingClientRect().top;
            return [...chart.querySelectorAll('.xaxislayer-above text, .xtitle, .g-xtitle text')]
                .some(text => text.getBoundingClientRect().bottom > top + 1);
        }).map(chart => chart.id)"""
    )
    assert below == [], "a legend lies over an axis"
    assert seen.complaints == []


def test_a_page_that_becomes_narrow_puts_its_panels_below_each_other(visit):
    page = visit(1280).page
    panels = "document.getElementById('chart1')._fullLayout.xaxis2.domain[0]"
    assert page.evaluate(panels) > 0.3
    page.set_viewport_size({"width": 420, "height": 900})
    wait_until(page, f"{panels} === 0")
    assert page.evaluate("document.documentElement.scrollWidth") <= 420
