"""The whole job side by side, from text to 1, 8 and 24 trained SAEs: ours, dictionary_learning's and SAELens'.

    make peers && .venv-peers/bin/python benchmarks/whole_job.py [--budget-minutes 60]

The demo model in bfloat16 (as in configs/demo.yaml), one residual site, the same token ids in the same contexts, TopK
SAEs of the same width, batch, number of updates, schedule and float32 arithmetic; the variants are values of k and of
the learning rate. Each side is run as its users run it, in processes of its own, and is charged for all that they do:

- ours: `extract` once, then `train` of 1, 8 and 24 variants in one pass over the store, thresholds included; again with
  the encoder certified_bfloat16, which finds the same latents but for near ties;
- dictionary_learning: one `trainSAE` of all SAEs over its own `ActivationBuffer`, which runs the model again each time;
- SAELens: `CacheActivationsRunner` once, then one `LanguageModelSAETrainingRunner` a variant from the cache;
- SAELens, together: its `MultiSAETrainingRunner`, which shares each forward pass among all SAEs and keeps nothing.

Every side does the smallest job first; then each goes on within its part of the budget. What a side did not do is
extrapolated from the jobs it did, by a line through them, and is marked so. On a busy machine the seconds of the
processor are the figure to trust: one thread each.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from math import floor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from benchmarks.toy import met, sized, skipped
from benchmarks.whole_job_peers import D_MODEL, LAYER, Job, reconstruction, write
from benchmarks.whole_job_tables import Seconds, Side, lines, table
from strata_sae.pipeline.face import load
from strata_sae.stores import ActivationStore
from support.saebench_side import demo_folder

ROOT = Path(__file__).resolve().parent.parent
SITE = f"blocks.{LAYER}.hook_resid_post"
N_TOKENS, CONTEXT, CONTEXTS_A_PASS, BUFFER_CONTEXTS = sized((225_280, 256, 16, 256), (4096, 32, 16, 64))
D_SAE, BATCH, N_STEPS = sized((4608, 2048, 100), (256, 128, 20))
COUNTS = sized((1, 8, 24), (1,))
"""Numbers of variants. Of toy size one: a further job of each side is minutes of starting processes alone."""
HELDOUT = 0.05
MODEL_DTYPE = "bfloat16"
FILTERS = {"max_norm_multiple": 3.0}
"""Of our training and of what all are judged on: attention sinks, which the peers leave out by their place."""
MINUTES = 60.0
TARGETS = {"dictionary_learning": 5.0, "SAELens": 10.0}
"""How many times faster than a peer the largest job is to be."""


class Run(NamedTuple):
    """A side, and what runs its job of n SAEs, which adds a point to the side."""

    side: Side
    job: Callable[[int], None]


def variants(n: int) -> list[tuple[int, float]]:
    """For the first n SAEs k, one of two, and the learning rate, 1e-3 to 1e-2: there all three libraries learn."""
    return [((32, 64)[i % 2], 1e-3 * 10 ** (i // 2 / 11)) for i in range(n)]


def measured(command: Sequence[str], folder: Path) -> tuple[Seconds, dict[str, Any]]:
    """Run a process to its end. Returns: what it took, and the JSON of its last line where it prints some."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    found = subprocess.run([sys.executable, *command], cwd=folder, check=False, capture_output=True, text=True)
    wall = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if found.returncode:
        sys.exit(f"{' '.join(command)}\n{found.stdout[-2000:]}\n{found.stderr[-4000:]}")
    last = found.stdout.strip().splitlines()[-1:]
    said = json.loads(last[0]) if last and last[0].startswith("{") else {}
    return Seconds(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime), said


