"""`multirate report` and `multirate claims`."""

from __future__ import annotations

from pathlib import Path

import click

from multirate.lab.commands.options import baseline_option
from multirate.lab.commands.running import show_report
from multirate.lab.reporting.claim_rows import markdown
from multirate.lab.reporting.claims import judge_claims
from multirate.lab.storage import Storage, StorageError, write_whole
from multirate.lab.tables import claims_table, open_console

BEGIN, END = "<!-- claims -->\n", "<!-- end of claims -->"

_folder = click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))


@click.command()
@_folder
@baseline_option
def report(folder: Path, baselines: list[str]) -> None:
    """Make the tables, pictures and page of FOLDER anew, or of every experiment below it."""
    folders = sorted(path.parent for path in folder.rglob(Storage.ROWS)) or [folder]
    try:
        for each in folders:
            show_report(each, baselines)
    except StorageError as error:
        raise click.ClickException(str(error)) from error


@click.command()
@_folder
@click.option(
    "--into", type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help=f"Put the table into this Markdown file, between {BEGIN.strip()} and {END}.",
)  # fmt: skip
def claims(folder: Path, into: Path | None) -> None:
    """Say claim by claim what the studies in FOLDER make of the papers."""
    try:
        rows = judge_claims(folder)
    except StorageError as error:
        raise click.ClickException(str(error)) from error
    open_console().print(claims_table(rows))
    if into is not None:
        before, begin, rest = into.read_text(encoding="utf-8").partition(BEGIN)
        _, end, after = rest.partition(END)
        if not begin or not end:
            raise click.BadParameter(f"{into} lacks the lines {BEGIN.strip()} and {END}", param_hint="'--into'")
        write_whole(into, f"{before}{BEGIN}{markdown(rows)}{END}{after}")
