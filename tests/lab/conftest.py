"""Running the command line in this process, and optimizers made for the occasion."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from multirate.lab import experiment, listing, trial
from multirate.lab.commands import options
from multirate.lab.commands.compare import compare, sweep
from multirate.lab.commands.group import command_line
from multirate.lab.optimizers import OPTIMIZERS
from multirate.lab.registry import Registry
from multirate.lab.results import TrialResult


@pytest.fixture
def invoke():
    """Run `multirate` with some words; an error that is not told as one is raised here."""

    def run(*words):
        return CliRunner().invoke(command_line, [str(word) for word in words], catch_exceptions=False)

    return run


@pytest.fixture
def add_optimizer(monkeypatch):
    """Put another optimizer into the table for one test; only trials in this process see it."""

    def add(entry):
        table = Registry("optimizer", [*OPTIMIZERS.values(), entry])
        for module in (experiment, listing, options, trial):
            monkeypatch.setattr(module, "OPTIMIZERS", table)
        for command in (compare, sweep):
            option = next(option for option in command.params if option.name == "optimizers")
            monkeypatch.setattr(option, "_registry", table)

    return add


@pytest.fixture
def make_result():
    """Make the result of a trial that was never run."""

    def make(optimizer, seed, loss, task="digits/ffnn", **fields):
        return TrialResult(
            **{
                "task": task, "optimizer": optimizer, "seed": seed, "epochs": 1, "steps": 1,
                "diverged": loss is None, "test_loss": loss,
                "test_accuracy": None if loss is None else 1 - loss, "seconds": 1.0, "settings": {},
                "command": "", "versions": {}, "revision": None, "hardware": "",
                **fields,
            }
        )  # fmt: skip

    return make
