"""What the charts show, before it is drawn; and that both ways of drawing take it."""

import math

import pytest
from plotly.graph_objects import Figure

from multirate.lab.reporting.charts import COLORS, Bar, Chart, Heat, Look, Panel, assign_looks
from multirate.lab.reporting.curve_charts import MOST_LINES, curve_charts
from multirate.lab.reporting.families import find_families, find_sweeps, methods, stands_for
from multirate.lab.reporting.pictures import _short, draw_png
from multirate.lab.reporting.plots import plot
from multirate.lab.reporting.result_charts import loss_profiles, profile_chart, robustness_chart, sweep_charts
from multirate.lab.reporting.yardstick_charts import layers_chart
from multirate.lab.results import Trial
from multirate.lab.yardstick.families import LEVELS_RATE
from multirate.lab.yardstick.scores import Yardstick

LOOKS = {"a": Look("#000000"), "b": Look("#0072b2")}


def nodes(count, *values):
    return {f"n{index}": [value * 10**-index if value else value for value in values] for index in range(count)}


@pytest.fixture
def runs():
    def seed(factor):
        return {
            "step": [1, 2, 3], "train_loss": [1.0, 0.5, 0.25], "epoch": [0, 1], "test_loss": [2.0, 0.5 * factor],
            "test_accuracy": [0.1, 0.8], "rate_steps": [0, 1, 2], "layer_rates": nodes(3, factor * 1e-2, 1e-2, 1e-2),
            "weights": {"global": [1.0, 1.0, 1.0]},
            "rates": {"global": {"all": [1e-3] * 3}, "my/level": nodes(2, 1e-2, 1e-3, None)},
            "agreement": {"global": {"all": [0.0, 1.0, -1.0]}, "my/level": {f"n{i}": [i, i, i] for i in range(21)}},
        }  # fmt: skip

    return {"a": [seed(1.0), seed(100.0)], "b": [{**seed(1.0), "weights": {}, "rates": {}, "agreement": {}}]}


def by_key(charts):
    return {chart.key: chart for chart in charts}


def test_every_chart_that_has_something_to_show(runs):
    charts = by_key(curve_charts(runs, LOOKS))
    assert list(charts) == [
        "learning", "rates", "rates-global", "rates-my-level", "rates-map", "rates-map-my-level", "weights",
        "agreement-global", "agreement-my-level",
    ]  # fmt: skip
    assert [panel.title for panel in charts["rates-map"].panels] == ["a", "b"]
    assert [panel.title for panel in charts["weights"].panels] == ["a"]
    for chart in charts.values():
        assert draw_png(chart, "task").startswith(b"\x89PNG")
        figure = plot(chart)
        for layout in (figure["layout"], figure["narrow"]):
            Figure(data=figure["data"], layout=layout)  # raises on a property that Plotly does not have


def test_maps_hold_the_mean_logarithm_over_seeds_of_every_node(runs):
    charts = by_key(curve_charts(runs, LOOKS))
    heat = charts["rates-map"].panels[0].heat
    assert heat.names == ("n0", "n1", "n2")
    assert heat.x == (0, 1, 2)
    assert heat.rows == ((-1, -2, -2), (-2, -3, -3), (-3, -4, -4))
    assert charts["rates-map"].heat_range == (-4, -1)
    assert charts["rates-map-my-level"].panels[0].heat.rows == ((-2, -3, None), (-3, -4, None))


def test_the_rates_of_every_level_are_lines_too():
    gates = {f"lstm_l0 {gate}": [1e-3, rate] for gate, rate in (("input", 1e-2), ("forget", 1e-4), ("cell", 1e-3))}
    curves = {"rate_steps": [0, 1], "rates": {"global": {"all": [1e-3, 2e-3]}, "gate": gates, "layer": gates}}
    charts = by_key(curve_charts({"a": [curves]}, LOOKS))
    assert list(charts) == ["rates-global", "rates-gate", "rates-layer", "rates-map-gate", "rates-map-layer"]
    lines = {line.label: line.band.center for line in charts["rates-gate"].panels[0].lines}
    assert lines == {name: pytest.approx(rates) for name, rates in gates.items()}
    assert charts["rates-map-gate"].panels[0].heat.names == tuple(gates)
    wide, even = (charts[key].panels[0] for key in ("rates-gate", "rates-global"))
    assert (wide.log_y, even.log_y) == (True, False)
    assert even.y_range == pytest.approx((0.9e-3, 2.1e-3))


