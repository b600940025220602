"""The model of a run's store with the run's SAEs beside it: prompts, edits, continuations."""

from collections.abc import Collection, Sequence
from threading import RLock

import numpy as np
import torch
from torch import Tensor

from strata_sae.pipeline.config import load
from strata_sae.pipeline.config.run import TrainConfig
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.intervention.ablation import measured_effects
from strata_sae.pipeline.intervention.continuing import continuations
from strata_sae.pipeline.intervention.edited_pass import check_edits
from strata_sae.pipeline.intervention.losses import ROWS_AT_ONCE
from strata_sae.pipeline.intervention.opened_model import OpenedModel, open_model
from strata_sae.pipeline.intervention.prompt_passes import PromptPasses, Ran
from strata_sae.pipeline.kernels.codes import Codes
from strata_sae.pipeline.queries.asked_model import (
    MOST_NEW_TOKENS,
    Active,
    Edit,
    MeasuredEffects,
    NextTokens,
    Prompted,
    Seen,
)
from strata_sae.pipeline.queries.opened import CodedSAE
from strata_sae.pipeline.queries.populations import Population
from strata_sae.pipeline.runs.folders import RunFolder

MOST_FOLLOWING = 100
"""Likely next tokens that are named of each token (count)."""
MOST_WAYS = 32
"""Continuations that are made together (count)."""


class RunModel:
    """The model of one run; it is loaded at the first question, and then stays in memory with the SAEs.

    Threads may share it: one question is answered at a time.
    """

    def __init__(
        self, run: RunFolder, overrides: Sequence[str] = (), only: Collection[str] = (), *, show_progress: bool = False
    ) -> None:
        """overrides: changes to the run's config, `key=value`. only: names of the SAEs that are wanted; none: all.

        show_progress: of `effects`. Raises: ConfigError for a config that is none.
        """
        self._config, self._run, self._only = TrainConfig.of(load(run.config, list(overrides)), run.config), run, only
        self._shows_progress = show_progress
        self._lock = RLock()
        self._opened: OpenedModel | None = None
        self._passes: PromptPasses | None = None
        self._seen: tuple[Ran, int, Seen] | None = None

    def load(self) -> None:
        """As `AskedModel.load`."""
        self.opened()

    def opened(self) -> OpenedModel:
        """The model and the SAEs themselves. Raises: as `load`."""
        with self._lock:
            if self._opened is None:
                self._opened = open_model(self._config, self._run, self._only)
                self._passes = PromptPasses(self._opened)
            return self._opened

    def prompt(self, text: str, edits: Sequence[Edit] = (), n_following: int = 10) -> Prompted:
        """As `AskedModel.prompt`."""
        if not 1 <= n_following <= MOST_FOLLOWING:
            raise ConfigError(f"n_following: {n_following}; 1 to {MOST_FOLLOWING} next tokens can be named")
        with self._lock, torch.inference_mode():
            opened, passes = self.opened(), self._passes
            assert passes is not None
            check_edits(opened, edits)
            words = opened.words.words(text)
            ran = passes.clean(words.token_ids)
            clean, edited, kl_S = self._clean_seen(opened, ran, n_following), None, None
            if edits:
                changed = passes.edited(words.token_ids, edits)
                edited, kl_S = _seen(opened, changed, n_following), _kl(ran.logits_SV, changed.logits_SV)
            return Prompted(*words, clean, edited, kl_S)

    def effects(
        self, ablator: CodedSAE, reader: CodedSAE | None, population: Population, *, n: int, latent: int | None = None
    ) -> MeasuredEffects:
        """As `AskedModel.effects`. What is not measured yet is measured by a model that is loaded for it alone."""
        return measured_effects(
            self._config, ablator, reader, population, n=n, latent=latent, show_progress=self._shows_progress
        )

    def _clean_seen(self, opened: OpenedModel, ran: Ran, n_following: int) -> Seen:
        """What the clean pass gave; of the text that was asked about last it is not encoded again."""
        if self._seen is None or self._seen[0] is not ran or self._seen[1] != n_following:
            self._seen = ran, n_following, _seen(opened, ran, n_following)
        return self._seen[2]

    def continuations(self, text: str, ways: Sequence[Sequence[Edit]], n_tokens: int) -> list[str]:
        """As `AskedModel.continuations`."""
        if not 1 <= n_tokens <= MOST_NEW_TOKENS:
            raise ConfigError(f"--tokens: {n_tokens}; a continuation has 1 to {MOST_NEW_TOKENS} tokens")
        if not 1 <= len(ways) <= MOST_WAYS:
            raise ConfigError(f"{len(ways)} continuations at once; 1 to {MOST_WAYS} can be made together")
        with self._lock, torch.inference_mode():
            opened = self.opened()
            return continuations(opened, opened.words.words(text, n_tokens), ways, n_tokens)


