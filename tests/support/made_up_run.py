"""A finished run folder with made-up but plausible numbers, in the records that stages write and read."""

import math
import random
import re
from pathlib import Path
from typing import Any

from strata_sae.pipeline.evaluation.metric import definition
from strata_sae.pipeline.evaluation.metrics import METRICS as REGISTERED
from strata_sae.pipeline.runs.environment import Environment
from strata_sae.pipeline.runs.evaluation_records import (
    EvaluationPart,
    Example,
    Examples,
    FilterPart,
    Histogram,
    Latent,
    Measured,
    MeasuredHashes,
    Metrics,
    StoreSummary,
    other_form,
)
from strata_sae.pipeline.runs.folders import RunFolder, VariantFolder
from strata_sae.pipeline.runs.record_files import write_record, write_yaml
from strata_sae.pipeline.runs.records import COSINE_BINS, CurveLine, SAERecord, Similarity
from strata_sae.stores.files.hashing import file_sha256
from support.made_up_records import curve_line, ending, sae_record, write_lines

SITES = {"blocks.9.hook_resid_post": 576, "blocks.20.hook_resid_post": 576}
D_SAE = 4096
N_STEPS = 6000
N_ROWS = 2**20
STORE_ID, PLAN_ID = "5b" * 32, "c4" * 32
VARIANTS: dict[str, dict[str, float]] = {
    "relu-l1": {"l0": 58.3, "r2": 0.842, "dead": 41, "cosine": 0.41},
    "topk": {"l0": 32.0, "r2": 0.871, "dead": 212, "cosine": 0.47},
    "topk-orthogonal": {"l0": 32.0, "r2": 0.866, "dead": 190, "cosine": 0.31},
    "batch-topk": {"l0": 32.4, "r2": 0.882, "dead": 148, "cosine": 0.46},
    "matryoshka": {"l0": 32.1, "r2": 0.853, "dead": 96, "cosine": 0.38},
    "topk-hot": {"l0": 32.0, "r2": 0.0, "dead": 0, "cosine": 0.0},
}
ARCHITECTURES = {"relu-l1": "relu", "batch-topk": "batch_topk", "matryoshka": "batch_topk"}
ANY = 0.5
"""Of every metric that no test looks at."""
OTHER_WAY = {"topk": "threshold", "batch_topk": "k"}
METRICS = {name: (metric.unit, definition(metric)) for name, metric in REGISTERED.items()}
TEXT = """The with statement is used to wrap the execution of a block with methods defined by a context manager. This
allows common try...except...finally usage patterns to be encapsulated for convenient reuse. If the key is not found,
default is returned if given, otherwise KeyError is raised. Return a string which is the concatenation of the strings
in iterable. A TypeError will be raised if there are any non-string values in iterable, including bytes objects. The
separator between elements is the string providing this method.\n\n    def __exit__(self, type, value, traceback):\n
Changed in version 3.10: Parameter locale now accepts lists, and the mapping keeps the order in which keys arrived."""
TOKENS = re.findall(r"\n+| ?[A-Za-z]{1,7}| ?[^\sA-Za-z]| +", TEXT.replace("\n", " ", 5))


HOSTILE = [
    "<script>alert(1)</script>",
    "</script>",
    "</script><script>alert(1)//",
    '" onmouseover="alert(1)',
    "' onfocus='alert(1)' autofocus='",
    "<!--",
    "-->",
    "<![CDATA[",
    "]]>",
    "<img src=x onerror=alert(1)>",
    "</span></div><h1>",
    "</style><style>*{display:none}",
    "\x1b[31mred\x1b[0m",
    "a\u202eb\u2066c",
    "\ud800",
    "\udfff\ud800",
    "\x00",
    "\u2028\u2029",
    "&lt;b&gt;&amp;&#60;",
    "{{ 7 * 7 }}{% raw %}",
    "javascript:alert(1)",
    "\ufeff\u200b\u00ad",
    "\r\n\x85\x7f",
    "\uffff\U000e0041",
]