def test_small_numbers_on_an_axis_are_short():
    assert [_short(value) for value in (1.04e-3, 1e-3, 9.6e-4, -2e-7, 0.0)] == [
        "1.04e-3", "1e-3", "9.6e-4", "-2e-7", "0",
    ]  # fmt: skip


def test_the_agreement_of_many_nodes_is_told_by_quantiles(runs):
    charts = by_key(curve_charts(runs, LOOKS))
    lines = {line.label: line.band.center for line in charts["agreement-my-level"].panels[0].lines}
    assert lines == {
        "lowest node": (0, 0, 0), "lower quartile of nodes": (5, 5, 5), "median node": (10, 10, 10),
        "upper quartile of nodes": (15, 15, 15), "highest node": (20, 20, 20),
    }  # fmt: skip
    assert [line.label for line in charts["agreement-global"].panels[0].lines] == ["all"]


def test_of_many_layers_some_are_drawn_as_lines_and_all_in_the_map():
    layers = {f"layer{index}": [1e-3, 1e-3] for index in range(40)}
    charts = by_key(curve_charts({"a": [{"rate_steps": [0, 1], "layer_rates": layers}]}, LOOKS))
    labels = charts["rates"].labels
    assert len(labels) == MOST_LINES
    assert (labels[0], labels[-1]) == ("layer0", "layer39")
    assert "12 of the 40 layers" in charts["rates"].caption
    assert len(charts["rates-map"].panels[0].heat.names) == 40


def test_curves_without_the_newer_keys_leave_charts_out():
    curves = {"step": [1], "train_loss": [1.0], "epoch": [1], "test_loss": [1.0], "test_accuracy": [None]}
    (chart,) = curve_charts({"a": [curves]}, LOOKS)
    assert [panel.title for panel in chart.panels] == ["Training loss", "Test loss"]
    assert curve_charts({"a": [], "b": []}, LOOKS) == []


def test_a_run_that_explodes_does_not_press_the_others_flat():
    curves = {"step": [1, 2, 3], "train_loss": [2.0, 0.5, 1e30]}
    (chart,) = curve_charts({"a": [curves]}, LOOKS)
    low, high = chart.panels[0].y_range
    assert low < 0.5
    assert 2 < high < 100


def sweep(make_result, losses, name="adam", **fields):
    return [
        make_result(f"{name}:lr={lr}", seed, loss, **fields)
        for lr, values in losses.items()
        for seed, loss in enumerate(values)
    ]


def test_variants_that_differ_in_lr_alone_are_a_family(make_result):
    results = [
        *sweep(make_result, {"0.001": [0.3, 0.5], "0.0001": [0.9, 0.8], "0.01": [None, None]}),
        *sweep(make_result, {"0.001": [0.1], "0.01": [0.2]}, name="sgd"),
        *sweep(make_result, {"0.1": [0.7], "0.01": [0.6], "1.0": [0.65]}, name="adam:eps=0.1"),
        make_result("adam", 0, 0.4),
    ]
    families = find_families(results)
    assert [(family.name, list(family.variants), family.best) for family in families] == [
        ("adam", [0.0001, 0.001, 0.01], "adam:lr=0.001"),
        ("adam:eps=0.1", [0.01, 0.1, 1.0], "adam:eps=0.1:lr=0.01"),
    ]
    order = list(dict.fromkeys(result.optimizer for result in results))
    assert methods(order, families) == {
        "adam (best lr)": "adam:lr=0.001", "sgd:lr=0.001": "sgd:lr=0.001", "sgd:lr=0.01": "sgd:lr=0.01",
        "adam:eps=0.1 (best lr)": "adam:eps=0.1:lr=0.01", "adam": "adam",
    }  # fmt: skip


def test_the_best_variant_stands_for_a_name(make_result):
    results = [
        *sweep(make_result, {"0.001": [0.3, 0.3], "0.01": [0.1, None], "0.1": [0.2, 0.4]}),
        *sweep(make_result, {"0.1": [0.01]}, name="adam:eps=0.1"),
        make_result("adam+cosine", 0, 0.001),
    ]
    assert stands_for("adam", results) == "adam:eps=0.1:lr=0.1"
    assert stands_for("adam:lr=0.1", results) == "adam:lr=0.1"
    assert stands_for("adam:eps=0.1", results) == "adam:eps=0.1:lr=0.1"
    # A diverged seed counts as the worst, so that 0.01 has no median.
    assert stands_for("adam", results[:6]) == "adam:lr=0.001"
    assert stands_for("sgd", results) is None


