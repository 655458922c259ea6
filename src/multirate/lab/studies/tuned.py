"""Tuned baselines, and levels at matched, tuned hyper rates: every method at the best rate and schedule of its grid.

A hypergradient of a node is a sum over its elements, so that one hyper rate means less the more nodes a level has. The
grid is therefore that of the whole model as one node, and a level's hyper rate is so many times as large as it has
nodes: `reading=scaled`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from multirate.lab.markdown import markdown_table
from multirate.lab.results import Trial, TrialResult
from multirate.lab.studies.base import Request, Stage, Study
from multirate.lab.tasks import TASKS as ALL_TASKS
from multirate.lab.variants import CONSTANT, Settings, Variant

TASKS = ("mnist/ffnn-1000-100", "cifar10/lenet")
SEARCH_FOLD = 0
SCHEDULES = (CONSTANT, "cosine")

ADAM_RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
SGD_RATES = (3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
SCHEDULE_FREE_RATES = (5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2)
HYPER_RATES = (1e-9, 1e-8, 1e-7, 1e-6, 1e-5)
DEFAULT_RATE = 1e-3
"""The rate at which hyper rates are searched."""

_LEVELS: Mapping[str, Settings] = {
    "global": {"levels": ("global",), "weights": (1.0,)},
    "layer": {"levels": ("layer",), "weights": (1.0,)},
    "unit": {"levels": ("unit",), "weights": (1.0,)},
    "global and layer": {"levels": ("global", "layer"), "weights": (0.5, 0.5)},
    "global and unit": {"levels": ("global", "unit"), "weights": (0.8, 0.2)},
}


@dataclass(frozen=True)
class Method:
    """An optimizer and what is tuned of it.

    Attributes:
        name: What tables call it.
        optimizer: Name in the table of optimizers.
        options: Options that stay as they are.
        rates: Learning rates to try; none for a method that claims to need no choice.
        schedules: Schedules to try with each.
        hyper_rates: Hyper rates to try first, at the default rate and without a schedule.
    """

    name: str
    optimizer: str
    options: Settings = field(default_factory=dict)
    rates: Sequence[float] = ()
    schedules: Sequence[str] = (CONSTANT,)
    hyper_rates: Sequence[float] = ()

    def hyper_candidates(self) -> list[str]:
        """Return every hyper rate at the default rate, without a schedule."""
        return [self._variant(DEFAULT_RATE, hyper_rate, CONSTANT) for hyper_rate in self.hyper_rates]

    def candidates(self, hyper_rate: float | None = None) -> list[str]:
        """Return every rate with every schedule; what claims to need no rate has one candidate a schedule.

        Args:
            hyper_rate: The hyper rate, where the method has one.
        """
        rates = self.rates or (None,)
        return [self._variant(lr, hyper_rate, schedule) for schedule in self.schedules for lr in rates]

    def all_candidates(self) -> list[str]:
        """Return all that tuning can come to."""
        return [name for hyper_rate in self.hyper_rates or (None,) for name in self.candidates(hyper_rate)]

    def edges(self, chosen: str) -> list[str]:
        """Return what of a choice is the least or the greatest of its grid, so that better may lie beyond."""
        options = Variant.parse(chosen).options
        grids = {"lr": self.rates, "hyper_lr": self.hyper_rates}
        return [name for name, grid in grids.items() if grid and options[name] in (min(grid), max(grid))]

    def _variant(self, lr: float | None, hyper_rate: float | None, schedule: str) -> str:
        rate: Settings = {} if lr is None else {"lr": lr}
        hyper: Settings = {} if hyper_rate is None else {"hyper_lr": hyper_rate}
        return str(Variant(self.optimizer, {**self.options, **rate, **hyper}, schedule))


def _method_of_levels(name: str, options: Settings) -> Method:
    scaled: Settings = {**options, "reading": "scaled"}
    return Method(f"levels: {name}", "adam-cam-hd", scaled, ADAM_RATES, SCHEDULES, HYPER_RATES)


METHODS: Mapping[str, Method] = {
    method.name: method
    for method in (
        Method("adam, tuned", "adam", rates=ADAM_RATES, schedules=SCHEDULES),
        Method("adamw, tuned", "adamw", rates=ADAM_RATES, schedules=SCHEDULES),
        Method("sgdn, tuned", "sgdn", rates=SGD_RATES, schedules=SCHEDULES),
        Method("schedule-free, tuned", "schedule-free", rates=SCHEDULE_FREE_RATES),
        *(_method_of_levels(name, options) for name, options in _LEVELS.items()),
        Method("prodigy", "prodigy"),
        Method("prodigy, cosine", "prodigy", schedules=("cosine",)),
        Method("multirate", "multirate"),
    )
}
"""All methods by name; levels get their hyper rates' tries on top of what the baselines get."""


