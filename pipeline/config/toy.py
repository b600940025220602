"""Made-up rows whose features are known: what the generators are told."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from strata_sae.pipeline.settings import Settings


class _Rows(Settings):
    """What every generator is told."""

    n_rows: int = Field(default=200_000, gt=1, le=2**40)
    """Rows to make (count), held-out ones included; 256 of them are a document."""
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


class Hierarchy(_Rows):
    """Many features in trees, some of them common and most of them rare: x = bias + sum of amplitude * direction.

    A child is on only where its parent is, its amplitude grows with its parent's, and children of one parent exclude
    each other; features are correlated by a Gaussian copula of low rank. Source: SynthSAEBench-16k (sae_lens.synthetic;
    arXiv 2602.14687); the defaults are its values, but for the sizes, which are a 64th: 256 features for 16,384, 2
    roots for 128; d_model 64 for 768 keeps more features than columns.
    """

    kind: Literal["hierarchy"] = "hierarchy"
    """Which generator."""
    d_model: int = Field(default=64, gt=1)
    """Width of a row. The source: 768."""
    n_features: int = Field(default=256, gt=0)
    """Features (count), from common to rare. The source: 16,384."""
    n_roots: int = Field(default=2, ge=0)
    """Roots of trees (count): the most common features. 0: no trees. The source: 128."""
    n_children: int = Field(default=4, gt=0)
    """Children of each feature in a tree (count), as long as there are features left."""
    depth: int = Field(default=3, ge=0)
    """Steps from a root to its leaves (count)."""
    exclusive_share: float = Field(default=1.0, ge=0.0, le=1.0)
    """Share of the parents of which at most one child is on (0 to 1)."""
    zipf_exponent: float = Field(default=0.5, gt=0.0)
    """The feature of rank r is on with a probability that falls as r to the minus this."""
    max_probability: float = Field(default=0.4, gt=0.0, le=1.0)
    """That of the most common feature."""
    min_probability: float = Field(default=5e-4, gt=0.0, le=1.0)
    """That of the rarest feature."""
    compensate: bool = True
    """Whether features in trees are drawn more often, so that trees and exclusion leave about these probabilities. It
    cannot make a child more common than its parent: near the roots children stay rarer than their rank says."""
    scale_by_parent: bool = True
    """Whether a child's amplitude is multiplied by its parent's, relative to the parent's mean."""
    first_magnitude: float = Field(default=5.0, gt=0.0)
    """Mean amplitude of the most common feature; between it and the rarest one on a line."""
    last_magnitude: float = Field(default=4.0, gt=0.0)
    """Mean amplitude of the rarest feature."""
    magnitude_std: float = Field(default=0.5, ge=0.0)
    """A feature's amplitudes have a standard deviation that is |normal| with this mean and this deviation."""
    correlation_rank: int = Field(default=25, gt=0)
    """Rank of the correlation between features (count)."""
    correlation_scale: float = Field(default=0.1, ge=0.0)
    """Standard deviation of its factors; 0: none is correlated with another."""
    bias_norm: float = Field(default=0.5, ge=0.0)
    """Norm of the vector that is added to every row."""
    orthogonal_steps: int = Field(default=100, ge=0)
    """Steps of Adam that push random directions apart (count); their norm is 1."""
    orthogonal_rate: float = Field(default=3e-4, gt=0.0)
    """Learning rate of these steps."""

    @model_validator(mode="after")
    def _probabilities_fall(self) -> "Hierarchy":
        if self.min_probability > self.max_probability:
            raise ValueError(
                f"min_probability ({self.min_probability}) exceeds max_probability ({self.max_probability}); lower it"
            )
        if self.n_roots > self.n_features:
            raise ValueError(f"n_roots ({self.n_roots}) exceeds n_features ({self.n_features}); lower it")
        return self


ToySettings = Annotated[ParentAlwaysOn | TwoChildren | Hierarchy, Field(discriminator="kind")]