def test_robustness_has_log_axes_a_line_a_family_and_crosses_where_seeds_diverged(make_result):
    families = find_families(sweep(make_result, {"0.001": [0.3, 0.5], "0.0001": [0.9, 0.8], "0.01": [None, 0.7]}))
    chart = robustness_chart(families, {"adam (best lr)": Look("#0072b2")})
    (panel,) = chart.panels
    (line,) = panel.lines
    assert (panel.log_x, panel.log_y) == (True, True)
    assert line.label == "adam"
    assert line.band.x == (0.0001, 0.001)
    assert line.band.center == pytest.approx((0.85, 0.4))
    assert (line.band.low, line.band.high) == ((0.8, 0.3), (0.9, 0.5))
    assert line.failures == (0.01,)
    figure = plot(chart)
    crosses = figure["data"][-1]
    assert crosses["x"] == (0.01,)
    assert math.log10(crosses["y"][0]) == pytest.approx(figure["layout"]["yaxis"]["range"][1])
    assert figure["layout"]["xaxis"]["type"] == figure["layout"]["yaxis"]["type"] == "log"
    assert draw_png(chart, "task").startswith(b"\x89PNG")


def test_bars_begin_at_one_and_cells_have_their_value_written_in():
    bars = tuple(Bar(f"method {index}", value, COLORS[0]) for index, value in enumerate((0.5, 1.0, 4.0) * 8))
    heat = Heat((-7.0, -6.0), ("a", "b"), ((0.0, 2.0), (None, -1.0)), cells=True)
    charts = [
        Chart("bars", "", "", (Panel("", "score", "", bars=bars, log_x=True),)),
        Chart("cells", "", "", (Panel("ours", "log10 of the rate", "", heat=heat),), quantity="score"),
    ]
    figures = [plot(chart) for chart in charts]
    for chart, figure in zip(charts, figures, strict=True):
        assert draw_png(chart, "task").startswith(b"\x89PNG")
        for layout in (figure["layout"], figure["narrow"]):
            Figure(data=figure["data"], layout=layout)
    (drawn,) = figures[0]["data"]
    assert [base + length for base, length in zip(drawn["base"], drawn["x"], strict=True)] == [0.5, 1.0, 4.0] * 8
    assert figures[0]["layout"]["xaxis"]["type"] == "log"
    assert charts[0].height == 2
    assert figures[1]["data"][0]["text"] == [["1", "100"], ["", "0.1"]]
    assert figures[1]["layout"]["coloraxis"]["colorbar"]["title"]["text"] == "score"


def test_the_profile_compares_methods_that_ran_everywhere():
    looks = assign_looks("abc")
    losses = {"t": {"a": [1.0], "b": [2.0], "c": [9.0]}, "u": {"a": [3.0, 5.0, 4.0], "b": [2.0]}}
    chart = profile_chart(loss_profiles(losses), looks)
    assert chart.title == "Performance profile over 2 tasks"
    a, b = chart.panels[0].lines
    assert (a.label, a.band.x, a.band.center) == ("a", (1.0, 2.0, 4.0), (50, 100, 100))
    assert (b.label, b.band.center) == ("b", (50, 100, 100))
    assert a.look.steps
    assert plot(chart)["data"][0]["line"]["shape"] == "hv"
    diverged = loss_profiles({"t": {"a": [1.0], "b": [None]}, "u": {"a": [1.0], "b": [2.0]}})
    assert profile_chart(diverged, looks).panels[0].lines[1].band.center == (0, 50, 50)
    assert loss_profiles({"t": {"a": [1.0], "b": [1.0]}}) == {}
    assert loss_profiles({"t": {"a": [1.0], "b": [-1.0]}, "u": {"a": [1.0], "b": [1.0]}}) == {}


