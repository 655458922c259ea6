"""Tables and measurements as Markdown files."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from multirate.lab.environment import hardware, revision, versions
from multirate.lab.storage import write_whole


def markdown_table(rows: Sequence[Mapping[str, str]], text_columns: int) -> str:
    """Return rows as a table.

    Args:
        rows: Cells by heading; the headings are those of the first row.
        text_columns: How many columns, from the left, hold text; the others are numbers, set to the right.
    """
    headings = list(rows[0])
    lines = [
        f"| {' | '.join(headings)} |",
        "|" + " --- |" * text_columns + " ---: |" * (len(headings) - text_columns),
        *(f"| {' | '.join(cell.replace('|', '/') for cell in row.values())} |" for row in rows),
    ]
    return "\n".join(lines) + "\n"


def origin_text(command: str, device: torch.device, details: str = "") -> str:
    """Return where and how something was measured, as lines of Markdown."""
    code = f", revision {revision()}" if revision() else ""
    known = ", ".join(f"{name} {version}" for name, version in versions().items())
    return f"{hardware(device)}; {details}{known}{code}\n\n    {command}\n"


def write_measurement(
    folder: Path,
    stem: str,
    *,
    title: str,
    text: str,
    command: str,
    device: torch.device,
    details: Mapping[str, Any],
    timings: Sequence[Any],
    table: str,
) -> tuple[Path, Path]:
    """Write STEM.json, everything that was measured, and STEM.md, the table.

    Args:
        folder: Where to.
        stem: Name of the files.
        title: Heading.
        text: How it was measured.
        command: The command that measures it again.
        device: What was computed on.
        details: What else belongs to the raw figures, such as threads.
        timings: Dataclasses.
        table: From `markdown_table`.

    Returns:
        The paths of the two files.
    """
    origin = {
        "command": command,
        "hardware": hardware(device),
        "versions": versions(),
        "revision": revision(),
        **details,
    }
    measured = [dataclasses.asdict(timing) for timing in timings]
    told = "".join(f"{value} {name}; " for name, value in details.items())
    paths = folder / f"{stem}.json", folder / f"{stem}.md"
    write_whole(paths[0], json.dumps({**origin, "timings": measured}, indent=1) + "\n")
    write_whole(paths[1], f"# {title}\n\n{text}\n\n{origin_text(command, device, told)}\n{table}")
    return paths
