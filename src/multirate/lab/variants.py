"""An optimizer as an experiment names it: with options and a schedule of its own."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeAlias

Setting: TypeAlias = float | int | bool | str | tuple[float, ...] | tuple[str, ...] | None
Settings: TypeAlias = Mapping[str, Setting]

CONSTANT = "constant"
"""The schedule that leaves the rate alone."""

GRAMMAR = "NAME[:OPTION=VALUE]...[+SCHEDULE], for example adam:lr=0.003+cosine"

_NAME = r"[a-z0-9]+(?:[-.][a-z0-9]+)*"
_VARIANT = re.compile(rf"({_NAME})((?::[a-z_0-9]+=[-\w./]+)*)(?:\+([a-z]{_NAME}))?")
_WORDS: Mapping[str, Setting] = {"true": True, "false": False, "none": None}


@dataclass(frozen=True)
class Variant:
    """An optimizer of the table, the options that differ from its own, and a schedule.

    Attributes:
        optimizer: Name in the table of optimizers.
        options: Constructor options that go over the optimizer's own and the task's.
        schedule: Name in the table of schedules.
    """

    optimizer: str
    options: Settings = field(default_factory=lambda: MappingProxyType({}))
    schedule: str = CONSTANT

    def __hash__(self) -> int:
        return hash(str(self))

    def __str__(self) -> str:
        options = "".join(f":{name}={setting_text(self.options[name])}" for name in sorted(self.options))
        return f"{self.optimizer}{options}" + (f"+{self.schedule}" if self.schedule != CONSTANT else "")

    @classmethod
    def parse(cls, text: str) -> Variant:
        """Read what `str` writes.

        Raises:
            ValueError: If the text is malformed; whether the names are known is not looked at.
        """
        found = _VARIANT.fullmatch(text) if isinstance(text, str) else None
        if found is None:
            raise ValueError(f"optimizer name {text!r} must be {GRAMMAR}")
        options = dict(part.split("=", 1) for part in found[2].split(":")[1:])
        return cls(found[1], {name: parse_setting(value) for name, value in options.items()}, found[3] or CONSTANT)


def parse_setting(text: str) -> Setting:
    """Read a setting: a number, true, false, none, a word, or several of them with `/` between."""
    if "/" in text:
        # One part alone is written with its slash: "global/".
        parts = [parse_setting(part) for part in text.removesuffix("/").split("/")]
        if all(isinstance(part, str) for part in parts):
            return tuple(str(part) for part in parts)
        if all(isinstance(part, (int, float)) for part in parts):
            return tuple(part for part in parts if isinstance(part, (int, float)))
        raise ValueError(f"{text!r} mixes numbers and words")
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    for number in (int, float):
        try:
            value = number(text)
        except ValueError:
            continue
        if not math.isfinite(value):
            raise ValueError(f"{text!r} is not a finite number")
        return value
    return text


def setting_text(setting: Setting) -> str:
    """Return what `parse_setting` reads as this setting."""
    if isinstance(setting, tuple):
        return "/".join(setting_text(part) for part in setting) + ("/" if len(setting) == 1 else "")
    if isinstance(setting, str):
        return setting
    # A plus sign would begin a schedule, and numbers do without it.
    return str(setting).lower().replace("e+", "e")
