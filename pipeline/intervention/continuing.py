"""How a model goes on after a text, each sequence of a batch with edits of its own."""

from collections.abc import Sequence

import torch

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.intervention.edited_pass import EditedPass
from strata_sae.pipeline.intervention.opened_model import OpenedModel
from strata_sae.pipeline.intervention.prompt_passes import NOT_FINITE
from strata_sae.pipeline.intervention.prompt_tokens import Words
from strata_sae.pipeline.language_model.stepping import Stepping
from strata_sae.pipeline.queries.asked_model import Edit


def continuations(opened: OpenedModel, words: Words, ways: Sequence[Sequence[Edit]], n_tokens: int) -> list[str]:
    """Greedy continuations of one text, one with each list of edits: n_tokens, or fewer where the end token comes.

    All go together, one sequence each, so the prompt's layers and every step's weights are read once for all of them.
    Raises: ConfigError where the model's numbers are no longer finite.
    """
    edited = EditedPass(opened, ways)
    steps = Stepping(opened.whole, edited.begin)
    ids_BS = torch.tensor([words.token_ids] * len(ways))
    written: list[list[int]] = [[] for _ in ways]
    is_going = [True] * len(ways)
    with edited.on():
        for _ in range(n_tokens):
            logits_BV = steps.logits(ids_BS)
            if not bool(logits_BV.isfinite().all()):
                raise ConfigError(NOT_FINITE)
            next_B = logits_BV.argmax(dim=-1).tolist()
            for number, token_id in enumerate(next_B):
                is_going[number] = is_going[number] and token_id != opened.words.end
                if is_going[number]:
                    written[number].append(token_id)
            if not any(is_going):
                break
            ids_BS = torch.tensor(next_B)[:, None]
    return ["".join(opened.words.texts(token_ids)) for token_ids in written]
