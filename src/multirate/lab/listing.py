"""What an experiment can name, as tables for people and as plain values for programs."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from multirate.lab.optimizers import OPTIMIZERS
from multirate.lab.optimizers.entry import OptimizerEntry
from multirate.lab.schedules import SCHEDULES, ScheduleEntry
from multirate.lab.studies.base import Study
from multirate.lab.studies.table import STUDIES
from multirate.lab.task import Task
from multirate.lab.tasks import TASKS
from multirate.lab.variants import Settings, setting_text

Entry: TypeAlias = Task | OptimizerEntry | ScheduleEntry | Study


def everything() -> dict[str, Sequence[Entry]]:
    """Return all that an experiment can name, by kind."""
    return {
        "tasks": list(TASKS.values()),
        "optimizers": list(OPTIMIZERS.values()),
        "schedules": list(SCHEDULES.values()),
        "studies": list(STUDIES.values()),
    }


def named(names: Iterable[str]) -> dict[str, Sequence[Entry]]:
    """Return the entries of some names, by kind.

    Raises:
        ValueError: If nothing has one of the names.
    """
    wanted = list(names)
    known = [each.name for entries in everything().values() for each in entries]
    for name in wanted:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            guess = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"nothing is called {name!r}.{guess} `multirate list` without a name shows all there is.")
    found = {kind: [each for each in entries if each.name in wanted] for kind, entries in everything().items()}
    return {kind: entries for kind, entries in found.items() if entries}


def records(found: Mapping[str, Sequence[Entry]]) -> dict[str, list[dict[str, Any]]]:
    """Return entries as values that JSON can hold, by kind."""
    return {kind: [_record(entry) for entry in entries] for kind, entries in found.items()}


def _record(entry: Entry) -> dict[str, Any]:
    if isinstance(entry, OptimizerEntry):
        return _optimizer_record(entry)
    record: dict[str, Any] = {"name": entry.name, "description": entry.description}
    if isinstance(entry, Task):
        settings = {name: _values(each) for name, each in entry.settings.items()}
        return {**record, "epochs": entry.epochs, "batch_size": entry.batch_size, "settings": settings}
    record["citation"] = entry.citation
    if isinstance(entry, ScheduleEntry):
        return {**record, "source": entry.source, "defaults": _values(entry.settings)}
    return record


def _optimizer_record(entry: OptimizerEntry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "description": entry.description,
        "citation": entry.citation,
        "constructor": entry.constructor,
        "wraps": entry.wraps,
        "package": entry.package,
        "versions": entry.version(),
        "installed": entry.installed,
        "extra": entry.extra,
        "settings": _values(entry.settings),
        "defaults": _values(entry.defaults()),
        "protocols": {task: _values(settings) for task, settings in _protocols(entry.name).items()},
    }


def _protocols(optimizer: str) -> dict[str, Settings]:
    """Return what the protocols of tasks set of an optimizer, by task."""
    return {task.name: task.settings[optimizer] for task in TASKS.values() if optimizer in task.settings}


def _values(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options as values that JSON can hold: numbers that are none to it, and all else, as text."""
    return {name: _value(value) for name, value in options.items()}


def _value(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_value(each) for each in value]
    plain = value is None or isinstance(value, (bool, int, str)) or (isinstance(value, float) and abs(value) < 1e308)
    return value if plain else str(value)


def renderables(found: Mapping[str, Sequence[Entry]]) -> Iterable[RenderableType]:
    """Yield what shows entries in a terminal of any width; long words go on in the next line, nothing is cut."""
    for kind, entries in found.items():
        yield Group(f"[bold]{kind.capitalize()}[/bold]", *(_block(entry) for entry in entries), "")


def _block(entry: Entry) -> RenderableType:
    facts: list[tuple[str, str]] = []
    if isinstance(entry, OptimizerEntry):
        facts += _optimizer_facts(entry)
    elif isinstance(entry, Task):
        facts += [("length", f"{entry.epochs} epochs, {entry.batch_size} examples a step")]
        facts += [(name, _options_text(settings)) for name, settings in entry.settings.items()]
    else:
        if isinstance(entry, ScheduleEntry):
            facts += [("source", entry.source), ("defaults", _options_text(entry.settings) or "none")]
        if entry.citation:
            facts += [("citation", entry.citation)]
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for label, text in facts:
        grid.add_row(f"  [dim]{escape(label)}[/dim]", escape(text))
    return Group(f"[cyan]{escape(entry.name)}[/cyan]: {escape(entry.description)}", grid)


def _optimizer_facts(entry: OptimizerEntry) -> list[tuple[str, str]]:
    versions = ", ".join(f"{name} {version}" for name, version in entry.version().items())
    facts = [("source", entry.source + (f" ({versions})" if versions else ""))]
    if not entry.installed:
        facts.append(("missing", f"not installed: pip install 'multirate[{entry.extra}]'"))
    facts.append(("defaults", _options_text(entry.defaults())))
    by_settings: dict[str, list[str]] = {}
    for task, settings in _protocols(entry.name).items():
        by_settings.setdefault(_options_text(settings), []).append(task)
    facts += [("protocol", f"{settings} on {', '.join(tasks)}") for settings, tasks in by_settings.items()]
    facts.append(("citation", entry.citation))
    return facts


def _options_text(options: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={setting_text(value)}" for name, value in options.items())
