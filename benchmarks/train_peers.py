"""Updates by dictionary_learning and SAELens from given weights, as benchmarks/train.py times and compares them."""

import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

Weights = dict[str, Tensor]
LONG = 1_000_000
"""Steps their schedules are told of: more than are ever made, so that the learning rate stays."""


class Peer:
    """Another trainer: `update` makes one update, `weights` reads its parameters by our checkpoint keys."""

    def __init__(self, update: Callable[[Tensor], object], weights: Callable[[], Weights]) -> None:
        self.update = update
        self.weights = weights


def there_are_peers() -> bool:
    """Whether both libraries are installed here."""
    return bool(find_spec("sae_lens") and find_spec("dictionary_learning"))


def dictionary_learning(trainer: str, weights: Weights, rate: float, batch_size: int, **settings: Any) -> Peer:
    """A trainer of dictionary_learning. Its first update, which sets the bias to a median, is skipped."""
    from support.dictionary_learning_side import NAMES, DictionaryLearning, ours

    d_sae, d_model = weights["W_dec"].shape
    theirs = DictionaryLearning(
        trainer, dtype=torch.float32, activation_dim=d_model, dict_size=d_sae, steps=LONG, lr=rate, **settings
    )
    with torch.no_grad():
        for name, parameter in theirs.trainer.ae.named_parameters():
            parameter.copy_(ours(name, weights[NAMES.get(name, name)]))
    return Peer(lambda x_BM: theirs.update(1, x_BM), theirs.weights)


def sae_lens(sae_class: str, weights: Weights, rate: float, batch_size: int, **settings: Any) -> Peer:
    """A trainer of SAELens; its autoencoder without the factors of decoder norms, which cost it time."""
    import sae_lens
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    d_sae, d_model = weights["W_dec"].shape
    config = getattr(sae_lens, f"{sae_class}Config")(d_in=d_model, d_sae=d_sae, dtype="float32", **settings)
    sae = getattr(sae_lens, sae_class)(config)
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            parameter.copy_(weights[name].T if name == "W_enc" else weights[name])
    training = SAETrainerConfig(
        total_training_samples=LONG * batch_size,
        train_batch_size_samples=batch_size,
        lr=rate,
        lr_end=rate,
        logger=LoggingConfig(log_to_wandb=False),
    )
    trainer = SAETrainer(training, sae, data_provider=iter(()))

    def update(x_BM: Tensor) -> None:
        trainer._train_step(sae=sae, sae_in=x_BM)
        trainer.n_training_steps += 1

    def by_our_names() -> Weights:
        named = {name: parameter.detach().clone() for name, parameter in sae.named_parameters()}
        return {**named, "W_enc": named["W_enc"].T.contiguous()}

    return Peer(update, by_our_names)
