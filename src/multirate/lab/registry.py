"""Look-up by name, with an error that lists what there is."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Generic, Protocol, TypeVar

# Names become parts of file names, so that they are held to what every file system takes.
_NAME = re.compile(r"[a-z0-9]+([-./][a-z0-9]+)*")


class Named(Protocol):
    """Anything with a name."""

    @property
    def name(self) -> str:
        """The name it is registered under."""
        ...


Entry = TypeVar("Entry", bound=Named)


class Registry(Mapping[str, Entry], Generic[Entry]):
    """An ordered, fixed table of named entries.

    Args:
        kind: What an entry is, for messages: "optimizer", "task".
        entries: The entries, in the order in which they are listed.

    Raises:
        ValueError: If a name is malformed or appears twice.
    """

    def __init__(self, kind: str, entries: Iterable[Entry]) -> None:
        self.kind = kind
        self._entries: dict[str, Entry] = {}
        for entry in entries:
            check_name(kind, entry.name)
            if entry.name in self._entries:
                raise ValueError(f"{kind} name {entry.name!r} is registered twice")
            self._entries[entry.name] = entry

    def __getitem__(self, name: str) -> Entry:
        try:
            return self._entries[name]
        except KeyError:
            raise KeyError(self.explain_unknown(name)) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def explain_unknown(self, name: str) -> str:
        """Return a sentence that names the unknown entry, the nearest known one and all known ones."""
        near = difflib.get_close_matches(name, self._entries, n=1)
        guess = f" Did you mean {near[0]!r}?" if near else ""
        return f"unknown {self.kind} {name!r}.{guess} Known: {', '.join(self._entries)}."


def check_name(kind: str, name: object) -> None:
    """Refuse a name that is no safe part of a file's name.

    Raises:
        ValueError: If it is malformed.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"{kind} name {name!r} must match {_NAME.pattern}")
