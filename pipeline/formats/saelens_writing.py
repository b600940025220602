"""SAELens' folder of an SAE, written: cfg.json and sae_weights.safetensors, as its `SAE.load_from_disk` reads them.

| ours | SAELens |
|---|---|
| relu | standard; transcoder |
| gated | gated |
| topk, batch_topk that select the k largest of each row | topk |
| topk, batch_topk that select by their threshold; jump_relu | jumprelu; jumprelu_transcoder |
"""

import json
from pathlib import Path

import safetensors.torch
import torch
from pydantic import JsonValue
from torch import Tensor

from strata_sae.pipeline.formats.building import encoder_bias
from strata_sae.pipeline.formats.foreign import DoesNotFit, Handed, layer_of
from strata_sae.pipeline.formats.ranked import final_k, inference_threshold, refuse_unfolded
from strata_sae.pipeline.saes.topk import Ranked
from strata_sae.stores.files.filesystem import write_bytes

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
VERSION = "6.54.12"
"""Of SAELens, whose format this is. Without one, or with one below 6, it drops the metadata that it does not know."""

_CLASSES = {"relu": "standard", "gated": "gated", "jump_relu": "jumprelu"}
_TRANSCODERS = {"standard": "transcoder", "jumprelu": "jumprelu_transcoder"}


def write(handed: Handed, out: Path) -> None:
    """Both files into an empty folder. Raises: DoesNotFit, before anything is written, if SAELens has no such class."""
    architecture = _architecture(handed)
    tensors = {name: tensor.detach().float() for name, tensor in _tensors(handed, architecture).items()}
    text = json.dumps(_config(handed, architecture), indent=2, sort_keys=True, allow_nan=False)
    write_bytes(out / WEIGHTS, safetensors.torch.save(tensors))
    write_bytes(out / CONFIG, (text + "\n").encode("utf-8"))


def _architecture(handed: Handed) -> str:
    """SAELens' name of the class. Raises: DoesNotFit."""
    sae = handed.sae
    ours = sae.settings.architecture
    theirs = _CLASSES.get(ours)
    if isinstance(sae, Ranked):
        refuse_unfolded(handed)
        theirs = "topk" if sae.settings.inference == "k" else "jumprelu"
    if theirs is None:
        elsewhere = "--format sparsify has one" if ours == "groupmax" else "no other format has one, either"
        raise DoesNotFit(f"{handed.name}: SAELens has no class that selects as {ours} does; {elsewhere}")
    if handed.site == handed.writes and sae.d_in == sae.d_out:
        return theirs
    if theirs not in _TRANSCODERS:
        elsewhere = "; --format sparsify has one of equal widths" if theirs == "topk" else ""
        raise DoesNotFit(
            f"{handed.name}: SAELens has no transcoder that selects as {ours} does (it has relu, and thresholds)"
            f"{elsewhere}"
        )
    return _TRANSCODERS[theirs]


def _tensors(handed: Handed, architecture: str) -> dict[str, Tensor]:
    """By SAELens' names. Its encoder is [M, E], its decoder [E, M] as here."""
    sae = handed.sae
    tensors = {
        "W_enc": sae.W_enc.T.clone(memory_format=torch.contiguous_format),
        "W_dec": sae.W_dec,
        "b_dec": sae.b_dec,
    }
    if architecture == "gated":
        return tensors | {name: sae.parameters()[name] for name in ("b_gate", "b_mag", "r_mag")}
    tensors["b_enc"] = encoder_bias(sae, subtracts=_subtracts(handed, architecture))
    if architecture.startswith("jumprelu"):
        tensors["threshold"] = inference_threshold(handed).expand(sae.d_sae).contiguous()
    return tensors


def _subtracts(handed: Handed, architecture: str) -> bool:
    """Whether SAELens' encoder takes b_dec from its rows; those of its transcoders never do."""
    return handed.sae.settings.pre_bias and architecture not in _TRANSCODERS.values()


def _config(handed: Handed, architecture: str) -> dict[str, JsonValue]:
    sae = handed.sae
    config: dict[str, JsonValue] = {
        "architecture": architecture,
        "d_in": sae.d_in,
        "d_sae": sae.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": _subtracts(handed, architecture),
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": _metadata(handed),
    }
    if architecture == "topk":
        config |= {"k": final_k(handed), "rescale_acts_by_decoder_norm": False}
    if architecture in _TRANSCODERS.values():
        config["d_out"] = sae.d_out
    return config


def _metadata(handed: Handed) -> dict[str, JsonValue]:
    metadata: dict[str, JsonValue] = {
        "sae_lens_version": VERSION,
        "sae_lens_training_version": None,
        "model_name": handed.model,
        "model_class_name": "HookedTransformer",
        "model_from_pretrained_kwargs": {},
        "hook_name": handed.site,
        "hook_layer": layer_of(handed.site),  # SAEBench asks for it
        "hook_head_index": None,
        "context_size": handed.context_tokens,
        "prepend_bos": handed.prepends_bos,
        "seqpos_slice": [None],
        "dataset_path": handed.dataset,
        "neuronpedia_id": None,
        "training_architecture": handed.sae.settings.architecture,
        "strata": handed.provenance,
    }
    if handed.writes != handed.site:
        metadata |= {"hook_name_out": handed.writes, "hook_layer_out": layer_of(handed.writes)}
    return metadata
