"""What the classes of viewers hold, written down from their sources, since they are installed in no environment here.

Neuronpedia: the dataclasses of `sae_dashboard/neuronpedia/neuronpedia_export.py` (SAEDashboard, commit db4839a) and
`neuronpedia_utils/db_models/explanation.py`, each field in order with what it may hold. circuit-tracer:
`frontend/feature_models.py` (0.5.0). delphi: what `LatentDataset` and `TensorBuffer` of `latents/loader.py` (eai-delphi
0.1.3) do with a folder.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from types import NoneType
from typing import Any, get_args

import numpy as np
import safetensors.numpy
from pydantic import BaseModel, ConfigDict

_TEXT, _NUMBER, _MAYBE_TEXT, _MAYBE_NUMBER = (str,), (int, float), (str, NoneType), (int, float, NoneType)
_TEXTS, _NUMBERS = list[str], list[float]

Kinds = Mapping[str, Any]


def _all(kind: Any, names: str) -> dict[str, Any]:
    return dict.fromkeys(names.split(), kind)


ACTIVATION: Kinds = {
    **_all(_TEXT, "id index layer modelId creatorId createdAt"),
    **_all(_MAYBE_TEXT, "dataSource dataIndex logitContributions"),
    **_all(_NUMBER, "maxValue maxValueTokenIndex minValue"),
    **_all(_MAYBE_NUMBER, "dfaTargetIndex dfaMaxValue binMin binMax binContains qualifyingTokenIndex"),
    **_all(_NUMBERS, "values dfaValues lossValues"),
    "tokens": _TEXTS,
    **_all((list, NoneType), "zIndices zValues"),
}
FEATURE: Kinds = {
    **_all(_TEXT, "modelId layer index createdAt"),
    **_all(_MAYBE_TEXT, "creatorId vectorLabel hookName sourceSetName"),
    **_all(_NUMBER, "maxActApprox vectorDefaultSteerStrength frac_nonzero"),
    "hasVector": (bool,),
    **_all(_TEXTS, "neg_str pos_str"),
    **_all(
        _NUMBERS,
        "vector topkCosSimIndices topkCosSimValues neuron_alignment_indices neuron_alignment_values "
        "neuron_alignment_l1 correlated_neurons_indices correlated_neurons_pearson correlated_neurons_l1 "
        "correlated_features_indices correlated_features_pearson correlated_features_l1 "
        "neg_values pos_values freq_hist_data_bar_heights "
        "freq_hist_data_bar_values logits_hist_data_bar_heights logits_hist_data_bar_values decoder_weights_dist",
    ),
}
EXPLANATION: Kinds = {
    **_all(_TEXT, "id modelId layer index description authorId createdAt"),
    **_all(_MAYBE_TEXT, "triggeredById typeName explanationModelName notes"),
    "embedding": (list, NoneType),
}
HEADS: dict[str, Kinds] = {
    "model": {
        **_all(_TEXT, "id creatorId displayNameShort displayName visibility createdAt owner updatedAt"),
        **_all(_MAYBE_TEXT, "tlensId defaultSourceSetName defaultSourceId website"),
        **_all((bool,), "instruct inferenceEnabled"),
        **_all(_NUMBER, "layers neuronsPerLayer"),
        "dimension": _MAYBE_NUMBER,
    },
    "source": {
        **_all(_TEXT, "id modelId setName creatorId visibility createdAt"),
        **_all((bool,), "hasDashboards inferenceEnabled hasUmap hasUmapLogSparsity hasUmapClusters"),
        **_all(
            _MAYBE_TEXT, "saelensConfig saelensRelease saelensSaeId hfRepoId hfFolderId defaultOfModelId dataset notes"
        ),
        **_all(_MAYBE_NUMBER, "num_prompts num_tokens_in_prompt"),
        "inferenceHosts": _TEXTS,
    },
    "release": {
        **_all(_TEXT, "name description creatorName creatorId visibility createdAt"),
        **_all((bool,), "isNewUi featured"),
        **_all(_MAYBE_TEXT, "descriptionShort creatorEmail creatorNameShort defaultSourceSetName defaultSourceId"),
        **_all(_TEXTS, "urls defaultUmapSourceIds"),
    },
    "sourceset": {
        **_all(_TEXT, "modelId name creatorId visibility description type creatorName createdAt"),
        **_all((bool,), "hasDashboards defaultShowBreaks showDfa showCorrelated showHeadAttribution showUmap"),
        **_all(_MAYBE_TEXT, "creatorEmail releaseName defaultOfModelId"),
        "urls": _TEXTS,
        "defaultRange": _NUMBER,
    },
}


def wrong(record: Mapping[str, Any], kinds: Kinds) -> list[str]:
    """What a record has too much, too little, or of another kind."""
    found = [f"{name}: unknown" for name in record.keys() - kinds.keys()]
    found += [f"{name}: missing" for name in kinds.keys() - record.keys()]
    names = record.keys() & kinds.keys()
    return found + [f"{name}: {record[name]!r}" for name in sorted(names) if not _fits(record[name], kinds[name])]


def _fits(value: object, kind: Any) -> bool:
    if not get_args(kind):
        return _is(value, kind)
    of = (float, int) if kind == _NUMBERS else get_args(kind)
    return isinstance(value, list) and all(_is(item, of) for item in value)


def _is(value: object, kinds: tuple[type, ...]) -> bool:
    return isinstance(value, kinds) and (not isinstance(value, bool) or bool in kinds)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Example(_Strict):
    tokens_acts_list: list[float]
    train_token_ind: int
    is_repeated_datapoint: bool
    tokens: list[str]


class ExamplesQuantile(_Strict):
    quantile_name: str
    examples: list[Example]


class Model(_Strict):
    """circuit-tracer's, but that nothing further may stand in it."""

    transcoder_id: str
    index: int
    examples_quantiles: list[ExamplesQuantile]
    top_logits: list[str]
    bottom_logits: list[str]
    act_min: float
    act_max: float
    quantile_values: list[float]
    histogram: list[float]
    activation_frequency: float


def cantor_unpaired(number: int) -> tuple[int, int]:
    """circuit-tracer's page: util.js, cantorUnpair."""
    w = int(((8 * number + 1) ** 0.5 - 1) // 2)
    y = number - (w * w + w) // 2
    return w - y, y


def delphi_latents(raw_dir: Path) -> tuple[dict[int, dict[tuple[int, int], float]], np.ndarray]:
    """As delphi reads it: latent -> (sequence, position) -> activation, and the tokens [sequences, positions]."""
    (module,) = raw_dir.iterdir()  # it takes every name in the folder for a module's
    assert "model_name" in json.loads((module / "config.json").read_text())
    found: dict[int, dict[tuple[int, int], float]] = {}
    tokens: list[np.ndarray] = []
    for path in sorted(module.glob("*.safetensors"), key=lambda path: int(path.stem.split("_")[0])):
        first, last = (int(number) for number in path.stem.split("_"))
        data = safetensors.numpy.load_file(path)
        assert data["locations"].dtype in (np.uint16, np.uint32)
        tokens.append(data["tokens"].astype(np.int64))
        locations = data["locations"].astype(np.int64)
        for (sequence, position, latent), value in zip(locations.tolist(), data["activations"].tolist(), strict=True):
            assert first + latent <= last
            found.setdefault(first + latent, {})[sequence, position] = value
    assert all((part == tokens[0]).all() for part in tokens)
    return found, tokens[0]