def config(folder: Path, name: str, n: int, model: str, encoder: str) -> dict[str, Any]:
    """Our config of n variants."""
    each = {
        f"topk_{number}": {
            "sae": {"architecture": "topk", "d_sae": D_SAE, "k": k},
            "objective": {"reconstruction": {}},
            "training": {"learning_rate": rate},
        }
        for number, (k, rate) in enumerate(variants(n))
    }
    return {
        "name": name,
        "model": {"path": model, "dtype": MODEL_DTYPE, "device": "cpu", "batch_tokens": CONTEXTS_A_PASS * CONTEXT},
        "corpus": {
            "sources": [{"kind": "python_docs"}],
            "n_tokens": N_TOKENS,
            "context_length": CONTEXT,
            "heldout_fraction": HELDOUT,
        },
        "store": {"path": str(folder / "store"), "sites": [SITE], "encoding": "bfloat16"},
        "training": {
            "batch_size": BATCH,
            "n_steps": N_STEPS,
            "warmup_steps": max(1, N_STEPS // 20),
            "window_rows": BUFFER_CONTEXTS * CONTEXT,
            "encoder": encoder,
            "filters": FILTERS,
            "device": "cpu",
        },
        "variants": each,
    }


def strata(folder: Path, model: str, encoder: str, extracted: list[Seconds]) -> Run:
    """Ours: `extract`, where no run has done it yet, and `train` of all variants."""
    side = Side("Strata" if encoder == "float32" else f"Strata, {encoder}", tokens=N_TOKENS)

    def job(n: int) -> None:
        name = f"{encoder}{n}"
        path = folder / f"{name}.yaml"
        path.write_text(json.dumps(config(folder, name, n, model, encoder)), encoding="utf-8")
        for command in ["train"] if extracted else ["extract", "train"]:
            spent, _ = measured([str(ROOT / "run_pipeline.py"), "--quiet", command, str(path)], folder)
            if command == "extract":
                extracted.append(spent)
        side.saes = [folder / f"runs/{name}/topk_{number}@{SITE}" for number in range(n)]
        side.add(n, extracted[0], spent)

    return Run(side, job)


def peer_job(job: Job, kind: str, folder: Path) -> tuple[Seconds, dict[str, Any]]:
    request = folder / f"{kind}.json"
    write(replace(job, begun=time.time()), request)
    return measured([str(ROOT / "benchmarks/whole_job_peers.py"), kind, str(request)], folder)


def together(name: str, kind: str, asked: Job, folder: Path) -> Run:
    """A peer that runs the model and trains all variants in one call."""
    side = Side(name)

    def job(n: int) -> None:
        out = folder / f"{kind}-{n}"
        whole, said = peer_job(replace(asked, variants=variants(n), out=str(out)), kind, folder)
        extraction = Seconds(*said["extraction"])
        side.tokens, side.saes = said["tokens"], [out / f"trainer_{number}" for number in range(n)]
        side.add(n, extraction, whole - extraction)

    return Run(side, job)


def one_by_one(asked: Job, folder: Path) -> Run:
    """SAELens: its cache, where it is not there yet, and one training a variant; smaller jobs are measured, too."""
    side, out = Side("SAELens"), folder / "saelens"
    cached: list[Seconds] = []

    def job(n: int) -> None:
        request = replace(asked, variants=variants(n), out=str(out))
        if not cached:
            spent, said = peer_job(request, "saelens_cache", folder)
            cached.append(spent)
            side.tokens = said["tokens"]
        whole, said = peer_job(request, "saelens", folder)
        done = {int(count): Seconds(*spent) for count, spent in said["spent"].items()}
        side.saes = [out / f"trainer_{number}" for number in range(n)]
        for count, spent in done.items():
            side.add(count, cached[0], spent + whole - done[n])  # the process's own end is everybody's

    return Run(side, job)


def climb(run: Run, seconds: float) -> None:
    """Run the other jobs of COUNTS; where the next one would take too long, the largest that does not, and no more."""
    ends = time.time() + seconds
    for n in COUNTS[1:]:
        a, b = run.side.line("wall")
        fits = min(n, floor((ends - time.time() - a) / max(b, 0.1)))
        if fits <= max(run.side.training):
            return
        run.job(fits)


def judge(sides: Sequence[Side], folder: Path) -> None:
    """Print the FVU of the SAEs of each side's largest job, so that nobody is quick by learning nothing."""
    store = ActivationStore.open(folder / "store")
    x_NM = torch.from_numpy(store.float_rows(SITE, *store.plan.splits["heldout"]))
    norms_N = x_NM.norm(dim=1)
    x_NM = x_NM[norms_N <= FILTERS["max_norm_multiple"] * norms_N.median()]
    variance = (x_NM - x_NM.mean(0)).square().sum()
    print(f"\nFVU on the same {len(x_NM)} held-out rows, without attention sinks: the SAEs of the largest job")
    for side in sides:
        found = []
        for path in side.saes:
            sae = load(path) if side.name.startswith("Strata") else reconstruction(side.name, path)
            with torch.no_grad():
                errors = [(x_BM - (sae.decode(sae.encode(x_BM)))).square().sum() for x_BM in x_NM.split(BATCH)]
            found.append(float(sum(errors) / variance))
        print(
            f"{side.name:32} mean of {len(found):2} {np.mean(found):.3f}, first {found[0]:.3f}, best {min(found):.3f}"
        )


def contexts_of(folder: Path) -> Path:
    """The train split's token ids [contexts, tokens] as a file; a whole number of SAELens' shards."""
    store = ActivationStore.open(folder / "store")
    start, stop = store.plan.splits["train"]
    shard = BUFFER_CONTEXTS // 4
    n_contexts = (stop - start) // (shard * CONTEXT) * shard
    ids_N = store.token_map("token_id", start, start + n_contexts * CONTEXT)
    path = folder / "contexts.npy"
    np.save(path, ids_N.reshape(n_contexts, CONTEXT))
    return path


def main() -> int:
    if find_spec("sae_lens") is None or find_spec("dictionary_learning") is None:
        return skipped("no peers here; run: make peers && .venv-peers/bin/python benchmarks/whole_job.py")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget-minutes", type=float, default=MINUTES, help="for all sides")
    arguments = parser.parse_args()
    ends = time.time() + 60 * arguments.budget_minutes
    os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="passive", HF_HUB_OFFLINE="1", PYTHONPATH=str(ROOT))
    print(
        f"{N_TOKENS:,} tokens, contexts of {CONTEXT}, M {D_MODEL}, E {D_SAE}, k 32 and 64, B {BATCH}, {N_STEPS} "
        f"updates, one thread; load average {os.getloadavg()[0]:.1f} at the start"
    )
    with tempfile.TemporaryDirectory(prefix="strata-whole-job-") as name:
        folder = Path(name)
        model = str(demo_folder())
        extracted: list[Seconds] = []
        runs = [strata(folder, model, encoder, extracted) for encoder in ("float32", "certified_bfloat16")]
        for run in runs:
            run.job(COUNTS[0])
        sizes = (CONTEXTS_A_PASS, BUFFER_CONTEXTS, D_SAE, BATCH, N_STEPS)
        asked = Job(model, MODEL_DTYPE, str(contexts_of(folder)), *sizes)
        peers = [
            together("dictionary_learning", "dictionary_learning", asked, folder),
            one_by_one(asked, folder),
            together("SAELens, together", "saelens_together", asked, folder),
        ]
        for run in peers:
            run.job(COUNTS[0])
        runs += peers
        for number, run in enumerate(runs):
            climb(run, (ends - time.time()) / min(3, len(runs) - number))
        sides = [run.side for run in runs]
        mine = sides[0]
        for n in COUNTS:
            table(sides, n)
        lines(sides)
        judge(sides, folder)
    print(f"load average {os.getloadavg()[0]:.1f} at the end")
    good = True
    for side in sides:
        if side.name in TARGETS:
            ratio = side.whole(COUNTS[-1]).processor / mine.whole(COUNTS[-1]).processor
            good &= ratio >= TARGETS[side.name]
            print(f"{COUNTS[-1]} SAEs: {ratio:.2f} times {side.name} by CPU (asked {TARGETS[side.name]:.0f})")
    return int(not met(good))


if __name__ == "__main__":
    sys.exit(main())
