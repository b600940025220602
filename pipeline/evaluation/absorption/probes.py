"""Linear probes of all letters at once: trained as SAEBench trains them, and the same objective brought to its minimum.

The objective is SAEBench 0.6.0's, a mean over rows and letters of the binary cross-entropy, positive rows of a letter
weighted by (rows without it) / (rows with it), plus the penalties of a `Penalty`.
"""

import math
import warnings
from typing import NamedTuple

import numpy as np
import scipy.optimize
import torch
from scipy.sparse import csr_matrix
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

STEPS = 2000
"""Most steps to a minimum (count)."""
TOLERANCE = 1e-6
"""Largest slope at a minimum, along inputs of deviation 1; of liblinear, its own measure."""
_BETAS, _EPSILON = (0.9, 0.999), 1e-8  # Adam's


class Penalty(NamedTuple):
    """What is added to the cross-entropy."""

    square: float
    """Times half the sum of the squares of all weights and biases (Adam's weight_decay)."""
    absolute: float = 0.0
    """Times the sum over inputs of |w|, averaged over letters."""


class Training(NamedTuple):
    """How SAEBench trains: Adam, its rate falling from epoch to epoch by one factor."""

    batch_size: int
    """Rows (count)."""
    epochs: int = 50
    rate: float = 1e-2
    last_rate: float = 1e-5


ROW_PENALTY, ROW_TRAINING = Penalty(square=1e-4), Training(batch_size=64)
"""SAEBench's, of the probe that says whether the row holds the letter."""
CODE_PENALTY, CODE_TRAINING = Penalty(square=1e-6, absolute=0.01), Training(batch_size=4096)
"""SAEBench's, of the probe that ranks latents. Of fewer rows than a batch it makes one step an epoch, 50 in all."""


class Probe(NamedTuple):
    """Logits of C letters from M inputs: x W^T + b."""

    W_CM: Tensor
    b_C: Tensor
    is_converged: bool
    """Whether a minimum was reached; False of one that was trained for a number of epochs."""

    def logits(self, x_NM: Tensor) -> Tensor:
        """Above 0 where the probe says yes: [N, C]."""
        return x_NM.to(self.W_CM.dtype) @ self.W_CM.T + self.b_C


def trained(x_NM: Tensor, is_letter_NC: Tensor, penalty: Penalty, how: Training, generator: torch.Generator) -> Probe:
    """As SAEBench trains: what is drawn are the first weights and the order of the rows of each epoch."""
    # Adam is spelt out, as torch.optim takes seconds to import. A column of ones has the bias as its weight.
    n_rows, d_in = x_NM.shape
    inputs_NM, y_NC = torch.cat([x_NM, x_NM.new_ones(n_rows, 1)], dim=1), is_letter_NC.to(x_NM.dtype)
    weight_C, n_letters = _positive_weights(is_letter_NC).to(x_NM.dtype), y_NC.shape[1]
    bound = 1 / math.sqrt(d_in)  # nn.Linear's first weights
    W_CM = x_NM.new_empty(n_letters, d_in + 1).uniform_(-bound, bound, generator=generator)
    mean_CM, square_CM, step, rate = torch.zeros_like(W_CM), torch.zeros_like(W_CM), 0, how.rate
    for _ in range(how.epochs):
        for rows in torch.randperm(n_rows, generator=generator).split(how.batch_size):
            x_BM, y_BC = inputs_NM[rows], y_NC[rows]
            error_BC = _slope(x_BM @ W_CM.T, y_BC, weight_C) / y_BC.numel()
            slope_CM = error_BC.T @ x_BM + penalty.square * W_CM
            slope_CM[:, :d_in] += penalty.absolute / n_letters * W_CM[:, :d_in].sign()
            step += 1
            mean_CM = mean_CM.lerp(slope_CM, 1 - _BETAS[0])
            square_CM = square_CM.lerp(slope_CM.square(), 1 - _BETAS[1])
            deviation_CM = (square_CM / (1 - _BETAS[1] ** step)).sqrt() + _EPSILON
            W_CM = W_CM - rate / (1 - _BETAS[0] ** step) * mean_CM / deviation_CM
        rate *= (how.last_rate / how.rate) ** (1 / how.epochs)
    return Probe(W_CM[:, :d_in], W_CM[:, d_in], is_converged=False)