def curves(name: str, numbers: dict[str, float], noise: random.Random, slower: float) -> list[CurveLine]:
    lines = []
    for step in range(25, N_STEPS + 1, 25):
        if name == "topk-hot" and step > 1250 * slower:
            break
        done = step / N_STEPS
        gap = math.exp(-7 * done / slower) + 0.25 * math.exp(-2.2 * done)
        r2 = numbers["r2"] - 0.5 * gap + noise.gauss(0, 0.004)
        if name == "topk-hot":
            r2 = 0.6 - 0.5 * gap - math.exp((step - 1250 * slower) / 60)
        warm = 3.0 * math.exp(-9 * done) * numbers["l0"] if name == "relu-l1" else 0.0
        further: dict[str, float] = {"loss/reconstruction": 1 - r2}
        if step == 25 or step % 300 == 0:
            further["decoder_max_cosine_mean"] = 0.18 + (numbers["cosine"] - 0.18) * (1 - math.exp(-4 * done))
        if "orthogonal" in name:
            further |= orthogonality_monitors(done, 1 - r2)
        share = {1500: 0.25, 3000: 0.5, 4500: 0.75, 6000: 1.0}.get(step)
        line = curve_line(
            step,
            similarity=None if share is None else similarity(share, numbers["cosine"], "orthogonal" in name),
            learning_rate=3e-4 * min(1, step / 1000) * min(1, (1 - done) / 0.2),
            loss=1 - r2 + 0.02,
            threshold=0.0 if step < 50 else None,
            batch_r2=r2,
            l0=numbers["l0"] + warm + noise.gauss(0, 0.2 if "relu" in name or "batch" in name else 0),
            dead_latents=int(numbers["dead"] * min(1, 1.6 * done**0.7) + 30 * (1 - done) * done),
            **further,
        )
        lines.append(line)
    return lines


def orthogonality_monitors(done: float, error: float) -> dict[str, float]:
    """What an orthogonality term with two watched pairs logs."""
    term = 0.3 * error * (1 - done) ** 2
    found = {
        "orthogonality/competing_pairs": int(1400 * (1 - math.exp(-6 * done)) * (1 - 0.5 * done)),
        "orthogonality/mean_abs_cos": 0.05 * math.exp(-3 * done),
        "orthogonality/weight": 0.1 * (1 - done) ** 2,
        "orthogonality/threshold": max(0.1 * (1 - done), 1e-8),
        "loss/orthogonality": term,
        "orthogonality/loss_share": term / (term + error),
        "reconstruction/loss_share": error / (term + error),
        "gradient_norm/orthogonality": 0.2 * term,
        "gradient_norm/reconstruction": 0.4,
        "orthogonality/gradient_share": 0.3 * (1 - done),
        "reconstruction/gradient_share": 0.9,
    }
    for place, pair in enumerate(("3_17", "3_40")):
        found[f"orthogonality/c_{pair}"] = max(0.0, 1 - done - 0.2 * place)
        found[f"orthogonality/cos_{pair}"] = 0.3 * math.exp(-2 * done) - 0.1 * place
        found[f"orthogonality/correlation_{pair}"] = 0.2 - 0.1 * done * place
    return found


def similarity(share: float, cosine: float, watches: bool) -> Similarity:
    middles = [-1 + (2 * place + 1) / COSINE_BINS for place in range(COSINE_BINS)]
    pairs = [int(9e6 * math.exp(-((middle / (0.04 + 0.02 * share)) ** 2))) for middle in middles]
    largest = [int(600 * math.exp(-(((middle - cosine) / 0.1) ** 2))) for middle in middles]
    own = [[1.0, 0.3, -0.1], [0.3, 1.0, 0.0], [-0.1, 0.0, 1.0]]
    return Similarity(
        share=share,
        pairs=pairs,
        largest=largest,
        latents=[3, 17, 40] if watches else [],
        cosines=[[value if value == 1 else value * (1 - share / 2) for value in row] for row in own] if watches else [],
    )


def example_latents(noise: random.Random, n_latents: int, tokens: list[str]) -> list[Latent]:
    latents = []
    for rank in range(n_latents):
        examples = []
        top = noise.uniform(4, 14)
        for place in range(6):
            start = noise.randrange(0, len(tokens) - 26)
            n_before = min(noise.randrange(3, 13) if place == 4 else 12, start + 12)
            context = tokens[start : start + n_before + 13]
            value = top * 0.93**place
            values: list[float | None] = [value * max(0.0, noise.gauss(-0.4, 0.5)) for _ in context]
            values[n_before] = value
            if place == 4:
                values[0] = None
            found = Example(
                row=noise.randrange(900_000, 1_000_000),
                document=noise.randrange(4000, 4400),
                position=noise.randrange(20, 500),
                value=value,
                index=n_before,
                tokens=context,
                values=values,
            )
            examples.append(found)
        latents.append(Latent(latent=noise.randrange(D_SAE), density=0.05 * 0.4**rank, examples=examples))
    return latents


