"""The command itself: starting it, listing, and what it says without its dependencies."""

import dataclasses
import importlib
import json
import re
import subprocess
import sys

import pytest
import torch
from torch import nn

from multirate.lab import listing
from multirate.lab.optimizers import OPTIMIZERS
from multirate.lab.optimizers.entry import HOW_NOT_WHAT, OptimizerEntry
from multirate.lab.registry import Registry
from multirate.lab.schedules import SCHEDULES
from multirate.lab.studies.table import STUDIES
from multirate.lab.tasks import TASKS
from multirate.lab.variants import setting_text


@pytest.mark.parametrize("missing", ["click", "plotly"])
def test_without_the_lab_s_dependencies_the_cure_is_named(missing):
    code = f"import sys; sys.modules[{missing!r}] = None; from multirate.lab.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert f"needs the package '{missing}'" in done.stderr
    assert "pip install 'multirate[lab]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_module_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "multirate.lab", "--help"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "Usage: multirate" in done.stdout
    for command in ("bench", "compare", "list", "report"):
        assert command in done.stdout


def in_one_line(text):
    return " ".join(text.split())


@pytest.fixture(scope="module")
def blocks():
    """What `multirate list` prints of every entry, by its name."""
    done = subprocess.run(
        [sys.executable, "-m", "multirate.lab", "list"], capture_output=True, text=True, timeout=120, check=True
    )
    found = {}
    for line in done.stdout.splitlines():
        if line and not line.startswith(" "):
            name, _, line = line.partition(": ")
            found[name] = ""
        found[name] += line + "\n"
    return {name: in_one_line(text) for name, text in found.items()}


def test_the_list_has_everything_with_its_description(blocks):
    for entry in (*TASKS.values(), *OPTIMIZERS.values(), *SCHEDULES.values(), *STUDIES.values()):
        assert in_one_line(entry.description) in blocks[entry.name]


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_the_list_gives_source_defaults_protocol_and_citation_whole(name, blocks):
    entry, block = OPTIMIZERS[name], blocks[name]
    assert f"source {entry.source}" in block
    assert f"citation {entry.citation}" in block
    assert "…" not in block
    for option, value in entry.defaults().items():
        assert f" {option}={setting_text(value)} " in block
    for task in TASKS.values():
        if name in task.settings:
            assert task.name in block
            for option, value in task.settings[name].items():
                assert f" {option}={setting_text(value)} " in block


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_defaults_are_those_of_the_optimizer_that_is_built(name):
    entry = OPTIMIZERS[name]
    layer = nn.Linear(2, 2)
    optimizer = entry.build(layer.named_parameters(), entry.settings)
    assert entry.settings.items() <= entry.defaults().items()
    # `lr` is `scale` there, and a bound may be filled in when None was given.
    built = {option: value for option, value in optimizer.param_groups[0].items() if option in entry.defaults()}
    assert built or name == "learned"
    for option, value in built.items():
        expected = entry.defaults()[option]
        assert expected is None or value == expected or list(value) == list(expected)


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_a_wrapper_names_the_package_that_it_wraps(name):
    entry = OPTIMIZERS[name]
    module, _, attribute = entry.constructor.partition(":")
    ancestors = getattr(importlib.import_module(module), attribute).__mro__
    packages = {each.__module__.partition(".")[0] for each in ancestors} - {
        "torch",
        "multirate",
        "builtins",
        "abc",
        "typing",
    }
    assert packages <= {entry.package}
    if entry.wraps is not None:
        assert entry.package in entry.source
        assert entry.constructor in entry.source
        wrapped, _, attribute = entry.wraps.partition(":")
        assert hasattr(importlib.import_module(wrapped), attribute)


@pytest.mark.parametrize("name", list(SCHEDULES))
def test_the_list_gives_source_defaults_and_citation_of_a_schedule(name, blocks):
    entry, block = SCHEDULES[name], blocks[name]
    assert f"source {entry.source} defaults" in block
    assert entry.citation in block
    for option, value in entry.settings.items():
        assert f" {option}={setting_text(value)} " in block
    for place in re.findall(r"[\w.]+:\w+", entry.source):
        module, _, attribute = place.partition(":")
        assert hasattr(importlib.import_module(module), attribute)


