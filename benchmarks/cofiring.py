"""On how many rows latents are active together: seconds and memory, beside a plain loop and delphi's own counter.

    python benchmarks/cofiring.py [PYTHON]

1. 65,536 latents, 64 of them a row, log-normal frequencies: nanoseconds an increment (a pair of latents on a row) and
   memory beyond the codes, for the partners of all latents, in blocks; some of the blocks are counted, and scaled up.
   Then the same counts by a plain dense matrix where it fits (4,096 latents), which must be equal.
2. PYTHON, an interpreter that has eai-delphi: its `NeighbourCalculator` counts the same codes, 4,096 latents, on this
   processor. Both sides begin with codes in memory and end with the best partners of every latent; delphi's by Jaccard.
   It moves its matrices by .cuda(), which is made to do nothing. Its memory is E x E, so it never sees 65,536.

Exit code 1 if an increment takes more than 15 ns, memory is above 256 MB, or delphi is less than 10 times slower.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.toy import met, sized
from strata_sae.pipeline.kernels.machine.compiled.cofiring import most_together
from strata_sae.pipeline.queries.cofiring import top_partners
from strata_sae.pipeline.queries.row_pieces import KeptCodes, blocks_together

N_PARTNERS, ALLOWED_NS, ALLOWED_BYTES, ALLOWED_TIMES = 64, 15.0, 256e6, 10.0
CONTEXT = 128
"""Rows of a text, for delphi's locations."""
DELPHI = """
import json, sys, time
import numpy as np, torch
from delphi.latents import neighbours
torch.set_num_threads(1)
torch.Tensor.cuda = lambda self, *arguments, **named: self
found = np.load(sys.argv[1])
neighbours.load_file = lambda path: {"locations": found["locations"]}
from pathlib import Path
calculator = neighbours.NeighbourCalculator(cache_dir=Path(sys.argv[2]), number_of_neighbours=int(sys.argv[3]))
found = {"locations": found["locations"]}
began, busy = time.perf_counter(), time.process_time()
answer = calculator._compute_cooccurrence_neighbours()
seconds = time.process_time() - busy
json.dump({"seconds": seconds, "wall": time.perf_counter() - began, "first": [answer[i] for i in range(8)]}, sys.stdout)
"""


def made_up(n_rows: int, n_latents: int, of_a_row: int) -> tuple[np.ndarray, np.ndarray]:
    """Offsets of rows, int64 [n_rows + 1], and latents, uint32, rising in a row, drawn by log-normal frequencies."""
    rng = np.random.default_rng(0)
    frequency = rng.lognormal(0, 1.2, n_latents)
    upper = np.cumsum(frequency) / frequency.sum()
    latents, counts = [], []
    for start in range(0, n_rows, 2**14):
        n = min(2**14, n_rows - start)
        drawn = np.sort(np.searchsorted(upper, rng.random((n, of_a_row))).clip(max=n_latents - 1), axis=1)
        is_new = np.diff(drawn, axis=1, prepend=-1) > 0  # twice the same latent counts once
        latents.append(drawn[is_new].astype(np.uint32))
        counts.append(is_new.sum(axis=1))
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(np.concatenate(counts))]), np.concatenate(latents)


