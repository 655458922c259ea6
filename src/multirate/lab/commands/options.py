"""Options that several commands share."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click
import torch

from multirate.lab.machine import Machine
from multirate.lab.optimizers import OPTIMIZERS
from multirate.lab.registry import Registry
from multirate.lab.runner import Workers
from multirate.lab.schedules import SCHEDULES
from multirate.lab.tasks import TASKS
from multirate.lab.variants import Variant

Function = TypeVar("Function", bound=Callable[..., Any])


class NamesOption(click.Option):
    """An option that takes names from a registry: separated by commas, repeated, or both."""

    def __init__(self, *arguments: Any, registry: Registry[Any], **options: Any) -> None:
        super().__init__(*arguments, **{**options, "multiple": True, "callback": self._names})
        self._registry = registry

    def _names(self, context: click.Context, option: click.Parameter, values: Sequence[str]) -> list[str]:
        names = [self._checked(name.strip(), values, context) for value in values for name in value.split(",")]
        return list(dict.fromkeys(names))

    def _checked(self, name: str, values: Sequence[str], context: click.Context) -> str:
        if not name:
            known = ", ".join(self._registry)
            raise click.BadParameter(f"an empty name in {','.join(values)!r}. Known: {known}.", context, self)
        if name not in self._registry:
            raise click.BadParameter(self._registry.explain_unknown(name), context, self)
        return name


class VariantsOption(NamesOption):
    """An option that takes optimizers, each with options and a schedule of its own if wanted.

    Args:
        runs: Whether they will be run, so that their packages must be there.
    """

    def __init__(self, *arguments: Any, registry: Registry[Any], runs: bool = True, **options: Any) -> None:
        super().__init__(*arguments, registry=registry, **options)
        self._runs = runs

    def _checked(self, name: str, values: Sequence[str], context: click.Context) -> str:
        if not name:
            return super()._checked(name, values, context)
        try:
            variant = Variant.parse(name)
        except ValueError as error:
            raise click.BadParameter(str(error), context, self) from error
        super()._checked(variant.optimizer, values, context)
        if variant.schedule not in SCHEDULES:
            raise click.BadParameter(SCHEDULES.explain_unknown(variant.schedule), context, self)
        if self._runs:
            require_installed([variant.optimizer])
        return str(variant)


def require_installed(optimizers: Iterable[str], hint: str = "'--optimizers'") -> None:
    """Refuse optimizers of packages that are not there.

    Args:
        optimizers: Names in the table of optimizers.
        hint: The option that named them.

    Raises:
        click.BadParameter: With the command that installs it.
    """
    for entry in (OPTIMIZERS[name] for name in optimizers):
        if not entry.installed:
            raise click.BadParameter(
                f"{entry.name!r} needs the package {entry.package}: pip install 'multirate[{entry.extra}]'",
                param_hint=hint,
            )


@dataclass(frozen=True)
class Resources:
    """The options that say how, not what: processes, devices, folders.

    Attributes:
        workers: Who runs the trials.
        machine: Device and precision.
        interval: Seconds between checkpoints of a trial.
        trust_checkpoints: Whether to go on from checkpoints that other code or other versions of packages wrote.
        first: Epoch to which every trial is trained before any goes further; None trains each to its end at once.
    """

    workers: Workers
    machine: Machine
    interval: float
    trust_checkpoints: bool
    first: int | None

    @property
    def on_gpu(self) -> bool:
        """Whether the trials are known to run on a GPU; what `auto` is on a cluster, only the cluster knows."""
        if self.workers.ray is not None:
            return self.machine.device.startswith("cuda")
        return self.machine.torch_device().type == "cuda"

    def words(self) -> list[str]:
        """Return the command-line options that ask for the same."""
        words = ["--jobs", str(self.workers.jobs)]
        words += ["--ray", self.workers.ray] if self.workers.ray is not None else []
        words += ["--first", str(self.first)] if self.first is not None else []
        words += ["--trust-checkpoints"] if self.trust_checkpoints else []
        return words + self.machine.words()


data_dir_option = click.option(
    "--data-dir", type=click.Path(exists=True, file_okay=False, path_type=Path), envvar="MULTIRATE_DATA",
    help="Folder of the data sets, NAME/train.parquet and NAME/test.parquet in it.  "
    "[default: $MULTIRATE_DATA, or the hub]",
)  # fmt: skip


def use_data_folder(folder: Path | None) -> None:
    """Put the folder that `--data-dir` names in force, here and in the processes that will be started."""
    if folder is not None:
        os.environ["MULTIRATE_DATA"] = str(folder.resolve())


def _present_device(context: click.Context, option: click.Parameter, name: str) -> torch.device:
    try:
        return Machine(name).torch_device()
    except ValueError as error:
        raise click.BadParameter(str(error), context, option) from error


device_option = click.option(
    "--device", default="cpu", show_default=True, callback=_present_device, help="cpu, cuda, cuda:1, ..."
)
"""Where to measure, as a `torch.device` that is there."""


_RESOURCE_OPTIONS = (
    click.option(
        "--jobs", type=click.IntRange(min=1), default=1, show_default=True,
        help="Processes at a time, spread over the GPUs.",
    ),
    click.option(
        "--ray", metavar="ADDRESS", help="Run on the Ray cluster at this address; `local` starts one on this machine."
    ),
    click.option(
        "--device", default="auto", show_default=True,
        help="auto (a GPU where there is one, here or on the cluster), cpu, cuda, cuda:1, ...",
    ),
    click.option("--bf16", is_flag=True, help="Run models under bfloat16 autocast."),
    click.option("--channels-last", is_flag=True, help="Keep images and convolutions channels-last."),
    click.option("--compile", "compile_", is_flag=True, help="Compile models with torch.compile."),
    click.option(
        "--checkpoint-every", type=click.FloatRange(min=0), default=60.0, show_default=True, metavar="SECONDS",
        help="How much of a trial a crash may cost.",
    ),
    click.option(
        "--first", type=click.IntRange(min=1), metavar="EPOCHS",
        help="Train every trial to this epoch, show the curves so far, and only then go on with any; what the trials "
        "are and give stays the same.",
    ),
    click.option(
        "--trust-checkpoints", is_flag=True,
        help="Go on from checkpoints that other code or other versions of packages wrote; without it such a trial "
        "starts again.",
    ),
    data_dir_option,
)  # fmt: skip


def resource_options(function: Function) -> Function:
    """Add the options of `Resources` to a command."""
    for option in reversed(_RESOURCE_OPTIONS):
        function = option(function)
    return function


def resources(options: dict[str, Any]) -> Resources:
    """Take the options of `resource_options` out of a command's, put the data folder in force and return the rest."""
    use_data_folder(options.pop("data_dir"))
    machine = Machine(options.pop("device"), options.pop("bf16"), options.pop("channels_last"), options.pop("compile_"))
    workers = Workers(options.pop("jobs"), options.pop("ray"))
    try:
        if workers.ray is None:
            machine.torch_device()
        else:  # the nodes of a cluster have devices of their own
            machine.check_name()
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="'--device'") from error
    names = ("checkpoint_every", "trust_checkpoints", "first")
    return Resources(workers, machine, *(options.pop(name) for name in names))


