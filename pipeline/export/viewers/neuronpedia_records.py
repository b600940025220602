"""Neuronpedia's records, field by field, as SAEDashboard writes them for its bulk import.

Source: the dataclasses of `sae_dashboard/neuronpedia/neuronpedia_export.py` (SAEDashboard, commit db4839a) and of
`neuronpedia_utils/db_models/explanation.py`. What only a run of the model could say is left as their defaults have it.
"""

import hashlib
from typing import NamedTuple

from pydantic import JsonValue

from strata_sae.pipeline.export.viewers.beside import Partners
from strata_sae.pipeline.export.viewers.chosen import Shown
from strata_sae.pipeline.export.viewers.spelling import rounded, slug, spelled
from strata_sae.pipeline.export.viewers.subject import LatentCodes, Subject
from strata_sae.pipeline.formats.foreign import layer_of
from strata_sae.pipeline.queries.explanations import Explained

Row = dict[str, JsonValue]
CREATOR = "clkht01d40000jv08hvalcvly"
"""The account that SAEDashboard names for bulk imports where nobody else is named."""
CREATED = "1970-01-01T00:00:00"
"""No moment: an export is the same bytes each time."""
EXPLAINED_BY = "strata_token-set"
"""Name of our labels among Neuronpedia's types of explanations."""
INTERPRETED, PUBLISHED = "strata_interpret", "strata_published"
"""Of explanations that a language model made here, and of those that others published and the SAE's owner brought."""
_KINDS = {"hook_resid_pre": "res-pre", "hook_resid_post": "res", "hook_mlp_out": "mlp", "hook_attn_out": "att"}
"""Last part of a site -> the word that Neuronpedia's names have for it."""


class Names(NamedTuple):
    """What an SAE is called there."""

    model: str
    set: str
    source: str
    """`<layer>-<set>`; the folder, and the `layer` of every record."""


def names(subject: Subject) -> Names:
    """From the model's name, the site and the variant."""
    record = subject.sae.record
    layer = layer_of(record.site)
    kind = _KINDS.get(record.site.rpartition(".")[2], record.site)
    if record.reads:
        kind = "transcoder" if len(record.reads) == len(record.writes) == 1 else "crosscoder"
    of_set = slug(f"{kind}-{record.variant}").lower()
    model = slug((subject.source.model or "").rstrip("/").rpartition("/")[2])
    return Names(model, of_set, f"{0 if layer is None else layer}-{of_set}")


def heads(subject: Subject, of: Names, release: str) -> dict[str, Row]:
    """The records of one line each: name of the file -> record."""
    described = f"{subject.sae.name} of {release}"
    creator: Row = {"creatorName": "Strata", "creatorId": CREATOR, "createdAt": CREATED}
    release_row: Row = {
        "name": release, "description": described, "visibility": "PUBLIC", "isNewUi": False, "featured": False,
        "descriptionShort": described, "urls": [], "creatorEmail": None, "creatorNameShort": "Strata",
        "defaultSourceSetName": None, "defaultSourceId": None, "defaultUmapSourceIds": [],
    }  # fmt: skip
    model: Row = {
        "id": of.model, "instruct": False, "displayNameShort": of.model, "displayName": of.model, "tlensId": None,
        "dimension": None, "visibility": "PUBLIC", "defaultSourceSetName": None, "defaultSourceId": None,
        "inferenceEnabled": False, "layers": 0, "neuronsPerLayer": 0, "owner": "", "updatedAt": CREATED,
        "website": None, "creatorId": CREATOR, "createdAt": CREATED,
    }  # fmt: skip
    sourceset: Row = {
        "modelId": of.model, "name": of.set, "hasDashboards": True, "visibility": "PUBLIC", "description": described,
        "type": "", "urls": [], "creatorEmail": None, "releaseName": release, "defaultOfModelId": None,
        "defaultRange": 1, "defaultShowBreaks": True, "showDfa": False, "showCorrelated": True,
        "showHeadAttribution": False, "showUmap": False,
    }  # fmt: skip
    source: Row = {
        "id": of.source, "modelId": of.model, "setName": of.set, "hasDashboards": True, "inferenceEnabled": False,
        "inferenceHosts": [], "saelensConfig": None, "saelensRelease": None, "saelensSaeId": None, "hfRepoId": None,
        "hfFolderId": None, "visibility": "PUBLIC", "defaultOfModelId": None, "hasUmap": False,
        "hasUmapLogSparsity": False, "hasUmapClusters": False, "num_prompts": subject.n_documents,
        "num_tokens_in_prompt": subject.source.context_tokens, "dataset": subject.source.dataset,
        "notes": f"store {subject.sae.codes.plan.plan_id[:16]}, {subject.n_kept} tokens", "creatorId": CREATOR,
        "createdAt": CREATED,
    }  # fmt: skip
    rows = {"release": release_row | creator, "model": model, "sourceset": sourceset | creator, "source": source}
    return rows


