"""What it costs that packed documents do not see each other: tokens a second against plain packing, and one by one.

    python benchmarks/isolation.py

The demo model, bfloat16, one thread, 4,096 tokens of documents of 48 tokens on average, in sequences of 256: the same
forward passes with and without restarted positions, and every document alone, unpadded. Sides take turns.
"""

import statistics
import time
from collections.abc import Callable
from itertools import pairwise

import torch
from extract import SITES

from benchmarks.toy import sized
from strata_sae.pipeline.language_model.inputs import restarted_positions
from strata_sae.pipeline.language_model.loading import load
from strata_sae.pipeline.settings import ModelSettings

N_SEQUENCES, CONTEXT, N_ROUNDS = sized((16, 256, 5), (2, 64, 1))


def main() -> None:
    torch.set_num_threads(1)
    capture = load(ModelSettings(path="demo", dtype="bfloat16"), SITES)
    generator = torch.Generator().manual_seed(0)
    ids_BS = torch.randint(100, 20_000, (N_SEQUENCES, CONTEXT), generator=generator)
    starts = [sorted({0, *torch.randint(1, CONTEXT, (5,), generator=generator).tolist()}) for _ in range(N_SEQUENCES)]
    positions_BS = torch.stack([restarted_positions(begins, CONTEXT) for begins in starts])
    documents = [
        ids_S[None, first:last]
        for ids_S, begins in zip(ids_BS, starts, strict=True)
        for first, last in pairwise([*begins, CONTEXT])
    ]
    sides: dict[str, Callable[[], object]] = {
        "packed": lambda: capture.forward(ids_BS),
        "isolated": lambda: capture.forward(ids_BS, positions_BS),
        "one by one": lambda: [capture.forward(document_BS) for document_BS in documents],
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(N_ROUNDS + 1):
        for name, job in sides.items():
            began = time.perf_counter()
            job()
            if number:  # the first round warms up
                seconds[name].append(time.perf_counter() - began)
    for name, times in seconds.items():
        ratios = [time / packed for time, packed in zip(times, seconds["packed"], strict=True)]
        rate = N_SEQUENCES * CONTEXT / statistics.median(times)
        print(f"{name:12s} {rate:8.0f} tokens a second; {statistics.median(ratios):.3f} of packed's time")


if __name__ == "__main__":
    main()