task_option = click.option(
    "--task", "tasks", cls=NamesOption, registry=TASKS, default=["digits/ffnn"], show_default=True,
    metavar="NAMES", help="Tasks, separated by commas.",
)  # fmt: skip

seeds_option = click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Seeds 0 to N-1.")

epochs_option = click.option(
    "--epochs", type=click.IntRange(min=1), help="Epochs of every trial.  [default: the task's own]"
)

baseline_option = click.option(
    "--baseline", "baselines", cls=VariantsOption, registry=OPTIMIZERS, runs=False, metavar="NAME",
    help="Compare all other optimizers with this one; may be repeated. Where it was run with several values of an "
    "option, the best stands for it.  [default: those of the study, or the first optimizer]",
)  # fmt: skip

out_option = click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), required=True,
    help="Folder for the results. Trials that it holds already are kept.",
)  # fmt: skip


def baseline_words(baselines: Sequence[str], optimizers: Sequence[str]) -> list[str]:
    """Return the command-line options that name the baselines.

    Args:
        baselines: As `--baseline` was given.
        optimizers: What will be run, as `--optimizers` was given.

    Raises:
        click.BadParameter: If one will not be run, or nothing is left to compare with them.
    """
    hint = "'--baseline'"
    if missing := [name for name in baselines if name not in optimizers]:
        raise click.BadParameter(
            f"{missing[0]!r} is not among the --optimizers: add it there, or choose from {', '.join(optimizers)}",
            param_hint=hint,
        )
    if len(baselines) > 1 and set(baselines) == set(optimizers):
        raise click.BadParameter("all --optimizers are baselines: nothing is left to compare", param_hint=hint)
    return [word for name in baselines for word in ("--baseline", name)]


def command_text(*words: str | Path | Sequence[str]) -> str:
    """Return words as a command line that a shell reads back; sequences are taken apart."""
    flat: list[str] = []
    for word in words:
        flat += [str(word)] if isinstance(word, (str, Path)) else list(word)
    return shlex.join(["multirate", *flat])