def minimum(x_NM: Tensor, is_letter_NC: Tensor, penalty: Penalty) -> Probe:
    """The minimum of the objective over rows, biases not penalised; nothing is drawn. L-BFGS on all letters at once.

    Inputs are brought to mean 0 and near deviation 1 for the steps alone: the penalty stays that of the raw weights.
    """
    x_NM, y_NC = x_NM.double(), is_letter_NC.double()
    (n_rows, d_in), n_letters, weight_C = x_NM.shape, y_NC.shape[1], _positive_weights(is_letter_NC)
    square = penalty.square * n_letters  # of the objective times the letters: a sum of one problem for each
    mean_M, scale_M = x_NM.mean(dim=0), (x_NM.var(dim=0, correction=0) + 4 * square).sqrt()
    inputs_NM = (x_NM - mean_M) / scale_M

    def loss_and_slope(flat: np.ndarray) -> tuple[float, np.ndarray]:
        v_CM, c_C = torch.from_numpy(flat).reshape(n_letters, d_in + 1).split([d_in, 1], dim=1)
        logits_NC, W_CM = inputs_NM @ v_CM.T + c_C.T, v_CM / scale_M
        entropy_NC = binary_cross_entropy_with_logits(logits_NC, y_NC, pos_weight=weight_C, reduction="none")
        loss = entropy_NC.sum() / n_rows + square / 2 * W_CM.square().sum()
        error_NC = _slope(logits_NC, y_NC, weight_C) / n_rows
        slope_CM = error_NC.T @ inputs_NM + square * W_CM / scale_M
        return float(loss), torch.cat([slope_CM, error_NC.sum(dim=0)[:, None]], dim=1).flatten().numpy()

    options = {"maxiter": STEPS, "maxfun": 2 * STEPS, "maxcor": 20, "gtol": TOLERANCE, "ftol": 0.0}
    start = np.zeros(n_letters * (d_in + 1))
    found = scipy.optimize.minimize(loss_and_slope, start, jac=True, method="L-BFGS-B", options=options)
    v_CM, c_C = torch.from_numpy(found.x).reshape(n_letters, d_in + 1).split([d_in, 1], dim=1)
    W_CM = v_CM / scale_M
    return Probe(W_CM, c_C[:, 0] - W_CM @ mean_M, bool(abs(found.jac).max() < 10 * TOLERANCE))


def sparse_minimum(codes_NE: Tensor, is_letter_NC: Tensor, penalty: Penalty) -> Probe:
    """The minimum of the objective over codes: absolute penalty alone, biases not penalised. Coordinate descent.

    The square penalty of `CODE_PENALTY` is left out: it is a thousandth of the other where weights are below 0.8.
    """
    codes = csr_matrix(codes_NE.double().numpy())
    weights, biases, converged = [], [], []
    for is_letter_N, positive in zip(is_letter_NC.T.numpy(), _positive_weights(is_letter_NC).tolist(), strict=True):
        fit = LogisticRegression(
            l1_ratio=1,
            C=1 / (len(codes_NE) * penalty.absolute),
            class_weight={False: 1.0, True: positive},
            solver="liblinear",
            intercept_scaling=100.0,  # liblinear penalises the bias: by so much less
            max_iter=STEPS,
            tol=TOLERANCE,
            random_state=0,
        )
        with warnings.catch_warnings(category=ConvergenceWarning, action="ignore"):
            fit.fit(codes, is_letter_N)
        weights.append(torch.from_numpy(fit.coef_[0]))
        biases.append(float(fit.intercept_[0]))
        converged.append(bool(fit.n_iter_[0] < STEPS))
    return Probe(torch.stack(weights), torch.tensor(biases, dtype=torch.float64), all(converged))


def _slope(logits_NC: Tensor, y_NC: Tensor, weight_C: Tensor) -> Tensor:
    """Of the cross-entropy of each row and letter, along the logit."""
    says_NC = logits_NC.sigmoid()
    return torch.where(y_NC > 0, weight_C * (says_NC - 1), says_NC)


def _positive_weights(is_letter_NC: Tensor) -> Tensor:
    """Rows without each letter by rows with it: float64 [C]."""
    n_with_C = is_letter_NC.sum(dim=0).double()
    return (len(is_letter_NC) - n_with_C) / n_with_C
