"""Numbers that move during training: pure functions of fraction_done, the share of the run done (0 to 1)."""

from collections.abc import Callable
from typing import Literal

from pydantic import Field, model_validator

from strata_sae.pipeline.settings import Settings


def _constant(share: float, exponent: float) -> float:
    return 1.0


def _linear(share: float, exponent: float) -> float:
    return 1.0 - share


def _power(share: float, exponent: float) -> float:
    return (1.0 - share) ** exponent


SCHEDULES: dict[str, Callable[[float, float], float]] = {"constant": _constant, "linear": _linear, "power": _power}
"""Shape name -> weight of `start` (the rest is `end`) at a share of the scheduled stretch, and the exponent."""


class Schedule(Settings):
    """A value that goes from `start` to `end` while fraction_done goes from `begin` to `finish`, and stays there."""

    shape: Literal["constant", "linear", "power"] = "linear"
    """How it moves: `constant` stays at start, `linear`, or `power`: end + (start - end) * (1 - share)^exponent."""
    start: float
    """Value before `begin`."""
    end: float
    """Value from `finish` on."""
    begin: float = Field(default=0.0, ge=0.0, le=1.0)
    """Share of the run (0 to 1) at which it starts to move."""
    finish: float = Field(default=1.0, ge=0.0, le=1.0)
    """Share of the run (0 to 1) at which it arrives."""
    exponent: float = Field(default=2.0, ge=0.0)
    """Exponent of `power`; seed 001 uses 2 and 0.5. 0: it stays at start."""

    @model_validator(mode="after")
    def _ends_after_it_begins(self) -> "Schedule":
        if self.finish <= self.begin:
            raise ValueError(f"finish ({self.finish}) must be larger than begin ({self.begin})")
        return self

    def at(self, fraction_done: float) -> float:
        """Value at `fraction_done` (share of the run done, 0 to 1)."""
        share = min(max((fraction_done - self.begin) / (self.finish - self.begin), 0.0), 1.0)
        weight = SCHEDULES[self.shape](share, self.exponent)
        return self.start * weight + self.end * (1.0 - weight)


Value = float | Schedule
"""A number, or a schedule of it."""


def value_at(value: Value, fraction_done: float) -> float:
    """The number a config value stands for at `fraction_done`."""
    return value.at(fraction_done) if isinstance(value, Schedule) else float(value)