OTHER_SETTINGS = {
    "time": {"k": 3},
    "step": {"after": 0.5, "factor": 0.2},
    "exponential": {"end": 0.0625},
    "warmup-cosine": {"warmup": 0.5},
    "restarts": {"cycles": 2, "growth": 3},
}
RATES_THEN = {
    "time": [1, 4 / 7, 2 / 5, 4 / 13, 1 / 4],
    "step": [1, 1, 0.2, 0.2, 0.2],
    "exponential": [1, 1 / 2, 1 / 4, 1 / 8, 1 / 16],
    "warmup-cosine": [1 / 3, 2 / 3, 1, 1 / 2, 0],
    "restarts": [1, 1, 3 / 4, 1 / 4, 1],
}
"""Over the initial one, before each of four steps, and after the last."""


def test_a_schedule_is_built_from_the_figures_that_are_listed(invoke, monkeypatch):
    assert {name for name, entry in SCHEDULES.items() if entry.settings} == set(OTHER_SETTINGS)
    for name, settings in OTHER_SETTINGS.items():
        assert SCHEDULES[name].settings.keys() == settings.keys()
        entry = dataclasses.replace(SCHEDULES[name], settings=settings)
        monkeypatch.setattr(listing, "SCHEDULES", Registry("schedule", [entry]))
        text = " ".join(f"{option}={value}" for option, value in settings.items())
        assert f"defaults {text} citation" in in_one_line(invoke("list", name).output)
        (record,) = json.loads(invoke("list", name, "--json").output)["schedules"]
        assert (record["source"], record["defaults"]) == (entry.source, settings)
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
        schedule, rates = entry.attach(optimizer, 4), [optimizer.param_groups[0]["lr"]]
        for _ in range(4):
            optimizer.step()
            schedule.step()
            rates.append(optimizer.param_groups[0]["lr"])
        assert rates == pytest.approx(RATES_THEN[name])


def test_the_list_as_json_is_what_the_tables_have(invoke):
    found = json.loads(invoke("list", "--json").output)
    assert {kind: [each["name"] for each in entries] for kind, entries in found.items()} == {
        "tasks": list(TASKS), "optimizers": list(OPTIMIZERS), "schedules": list(SCHEDULES), "studies": list(STUDIES),
    }  # fmt: skip
    dog = next(each for each in found["optimizers"] if each["name"] == "dog")
    assert dog["defaults"] == {"lr": 1.0, "reps_rel": 1e-6, "weight_decay": 0.0, "gamma": 8.0}
    assert (dog["wraps"], dog["package"]) == ("dog:DoG", "dog")
    assert dog["versions"].keys() == {"dog-optimizer"}
    adam = next(each for each in found["optimizers"] if each["name"] == "adam")
    assert adam["defaults"]["betas"] == [0.9, 0.999]
    assert not adam["defaults"].keys() & (HOW_NOT_WHAT - adam["settings"].keys())
    assert adam["protocols"]["mnist/ffnn-100-100"] == {"lr": 3e-4}
    lenet = next(each for each in found["tasks"] if each["name"] == "mnist/lenet")
    assert lenet["settings"]["adam-cam-hd"]["weights"] == [0.8, 0.2]


def test_the_list_can_be_asked_for_names(invoke):
    done = invoke("list", "prodigy", "cosine")
    assert "prodigyopt:Prodigy" in done.output
    assert "half a cosine to zero" in done.output
    assert "mnist" not in done.output
    unknown = invoke("list", "prodgy")
    assert unknown.exit_code == 2
    assert "nothing is called 'prodgy'. Did you mean 'prodigy'?" in in_one_line(unknown.output)


def test_the_list_tells_how_to_install_what_is_missing(invoke, add_optimizer):
    add_optimizer(OptimizerEntry("absent", "no_such_package:Absent", "", "", {"lr": 0.5}, extra="bench"))
    output = in_one_line(invoke("list", "absent").output)
    assert "not installed: pip install 'multirate[bench]'" in output
    assert "defaults lr=0.5" in output


def test_every_command_explains_its_options(invoke):
    for command in ("bench", "compare", "report", "list"):
        done = invoke(command, "--help")
        assert done.exit_code == 0
        assert "Usage:" in done.output
