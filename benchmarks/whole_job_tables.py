"""What whole_job.py measured of each side, lines through it, and the tables that it prints."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import floor
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Seconds:
    """By the clock and of the processor (user and system, of a process and its children)."""

    wall: float = 0.0
    processor: float = 0.0

    def __add__(self, other: "Seconds") -> "Seconds":
        return Seconds(self.wall + other.wall, self.processor + other.processor)

    def __sub__(self, other: "Seconds") -> "Seconds":
        return Seconds(self.wall - other.wall, self.processor - other.processor)

    def __str__(self) -> str:
        return f"{self.wall:8.0f} {self.processor:8.0f}"


@dataclass
class Side:
    """One library's measurements."""

    name: str
    extraction: dict[int, Seconds] = field(default_factory=dict)
    """Number of variants -> what running the model took."""
    training: dict[int, Seconds] = field(default_factory=dict)
    """The rest of that job."""
    tokens: int = 0
    """That ran through the model in one job."""
    saes: list[Path] = field(default_factory=list)
    """Of the largest job."""

    def add(self, n: int, extraction: Seconds, training: Seconds) -> None:
        """Keep and print the job of n SAEs."""
        self.extraction[n], self.training[n] = extraction, training
        print(f"  {self.name}, {n}: extraction {extraction}, training {training} (clock, CPU)", flush=True)

    def line(self, clock: str) -> tuple[float, float]:
        """(a, b) of a + b V seconds; of one point, b is what it trained, start included."""
        counts = sorted(self.training)
        whole = [getattr(self.extraction[n] + self.training[n], clock) for n in counts]
        if len(counts) == 1:
            each = getattr(self.training[counts[0]], clock) / counts[0]
            return whole[0] - each * counts[0], each
        b, a = np.polyfit(counts, whole, 1)
        return float(a), float(b)

    def whole(self, n: int) -> Seconds:
        """The job of n variants, measured or extrapolated."""
        if n in self.training:
            return self.extraction[n] + self.training[n]
        lines = [self.line(clock) for clock in ("wall", "processor")]
        return Seconds(*(a + b * n for a, b in lines))

    def how(self, n: int) -> str:
        """Whether the job of n SAEs was measured, or from which ones it is extrapolated."""
        return "measured" if n in self.training else f"extrapolated from {', '.join(map(str, sorted(self.training)))}"


def table(sides: Sequence[Side], n: int) -> None:
    """One job of every side; ratios are of the whole job to ours."""
    print(f"\n{n:2} SAEs, seconds{'extraction':>31}{'training':>18}{'whole job':>18}{'/ ours':>14}")
    print(f"{'':28}" + f"{'clock':>9}{'CPU':>9}" * 3 + f"{'clock':>8}{'CPU':>7}")
    for side in sides:
        whole, extraction = side.whole(n), side.extraction[max(side.extraction)]
        mine = sides[0].whole(n)
        ratios = f"{whole.wall / mine.wall:8.2f}{whole.processor / mine.processor:7.2f}"
        print(f"{side.name:28}{extraction} {whole - extraction} {whole} {ratios}  {side.how(n)}", flush=True)


def break_even(mine: Side, other: Side, clock: str) -> str:
    """From how many SAEs on ours is quicker, by the lines."""
    (a, b), (c, d) = mine.line(clock), other.line(clock)
    return str(max(1, floor((a - c) / (d - b)) + 1)) if b < d else "none"


def lines(sides: Sequence[Side]) -> None:
    print("\nSeconds of the processor as a + b V, V variants; from which V on ours is quicker, by CPU and by the clock")
    for side in sides:
        a, b = side.line("processor")
        ends = [break_even(sides[0], side, clock) for clock in ("processor", "wall")] if side is not sides[0] else []
        print(f"{side.name:28}{a:8.1f} + {b:6.2f} V   {side.tokens:,} tokens   {', '.join(ends)}", flush=True)
