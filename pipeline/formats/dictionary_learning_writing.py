"""dictionary_learning's folder of an SAE, written: ae.pt and config.json, as its `load_dictionary` reads them.

| ours | its class |
|---|---|
| relu | AutoEncoder; AutoEncoderNew where decoder rows have other norms than 1, or without pre_bias |
| gated | GatedAutoEncoder |
| topk, batch_topk that select the k largest of each row | AutoEncoderTopK |
| topk, batch_topk that select by their threshold | BatchTopKSAE |
| jump_relu | JumpReluAutoEncoder |

What `encode` gives there by default is what the SAE selects here.
"""

import io
import json
from pathlib import Path

import torch
from pydantic import JsonValue
from torch import Tensor

from strata_sae.pipeline.formats.building import encoder_bias
from strata_sae.pipeline.formats.dictionary_learning_reading import CONFIG, WEIGHTS
from strata_sae.pipeline.formats.foreign import DoesNotFit, Handed, layer_of
from strata_sae.pipeline.formats.ranked import final_k, inference_threshold, refuse_unfolded
from strata_sae.pipeline.saes.base import SAE
from strata_sae.pipeline.saes.topk import Ranked
from strata_sae.stores.files.filesystem import write_bytes

_TRAINERS = {
    "AutoEncoder": "StandardTrainer",
    "AutoEncoderNew": "StandardTrainerAprilUpdate",
    "GatedAutoEncoder": "GatedSAETrainer",
    "AutoEncoderTopK": "TopKTrainer",
    "BatchTopKSAE": "BatchTopKTrainer",
    "JumpReluAutoEncoder": "JumpReluTrainer",
}
"""Its classes -> its trainer of that class, by which SAEBench chooses a reader."""


def write(handed: Handed, out: Path) -> None:
    """Both files into an empty folder; equal SAEs give equal bytes.

    Raises: DoesNotFit, before anything is written, if dictionary_learning has no such class.
    """
    kind = _class_of(handed)
    tensors = {name: _plain(tensor) for name, tensor in _tensors(handed, kind).items()}
    text = json.dumps(_config(handed, kind), indent=2, sort_keys=True, allow_nan=False)
    archive = io.BytesIO()  # into a file, torch.save tells of a full disk by a RuntimeError of its own
    torch.save(tensors, archive)
    write_bytes(out / WEIGHTS, archive.getvalue())
    write_bytes(out / CONFIG, (text + "\n").encode("utf-8"))


def _plain(tensor: Tensor) -> Tensor:
    """A tensor with memory of its own: torch.save would write all that it is a view of."""
    tensor = tensor.detach()
    return (tensor.float() if tensor.is_floating_point() else tensor).clone(memory_format=torch.contiguous_format)


def _class_of(handed: Handed) -> str:
    """Its name of the class. Raises: DoesNotFit."""
    sae = handed.sae
    ours = sae.settings.architecture
    if handed.writes != handed.site or sae.d_in != sae.d_out or len(sae.blocks) > 1:
        raise DoesNotFit(
            f"{handed.name}: dictionary_learning's classes write the rows that they read, so no transcoder fits; "
            "--format saelens has one"
        )
    if isinstance(sae, Ranked):
        refuse_unfolded(handed)
        return "AutoEncoderTopK" if sae.settings.inference == "k" else "BatchTopKSAE"
    if ours == "relu":
        return "AutoEncoder" if sae.settings.pre_bias and _stays_as_it_is(sae) else "AutoEncoderNew"
    known = {"gated": "GatedAutoEncoder", "jump_relu": "JumpReluAutoEncoder"}
    if ours not in known:
        elsewhere = "--format sparsify has one" if ours == "groupmax" else "no other format has one, either"
        raise DoesNotFit(f"{handed.name}: dictionary_learning has no class that selects as {ours} does; {elsewhere}")
    return known[ours]


def _stays_as_it_is(sae: SAE) -> bool:
    """Whether `load_dictionary` leaves the decoder of an AutoEncoder, whose columns it brings to norm 1, alone."""
    norm_E = torch.linalg.vector_norm(sae.W_dec.T.contiguous(), dim=0)
    return torch.allclose(norm_E, torch.ones_like(norm_E))


def _tensors(handed: Handed, kind: str) -> dict[str, Tensor]:
    """By its names and in its shapes: a Linear's weight is [outputs, inputs]."""
    sae = handed.sae
    if kind == "JumpReluAutoEncoder":
        return {
            "W_enc": sae.W_enc.T,
            "b_enc": encoder_bias(sae, subtracts=False),
            "W_dec": sae.W_dec,
            "b_dec": sae.b_dec,
            "threshold": inference_threshold(handed),
        }
    matrices = {"encoder.weight": sae.W_enc, "decoder.weight": sae.W_dec.T}
    if kind == "GatedAutoEncoder":
        own = sae.parameters()
        shift_E = torch.zeros_like(own["b_gate"]) if sae.settings.pre_bias else sae.W_enc.double() @ sae.b_dec.double()
        return matrices | {
            "decoder_bias": sae.b_dec,
            "r_mag": own["r_mag"],
            "gate_bias": (own["b_gate"] + shift_E).float(),
            "mag_bias": (own["b_mag"] + own["r_mag"].double().exp() * shift_E).float(),
        }
    matrices["encoder.bias"] = encoder_bias(sae, subtracts=kind != "AutoEncoderNew")
    if kind in ("AutoEncoder", "AutoEncoderNew"):
        return matrices | {"bias" if kind == "AutoEncoder" else "decoder.bias": sae.b_dec}
    k = torch.tensor(final_k(handed), dtype=torch.int32)
    return matrices | {"b_dec": sae.b_dec, "k": k, "threshold": _threshold(handed, kind)}


def _threshold(handed: Handed, kind: str) -> Tensor:
    """One number; -1 of a class that selects by k says that there is none."""
    if kind == "AutoEncoderTopK" and handed.sae.threshold is None:
        return torch.tensor(-1.0)
    return inference_threshold(handed)


def _config(handed: Handed, kind: str) -> dict[str, JsonValue]:
    """What its readers ask for: `load_dictionary` the class and k, SAEBench the model, layer and trainer."""
    layer = layer_of(handed.site)
    is_residual = handed.site == f"blocks.{layer}.hook_resid_post"
    trainer: dict[str, JsonValue] = {
        "trainer_class": _TRAINERS[kind],
        "dict_class": kind,
        "activation_dim": handed.sae.d_in,
        "dict_size": handed.sae.d_sae,
        "layer": layer,
        "lm_name": handed.model or "",
        "submodule_name": f"resid_post_layer_{layer}" if is_residual else handed.site,
        "wandb_name": handed.name,
        "device": "cpu",
    }
    if "TopK" in kind:
        trainer["k"] = final_k(handed)
    buffer: dict[str, JsonValue] = {"d_submodule": handed.sae.d_in, "io": "out", "ctx_len": handed.context_tokens}
    return {"trainer": trainer, "buffer": buffer, "strata": handed.provenance}
