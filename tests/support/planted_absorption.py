"""Rows of made-up words, and an SAE of which is known what it absorbs."""

from pathlib import Path

import numpy as np
import safetensors.numpy
import torch
from torch import Tensor

from strata_sae.pipeline.config import RunConfig
from strata_sae.pipeline.config.judging import AbsorptionSettings
from strata_sae.pipeline.config.run import TrainConfig
from strata_sae.pipeline.evaluation.absorption.letters import Codes, SeedRows
from strata_sae.pipeline.reading.first_letters import ASKED_AGAIN, TEST, TRAIN, details_of
from strata_sae.pipeline.reading.labelled import ARRAYS, LABELS, LabelledPart, array_sha256, labelled_root
from strata_sae.stores import ActivationStore, write_store
from support.evaluation_folder import D_MODEL, SITE, config_data, identity_weights, random_weights, write_trained

D = 12
"""Width of the rows: axis c < N_LETTERS says the letter, the next say the word, the last is the same in all rows."""
N_LETTERS = 4
WORDS = 10
"""Training words of each letter (count)."""
TEST_WORDS = (0, 1, 2, 3)


def rows(seed: int = 0, noise: float = 0.01) -> SeedRows:
    """Every word once for each part; words 0 to 3 of each letter are those of the test."""
    generator = torch.Generator().manual_seed(seed)

    def of(words: list[int]) -> tuple[Tensor, Tensor]:
        letters = torch.arange(N_LETTERS).repeat_interleave(len(words))
        x_NM = 4.0 * torch.nn.functional.one_hot(letters, D).float()
        for row, word in enumerate(words * N_LETTERS):
            x_NM[row, N_LETTERS + word % 6] += 0.5
        x_NM[:, -1] = 3.0
        return x_NM + noise * torch.randn(x_NM.shape, generator=generator), letters

    # Training words see every word axis, so that the probe learns the letter from its own axis alone.
    train_NM, train_letter_N = of([*range(WORDS)] * 12)
    test_NM, test_letter_N = of(list(TEST_WORDS))
    again_NM, _ = of(list(TEST_WORDS))
    return SeedRows(seed, "labelled", train_NM, test_NM, again_NM, train_letter_N, test_letter_N)


def codes(of_rows: SeedRows, absorbed_words: tuple[int, ...] = (0, 1)) -> Codes:
    """Latent c says letter c, but not in the absorbed test words of letter 0; there latent 4 says `word and letter`.

    So rare is latent 4 that no training word has it. Latent 5 is dead, with a decoder row of 0.
    """
    W_dec = torch.zeros(6, D)
    W_dec[:N_LETTERS, :N_LETTERS] = torch.eye(N_LETTERS)
    W_dec[4, 0], W_dec[4, N_LETTERS] = 1.0, 0.5

    def of(letter_N: Tensor, absorbed_N: Tensor) -> Tensor:
        code_NE = torch.zeros(len(letter_N), 6)
        code_NE[:, :N_LETTERS] = 4.0 * torch.nn.functional.one_hot(letter_N, N_LETTERS).float()
        code_NE[absorbed_N, 0] = 0.0
        code_NE[absorbed_N, 4] = 4.0
        return code_NE

    train_N, test_N = of_rows.train_letter_N, of_rows.test_letter_N
    word_N = torch.arange(len(test_N)) % len(TEST_WORDS)
    absorbed_N = (test_N == 0) & torch.isin(word_N, torch.tensor([*absorbed_words, -1]))
    test_NE = of(test_N, absorbed_N)
    return Codes.of([of(train_N, torch.zeros(len(train_N), dtype=torch.bool)), test_NE, test_NE], W_dec)


def labelled_seed(
    root: Path, settings: AbsorptionSettings, seed: int, width: int, train_letters: tuple[int, ...] = ()
) -> ActivationStore:
    """Rows of a seed as `Labeller.store` writes them; only their first D numbers say something.

    train_letters: in the place of those that the training words begin with, in turn.
    """
    of_seed = rows(seed)
    if train_letters:
        turns = torch.arange(len(of_seed.train_NM)) % len(train_letters)
        of_seed = of_seed._replace(train_letter_N=torch.tensor(train_letters)[turns])
    x_NM = torch.cat([of_seed.train_NM, of_seed.test_NM, of_seed.asked_again_NM])
    letter_N = torch.cat([of_seed.train_letter_N, of_seed.test_letter_N, of_seed.test_letter_N])
    counts = [len(of_seed.train_NM), len(of_seed.test_NM), len(of_seed.asked_again_NM)]
    labels = {
        "letter": letter_N.numpy().astype(np.int8),
        "part": np.repeat([TRAIN, TEST, ASKED_AGAIN], counts).astype(np.int8),
    }
    about = LabelledPart(
        kind="first_letter",
        name=f"first letters, seed {seed}",
        model={},
        sites=[SITE],
        n_train=counts[0],
        max_tokens=128,
        truncate="left",
        prepend_bos=True,
        texts_sha256="0" * 64,
        labels_sha256={name: array_sha256(values) for name, values in labels.items()},
        details=details_of(settings, seed),
    )
    padded_NM = torch.nn.functional.pad(x_NM, (0, width - D)).numpy()
    extras = {LABELS: about.spelt(), ARRAYS: safetensors.numpy.save(labels)}
    splits = {"train": (0, counts[0]), "heldout": (counts[0], len(x_NM))}
    root.mkdir(parents=True, exist_ok=True)
    return write_store(root / about.folder_name(), {SITE: padded_NM}, splits=splits, extras=extras)


def absorption_run(
    folder: Path, *, seeds: int = 5, train_letters: tuple[int, ...] = (), **absorption: int | None
) -> TrainConfig:
    """A store, labelled rows of some seeds, and a run of two hand-made SAEs, in the working folder."""
    rng = np.random.default_rng(0)
    store = write_store(
        folder / "store",
        {SITE: rng.standard_normal((200, D_MODEL)).astype(np.float32)},
        splits={"train": (0, 100), "heldout": (100, 200)},
    )
    run = folder / "runs" / "run"
    write_trained(run, "identity", store.id, {"architecture": "relu", "d_sae": 2 * D_MODEL}, identity_weights())
    write_trained(run, "topk", store.id, {"architecture": "topk", "d_sae": 64, "k": 4}, random_weights(64, seed=1))
    data = config_data(folder / "store", {"absorption": {"min_letters": 3, **absorption}}, {})
    config = TrainConfig.of(RunConfig.model_validate(data), "config.yaml")
    assert config.evaluation.absorption is not None
    for seed in range(seeds):
        labelled_seed(labelled_root(config), config.evaluation.absorption, seed, D_MODEL, train_letters)
    return config
