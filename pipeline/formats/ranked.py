"""What formats say of SAEs that fill a k by rank, or cut at a threshold."""

from torch import Tensor, linalg

from strata_sae.pipeline.formats.building import UNIT_TOLERANCE
from strata_sae.pipeline.formats.foreign import DoesNotFit, Handed
from strata_sae.pipeline.saes.topk import Ranked, k_at


def final_k(handed: Handed) -> int:
    """Active latents per row at the end of training, of an SAE of the TopK family."""
    assert isinstance(handed.sae, Ranked)
    return k_at(handed.sae.settings.k, 1.0)


def inference_threshold(handed: Handed) -> Tensor:
    """Above which value a latent is active, at least 0: float32, one number or [E].

    Raises: DoesNotFit if there is none yet.
    """
    threshold = handed.sae.threshold
    if threshold is None:
        raise DoesNotFit(
            f"{handed.name}: has no threshold, by which inference: threshold selects; finish its training, which sets "
            "it, or set sae.inference: k"
        )
    # Other libraries compare float32, as kernels here do, too: torch rounds a number that it compares float32 with.
    return threshold.detach().float().clamp(min=0)


def refuse_unfolded(handed: Handed) -> None:
    """Raises: DoesNotFit for ranks by contribution while the norms of decoder rows are not in the encoder."""
    sae = handed.sae
    if not isinstance(sae, Ranked) or sae.settings.rank_by == "pre_activation":
        return
    if bool(((linalg.vector_norm(sae.W_dec, dim=1) - 1).abs() > UNIT_TOLERANCE).any()):
        raise DoesNotFit(f"{handed.name}: rank_by: contribution, but its decoder rows have other norms than 1")
