"""A model that answers from its prompt's words alone, in the place of a real one."""

from collections.abc import Mapping, Sequence

import numpy as np

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.queries.asked_model import MOST_TOKENS, Active, Edit, NextTokens, Prompted, Seen

NUMBER_OF_BOS = 0


class FakeModel:
    """Words are tokens, after a special one. The n-th token of a text has the latents n, 2n + 1, 3n + 2, ... of every
    SAE, whose values fall; the next tokens are words of the text. Edits act on all SAEs from theirs on.
    """

    def __init__(self, d_sae: Mapping[str, int], k: int = 4) -> None:
        self.d_sae, self.k = dict(d_sae), k
        self.loads = 0
        self.asked: list[tuple[str, tuple[Edit, ...]]] = []

    def load(self) -> None:
        self.loads += 1

    def prompt(self, text: str, edits: Sequence[Edit] = (), n_following: int = 10) -> Prompted:
        self.asked.append((text, tuple(edits)))
        words = ["<bos>", *(f" {word}" for word in text.split())]
        if len(words) > MOST_TOKENS:
            raise ConfigError(f"text: {len(words)} tokens; at most {MOST_TOKENS} are read")
        clean = Seen({name: self._active(name, len(words)) for name in self.d_sae}, _following(words, n_following, 0))
        is_special = [number == NUMBER_OF_BOS for number in range(len(words))]
        ids = [sum(map(ord, word)) % 997 for word in words]
        if not edits:
            return Prompted(ids, words, is_special, clean, None, None)
        first = min(list(self.d_sae).index(edit.sae) for edit in edits)
        later = {name: self._active(name, len(words), edits) for name in list(self.d_sae)[first:]}
        kl_S = np.arange(len(words), dtype=np.float32) / 10
        return Prompted(ids, words, is_special, clean, Seen(later, _following(words, n_following, 1)), kl_S)

    def continuations(self, text: str, ways: Sequence[Sequence[Edit]], n_tokens: int) -> list[str]:
        return [f" {'changed' if way else 'plain'}\nline" + " on" * (n_tokens - 2) for way in ways]

    def _active(self, name: str, n_tokens: int, edits: Sequence[Edit] = ()) -> Active:
        rows: list[dict[int, float]] = []
        for number in range(n_tokens):
            row = {(number * (i + 1) + i) % self.d_sae[name]: 4.0 - i for i in range(self.k)}
            for edit in edits if number != NUMBER_OF_BOS else ():
                if edit.sae != name:
                    row = {latent: value / 2 for latent, value in row.items()}
                elif edit.kind == "ablate":
                    row.pop(edit.latent, None)
                else:
                    row[edit.latent] = edit.amount + (row.get(edit.latent, 0.0) if edit.kind == "steer" else 0.0)
            rows.append(row)
        offset = np.cumsum([0, *map(len, rows)])
        pairs = [pair for row in rows for pair in sorted(row.items(), key=lambda one: (-one[1], one[0]))]
        latents, values = zip(*pairs, strict=True)
        return Active(offset, np.array(latents, np.int64), np.array(values, np.float32))


def _following(words: list[str], n: int, turned: int) -> NextTokens:
    chosen = [[words[(number + i + turned) % len(words)] for i in range(n)] for number in range(len(words))]
    probabilities = np.tile(0.5 ** np.arange(1, n + 1, dtype=np.float32), (len(words), 1))
    ids = np.array([[sum(map(ord, word)) % 997 for word in row] for row in chosen])
    return NextTokens(ids, chosen, probabilities)
