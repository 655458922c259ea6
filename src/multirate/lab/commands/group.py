"""The `multirate` command with all its parts."""

from __future__ import annotations

import click

from multirate.lab.commands.bench import bench
from multirate.lab.commands.compare import compare, sweep
from multirate.lab.commands.listing import list_
from multirate.lab.commands.reproduce import reproduce
from multirate.lab.commands.seeds import seeds
from multirate.lab.commands.show import claims, report
from multirate.lab.commands.yardstick import yardstick
from multirate.lab.environment import versions


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(versions()["multirate"], prog_name="multirate")
def command_line() -> None:
    """Optimizers that learn their learning rates, measured."""


for command in (compare, sweep, reproduce, yardstick, report, claims, list_, bench, seeds):
    command_line.add_command(command)