def test_a_swept_option_is_a_curve_and_a_baseline_a_level_line(make_result):
    losses = {"adam": [0.5, 0.7]}
    for share, loss in ((0.0, 0.4), (0.4, 0.2), (1.0, 0.3)):
        for weight_lr in ("0.0", "0.01"):
            name = f"adam-cam-hd:weight_lr={weight_lr}:weights={round(1 - share, 1)}/{share}"
            losses[name] = [loss, loss + 0.2] if weight_lr == "0.0" or share else [loss, None]
    results = [make_result(name, seed, loss) for name in losses for seed, loss in enumerate(losses[name])]
    sweeps = find_sweeps(results)
    assert [(sweep.name, sweep.option, list(sweep.variants)) for sweep in sweeps] == [
        ("adam-cam-hd:weight_lr=0.0", "weights", [0.0, 0.4, 1.0]),
        ("adam-cam-hd:weight_lr=0.01", "weights", [0.0, 0.4, 1.0]),
    ]
    (chart,) = sweep_charts(sweeps, results, ["adam"])
    assert chart.key == "sweep-weights"
    loss, accuracy = chart.panels
    assert (loss.x_label, loss.log_x) == ("last part of weights", False)
    level, fixed, learned = loss.lines
    assert (level.label, level.band.x) == ("adam (baseline)", (0.0, 1.0))
    assert level.band.center == pytest.approx((0.6, 0.6))
    assert level.band.high == pytest.approx((0.7, 0.7))
    assert not level.look.markers
    assert fixed.label == "adam-cam-hd:weight_lr=0.0"
    assert fixed.band.center == pytest.approx((0.5, 0.3, 0.4))
    assert fixed.band.low == pytest.approx((0.4, 0.2, 0.3))
    assert learned.band.center == pytest.approx((0.4, 0.3, 0.4))
    assert (fixed.failures, learned.failures) == ((), (0.0,))
    assert accuracy.lines[1].band.center == pytest.approx((50, 70, 60))
    assert len({line.look.color for line in loss.lines}) == 3
    figure = plot(chart)
    for layout in (figure["layout"], figure["narrow"]):
        Figure(data=figure["data"], layout=layout)
    assert draw_png(chart, "task").startswith(b"\x89PNG")


def test_what_counts_as_swept(make_result):
    def swept(*names):
        results = [make_result(name, 0, 0.5) for name in names]
        return {(sweep.name, sweep.option): list(sweep.variants) for sweep in find_sweeps(results)}

    decays = [f"adamw:weight_decay={value}" for value in ("0.1", "0.01", "0.001")]
    assert swept(*decays, "adamw") == {("adamw", "weight_decay"): [0.001, 0.01, 0.1]}
    assert swept(*decays[:2]) == {}
    assert swept(*(f"adam:lr={value}" for value in (0.1, 0.2, 0.3))) == {}
    assert swept(*(f"adam-cam-hd:levels={level}/" for level in ("global", "layer", "unit"))) == {}
    # A schedule makes another method of it.
    assert swept(*decays[:2], f"{decays[2]}+cosine") == {}
    results = [make_result(name, 0, 0.5) for name in decays]
    (chart,) = sweep_charts(find_sweeps(results), results, [decays[0]])
    assert chart.key == "sweep-weight-decay"
    assert chart.panels[0].log_x
    assert [line.label for line in chart.panels[0].lines] == ["adamw"]
    assert not chart.panels[0].log_y
    exploded = [*results[:2], make_result(decays[2], 0, 1e9), make_result("adamw", 0, 0.4)]
    (chart,) = sweep_charts(find_sweeps(exploded), exploded, ["adamw"])
    level, line = chart.panels[0].lines
    assert (level.label, level.band.center) == ("adamw (baseline)", (0.4, 0.4))
    assert (line.label, line.band.center) == ("adamw", (1e9, 0.5, 0.5))
    assert line.look.markers
    assert (chart.panels[0].log_y, chart.panels[1].log_y) == (True, False)


def test_looks_repeat_only_after_all_colours_with_all_dashes():
    looks = assign_looks([f"n{index}" for index in range(30)])
    assert len({(look.color, look.dash) for look in looks.values()}) == 30
    assert [look.color for look in looks.values()][:10] == list(COLORS)


def test_layers_of_a_yardstick_are_shown_over_the_rate_of_the_model():
    name = f"multirate-adamw:levels=global/layer:lr={LEVELS_RATE}"
    curves = {
        Trial(f"yardstick/{task}", optimizer, seed, 1): {
            "rate_steps": [0, 1],
            "rates": {"global": {"all": [2.0, 4.0]}, "layer": {"a": [2.0, 1.0], "b": [1.0, 4.0]}},
        }
        for task in ("gpt", "lstm")
        for optimizer in (name, "multirate-adamw:lr=0.1")
        for seed in (0, 1)
        if (task, optimizer) != ("lstm", name)
    }
    yardstick = Yardstick(["yardstick/gpt", "yardstick/lstm"], {}, [], {}, [], [], [])
    chart = layers_chart(yardstick, curves)
    assert [panel.title for panel in chart.panels] == ["gpt"]
    assert [line.band.center for line in chart.panels[0].lines] == [(1.0, 0.25), (0.5, 1.0)]
    assert draw_png(chart, "all tasks").startswith(b"\x89PNG")
