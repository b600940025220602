"""circuit-tracer's feature files: `features/<number>.json`, one a latent, which its page of a graph shows.

Source: `frontend/feature_models.py`, `frontend/graph_models.py` (the number) and the page's own scripts
(circuit-tracer 0.5.0, commit d797c82).
"""

import json
from pathlib import Path

import numpy as np
from pydantic import JsonValue

from strata_sae.pipeline.export.viewers.chosen import bands, shown, top
from strata_sae.pipeline.export.viewers.spelling import rounded
from strata_sae.pipeline.export.viewers.subject import LatentCodes, Subject
from strata_sae.pipeline.formats.foreign import layer_of
from strata_sae.stores.files.filesystem import naming

_TOP, _BANDS, _A_BAND = 10, 5, 5
_BEFORE, _AFTER = 32, 16
_BINS = 40
_PERCENTILES = np.arange(1, 100) / 100


def write(subject: Subject, out: Path) -> None:
    """Fill an empty folder."""
    folder = out / "features"
    folder.mkdir()
    layer = layer_of(subject.sae.record.site) or 0
    for codes in subject.latents("circuit_tracer"):
        path = folder / f"{paired(layer, codes.latent)}.json"
        data = json.dumps(model(subject, codes), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        with naming(path):
            path.write_bytes(data.encode())


def paired(layer: int, latent: int) -> int:
    """Cantor's number of the two: by it a graph's node names its file."""
    return (layer + latent) * (layer + latent + 1) // 2 + latent


def model(subject: Subject, codes: LatentCodes) -> dict[str, JsonValue]:
    """A latent with the fields of its pydantic `Model`."""
    heights, _ = np.histogram(codes.values, bins=_BINS, range=(0, codes.largest or 1))
    quantiles = np.quantile(codes.values, _PERCENTILES).tolist() if len(codes.values) else []
    effects = subject.effects(codes.latent)
    return {
        "transcoder_id": subject.sae.name,
        "index": codes.latent,
        "examples_quantiles": _quantiles(subject, codes) if len(codes.rows) else [],
        "top_logits": [word for word, _ in effects.promoted],
        "bottom_logits": [word for word, _ in effects.suppressed],
        "act_min": 0.0,
        "act_max": rounded(codes.largest),
        "quantile_values": [rounded(value) for value in quantiles],
        "histogram": heights.astype(float).tolist(),
        "activation_frequency": len(codes.rows) / max(subject.n_kept, 1),
    }


def _quantiles(subject: Subject, codes: LatentCodes) -> list[JsonValue]:
    groups = [("Top activations", top(subject, codes, _TOP))]
    groups += [
        (f"Activations {band.low:.3g} to {band.high:.3g}", band.rows) for band in bands(subject, codes, _BANDS, _A_BAND)
    ]
    return [
        {"quantile_name": name, "examples": [_example(subject, codes, row) for row in rows]}
        for name, rows in groups
        if rows
    ]


def _example(subject: Subject, codes: LatentCodes, row: int) -> JsonValue:
    around = shown(subject, codes, row, _BEFORE, _AFTER)
    return {
        "tokens_acts_list": list[JsonValue](around.values),
        "train_token_ind": around.centre,
        "is_repeated_datapoint": False,
        "tokens": list[JsonValue](around.tokens),
    }
