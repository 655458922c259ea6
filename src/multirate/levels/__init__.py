"""Levels: which elements share a learned rate."""

from multirate.levels.partition import GATES, Level, ParameterInfo, describe_parameters, level_name, module_kinds
from multirate.levels.tree import ELEMENT, Tree, Values

__all__ = [
    "ELEMENT",
    "GATES",
    "Level",
    "ParameterInfo",
    "Tree",
    "Values",
    "describe_parameters",
    "level_name",
    "module_kinds",
]
