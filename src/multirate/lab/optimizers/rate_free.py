"""Optimizers that claim to need no rate, or no schedule."""

from __future__ import annotations

from multirate.lab.optimizers.entry import OptimizerEntry

_D_ADAPTATION = "Defazio & Mishchenko 2023, arXiv 2301.07733"
_SCHEDULE_FREE = "Defazio et al. 2024, arXiv 2405.15682"

RATE_FREE = [
    OptimizerEntry(
        name="prodigy",
        constructor="prodigyopt:Prodigy",
        description="Adam with a rate from the distance travelled",
        citation="Mishchenko & Defazio 2024, arXiv 2306.06101",
        settings={"lr": 1.0},
        extra="bench",
    ),
    OptimizerEntry(
        name="d-adapt-adam",
        constructor="dadaptation:DAdaptAdam",
        description="Adam with a rate from a lower bound of the distance to the solution",
        citation=_D_ADAPTATION,
        settings={"lr": 1.0},
        extra="bench",
    ),
    OptimizerEntry(
        name="d-adapt-sgd",
        constructor="dadaptation:DAdaptSGD",
        description="SGD with a rate from a lower bound of the distance to the solution",
        citation=_D_ADAPTATION,
        settings={"lr": 1.0, "momentum": 0.9},
        extra="bench",
    ),
    OptimizerEntry(
        name="schedule-free",
        constructor="schedulefree:AdamWScheduleFree",
        description="AdamW on averaged iterates in place of a schedule",
        citation=_SCHEDULE_FREE,
        settings={"lr": 2.5e-3},
        extra="bench",
    ),
    OptimizerEntry(
        name="schedule-free-sgd",
        constructor="schedulefree:SGDScheduleFree",
        description="SGD on averaged iterates in place of a schedule",
        citation=_SCHEDULE_FREE,
        settings={"lr": 1.0, "momentum": 0.9},
        extra="bench",
    ),
    OptimizerEntry(
        name="dog",
        constructor="multirate.lab.opponents.averaged_dog:AveragedDoG",
        description="SGD with a rate of distance over gradients, evaluated at an average of its iterates",
        citation="Ivgi et al. 2023, arXiv 2302.12022",
        extra="bench",
        wraps="dog:DoG",
    ),
    OptimizerEntry(
        name="mechanic-adam",
        constructor="multirate.lab.opponents.mechanic:MechanicAdam",
        description="Adam with a learned scale of its whole displacement",
        citation="Cutkosky et al. 2023, arXiv 2306.00144",
        settings={"lr": 1.0},
    ),
]