def feature(of: Names, codes: LatentCodes, n_kept: int) -> Row:
    """A latent, without what is known from elsewhere."""
    largest = rounded(codes.largest)
    return {
        "modelId": of.model, "layer": of.source, "index": str(codes.latent), "creatorId": CREATOR,
        "createdAt": CREATED, "maxActApprox": largest, "hasVector": False, "vector": [], "vectorLabel": None,
        "vectorDefaultSteerStrength": 10, "hookName": None, "topkCosSimIndices": [], "topkCosSimValues": [],
        "neuron_alignment_indices": [], "neuron_alignment_values": [], "neuron_alignment_l1": [],
        "correlated_neurons_indices": [], "correlated_neurons_pearson": [], "correlated_neurons_l1": [],
        "correlated_features_indices": [], "correlated_features_pearson": [], "correlated_features_l1": [],
        "neg_str": [], "neg_values": [], "pos_str": [], "pos_values": [],
        "frac_nonzero": len(codes.rows) / max(n_kept, 1), "freq_hist_data_bar_heights": [],
        "freq_hist_data_bar_values": [], "logits_hist_data_bar_heights": [], "logits_hist_data_bar_values": [],
        "decoder_weights_dist": [], "sourceSetName": of.set,
    }  # fmt: skip


def correlated(partners: Partners) -> Row:
    """The latents that fire together with one. `pearson` and `l1`, a cosine, are of firing here, and not of values."""
    return {
        "correlated_features_indices": list[JsonValue](partners.latents),
        "correlated_features_pearson": [rounded(value) for value in partners.phi],
        "correlated_features_l1": [rounded(value) for value in partners.cosine],
    }


def activation(of: Names, latent: int, shown: Shown, bounds: tuple[float, float, float]) -> Row:
    """A row in its text. bounds: smallest and largest value of its group, and the share of tokens in it; -1: top."""
    values = shown.values
    low, high, contains = bounds
    return {
        "id": _identity(of, latent, shown.row, low), "tokens": list[JsonValue](shown.tokens), "index": str(latent),
        "layer": of.source, "modelId": of.model, "maxValue": max(values), "maxValueTokenIndex":
        values.index(max(values)), "minValue": min(values), "values": list[JsonValue](values), "creatorId": CREATOR,
        "dataSource": None, "dataIndex": str(shown.row), "dfaValues": [], "dfaTargetIndex": None, "dfaMaxValue": None,
        "createdAt": CREATED, "lossValues": [], "logitContributions": None, "binMin": rounded(low), "binMax":
        rounded(high), "binContains": rounded(contains), "qualifyingTokenIndex": shown.centre, "zIndices": None,
        "zValues": None,
    }  # fmt: skip


def explanation(of: Names, latent: int, description: str, notes: str) -> Row:
    """A label of a latent."""
    return {
        "id": _identity(of, latent, "explanation"), "modelId": of.model, "layer": of.source, "index": str(latent),
        "description": description, "authorId": CREATOR, "embedding": None, "triggeredById": None,
        "typeName": EXPLAINED_BY, "explanationModelName": None, "notes": notes, "createdAt": CREATED,
    }  # fmt: skip


def explained(of: Names, latent: int, place: int, words: Explained) -> Row:
    """A latent in words. place: of several explanations of it."""
    return explanation(of, latent, spelled(words.text), words.score) | {
        "id": _identity(of, latent, "words", place),
        "typeName": PUBLISHED if words.is_published else INTERPRETED,
        "explanationModelName": spelled(words.maker) or None,
    }


def _identity(of: Names, *parts: object) -> str:
    """25 letters and digits as their ids are, the same for the same thing."""
    return f"c{hashlib.sha256(repr((of, *parts)).encode()).hexdigest()[:24]}"