def _seen(opened: OpenedModel, ran: Ran, n_following: int) -> Seen:
    return Seen(_active(opened, ran), _following(opened, ran.logits_SV, n_following))


def _active(opened: OpenedModel, ran: Ran) -> dict[str, Active]:
    """The codes of the SAEs whose rows may have changed, and of those that are edited."""
    found = {}
    for name, sae in opened.saes.items():
        reads = opened.routes[name].reads
        if name in ran.edited:
            found[name] = _strongest_first(ran.edited[name])
        elif not set(reads).isdisjoint(ran.changed_sites):
            x_SM = torch.cat([ran.rows[site][0] for site in reads], dim=-1)
            found[name] = _strongest_first(sae.encode(x_SM.to(torch.float32, copy=True)))
    return found


def _strongest_first(codes: Codes) -> Active:
    sparse = codes.to_sparse()
    kept_P = sparse.values_P != 0
    rows_P, latents_P, values_P = (
        of_P[kept_P].cpu().numpy() for of_P in (sparse.rows_P, sparse.indices_P, sparse.values_P)
    )
    order_P = np.lexsort((latents_P, -values_P, rows_P))
    counts = np.bincount(rows_P, minlength=codes.batch_size)
    return Active(np.concatenate([[0], np.cumsum(counts)]), latents_P[order_P].astype(np.int64), values_P[order_P])


def _following(opened: OpenedModel, logits_SV: Tensor, n: int) -> NextTokens:
    """The likeliest next tokens; of equally likely ones the one of the smaller id."""
    ids, probabilities = [], []
    for part_RV in logits_SV.split(ROWS_AT_ONCE):
        ids_RN, p_RN = _largest(part_RV.float().softmax(dim=-1), n)
        ids.append(ids_RN)
        probabilities.append(p_RN)
    ids_SN = np.concatenate(ids)
    texts = [[opened.words.alone(token_id) for token_id in row] for row in ids_SN.tolist()]
    return NextTokens(ids_SN, texts, np.concatenate(probabilities))


def _largest(p_RV: Tensor, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Places and values of the n largest of each row, falling; of equals the smaller place.

    `topk` orders equals as it likes. In bfloat16 the likeliest tokens often are: a logit of 20 is rounded to 1/8.
    """
    n = min(n, p_RV.shape[1])
    found = p_RV.topk(min(n + 1, p_RV.shape[1]), dim=-1)
    ids_RN = found.indices[:, :n].clone()
    # The last one that is taken equals the first one that is not; never so where all are taken.
    cut_R = (found.values[:, n - 1] == found.values[:, n:].sum(dim=-1)) & (found.values.shape[1] > n)
    if bool(cut_R.any()):
        some_RV, least_R = p_RV[cut_R], found.values[cut_R, n - 1]
        equal_RV, larger_RV = some_RV == least_R[:, None], some_RV > least_R[:, None]
        taken_RV = larger_RV | (equal_RV & (equal_RV.cumsum(dim=-1) <= n - larger_RV.sum(dim=-1, keepdim=True)))
        ids_RN[cut_R] = taken_RV.nonzero()[:, 1].reshape(-1, n)
    places_RN, values_RN = ids_RN.cpu().numpy(), p_RV.gather(1, ids_RN).cpu().numpy()
    order_RN = np.lexsort((places_RN, -values_RN))
    return np.take_along_axis(places_RN, order_RN, 1), np.take_along_axis(values_RN, order_RN, 1)


def _kl(clean_SV: Tensor, edited_SV: Tensor) -> np.ndarray:
    """KL(clean || edited): sum of p (log p - log q), exactly 0 where q is p; float32 [S]."""
    parts = []
    for p_RV, q_RV in zip(clean_SV.split(ROWS_AT_ONCE), edited_SV.split(ROWS_AT_ONCE), strict=True):
        log_p_RV, log_q_RV = p_RV.float().log_softmax(dim=-1), q_RV.float().log_softmax(dim=-1)
        parts.append(torch.linalg.vecdot(log_p_RV.exp(), log_p_RV - log_q_RV).cpu().numpy())
    return np.concatenate(parts)
