"""What a logged step tells of each term: its weight, its share of the loss, and the norm of its own gradient."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from strata_sae.pipeline.objective.gradients import backward
from strata_sae.pipeline.objective.term import Step, Term
from strata_sae.pipeline.schedules import value_at
from strata_sae.pipeline.sharding.ranks import ONE, Ranks

Monitors = dict[str, Tensor | float]


@dataclass
class MonitoredStep(Step):
    """A step that also keeps apart what a single term adds."""

    own: Step | None = None
    """What the present term has added."""
    monitored: bool = True

    def begin(self) -> None:
        """From here on another term adds."""
        self.own = Step(self.sae, self.target_BM, self.encoding, self.xhat_BM, self.dead_E, self.fraction_done)

    def gradient_norms(self) -> dict[str, Tensor]:
        """Norms of the present term's own gradients, by checkpoint key, before projection and clip; 0-dim float64.

        They are computed in the encoding's workspace, so all of them come before the step's own gradients.
        """
        assert self.own is not None
        gradients = backward(self.own, keep_direct=True)
        norms = {name: torch.linalg.vector_norm(gradient).double() for name, gradient in gradients.items()}
        return self.sae.ranks.norms(norms)

    def add_xhat_gradient(self, gradient_BM: Tensor) -> None:
        """As in a step, and apart."""
        super().add_xhat_gradient(gradient_BM)
        assert self.own is not None
        self.own.add_xhat_gradient(gradient_BM)

    def add_values_gradient(self, gradient: Tensor) -> None:
        """As in a step, and apart."""
        super().add_values_gradient(gradient)
        assert self.own is not None
        self.own.add_values_gradient(gradient)

    def add_penalty_gradient(self, gradient: Tensor) -> None:
        """As in a step, and apart."""
        super().add_penalty_gradient(gradient)
        assert self.own is not None
        self.own.add_penalty_gradient(gradient)

    def add_gradient(self, name: str, gradient: Tensor, rows: Tensor | None = None) -> None:
        """As in a step, and apart."""
        super().add_gradient(name, gradient, rows)
        assert self.own is not None
        self.own.add_gradient(name, gradient, rows)


def of_terms(terms: Mapping[str, Term], losses: Mapping[str, Tensor], fraction_done: float) -> Monitors:
    """Weight of each term, and its loss over the sum of all terms' absolute losses: -1 to 1."""
    # Absolute: a loss may be negative (two_child_cosine), and the sum of all could then be near 0.
    whole = torch.stack([loss.abs() for loss in losses.values()]).sum()
    whole = whole.clamp(min=torch.finfo(whole.dtype).tiny)  # a loss of 0 has shares of 0, not NaN
    shares: Monitors = {f"{name}/loss_share": loss / whole for name, loss in losses.items()}
    return shares | {f"{name}/weight": value_at(term.settings.weight, fraction_done) for name, term in terms.items()}


def of_gradients(
    norms: Mapping[str, Mapping[str, Tensor]], gradients: Mapping[str, Tensor], ranks: Ranks = ONE
) -> Monitors:
    """Norm of each term's gradient of all parameters together, and that of W_dec over the norm of the sum's.

    norms: term -> what `gradient_norms` gave.
    """
    if not gradients:
        return {}
    monitors: Monitors = {
        f"gradient_norm/{term}": torch.stack([norm.square() for norm in of_term.values()]).sum().sqrt()
        for term, of_term in norms.items()
    }
    norm = ranks.norms({"W_dec": gradients["W_dec"].norm()})["W_dec"]
    whole = norm.clamp(min=torch.finfo(gradients["W_dec"].dtype).tiny)
    return monitors | {f"{term}/gradient_share": of_term["W_dec"] / whole for term, of_term in norms.items()}
