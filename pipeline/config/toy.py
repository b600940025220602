"""Made-up rows whose features are known: what the generators are told."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from strata_sae.pipeline.settings import Settings


class _Rows(Settings):
    """What every generator is told."""

    n_rows: int = Field(default=200_000, gt=1, le=2**40)
    """Rows to make (count), held-out ones included; each is a document of its own."""
    heldout_fraction: float = Field(default=0.1, ge=0.0, lt=1.0)
    """Share of the rows, the last ones, that are kept out of training (0 to 1)."""


class ParentAlwaysOn(_Rows):
    """One parent that is in every row, and at most one of its children: x = parent + child + noise.

    All directions are orthogonal and of norm 1. Source: seed 000, toy_absorption.py, whose numbers are the defaults.
    """

    kind: Literal["parent_always_on"] = "parent_always_on"
    """Which generator."""
    d_model: int = Field(default=256, gt=1)
    """Width of a row."""
    n_children: int = Field(default=8, gt=0)
    """Children of the parent (count), each as likely as the others."""
    child_probability: float = Field(default=0.3, ge=0.0, le=1.0)
    """Probability that a row has a child."""
    noise: float = Field(default=0.02, ge=0.0)
    """Standard deviation of normal noise in every column."""

    @model_validator(mode="after")
    def _directions_fit(self) -> "ParentAlwaysOn":
        if self.n_children + 1 > self.d_model:
            raise ValueError(
                f"{self.n_children} children and their parent cannot be orthogonal in d_model {self.d_model}; "
                "raise d_model"
            )
        return self


class TwoChildren(_Rows):
    """Several of many parents, each with one of its two children: x = sum of (parent + child), without noise.

    Parents are random directions of norm 1, children random directions of norm `perturbation`. Source: seed 002
    (sae_hacking: toy_dataset.py), whose numbers are the defaults; its README's example has perturbation 0.4, 30 parents
    and d_model 50.
    """

    kind: Literal["two_children"] = "two_children"
    """Which generator."""
    d_model: int = Field(default=10, gt=1)
    """Width of a row."""
    n_parents: int = Field(default=100, gt=0)
    """Parents (count); with 2 children each there are 3 times as many directions."""
    active_parents: int = Field(default=3, gt=0)
    """Different parents in a row (count), each set as likely as any other."""
    perturbation: float = Field(default=0.2, gt=0.0)
    """Norm of a child's direction. The source: 0.2, or 0.4 in its example."""

    @model_validator(mode="after")
    def _enough_parents(self) -> "TwoChildren":
        if self.active_parents > self.n_parents:
            raise ValueError(f"active_parents ({self.active_parents}) exceeds n_parents ({self.n_parents}); lower it")
        return self


ToySettings = Annotated[ParentAlwaysOn | TwoChildren, Field(discriminator="kind")]
