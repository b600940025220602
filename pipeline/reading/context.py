"""A row with the text around it: the tokens as text that people can read, and a latent's value on each."""

import codecs
from collections.abc import Sequence

import numpy as np

from strata_sae.pipeline.reading.document_units import DocumentUnits
from strata_sae.pipeline.reading.feed import side_by_side
from strata_sae.pipeline.runs.evaluation_records import Example
from strata_sae.pipeline.runs.trained import TrainedSAE
from strata_sae.stores import ActivationStore, Filters, Sites, Token

LONGEST_CHARACTER = 4
"""Bytes of UTF-8; a token holds at least one of them."""


def example(
    sites: Sites,
    trained: TrainedSAE,
    filters: Filters,
    latent: int,
    row: int,
    value: float,
    n_around: int,
    documents: DocumentUnits | None = None,
) -> Example:
    """A row's token and those around it in its document and in the store, with the latent's value on each.

    `sites`: those that the SAE reads, each with its store. `value`: the latent's on the row itself. `documents`: for an
    SAE trained on rows standardised by document.
    Values are null on tokens that the filters leave out for what they are (BOS, special, template).
    """
    store = sites[0][0]
    start, stop = _text_around(store, row, n_around)
    x_BM = side_by_side([of_site.rows(site, start, stop) for of_site, site in sites], None, trained.sae.W_dec.device)
    units = None if documents is None else documents.of(np.arange(start, stop), x_BM.device)
    values = trained.encode(x_BM, units).to_dense()[:, latent].tolist()
    left_out = (store.token_map("flags", start, stop) & filters.flag_mask()).tolist()
    return Example(
        value=value,
        row=row,
        document=int(store.token_map("document", row, row + 1)[0]),
        position=int(store.token_map("position", row, row + 1)[0]),
        index=row - start,
        tokens=_texts(store, row, (start, stop)),
        values=[None if flags else value for flags, value in zip(left_out, values, strict=True)],
    )


def _texts(store: ActivationStore, row: int, rows: tuple[int, int]) -> list[str]:
    """The texts of `rows` of a stretch of a document, read with a few tokens more for the characters at its edges."""
    start, stop = rows
    n_more = LONGEST_CHARACTER - 1
    first, last = _text_around(store, row, max(row - start, stop - 1 - row) + n_more)
    first, last = max(first, start - n_more), min(last, stop + n_more)
    tokens = [store.tokens[token_id] for token_id in store.token_map("token_id", first, last).tolist()]
    return shown(tokens, start - first, stop - first)


def _text_around(store: ActivationStore, row: int, n_around: int) -> tuple[int, int]:
    """Rows [start, stop) around a row that are one stretch of its document; in a shuffled store, mostly it alone."""
    start, stop = max(0, row - n_around), min(store.plan.n_rows, row + n_around + 1)
    document_N = store.token_map("document", start, stop)
    offset_N = store.token_map("position", start, stop) - np.arange(start, stop)
    other_N = (document_N != document_N[row - start]) | (offset_N != offset_N[row - start])
    before, after = np.flatnonzero(other_N[: row - start]), np.flatnonzero(other_N[row - start :])
    return start + (int(before[-1]) + 1 if len(before) else 0), row + int(after[0]) if len(after) else stop


def shown(tokens: Sequence[Token], first: int, last: int) -> list[str]:
    """The texts of tokens[first:last], each character whole, at the token that completes it.

    What lies before and after is read for the characters at the edges only: one that is completed after the last token
    is shown at the last. U+FFFD stands where the bytes are no UTF-8; a special token is shown by its name.
    """
    end = next((place for place in range(last, len(tokens)) if tokens[place].special), len(tokens))
    texts = _at_their_ends(tokens[:end])
    texts[last - 1] += next((text for text in texts[last:] if text), "")[:1] if _is_open(tokens[:last]) else ""
    return texts[first:last]


def _at_their_ends(tokens: Sequence[Token]) -> list[str]:
    """For each token, the characters that are complete with it and were not with the one before."""
    texts: list[str] = []
    decode = codecs.getincrementaldecoder("utf-8")("replace").decode
    for token in tokens:
        if not token.special:
            texts.append(decode(token.data))
            continue
        broken = decode(b"", final=True)
        if broken:
            texts[-1] += broken
        texts.append(token.text)
    broken = decode(b"", final=True)
    if broken:
        texts[-1] += broken
    return texts


def _is_open(tokens: Sequence[Token]) -> bool:
    """Whether the last of these tokens ends inside a character."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for token in tokens:
        decoder.decode(b"", final=True) if token.special else decoder.decode(token.data)
    return bool(decoder.getstate()[0])
