"""dictionary_learning's trainers through our names and layouts. Import it only where that library is installed."""

import sys
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from strata_sae.pipeline.trainer.trainee import Trainee
from support.lockstep import Weights, default_dtype

NAMES = {
    "encoder.weight": "W_enc",
    "decoder.weight": "W_dec",
    "encoder.bias": "b_enc",
    "bias": "b_dec",
    "decoder_bias": "b_dec",
    "decoder.bias": "b_dec",
    "gate_bias": "b_gate",
    "mag_bias": "b_mag",
}
"""Their parameters by our names; a name that is missing here is the same."""
INPUTS_FIRST = {"decoder.weight", "W_enc"}
"""Their matrices that are the transpose of ours."""


def without_a_language_model() -> None:
    """Let the library be imported where nnsight, which only its model code needs, is not installed."""
    if find_spec("nnsight") is None:
        sys.modules["nnsight"] = ModuleType("nnsight")
        sys.modules["nnsight"].LanguageModel = object  # type: ignore[attr-defined]


def trainer_class(name: str) -> Any:
    """A trainer of theirs by its class name."""
    without_a_language_model()
    from dictionary_learning.trainers import (
        batch_top_k,
        gated_anneal,
        gdm,
        jumprelu,
        matryoshka_batch_top_k,
        p_anneal,
        standard,
        top_k,
    )

    modules = (batch_top_k, gated_anneal, gdm, jumprelu, matryoshka_batch_top_k, p_anneal, standard, top_k)
    return next(getattr(module, name) for module in modules if hasattr(module, name))


def autoencoder_class(name: str) -> Any:
    """An autoencoder of theirs by its class name, or the one that is repaired here."""
    theirs = import_module("dictionary_learning.dictionary")
    if name != "RepairedAutoEncoderNew":
        return getattr(theirs, name)

    class RepairedAutoEncoderNew(theirs.AutoEncoderNew):  # type: ignore[misc, name-defined]
        """Theirs multiplies the codes by the decoder norms, and its April trainer then does so again."""

        def forward(self, x: Tensor, output_features: bool = False) -> Any:
            codes = self.encode(x)
            return (self.decode(codes), codes) if output_features else self.decode(codes)

    return RepairedAutoEncoderNew


class DictionaryLearning:
    """A trainer of theirs, built and stepped in one dtype. `trainer` is theirs, to look at and to change."""

    def __init__(self, name: str, *, dtype: torch.dtype = torch.float64, **settings: Any) -> None:
        self.dtype = dtype
        usual = {"layer": 0, "lm_name": "none", "device": "cpu", "seed": 0, "warmup_steps": 0}
        torch.manual_seed(0)
        trainer = trainer_class(name)
        if "dict_class" in settings:
            settings["dict_class"] = autoencoder_class(settings["dict_class"])
        with default_dtype(dtype):
            self.trainer = trainer(**{**usual, **settings})

    def update(self, step: int, x_BM: Tensor) -> float | None:
        """One update. Returns: its loss, where the trainer says it."""
        with default_dtype(self.dtype):
            return self.trainer.update(step, x_BM)

    def weights(self) -> Weights:
        """Its parameters now, by our checkpoint keys."""
        return {NAMES.get(name, name): ours(name, tensor) for name, tensor in self.trainer.ae.named_parameters()}

    def lend(self, trainee: Trainee) -> None:
        """Put our parameters and Adam's memories where theirs are, so that the next update starts from equal states."""
        memories = self.trainer.optimizer.state
        for theirs, parameter in self.trainer.ae.named_parameters():
            name, memory = NAMES.get(theirs, theirs), memories[parameter]
            trainee.sae.parameters()[name].copy_(ours(theirs, parameter))
            trainee.adam.mean[name].copy_(ours(theirs, memory["exp_avg"]))
            trainee.adam.square[name].copy_(ours(theirs, memory["exp_avg_sq"]))


def ours(name: str, tensor: Tensor) -> Tensor:
    """A copy in our layout of a tensor of theirs, or of one of Adam's memories of it."""
    return (tensor.T if name in INPUTS_FIRST else tensor).detach().clone(memory_format=torch.contiguous_format)
