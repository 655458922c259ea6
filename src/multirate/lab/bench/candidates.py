"""The table of optimizers that are timed: torch's, ours level by level, and other people's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from multirate.lab.bench import traffic
from multirate.lab.bench.traffic import Traffic
from multirate.lab.optimizers.entry import OptimizerEntry
from multirate.lab.registry import Registry
from multirate.lab.variants import Setting, Settings

BASELINE, OWN, PEER = "baseline", "own", "peer"


@dataclass(frozen=True)
class Candidate(OptimizerEntry):
    """An optimizer to time.

    Attributes:
        role: `BASELINE` for torch's AdamW, measured beside everything; `OWN`; `PEER`.
        traffic: What an ideal implementation moves.
        adapts: Whether it finds its own rate.
        compiles: Whether its first step compiles something.
        most_tensors: More tensors than this it is not timed on; None is no limit.
        in_steps: Whether its step is timed alone, which says nothing of one that works during the backward pass.
        in_growth: Whether it is among the lines of growth.
        in_training: Whether it trains whole models.
    """

    role: str = PEER
    traffic: Traffic = traffic.ADAM
    adapts: bool = False
    compiles: bool = False
    most_tensors: int | None = None
    in_steps: bool = True
    in_growth: bool = False
    in_training: bool = False


def _torch(name: str, description: str, settings: Settings, *, in_all: bool = True) -> Candidate:
    return Candidate(
        name, "torch.optim:AdamW", description, "torch", settings,
        role=BASELINE, in_growth=in_all, in_training=in_all,
    )  # fmt: skip


def _own(
    name: str,
    constructor: str,
    description: str,
    moved: Traffic,
    settings: Settings | None = None,
    *,
    in_all: bool = True,
) -> Candidate:
    return Candidate(
        name,
        constructor,
        description,
        "multirate",
        settings or {},
        role=OWN,
        traffic=moved,
        adapts=True,
        compiles=True,
        in_growth=in_all,
        in_training=in_all,
    )


def _cam_hd(name: str, levels: Sequence[str], moved: Traffic = traffic.CAM_HD, **options: Setting) -> Candidate:
    """AdamCAMHD with levels, and further options for a variant of it."""
    told = "".join(f", {option}={value}" for option, value in options.items())
    found = _own(
        name,
        "multirate:AdamCAMHD",
        f"AdamCAMHD, {' + '.join(levels)}{told}",
        moved,
        {"levels": tuple(levels), **options},
    )
    return replace(found, in_growth=not options, in_steps="in_backward" not in options)


CANDIDATES: Registry[Candidate] = Registry(
    "candidate",
    [
        _torch("adamw-loop", "torch AdamW, foreach=False", {"foreach": False}, in_all=False),
        _torch("adamw-foreach", "torch AdamW, foreach=True", {"foreach": True}),
        _torch("adamw-fused", "torch AdamW, fused=True", {"fused": True}),
        _own("adam-hd", "multirate:AdamHD", "AdamHD", traffic.CAM_HD, in_all=False),
        _cam_hd("cam-hd-layer", ("global", "layer")),
        _cam_hd("cam-hd-unit", ("global", "unit")),
        _cam_hd("cam-hd-parameter", ("global", "parameter"), traffic.CAM_HD_ELEMENTWISE),
        _cam_hd("cam-hd-late", ("global", "layer"), traffic.CAM_HD_LATE, late=True),
        _cam_hd("cam-hd-gathered", ("global", "layer"), in_backward=True),
        _cam_hd("cam-hd-in-backward", ("global", "layer"), traffic.CAM_HD_LATE, late=True, in_backward=True),
        _own("adamw-self", "multirate:AdamW", "AdamW, self-tuning, global + layer", traffic.SELF_TUNING),
        Candidate(
            "prodigy", "prodigyopt:Prodigy", "Prodigy (prodigyopt)", "Mishchenko & Defazio 2024, arXiv 2306.06101",
            extra="bench", traffic=traffic.PRODIGY, adapts=True, in_growth=True, in_training=True,
        ),
        Candidate(
            "prodigy-pytorch-optimizer", "pytorch_optimizer:Prodigy", "Prodigy (pytorch_optimizer)", "the same",
            extra="bench", traffic=traffic.PRODIGY, adapts=True,
        ),
        Candidate(
            "d-adapt-adam", "dadaptation:DAdaptAdam", "D-Adapt Adam (dadaptation)",
            "Defazio & Mishchenko 2023, arXiv 2301.07733", extra="bench", traffic=traffic.D_ADAPTATION, adapts=True,
        ),
        Candidate(
            "schedule-free", "schedulefree:AdamWScheduleFree", "Schedule-Free AdamW (schedulefree)",
            "Defazio et al. 2024, arXiv 2405.15682", extra="bench", traffic=traffic.SCHEDULE_FREE,
        ),
        # It compiles its step for every list of shapes, for minutes where the list is long.
        Candidate(
            "heavyball", "heavyball:AdamW", "AdamW (heavyball)", "heavyball",
            {"lr": 1e-3}, extra="bench", compiles=True, most_tensors=1,
        ),
    ],
)  # fmt: skip


def baselines(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return torch's AdamW among them, in each of its paths."""
    return [candidate for candidate in candidates if candidate.role == BASELINE]
