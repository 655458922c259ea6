"""All studies, by name."""

from __future__ import annotations

from multirate.lab.registry import Registry
from multirate.lab.studies.base import Study
from multirate.lab.studies.baydin import BAYDIN
from multirate.lab.studies.figure2 import FIGURE2
from multirate.lab.studies.readings import READINGS_STUDY
from multirate.lab.studies.table2 import TABLE2
from multirate.lab.studies.table3 import TABLE3
from multirate.lab.studies.table4 import TABLE4
from multirate.lab.studies.tuned import TUNED
from multirate.lab.studies.weights import WEIGHTS

STUDIES: Registry[Study] = Registry("study", [TABLE2, READINGS_STUDY, TABLE3, TABLE4, FIGURE2, WEIGHTS, BAYDIN, TUNED])
