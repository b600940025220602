"""What a run gave at a known commit: the bits of its weights and its scores, and where they were computed.

To record anew, after a change that is meant to change them, on the machine of before (say in `changed` what and why):

    .venv/bin/python tests/support/golden.py RUN STORE "why they differ from before" > tests/golden/smoke.json
"""

import hashlib
import json
import platform
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file

from strata_sae.stores import ActivationStore

# Another processor's kernels round bfloat16 rows otherwise, and TopK then takes other latents here and there. Measured
# on smoke.yaml with AVX2 kernels against AVX-512 ones: norms differ by 1.4e-3, R2 by 6e-5; with another number of
# threads by 1e-7 and 3e-9. A change that matters (a step more, another seed) moves them further.
NORM_TOLERANCE, R2_TOLERANCE = 0.01, 0.01


def machine(run: Path) -> dict[str, Any]:
    """What bits depend on besides config and code."""
    facts = json.loads((run / "environment.json").read_text(encoding="utf-8"))
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    known = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = known.get("flags", "").split()
    return {
        "torch": torch.__version__.partition("+")[0],
        "threads": facts["torch_threads"],
        "processor": known.get("vendor_id", platform.machine()),
        "kernels": torch.backends.cpu.get_cpu_capability(),
        "flags": [flag for flag in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if flag in flags],
    }


def summary(run: Path, store: Path, changed: str = "") -> dict[str, Any]:
    """What is kept of a run."""
    opened = ActivationStore.open(store)
    tokens = opened.token_map("token_id", 0, opened.plan.n_rows).tobytes()
    folders = sorted(folder for folder in run.glob("variants/*") if (folder / "metrics.json").is_file())
    return {
        "commit": "e543e8a",
        "changed": changed,
        "machine": machine(run),
        "python": platform.python_version(),
        "tokens_sha256": hashlib.sha256(tokens).hexdigest(),
        "splits": {name: list(rows) for name, rows in opened.plan.splits.items()},
        "saes": {folder.name: _sae(folder) for folder in folders},
    }


def _sae(folder: Path) -> dict[str, Any]:
    tensors = load_file(folder / "weights.safetensors")
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["metrics"]
    return {
        "sha256": {name: hashlib.sha256(tensor.tobytes()).hexdigest() for name, tensor in sorted(tensors.items())},
        "norms": {name: float(np.linalg.norm(tensor.astype(np.float64))) for name, tensor in sorted(tensors.items())},
        "metrics": {name: entry["value"] for name, entry in sorted(metrics.items())},
    }


def another_text(golden: dict[str, Any], found: dict[str, Any]) -> str | None:
    """Why nothing can be compared: this Python's documentation, which is the corpus, is another text."""
    if golden["python"] == found["python"] or golden["tokens_sha256"] == found["tokens_sha256"]:
        return None
    return f"NOT COMPARED: the docs of Python {found['python']} are another text than those of {golden['python']}"


def differences(golden: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """What differs: any bit on the machine that was recorded, more than the tolerance on another one."""
    wrong = [key for key in ("tokens_sha256", "splits") if golden[key] != found[key]]
    if golden["saes"].keys() != found["saes"].keys():
        return [*wrong, f"SAEs: {sorted(golden['saes'].keys() ^ found['saes'].keys())}"]
    exact = golden["machine"] == found["machine"]
    for name, sae in golden["saes"].items():
        other = found["saes"][name]
        if exact:
            wrong += [
                f"{name} {kind} {key}: {other[kind].get(key)} instead of {value}"
                for kind in ("sha256", "metrics")
                for key, value in sae[kind].items()
                if other[kind].get(key) != value
            ]
            continue
        wrong += [
            f"{name} norm of {key}: {other['norms'].get(key)} instead of {value} +- {NORM_TOLERANCE:.0%}"
            for key, value in sae["norms"].items()
            if abs(other["norms"].get(key, np.inf) - value) > NORM_TOLERANCE * value
        ]
        r2, other_r2 = sae["metrics"]["r2_pooled"], other["metrics"]["r2_pooled"]
        if abs(r2 - other_r2) > R2_TOLERANCE:
            wrong.append(f"{name} r2_pooled: {other_r2} instead of {r2} +- {R2_TOLERANCE}")
    return wrong


if __name__ == "__main__":
    print(json.dumps(summary(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:]), indent=1))
