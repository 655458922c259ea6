"""The report: complete, self-contained, and safe from what it is given."""

import json
import re
import shutil
from html.parser import HTMLParser

import pytest

from multirate.lab.reporting.report import make_report
from multirate.lab.results import Outcome
from multirate.lab.storage import Storage

EVIL = '</script><script src="http://evil.example/x.js"></script><img src=x onerror=alert(1)> $\\frac$ [bold]'


class Elements(HTMLParser):
    """Collects every element of a page, and the text of the scripts that hold data."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.elements = []
        self.texts = []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.texts.append(data)


def curves(layer="hidden", level="global"):
    return {
        "step": [1, 2], "train_loss": [1.0, 0.5], "epoch": [0, 1], "test_loss": [2.0, 0.7],
        "test_accuracy": [0.1, 0.8], "rate_steps": [0, 1, 2], "layer_rates": {layer: [1e-3, 2e-3, 1e-3]},
        "weights": {level: [0.5, 0.6, 0.7]}, "rates": {}, "agreement": {},
    }  # fmt: skip


@pytest.fixture
def page(tmp_path, invoke, make_result):
    """A report on two optimizers whose every free text is an attack."""
    storage = Storage(tmp_path)
    for name in ("adam", "adam-hd"):
        for seed in (0, 1):
            made = make_result(
                name, seed, 0.25 + 0.125 * seed, command=EVIL, hardware=EVIL, revision=EVIL,
                settings={EVIL: EVIL}, versions={EVIL: EVIL},
            )  # fmt: skip
            storage.add(Outcome(made, curves(layer=EVIL, level=EVIL)))
    done = invoke("report", tmp_path)
    assert done.exit_code == 0, done.output
    return (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.fixture
def parsed(page):
    elements = Elements()
    elements.feed(page)
    return elements


def test_the_page_loads_nothing(parsed):
    for tag, attributes in parsed.elements:
        assert tag not in {"link", "iframe", "img", "object", "embed", "base"}, (tag, attributes)
        assert "src" not in attributes
        assert "href" not in attributes
    policy = next(attributes for _, attributes in parsed.elements if "http-equiv" in attributes)
    assert policy["http-equiv"] == "Content-Security-Policy"
    assert policy["content"].startswith("default-src 'none'")


def test_no_text_becomes_markup(page, parsed):
    assert [tag for tag, _ in parsed.elements].count("script") == 3
    assert "<img" not in page.replace("<img/>", "").partition("<script>")[0]
    assert not any(name.startswith("on") for _, attributes in parsed.elements for name in attributes)


def test_the_page_shows_the_numbers_and_where_they_come_from(parsed):
    text = "".join(parsed.texts)
    for part in ("digits/ffnn", "adam-hd", "0.3125 ± 0.0625", "68.75 ± 6.25", "Kingma", EVIL):
        assert part in text


def test_every_chart_has_its_place_and_its_data(page, parsed):
    data = re.search(r'id="charts">(.*?)</script>', page, flags=re.DOTALL)
    figures = json.loads(data[1])
    places = [attributes["id"] for _, attributes in parsed.elements if attributes.get("class") == "chart"]
    assert list(figures) == places
    assert len(places) == 3
    learning, rates, weights = figures.values()
    assert {trace.get("name") for trace in learning["data"]} == {"adam", "adam-hd"}
    rate = next(trace for trace in rates["data"] if trace.get("name"))
    assert rate["y"] == [1e-3, 2e-3, 1e-3]
    assert "<" not in rate["name"]
    assert rates["layout"]["yaxis"]["type"] == rates["narrow"]["yaxis2"]["type"] == "log"
    assert weights["layout"]["yaxis"]["range"][0] == 0
    assert len({tuple(rates["narrow"][axis]["domain"]) for axis in ("xaxis", "xaxis2")}) == 1
    assert len({tuple(rates["layout"][axis]["domain"]) for axis in ("xaxis", "xaxis2")}) == 2


def test_columns_without_values_are_left_out(invoke, tmp_path, make_result):
    storage = Storage(tmp_path)
    for name in ("adam", "adam-hd"):
        for seed in (0, 1):
            made = make_result(name, seed, 0.25 + 0.125 * seed, test_accuracy=None)
            storage.add(Outcome(made, {**curves(), "test_accuracy": [None, None]}))
    assert invoke("report", tmp_path).exit_code == 0
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    table = text[text.index("<table>") : text.index("</table>")]
    for head in ("accuracy", "best epoch", "to target"):
        assert head not in table
    assert "difference" in table
    storage.add(Outcome(make_result("adam", 2, 0.5, best_epoch=1),
                        {**curves(), "epoch_step": [0, 2], "epoch_seconds": [0.0, 1.0]}))  # fmt: skip
    assert invoke("report", tmp_path).exit_code == 0
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    for head in ("best epoch", "steps to target", "seconds to target", "accuracy %"):
        assert head in text


def test_rows_without_any_curves_still_make_a_page(invoke, tmp_path, make_result):
    storage = Storage(tmp_path)
    for seed in (0, 1):
        storage.add(Outcome(make_result("adam", seed, 0.25 + 0.125 * seed), curves()))
    shutil.rmtree(tmp_path / "trials")
    assert invoke("report", tmp_path).exit_code == 0
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "0.3125 ± 0.0625" in text
    assert 'class="chart"' not in text


def test_a_study_shows_the_paper_beside(tmp_path, make_result):
    storage = Storage(tmp_path)
    for seed, accuracy in enumerate((0.98, 0.981)):
        made = make_result("adam", seed, 0.1, task="mnist/ffnn-100-100", test_accuracy=accuracy)
        storage.add(Outcome(made, curves()))
    assert make_report(storage).overall == []
    storage.write_plan({"optimizers": ["adam"], "study": "table2"})
    report = make_report(storage)
    assert [len(table.rows) for table in report.overall] == [12]
    text = report.page.read_text(encoding="utf-8")
    assert "97.93 (0.09)" in text
    assert "98.05 (0.05)" in text
    storage.write_plan({"optimizers": ["adam"]})
    assert "97.93 (0.09)" not in make_report(storage).page.read_text(encoding="utf-8")


def test_of_a_sweep_the_charts_show_the_best_rate_and_the_table_all(tmp_path, make_result):
    storage = Storage(tmp_path)
    for task in ("digits/ffnn", "digits/logistic"):
        for name in ("adam", "adam-hd"):
            for lr, loss in (("0.001", 0.5), ("0.01", 0.25), ("0.1", None)):
                storage.add(Outcome(make_result(f"{name}:lr={lr}", 0, loss, task=task), curves()))
    report = make_report(storage)
    assert [path.name for path in report.pictures][:3] == [
        "profile.png", "digits-ffnn-learning.png", "digits-ffnn-robustness.png",
    ]  # fmt: skip
    text = report.page.read_text(encoding="utf-8")
    figures = json.loads(re.search(r'id="charts">(.*?)</script>', text, flags=re.DOTALL)[1])
    profile, learning, robustness = list(figures.values())[:3]
    named = [{trace["name"] for trace in figure["data"] if "name" in trace} for figure in figures.values()][:3]
    assert named == [
        {"adam (best lr)", "adam-hd (best lr)"}, {"adam:lr=0.01", "adam-hd:lr=0.01"}, {"adam", "adam-hd"},
    ]  # fmt: skip
    colors = [
        [trace["line"]["color"] for trace in figure["data"] if trace.get("showlegend")]
        for figure in (profile, learning, robustness)
    ]
    assert colors[0] == colors[1] == colors[2]
    assert all(f'<td class="name">adam:lr={lr}</td>' in text for lr in ("0.001", "0.01", "0.1"))


def test_a_report_on_nothing_says_so(invoke, tmp_path):
    done = invoke("report", tmp_path)
    assert done.exit_code == 1
    assert "no finished trial" in done.output
    missing = invoke("report", tmp_path / "missing")
    assert missing.exit_code == 2
    assert "missing" in missing.output


def test_missing_curves_are_named(invoke, tmp_path, make_result):
    storage = Storage(tmp_path)
    storage.add(Outcome(make_result("adam", 0, 0.5), curves()))
    (tmp_path / "trials" / "digits-ffnn--adam--0.json").unlink()
    done = invoke("report", tmp_path)
    assert done.exit_code == 1
    assert "digits-ffnn--adam--0.json" in done.output


def test_the_tables_are_kept_as_markdown_too(tmp_path, invoke, make_result):
    storage = Storage(tmp_path)
    storage.write_plan({"command": "", "optimizers": ["adam", "adam-hd"], "study": "table2"})
    task = "mnist/ffnn-100-100"
    for name, losses in (("adam", (0.25, 0.375)), ("adam-hd", (0.5, 0.625))):
        for seed, loss in enumerate(losses):
            storage.add(Outcome(make_result(name, seed, loss, task=task, command="multirate reproduce"), curves()))
    assert invoke("report", tmp_path).exit_code == 0
    text = (tmp_path / "tables.md").read_text(encoding="utf-8")
    assert text.count("    multirate reproduce\n") == 1
    [baseline] = [line for line in text.splitlines() if line.startswith("| `adam` | 0.3125 ± 0.0625 | – |")]
    [other] = [line for line in text.splitlines() if line.startswith("| `adam-hd` | 0.5625 ± 0.0625 | +0.2500 [")]
    assert baseline.count("|") == other.count("|") == 11
    assert f"| `{task}` | `adam-hd` | 97.86 (0.07) | 10 | 43.75 (6.25) | 2 | −54.11 [" in text


def test_time_to_target_is_in_every_table(tmp_path, invoke, make_result):
    storage = Storage(tmp_path)
    for name, loss in (("adam", 0.7), ("adam-hd", 0.5)):
        storage.add(Outcome(make_result(name, 0, loss), {**curves(), "test_loss": [2.0, loss], "epoch_step": [0, 45],
                                                          "epoch_seconds": [0.0, 1.5]}))  # fmt: skip
    done = invoke("report", tmp_path)
    [markdown] = [
        line for line in (tmp_path / "tables.md").read_text(encoding="utf-8").splitlines() if "adam-hd" in line
    ]
    [terminal] = [line for line in done.output.splitlines() if "adam-hd" in line]
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    # 2.0 to 0.5 passes 0.7 after 13/15 of the way.
    for row in (markdown, terminal, page):
        assert "1.30" in row
    assert "39" in markdown
    assert "39" in terminal


def test_several_baselines_each_have_their_comparisons(tmp_path, invoke, make_result):
    storage = Storage(tmp_path)
    storage.write_plan({"optimizers": ["adam", "adam-hd", "adam-cam-hd"], "study": "table2"})
    for name, loss in (("adam", 0.25), ("adam-hd", 0.5), ("adam-cam-hd", 0.75)):
        for seed in (0, 1):
            storage.add(Outcome(make_result(name, seed, loss + 0.125 * seed), curves()))

    def compared():
        text = (tmp_path / "tables.md").read_text(encoding="utf-8")
        table = text.partition("### Against the baselines")[2].partition("##")[0]
        return [[cell.strip() for cell in line.split("|")[1:4]] for line in table.splitlines() if "`" in line]

    shown = invoke("report", tmp_path)
    # The study names its baselines.
    assert compared() == [
        ["`adam-cam-hd`", "`adam`", "+0.5000 [+0.3750, +0.6250]"],
        ["`adam-cam-hd`", "`adam-hd`", "+0.2500 [+0.1250, +0.3750]"],
    ]
    assert "Against the baselines – digits/ffnn" in shown.output
    assert "Against the baselines" in (tmp_path / "report.html").read_text(encoding="utf-8")
    words = ("--baseline", "adam-cam-hd", "--baseline", "adam")
    assert invoke("report", tmp_path, *words).exit_code == 0
    assert [pair[:2] for pair in compared()] == [["`adam-hd`", "`adam-cam-hd`"], ["`adam-hd`", "`adam`"]]
    storage.write_plan({"optimizers": ["adam"], "study": "table2", "baselines": ["adam-hd"]})
    assert invoke("report", tmp_path).exit_code == 0
    assert compared() == []
    assert "Differences: to adam-hd." in (tmp_path / "tables.md").read_text(encoding="utf-8")
    refused = invoke("report", tmp_path, "--baseline", "sgdn")
    assert refused.exit_code == 1
    assert "is of the baseline 'sgdn': choose from adam, adam-hd, adam-cam-hd" in " ".join(refused.output.split())


def test_a_sweep_of_another_option_is_drawn(tmp_path, make_result):
    storage = Storage(tmp_path)
    for decay in (0.0, 0.1, 0.3):
        storage.add(Outcome(make_result(f"adamw:weight_decay={decay}", 0, 0.5 - decay), curves()))
    report = make_report(storage)
    assert "digits-ffnn-sweep-weight-decay.png" in [path.name for path in report.pictures]
    assert "Result against weight_decay" in report.page.read_text(encoding="utf-8")


def test_a_folder_of_experiments_is_reported_one_by_one(tmp_path, invoke, make_result):
    for name in ("first", "second/below"):
        Storage(tmp_path / name).add(Outcome(make_result("adam", 0, 0.5), curves()))
    done = invoke("report", tmp_path)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "first" / "report.html").exists()
    assert (tmp_path / "second" / "below" / "tables.md").exists()
    (tmp_path / "empty").mkdir()
    nothing = invoke("report", tmp_path / "empty")
    assert nothing.exit_code == 1
    assert "holds no finished trial" in nothing.output