class InMemory:
    """Codes as a codes store gives them, from memory."""

    path = Path("memory")

    def __init__(self, offset: np.ndarray, latent: np.ndarray, d_sae: int) -> None:
        self.offset, self.latent, self.n_pairs = offset, latent, len(latent)
        self.plan = SimpleNamespace(d_sae=d_sae, n_rows=len(offset) - 1)

    def latents_of(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """As of a codes store."""
        offset = self.offset[start : stop + 1]
        return offset - offset[0], self.latent[offset[0] : offset[-1]]


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def count_blocks(folder: str, n_blocks: int) -> None:
    """Count the first blocks of codes in a folder; print seconds, increments, and bytes beyond those of the codes."""
    offset, latent = np.load(f"{folder}/offset.npy"), np.load(f"{folder}/latent.npy")
    n_latents = int(latent.max()) + 1
    codes, kept_N = InMemory(offset, latent, n_latents), np.ones(len(offset) - 1, bool)
    few = InMemory(offset[:9], latent[: offset[8]], n_latents)
    top_partners(few, kept_N[:8], N_PARTNERS)  # compiled, if it is not yet
    before = peak_bytes()
    kept = KeptCodes(codes, kept_N)
    count_E, partner, count = kept.counts(), *(np.zeros((n_latents, N_PARTNERS), np.uint32) for _ in range(2))
    blocks, increments, seconds = blocks_together(kept, kept), 0, 0.0
    for _ in range(n_blocks):
        began = time.process_time()
        start, together_BE = next(blocks)
        stop = start + len(together_BE)
        most_together(together_BE, start, partner[start:stop], count[start:stop])
        seconds += time.process_time() - began
        increments += int(together_BE.sum(dtype=np.int64))
        assert (together_BE[np.arange(stop - start), np.arange(start, stop)] == count_E[start:stop]).all()
    print(json.dumps([seconds, increments, peak_bytes() - before]))


def at_65536() -> bool:
    n_latents, n_rows, of_a_row, n_blocks = sized((65_536, 2**20, 64, 8), (512, 2048, 16, 1))
    with tempfile.TemporaryDirectory() as folder:
        offset, latent = made_up(n_rows, n_latents, of_a_row)
        latent[-1] = n_latents - 1
        np.save(f"{folder}/offset.npy", offset)
        np.save(f"{folder}/latent.npy", latent)
        # In a process of its own: what was drawn here has taken more memory than the counts will.
        arguments = [sys.executable, __file__, "--count", folder, str(n_blocks)]
        answer = subprocess.run(arguments, check=True, stdout=subprocess.PIPE).stdout
    seconds, increments, extra = json.loads(answer)
    each = 1e9 * seconds / increments
    print(
        f"{n_latents:,} latents, {n_rows:,} rows, {len(latent):,} pairs: {each:.1f} ns an increment "
        f"(allowed: {ALLOWED_NS}); {each * (np.diff(offset).astype(float) ** 2).sum() / 1e9:.0f} s for all latents; "
        f"memory beyond the codes: {extra / 1e6:.0f} MB (allowed: {ALLOWED_BYTES / 1e6:.0f})"
    )
    return met(each <= ALLOWED_NS and extra <= ALLOWED_BYTES)


def at_4096(python: str | None) -> bool:
    n_latents, n_rows, of_a_row = sized((4096, 131_072, 32), (256, 2048, 16))
    offset, latent = made_up(n_rows, n_latents, of_a_row)
    codes = InMemory(offset, latent, n_latents)
    top_partners(codes, np.ones(n_rows, bool), N_PARTNERS)  # compiled, if it is not yet
    began = time.process_time()
    partner_EK, count_EK = top_partners(codes, np.ones(n_rows, bool), N_PARTNERS)
    ours = time.process_time() - began
    row_P = np.repeat(np.arange(n_rows), np.diff(offset))
    dense_NE = np.zeros((n_rows, n_latents), np.float32)
    dense_NE[row_P, latent] = 1
    began = time.process_time()
    together_EE = (dense_NE.T @ dense_NE).astype(np.int64)
    dense = time.process_time() - began
    own_E = together_EE.diagonal()
    for e in range(0, n_latents, 37):
        others = np.delete(np.arange(n_latents), e)
        best = others[np.argsort(-together_EE[e, others], kind="stable")][:N_PARTNERS]
        assert (count_EK[e] == together_EE[e, best]).all()
        assert (partner_EK[e][count_EK[e] > 0] == best[count_EK[e] > 0]).all()
    print(
        f"{n_latents:,} latents, {n_rows:,} rows, {codes.n_pairs:,} pairs: {ours:.2f} s; "
        f"a dense product, its matrix made before: {dense:.2f} s ({dense / ours:.1f} times ours)"
    )
    if python is None:
        print("delphi's counter: not measured; name a Python that has eai-delphi")
        return True
    with tempfile.TemporaryDirectory() as folder:
        locations = np.stack([row_P // CONTEXT, row_P % CONTEXT, latent.astype(np.int64)], axis=1)
        np.savez(Path(folder) / "codes.npz", locations=locations)
        (Path(folder) / "cache").mkdir()
        (Path(folder) / "cache/0_4095.safetensors").touch()  # it looks for names of files; what they hold is in memory
        arguments = [python, "-c", DELPHI, f"{folder}/codes.npz", f"{folder}/cache", str(N_PARTNERS)]
        answer = json.loads(subprocess.run(arguments, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1])
    for e, neighbours in enumerate(answer["first"]):
        for jaccard, other in neighbours:  # as delphi has them: what topk returns has each other's names there
            shared = together_EE[e, other]
            same = np.isclose(jaccard, shared / (own_E[e] + own_E[other] - shared), rtol=1e-5)
            assert same, "delphi counts otherwise"
    times = answer["seconds"] / ours
    print(f"delphi's counter: {answer['seconds']:.2f} s, {times:.1f} times ours (asked: {ALLOWED_TIMES:.0f})")
    return met(times >= ALLOWED_TIMES)


def main() -> int:
    if sys.argv[1:2] == ["--count"]:
        count_blocks(sys.argv[2], int(sys.argv[3]))
        return 0
    is_met = at_65536()
    return int(not (at_4096(sys.argv[1] if len(sys.argv) > 1 else None) and is_met))


if __name__ == "__main__":
    sys.exit(main())
