"""All that is measured of one SAE against a toy's truth, fed with the same batches twice."""

from collections.abc import Sequence

import torch
from torch import Tensor

from strata_sae.pipeline.evaluation.truth.absorption import Absorption, Contributions
from strata_sae.pipeline.evaluation.truth.definitions import DEFINITIONS
from strata_sae.pipeline.evaluation.truth.detection import Detection
from strata_sae.pipeline.evaluation.truth.matching import (
    assigned,
    cosines,
    mean_correlation,
    pair_detection,
    uniqueness,
)
from strata_sae.pipeline.reading.truth import Truth
from strata_sae.pipeline.runs.evaluation_records import Measured
from strata_sae.pipeline.runs.truth_records import ChildTruth


class Dictionary:
    """The vectors of a decoder that are held against features, and the codes that go with them.

    Where the features are pairs of a parent and its child, and the SAE has latents with children, too, its vectors are
    parent + child, the two of a parent one after the other, each with the child's code. Else they are decoder rows.
    """

    def __init__(self, W_dec_EM: Tensor, n_parents: int | None, child_parent_ratio_E: Tensor | None) -> None:
        self.decoder = W_EM = W_dec_EM.double()
        self.n_parents = n_parents
        self.vectors_LM = W_EM
        self.composed_PCM: Tensor | None = None
        self.adjusted_PCM: Tensor | None = None
        if n_parents is not None:
            parent_PM, *children = W_EM.split(n_parents)
            self.composed_PCM = torch.stack([parent_PM + child_PM for child_PM in children], dim=1)
            self.vectors_LM = self.composed_PCM.flatten(0, 1)
            if child_parent_ratio_E is not None:
                _, *ratios = child_parent_ratio_E.double().split(n_parents)
                parts = [parent_PM + r_P[:, None] * child for r_P, child in zip(ratios, children, strict=True)]
                self.adjusted_PCM = torch.stack(parts, dim=1)

    def codes(self, codes_BE: Tensor) -> Tensor:
        """The codes of the vectors, float64 [B, L], from those of the latents."""
        if self.n_parents is None:
            return codes_BE.double()
        _, *children = codes_BE.double().split(self.n_parents, dim=1)
        return torch.stack(children, dim=2).flatten(1)


