"""Our trainer beside another one: equal start, equal rows, compared after every update."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from strata_sae.pipeline.config.training import TrainingSettings
from strata_sae.pipeline.config.variants import Variant
from strata_sae.pipeline.saes.base import Workspace
from strata_sae.pipeline.trainer.trainee import Trainee

Weights = dict[str, Tensor]


class Other(Protocol):
    """Another trainer, seen through our names and layouts."""

    def weights(self) -> Weights:
        """Its parameters now, by our checkpoint keys."""

    def update(self, step: int, x_BM: Tensor) -> float | None:
        """One update. Returns: its loss, where it says."""


class Gap(NamedTuple):
    """What the largest difference was, and after which update."""

    size: float
    step: int


def our_trainee(weights: Weights, *, n_steps: int, variant: dict[str, Any], **training: Any) -> Trainee:
    """A trainee at given weights (copied); no warm-up and no decay unless `training` says so."""
    settings = TrainingSettings(**{"n_steps": n_steps, "warmup_steps": 0, "decay_start": 1.0, **training})
    chosen = Variant.model_validate(variant)
    copies = {name: tensor.clone() for name, tensor in weights.items()}
    return Trainee(chosen, chosen.resolved(settings), copies, Workspace())


def lockstep(
    ours: Trainee, other: Other, batches: Iterable[Tensor], after: Callable[[int], None] = lambda step: None
) -> dict[str, Gap]:
    """Train both on the same batches. Returns: the largest difference of each parameter and of the loss over all steps.

    A difference of weights is absolute (rows of W_dec have norm 1), of the loss relative. `after` is called with each
    step once it is compared.
    """
    worst = {name: Gap(0.0, -1) for name in ("loss", *ours.sae.parameters())}
    for step, x_BM in enumerate(batches):
        made = ours.update(x_BM.clone())
        assert made is not None, ours.diverged
        loss = other.update(step, x_BM.clone())
        found = {} if loss is None else {"loss": abs(float(made.result.loss) / loss - 1)}
        theirs = other.weights()
        assert theirs.keys() == ours.sae.parameters().keys()
        found |= {name: float((p - theirs[name]).abs().max()) for name, p in ours.sae.parameters().items()}
        for name, size in found.items():
            if not size <= worst[name].size:
                worst[name] = Gap(size, step)
        after(step)
    return worst


def largest(gaps: dict[str, Gap]) -> float:
    """The largest of all differences."""
    return max(gap.size for gap in gaps.values())


def planted_rows(
    n_batches: int, batch_size: int, d_model: int, seed: int = 0, dtype: Any = torch.float64
) -> list[Tensor]:
    """Batches of sums of few of many directions, noise and an offset, with E||x||^2 = 1."""
    generator = torch.Generator().manual_seed(seed)
    n_directions, n_on = 4 * d_model, 5
    directions = torch.nn.functional.normalize(
        torch.randn(n_directions, d_model, generator=generator, dtype=torch.float64), dim=1
    )
    chances = torch.arange(1, n_directions + 1, dtype=torch.float64) ** -0.7
    batches = []
    for _ in range(n_batches):
        on_BK = torch.multinomial(chances.expand(batch_size, -1), n_on, generator=generator)
        strength_BK = 0.5 + torch.rand(batch_size, n_on, generator=generator, dtype=torch.float64)
        noise_BM = torch.randn(batch_size, d_model, generator=generator, dtype=torch.float64) / d_model**0.5
        batches.append((directions[on_BK] * strength_BK[:, :, None]).sum(1) + 0.1 * noise_BM + 0.5 * directions[0])
    scale = torch.cat(batches).square().sum(1).mean().rsqrt()
    return [(batch * scale).to(dtype) for batch in batches]


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterable[None]:
    """torch's default dtype, for trainers that have no other setting of it."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def rows_within(ours: Weights, theirs: Weights, names: Sequence[str], tolerance: float) -> float:
    """The share of rows of the named matrices whose largest difference is within the tolerance."""
    rows = torch.cat([(ours[name] - theirs[name]).abs().amax(1) for name in names])
    return float((rows <= tolerance).double().mean())
