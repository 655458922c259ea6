"""`multirate list`: what an experiment can name."""

from __future__ import annotations

import json

import click

from multirate.lab.listing import everything, named, records, renderables
from multirate.lab.tables import open_console


@click.command(name="list")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--json", "as_json", is_flag=True, help="Write JSON, for programs.")
def list_(names: tuple[str, ...], as_json: bool) -> None:
    """List the tasks, the optimizers, the schedules and the studies, or those with a NAME.

    Of every optimizer: the source of its code, all its options with their defaults, what the protocols of tasks set
    instead, and its citation; of every schedule its source, defaults and citation.
    """
    try:
        found = named(names) if names else everything()
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="'NAME'") from error
    if as_json:
        click.echo(json.dumps(records(found), indent=2, ensure_ascii=False))
        return
    console = open_console()
    for each in renderables(found):
        console.print(each, highlight=False)
