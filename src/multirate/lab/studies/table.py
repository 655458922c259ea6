"""All studies, by name."""

from __future__ import annotations

from multirate.lab.registry import Registry
from multirate.lab.studies.base import Study
from multirate.lab.studies.table2 import TABLE2

STUDIES: Registry[Study] = Registry("study", [TABLE2])
