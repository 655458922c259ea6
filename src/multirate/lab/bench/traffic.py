"""How many bytes a step has to move: the least that an optimizer reads and writes for every parameter element.

Counted is an ideal implementation in float32, 4 bytes a number, that keeps what it can in registers and passes over
memory no more often than the method's own order asks for. A second pass is asked for where a sum over many elements has
to be known before the first of them moves. Numbers for each tensor, layer or unit are not counted, nor what a cache may
spare: a tensor that is read twice counts twice. With θ the parameter, g its gradient, m and v the moments:

================================  ==========================================  ===========================  ======
method                            reads                                       writes                       bytes
================================  ==========================================  ===========================  ======
Adam, AdamW                       θ g m v                                     θ m v                        28
AdamHD, CAM-HD on Adam            g m v to measure (the last direction is     θ m v                        40
                                  rebuilt from m and v), then θ g m v
... with a rate of every element  the same, and the rate                      θ m v and the rate           48
... with rates a step late        g to look (is it finite), then θ g m v      θ m v                        32
self-tuning AdamW                 g v to look (is g finite, how long is the   θ v z                        40
                                  direction), then θ g v z and the beginning
Prodigy                           θ g m v s and the beginning                 θ m v s                      40
D-Adapt Adam                      θ g m v s                                   θ m v s                      36
Schedule-Free AdamW               θ g v z                                     θ v z                        28
================================  ==========================================  ===========================  ======

The rates of CAM-HD have to be known before the first parameter moves, hence its pass to measure. Prodigy and
D-Adaptation as their papers have it move by the estimate of the step before, so that one pass does; that the packages
add ε times the newer estimate to the denominator is not held against them. Self-tuning AdamW with parameters that no
module owns leaves them where the next gradients are taken; a module's hook moves them there in the forward pass, which
is 12 bytes more (reads θ z, writes θ) and shows in the times of whole training steps.
"""

from __future__ import annotations

from dataclasses import dataclass

NUMBER = 4
"""Bytes of a float32."""


@dataclass(frozen=True)
class Traffic:
    """Numbers that a step moves for every parameter element, and those kept from step to step.

    Attributes:
        reads: Numbers read, over all passes.
        writes: Numbers written.
        state: Numbers kept beside the parameter and its gradient.
    """

    reads: int
    writes: int
    state: int

    @property
    def bytes(self) -> int:
        """Bytes that a step moves for every parameter element."""
        return NUMBER * (self.reads + self.writes)

    def also(self, reads: int = 0, writes: int = 0, state: int = 0) -> Traffic:
        """Return the traffic with more of something."""
        return Traffic(self.reads + reads, self.writes + writes, self.state + state)


ADAM = Traffic(reads=4, writes=3, state=2)
CAM_HD = ADAM.also(reads=3)
CAM_HD_ELEMENTWISE = CAM_HD.also(reads=1, writes=1, state=1)
CAM_HD_LATE = ADAM.also(reads=1)
SELF_TUNING = Traffic(reads=2 + 5, writes=3, state=3)
PRODIGY = Traffic(reads=6, writes=4, state=4)
D_ADAPTATION = Traffic(reads=5, writes=4, state=3)
SCHEDULE_FREE = Traffic(reads=4, writes=3, state=2)

COPY_BYTES = 2 * NUMBER
"""Bytes that copying an element moves: it is read and written."""
READ_BYTES = 2 * NUMBER
"""Bytes that an element of a dot product of two vectors moves: both are read."""
