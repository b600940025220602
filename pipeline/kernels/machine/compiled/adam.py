"""An update of a matrix in one pass: projection, clip, Adam, and rows brought back to norm 1."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

import numpy as np

from strata_sae.pipeline.kernels.machine.compiled.jit import compiled_any_order


@compiled_any_order
def row_products(start, stop, gradient, W, products):
    """products[:, row]: of rows start to stop - 1, <gradient, gradient>, <gradient, W> and <W, W>."""
    zero = W.dtype.type(0)
    for row in range(start, stop):
        g, w = gradient[row], W[row]
        gg, gw, ww = zero, zero, zero
        for m in range(g.size):
            gg += g[m] * g[m]
            gw += g[m] * w[m]
            ww += w[m] * w[m]
        products[0, row], products[1, row], products[2, row] = gg, gw, ww


@compiled_any_order
def update_rows(
    start, stop, W, gradient, mean, square, along, unit, scale, beta1, rest1, beta2, rest2, size, root, epsilon
):
    """Change rows start to stop - 1 of W, mean and square in place.

    The gradient is scale * (gradient - along * W), row by row; rest: 1 - beta, which float32 would round away; size and
    root: the step size and the square root of the second moment's correction. unit: whether rows get norm 1 afterwards.
    All numbers in W's dtype.
    """
    one = W.dtype.type(1)
    tiny = W.dtype.type(np.finfo(W.dtype).eps)
    for row in range(start, stop):
        w, g, first, second, a = W[row], gradient[row], mean[row], square[row], along[row]
        norm = W.dtype.type(0)
        for m in range(w.size):
            slope = scale * (g[m] - a * w[m])
            first[m] = beta1 * first[m] + rest1 * slope
            second[m] = beta2 * second[m] + rest2 * slope * slope
            w[m] -= size * first[m] / (np.sqrt(second[m]) / root + epsilon)
            norm += w[m] * w[m]
        if unit:
            factor = one / (np.sqrt(norm) + tiny)
            for m in range(w.size):
                w[m] *= factor
