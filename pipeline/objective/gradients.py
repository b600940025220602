"""From what terms add to a step to the gradients of all parameters."""

import torch
from torch import Tensor

from strata_sae.pipeline.objective.term import Step


def backward(step: Step, *, keep_direct: bool = False) -> dict[str, Tensor]:
    """The gradients by checkpoint key, from dloss/dxhat, dloss/dvalues and the direct gradients.

    They are valid until the encoding's workspace is used again. Direct gradients may be overwritten, which saves a
    copy; with keep_direct they stay as they are.
    """
    sae, codes = step.sae, step.codes
    shared: dict[str, Tensor] = {}
    if step.error_gradient_BM is not None:
        step.add_values_gradient(codes.dots(step.error_gradient_BM, sae.W_dec))
        space = step.encoding.space_for("W_dec", sae.W_dec)
        shared["W_dec"] = codes.transposed_times(step.error_gradient_BM, out=space)
        shared["b_dec"] = step.error_gradient_BM.sum(0)
    for name, gradient in sae.backward(step.encoding, step.values_gradient, step.penalty_gradient).items():
        shared[name] = shared[name] + gradient if name in shared else gradient
    unknown = {name for name, _, _ in step.direct} - sae.parameters().keys()
    if unknown:
        raise ValueError(f"a term adds a gradient of {', '.join(sorted(unknown))}, which this SAE does not train")
    gradients = {
        name: _total(
            parameter, shared.get(name), [(d, rows) for owner, d, rows in step.direct if owner == name], keep_direct
        )
        for name, parameter in sae.parameters().items()
    }
    if sae.settings.pre_bias:
        # x0 = x - b_dec, so b_dec gets minus the gradient of x0: summed over rows first, it is one matrix-vector
        # product.
        gradients["b_dec"] = gradients["b_dec"] - sae.input_gradient(gradients)
    return gradients


def _total(
    parameter: Tensor, shared: Tensor | None, direct: list[tuple[Tensor, Tensor | None]], keep_direct: bool
) -> Tensor:
    """The sum of a parameter's gradients, written into the first of them; direct ones may cover only some rows."""
    whole = [gradient for gradient in (shared, *(g for g, rows in direct if rows is None)) if gradient is not None]
    total = whole[0] if whole else torch.zeros_like(parameter)
    if keep_direct and shared is None and whole:
        total = total.clone()
    for gradient in whole[1:]:
        total += gradient
    for gradient, rows in direct:
        if rows is not None:
            total[rows] += gradient
    return total
