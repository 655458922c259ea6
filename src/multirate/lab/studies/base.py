"""What a study is: stages of trials, the later ones chosen by the results of the earlier."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from multirate.lab.data.images import SVHN
from multirate.lab.data.sources import data_folder
from multirate.lab.results import Trial, TrialResult
from multirate.lab.tasks import TASKS


@dataclass(frozen=True)
class Request:
    """How much of a study is wanted.

    Attributes:
        seeds: How many seeds; None for the study's own number.
        epochs: Epochs of every trial; None for the study's own.
        data: `digits` puts the small embedded data set in the place of MNIST; None keeps the paper's data.
        tasks: Run these of the study's tasks alone; None runs them all.
    """

    seeds: int | None = None
    epochs: int | None = None
    data: str | None = None
    tasks: Sequence[str] | None = None

    def chosen(self, tasks: Sequence[str]) -> list[str]:
        """Return the names of the tasks to run, of those that a study has.

        Raises:
            ValueError: If a task is not the study's, or has no version for the data set.
        """
        if unknown := [task for task in self.tasks or () if task not in tasks]:
            raise ValueError(f"the study has no task {unknown[0]!r}: it has {', '.join(tasks)}")
        wanted = [task for task in tasks if self.tasks is None or task in self.tasks]
        if self.data is None:
            return wanted
        replaced = [f"{self.data}/{task.partition('/')[2]}" for task in wanted]
        if missing := [name for name in replaced if name not in TASKS]:
            raise ValueError(
                f"there is no task {missing[0]!r}: name others of the study by --task, or leave out --data"
            )
        return list(dict.fromkeys(replaced))


def tasks_at_hand(request: Request, tasks: Sequence[str]) -> list[str]:
    """Return the tasks to run; SVHN only where asked for by name, or where the folder of the data sets has it.

    Raises:
        ValueError: As `Request.chosen` does.
        DataError: If the folder that the environment names is not there.
    """
    folder = data_folder()
    absent = request.tasks is None and folder is not None and not (folder / SVHN.name).is_dir()
    return [task for task in request.chosen(tasks) if not (absent and task.startswith(f"{SVHN.name}/"))]


@dataclass(frozen=True)
class Stage:
    """Trials that can run side by side.

    Attributes:
        folder: Where their results go, below the study's own folder; empty for that folder itself.
        trials: Which they are, given what is wanted and the results in the folder of the stage before.
        choices: What was chosen by those results, in Markdown; None where nothing is.
    """

    folder: str
    trials: Callable[[Request, Sequence[TrialResult]], list[Trial]]
    choices: Callable[[Request, Sequence[TrialResult]], str] | None = None


@dataclass(frozen=True)
class Study:
    """An experiment of several trials that answers a question.

    Attributes:
        name: What a user types.
        description: One line.
        citation: Where the protocol comes from.
        stages: What to run, one after the other; the last one's results are the study's.
        first: Epoch to which all trials are trained before any goes further; None trains each to its end at once.
        baselines: The variants that the others are compared with; without any, the first one.
    """

    name: str
    description: str
    citation: str
    stages: Sequence[Stage]
    first: int | None = None
    baselines: Sequence[str] = ()


def grid(tasks: Sequence[str], optimizers: Sequence[str], seeds: int, epochs: int | None) -> list[Trial]:
    """Return all combinations, every first seed before any second one."""
    return [
        Trial(task, optimizer, seed, TASKS[task].epochs if epochs is None else epochs)
        for seed in range(seeds)
        for task in tasks
        for optimizer in optimizers
    ]