def write_variant(
    folder: VariantFolder, site: str, name: str, noise: random.Random, tokens: list[str], slower: float
) -> None:
    numbers = VARIANTS[name] | {"r2": VARIANTS[name]["r2"] - (0.06 if "20" in site else 0.0)}
    sae: dict[str, Any] = {"architecture": ARCHITECTURES.get(name, "topk"), "d_sae": D_SAE}
    sae |= {} if name == "relu-l1" else {"k": 32}
    objective: dict[str, Any] = {"reconstruction": {"term": "reconstruction", "weight": 1.0}}
    objective |= {"l1": {"term": "l1", "weight": 0.04}} if name == "relu-l1" else {"aux_k": {"weight": 0.03125}}
    if "orthogonal" in name:
        objective["orthogonality"] = {"weight": {"shape": "power", "start": 0.1, "end": 0.0, "exponent": 2.0}}
    config = sae_record(name, site, sae, d_out=576, objective=objective, n_steps=N_STEPS)
    write_record(folder.config, config)
    lines = curves(name, numbers, noise, slower)
    write_lines(folder.curves, lines)
    folder.weights.write_bytes(noise.randbytes(64))
    diverged = name == "topk-hot"
    last = int(1262 * slower) if diverged else None
    state = None if diverged else f"{noise.getrandbits(256):064x}"
    write_record(folder.training, ending(folder, config, n_steps=lines[-1].step, diverged_at_step=last, state=state))
    if not diverged:
        write_scores(folder, config, numbers, noise, tokens)


def values_of(numbers: dict[str, float]) -> dict[str, float]:
    """Of the metrics that a test looks at."""
    variance = 812.0
    return {
        "l0": numbers["l0"],
        "r2_pooled": numbers["r2"],
        "sse": (1 - numbers["r2"]) * variance,
        "mse_per_dim": (1 - numbers["r2"]) * variance / 576,
        "cosine_similarity": math.sqrt(numbers["r2"] + 0.05),
        "norm_ratio": 0.961,
        "relative_reconstruction_bias": 0.994,
        "dead_latents": numbers["dead"],
        "alive_latents": D_SAE - numbers["dead"],
        "density_median": 0.0031,
        "decoder_max_cosine_mean": numbers["cosine"],
        "decoder_max_cosine_p95": numbers["cosine"] + 0.27,
        "decoder_max_cosine_max": 0.999,
        "encoder_max_cosine_mean": numbers["cosine"] - 0.1,
        "encoder_max_cosine_p95": numbers["cosine"] + 0.17,
        "encoder_max_cosine_max": 0.99,
        "l1": 9.3 * numbers["l0"],
        "fvu": 1 - numbers["r2"],
        "normalised_mse_per_batch": 1.01 - numbers["r2"],
        "frac_variance_explained": numbers["r2"] + 0.001,
        "frac_variance_explained_per_batch": numbers["r2"] - 0.002,
        "explained_variance_legacy": numbers["r2"] - 0.04,
        "relative_reconstruction_bias_per_batch": 0.993,
        "frac_alive": 1 - numbers["dead"] / D_SAE,
        "frac_rare": numbers["dead"] / D_SAE + 0.01,
    }


def measured(values: dict[str, float], architecture: str) -> dict[str, Measured]:
    found = {
        name: Measured(value=values.get(name, ANY), unit=unit, definition=text)
        for name, (unit, text) in METRICS.items()
    }
    if way := OTHER_WAY.get(architecture):  # as if every number were a hundredth less by the other way
        found |= {
            other_form(name, way): Measured(value=0.99 * values.get(name, ANY), unit=unit, definition=text)
            for name, (unit, text) in METRICS.items()
            if REGISTERED[name].of_rows
        }
    return found