BASELINES = ("adam, tuned", "adamw, tuned", "sgdn, tuned", "schedule-free, tuned", "prodigy", "prodigy, cosine")
"""The methods that do not learn rates as this library does."""


def best(candidates: Sequence[str], results: Sequence[TrialResult]) -> str:
    """Return the candidate with the lowest loss; the first when none has one."""
    losses = _losses(results)
    return min((name for name in candidates if name in losses), key=losses.__getitem__, default=candidates[0])


def choose(method: Method, results: Sequence[TrialResult]) -> str:
    """Return what tuning on one task has come to.

    Args:
        method: The method.
        results: Of the search, on that task over so many epochs.
    """
    return best(method.candidates(_hyper_rate(method, results)), results)


def _hyper_rate(method: Method, results: Sequence[TrialResult]) -> float | None:
    if not method.hyper_rates:
        return None
    chosen = best(method.hyper_candidates(), results)
    return method.hyper_rates[method.hyper_candidates().index(chosen)]


def _losses(results: Sequence[TrialResult]) -> dict[str, float]:
    return {result.optimizer: result.test_loss for result in results if result.test_loss is not None}


def _of(results: Sequence[TrialResult], task: str, epochs: int) -> list[TrialResult]:
    return [result for result in results if (result.task, result.epochs) == (task, epochs)]


def _epochs(request: Request, task: str) -> int:
    return request.epochs or ALL_TASKS[task].epochs


def _held_out(request: Request, candidates: Mapping[str, Sequence[str]]) -> list[Trial]:
    """Return trials that hold out a fifth of the training set, of some candidates by task."""
    return [
        Trial(task, optimizer, 0, _epochs(request, task), fold=SEARCH_FOLD)
        for task, optimizers in candidates.items()
        for optimizer in dict.fromkeys(optimizers)
    ]


def _baselines_and_hyper_rates(request: Request, earlier: Sequence[TrialResult]) -> list[Trial]:
    candidates = [
        name
        for method in METHODS.values()
        if method.rates
        for name in (method.hyper_candidates() or method.candidates())
    ]
    return _held_out(request, dict.fromkeys(request.chosen(TASKS), candidates))


def _rates_of_levels(request: Request, earlier: Sequence[TrialResult]) -> list[Trial]:
    """The stage before, whose folder this is, and rates and schedules of levels at their best hyper rate."""
    before = _baselines_and_hyper_rates(request, ())
    rates = {
        task: [
            name
            for method in METHODS.values()
            if method.hyper_rates
            for name in method.candidates(_hyper_rate(method, _of(earlier, task, _epochs(request, task))))
        ]
        for task in request.chosen(TASKS)
    }
    return list(dict.fromkeys([*before, *_held_out(request, rates)]))


def _final(request: Request, earlier: Sequence[TrialResult]) -> list[Trial]:
    lengths = {task: _epochs(request, task) for task in request.chosen(TASKS)}
    return [
        Trial(task, choose(method, _of(earlier, task, epochs)), seed, epochs)
        for seed in range(request.seeds or 5)
        for task, epochs in lengths.items()
        for method in METHODS.values()
    ]


def _choices(request: Request, earlier: Sequence[TrialResult]) -> str:
    """What the search has come to, on this request's tasks and on those searched before, and where at a grid's edge."""
    rows = []
    for task, epochs in dict.fromkeys((result.task, result.epochs) for result in earlier):
        own = _of(earlier, task, epochs)
        for method in METHODS.values():
            if method.rates:
                chosen = choose(method, own)
                loss = _losses(own).get(chosen)
                rows.append(
                    {
                        "task": task,
                        "method": method.name,
                        "chosen": f"`{chosen}`",
                        "at the edge of its grid": ", ".join(method.edges(chosen)) or "no",
                        "epochs": str(epochs),
                        "held-out loss": "–" if loss is None else f"{loss:.4f}",
                    }
                )
    return "# What tuning has come to\n\n" + markdown_table(rows, 4)


TUNED = Study(
    "tuned",
    "Adam, AdamW, SGDN and levels, all at their tuned rate, schedule and hyper rate; rate-free methods",
    "multirate",
    (
        Stage("search", _baselines_and_hyper_rates),
        Stage("search", _rates_of_levels),
        Stage("", _final, _choices),
    ),
    # Tuning chooses one of the two schedules; the name of the other stands for nothing.
    baselines=[
        str(Variant(method.optimizer, schedule=schedule))
        for method in METHODS.values()
        if method.name in BASELINES
        for schedule in method.schedules
    ],
)
