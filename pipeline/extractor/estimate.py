"""How long an extraction takes here: a few forward passes are timed, and nothing is decided by it."""

import statistics
import time
from typing import NamedTuple

import torch

from strata_sae.pipeline.available import free_bytes
from strata_sae.pipeline.config.run import ExtractConfig
from strata_sae.pipeline.language_model.folder import model_folder
from strata_sae.pipeline.language_model.identity import weight_files
from strata_sae.pipeline.language_model.loading import load
from strata_sae.pipeline.progress import duration

N_PASSES = 3
"""Forward passes that are timed, after one that is not; of three the median is one that nothing disturbed."""


class ForwardRate(NamedTuple):
    """What was measured."""

    tokens_per_second: float
    batch: int
    """Sequences of a pass."""
    context: int
    """Tokens of a sequence."""
    device: str
    threads: int
    model_bytes: int
    """Of the parameters that run."""


def measured_rate(config: ExtractConfig, n_tokens: int) -> ForwardRate | str:
    """Load the model and time it on random tokens, in the batches of an extraction of so many tokens.

    Returns: why that was not done, where the model finds no room.

    Raises: ConfigError, as an extraction would.
    """
    needed = sum(path.stat().st_size for path in weight_files(model_folder(config.model).path))
    if needed > (free := free_bytes(torch.device("cpu"))):  # the weights are read to the CPU first
        return f"not measured: the weights take {needed / 1e9:.3g} GB of memory, and {free / 1e9:.3g} GB are free"
    capture = load(config.model, config.store.sites)
    context = min(config.corpus.context_length, n_tokens)
    batch = max(1, min(config.model.batch_tokens, n_tokens) // context)
    n_embeddings = capture.model.get_input_embeddings().weight.shape[0]
    tokens_BS = torch.randint(n_embeddings, (batch, context), generator=torch.Generator().manual_seed(0))
    seconds = []
    for _ in range(1 + N_PASSES):
        began = time.perf_counter()
        for values_BSM in capture.forward(tokens_BS).values():
            values_BSM.cpu()  # which waits for the device
        seconds.append(time.perf_counter() - began)
    return ForwardRate(
        tokens_per_second=batch * context / statistics.median(seconds[1:]),
        batch=batch,
        context=context,
        device=capture.device.type,
        threads=torch.get_num_threads(),
        model_bytes=sum(weight.numel() * weight.element_size() for weight in capture.model.parameters()),
    )


def estimate_lines(n_tokens: int, rate: ForwardRate | str) -> list[str]:
    """What an extraction of so many tokens takes of time and memory, and what that rests on."""
    if isinstance(rate, str):
        return [f"time       {rate}"]
    on = f"{rate.device} with {rate.threads} threads" if rate.device == "cpu" else rate.device
    return [
        f"time       about {duration(n_tokens / rate.tokens_per_second)} for {n_tokens:,} tokens in one process: "
        f"{rate.tokens_per_second:,.0f} tokens a second (measured now: {N_PASSES} forward passes of {rate.batch} x "
        f"{rate.context} random tokens on {on}; rows are written meanwhile, and a slow disk can take longer)",
        f"weights    {rate.model_bytes / 1e9:.3g} GB of memory for the layers of the model that run",
    ]
