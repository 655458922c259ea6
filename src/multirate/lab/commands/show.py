"""`multirate report` and `multirate list`."""

from __future__ import annotations

from pathlib import Path

import click

from multirate.lab.commands.running import show_report
from multirate.lab.storage import StorageError
from multirate.lab.tables import open_console, registry_tables


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
def report(folder: Path) -> None:
    """Make the table, pictures and page of FOLDER anew."""
    try:
        show_report(folder)
    except StorageError as error:
        raise click.ClickException(str(error)) from error


@click.command(name="list")
def list_() -> None:
    """List the tasks, the optimizers, the schedules and the studies."""
    console = open_console()
    for table in registry_tables():
        console.print(table)