class Recovery:
    """Feed every batch to `update`, then every batch to `follow`, then ask. Sums in float64."""

    def __init__(self, truth: Truth, dictionary: Dictionary, b_dec_M: Tensor) -> None:
        device = dictionary.vectors_LM.device
        self.dictionary, self.b_dec_M = dictionary, b_dec_M.double()
        self.features_GM, self.bias_M = truth.features_GM.to(device), truth.bias_M.to(device)
        self.parent_G = truth.parent_G.to(device)
        self.cosine_LG = cosines(dictionary.vectors_LM, self.features_GM)
        self.pairs = assigned(self.cosine_LG)
        self.are_pairs = truth.are_pairs
        self.detection = Detection(self.cosine_LG, self.pairs)
        self.contributions = Contributions(truth.n_features, len(dictionary.vectors_LM), device)
        self.absorption: Absorption | None = None
        self.n_rows = self.n_active = 0
        self.latent_rows_E: Tensor | int = 0
        self.error_square = self.unexplained_square = self.square = 0.0
        self.sum_M = torch.zeros_like(self.bias_M)

    def update(self, x_BM: Tensor, codes_BE: Tensor, xhat_BM: Tensor, amplitude_BG: Tensor) -> None:
        """Take one batch in: rows, codes of all latents, reconstruction, and the truth."""
        codes_BL, x_BM = self.dictionary.codes(codes_BE), x_BM.double()
        self.detection.update(codes_BL != 0, amplitude_BG > 0)
        self.contributions.update(codes_BL, amplitude_BG)
        self.n_rows += len(x_BM)
        self.n_active += int((codes_BE != 0).sum())
        self.latent_rows_E = self.latent_rows_E + (codes_BE != 0).sum(dim=0)
        self.error_square += float((x_BM - xhat_BM.double()).square().sum())
        self.unexplained_square += float((x_BM - amplitude_BG @ self.features_GM - self.bias_M).square().sum())
        self.square += float(x_BM.square().sum())
        self.sum_M += x_BM.sum(dim=0)

    def match(self) -> None:
        """Between the two passes: which latent stands for which feature."""
        vectors_LM = self.dictionary.vectors_LM
        family = self.contributions.family(vectors_LM, self.b_dec_M - self.bias_M, self.features_GM, self.parent_G)
        self.absorption = Absorption(family, vectors_LM, self.bias_M, self.features_GM)

    def follow(self, codes_BE: Tensor, xhat_BM: Tensor, amplitude_BG: Tensor) -> None:
        """Take a batch in a second time."""
        assert self.absorption is not None, "match() comes first"
        self.absorption.update(self.dictionary.codes(codes_BE), xhat_BM.double(), amplitude_BG)

    @property
    def n_features_on(self) -> int:
        """Features that are on in any row (count)."""
        return int((self.contributions.on_G > 0).sum())

    def children(self) -> list[ChildTruth]:
        """What became of each child's parent."""
        assert self.absorption is not None, "match() comes first"
        return self.absorption.found()

    def recovered(self) -> dict[str, Measured]:
        """Every number with its unit and definition."""
        values = self._values()
        return {
            name: Measured(value=values[name], unit=unit, definition=text) for name, (unit, text) in DEFINITIONS.items()
        }

    def _values(self) -> dict[str, float | None]:
        latents, features, children = self.detection.of_latents(), self.detection.of_features(), self.children()
        best_G = self.cosine_LG.max(dim=0).values
        composed_PCM, adjusted_PCM = self.dictionary.composed_PCM, self.dictionary.adjusted_PCM
        pairs = pair_detection(composed_PCM, self.features_GM) if composed_PCM is not None else None
        adjusted_G, adjusted = None, None
        if adjusted_PCM is not None:
            adjusted_G = cosines(adjusted_PCM.flatten(0, 1), self.features_GM).max(dim=0).values
            adjusted = pair_detection(adjusted_PCM, self.features_GM)
        spread = self.square - float(self.sum_M.square().sum()) / max(self.n_rows, 1)
        explained = spread > 1e-12 * self.square
        return {
            "r2": 1 - self.error_square / spread if explained else None,
            "r2_ceiling": 1 - self.unexplained_square / spread if explained else None,
            "l0": self.n_active / self.n_rows,
            "true_l0": float(self.contributions.on_G.sum()) / self.n_rows,
            "dead_latents": float((torch.as_tensor(self.latent_rows_E) == 0).sum()),
            "mcc": mean_correlation(self.cosine_LG, self.pairs),
            "uniqueness": uniqueness(self.cosine_LG),
            "precision_per_latent": latents.precision,
            "recall_per_latent": latents.recall,
            "f1_per_latent": latents.f1,
            "precision_per_feature": features.precision,
            "recall_per_feature": features.recall,
            "f1_per_feature": features.f1,
            "feature_cosine_mean": float(best_G.mean()),
            "feature_cosine_min": float(best_G.min()),
            "latent_absorption": _mean([child.latent_absorption for child in children]),
            "projection_absorption": _mean([child.projection_absorption for child in children]),
            "leakage": _mean([child.leakage for child in children]),
            "suppression": _mean([child.suppression for child in children]),
            "pair_detection": pairs.pair if pairs else None,
            "single_detection": pairs.single if pairs else None,
            "adjusted_cosine_mean": None if adjusted_G is None else float(adjusted_G.mean()),
            "adjusted_cosine_min": None if adjusted_G is None else float(adjusted_G.min()),
            "adjusted_pair_detection": adjusted.pair if adjusted else None,
            "adjusted_single_detection": adjusted.single if adjusted else None,
        }


def _mean(values: Sequence[float | None]) -> float | None:
    """Of what is defined: each child counts alike, however rare it is."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