def write_scores(
    folder: VariantFolder, config: SAERecord, numbers: dict[str, float], noise: random.Random, tokens: list[str]
) -> None:
    counts = [0] * 40
    for _ in range(D_SAE - int(numbers["dead"])):
        counts[min(39, max(0, int(40 * (noise.gauss(-2.5, 0.55) + 5) / 5)))] += 1
    fingerprint = f"{noise.getrandbits(256):064x}"
    folder.features.write_bytes(noise.randbytes(64))
    latents = example_latents(noise, 6, tokens)
    examples = Examples(
        fingerprint=fingerprint, store_id=STORE_ID, split="heldout", choice="Spread over density.", latents=latents
    )
    write_record(folder.examples, examples)
    metrics = Metrics(
        metrics=measured(values_of(numbers), config.sae.architecture),
        definitions={name: text for name, (_, text) in METRICS.items()},
        evaluation=EvaluationPart(max_rows=None, example_latents=6, examples_per_latent=6, context_tokens=12),
        filters=FilterPart(drop_bos=True, drop_special=True, drop_template=False, max_norm_multiple=None),
        split="heldout",
        n_rows=103_212,
        n_documents=441,
        top_percent_square_share=0.05,
        density_histogram=Histogram(log10_edges=[-5 + 0.125 * i for i in range(41)], counts=counts),
        fingerprint=fingerprint,
        store_id=STORE_ID,
        sae=config.fingerprint,
        weights_sha256=file_sha256(folder.weights),
        sha256=MeasuredHashes(features=file_sha256(folder.features), examples=file_sha256(folder.examples)),
    )
    write_record(folder.metrics, metrics)


def write_run(folder: Path, tokens: list[str] = TOKENS, sites: dict[str, int] = SITES) -> Path:
    noise, run = random.Random(7), RunFolder(folder)
    lines = ["name: demo", "seed: 0", "model:", "  path: demo", "training:", "  n_steps: 6000", "  batch_size: 2048"]
    lines += ["store:", "  sites:", *(f"  - {site}" for site in sites)]
    lines += ["variants:", *(f"  {name}: {{sae: {{architecture: {name.split('-')[0]}}}}}" for name in VARIANTS)]
    write_yaml(run.config, "\n".join(lines) + "\n")
    packages = {"torch": "2.13.0+cpu", "numpy": "2.4.6", "zarr": "3.1.6", "numcodecs": "0.16.6", "safetensors": "0.8.0"}
    environment = Environment(
        packages=packages | {"strata-sae": "0.1.0"},
        python="3.11.2",
        platform="Linux x86_64",
        cpu_count=2,
        torch_threads=2,
        device="cpu",
    )
    write_record(run.environment, environment)
    source = {"kind": "python_docs", "weight": 1.0, "documents": 4429, "tokens": N_ROWS, "documents_repeated": 0}
    store = {
        "store_id": STORE_ID,
        "plan_id": PLAN_ID,
        "lineage": None,
        "model": {"model": "SmolLM2-135M-Instruct", "architecture": "LlamaForCausalLM", "dtype": "float32"},
        "corpus": {"sources": [source]},
        "config": {"seed": 0, "corpus": {"mode": "packed", "context_length": 512}},
        "sites": {site: {"d_model": width, "bytes_per_token": 2.0 * width + 4.0} for site, width in sites.items()},
        "siblings": {},
        "encoding": "bfloat16",
        "compressor": "none",
        "n_rows": N_ROWS,
        "n_documents": 4429,
        "split_rows": {"train": N_ROWS - 104_858, "heldout": 104_858},
        "n_data_files": 23,
        "total_bytes": N_ROWS * 1156 * len(sites),
        "n_units": 11,
        "rows_per_chunk": 512,
        "token_map_bytes": 17 * N_ROWS,
        "statistics": {site: {"all": {"count": N_ROWS, "mean_square_norm": 812.0}} for site in sites},
        "timing": {"rows": N_ROWS, "seconds": 473.6, "rows_per_second": 2214.0},
    }
    write_record(run.store, StoreSummary.model_validate(store))
    for index, site in enumerate(sites):
        for name in VARIANTS:
            write_variant(run.variant(f"{name}@{site}"), site, name, noise, tokens, 1 + 0.3 * index)
    return folder
