"""What every row of a store assumes of a model, and the short forward passes that check it."""

import inspect
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from strata_sae.pipeline.errors import ConfigError, first_line
from strata_sae.pipeline.language_model.capture import Capture
from strata_sae.pipeline.language_model.inputs import restarted_positions
from strata_sae.pipeline.language_model.splice import Splice, WholeModel
from strata_sae.pipeline.language_model.transformers_library import CausalModel
from strata_sae.stores.files.canonical import Json

log = logging.getLogger(__name__)

Measured = dict[str, float]
"""Site -> |difference| / |row| of two runs that must agree; empty where a probe does not apply to a model."""

Allowed = dict[str, float]
"""dtype -> largest |difference| / |row| that a probe lets pass."""

SAME_ROW: Allowed = {"float32": 1e-3, "float16": 2e-2, "bfloat16": 4e-2}
"""Of two runs of one model over the same tokens, batched in different ways."""
SAME_BITS: Allowed = dict.fromkeys(SAME_ROW, 0.0)
# Two runs of one shape were equal to the last bit in 43 architectures and three dtypes on a CPU. The tolerance is for
# kernels that group tokens by their content (experts): it lets every number of a row be off by a unit in its last place
# (2^-8 of it in bfloat16). In a model that is not causal random weights came to 7e-3 there, trained ones to far more.
SAME_SHAPE: Allowed = {"float32": 1e-5, "float16": 1e-3, "bfloat16": 4e-3}

ISOLATION = "isolation"
"""Checked where a config asks for it; the others are checked at every load."""
# Short: every load runs 12 such passes. The first half of a text stays where the probes change the second.
_LENGTH = 12
_TEXTS = 4


class Probe(NamedTuple):
    """One assumption, and how it is checked."""

    failure: str
    """What is wrong where the assumption does not hold."""
    measure: Callable[[Capture], Measured]
    allowed: Allowed = SAME_SHAPE
    advice: str = "choose another model"
    key: str = "model.path"


def probe(capture: Capture) -> None:
    """Run every probe except that of isolation. Raises: ConfigError naming what is wrong, and the site."""
    measured = {name: _checked(capture, name) for name in PROBES if name != ISOLATION}
    values = ", ".join(f"{name} {error:.2g}" for name, error in measured.items())
    log.info("probes of the model, |difference| / |row|: %s", values)


def check_isolation(capture: Capture) -> None:
    """Run two short documents packed and alone. Raises: ConfigError if they see each other, naming the site."""
    _checked(capture, ISOLATION)


def check_sites(whole: WholeModel) -> None:
    """Check that the model computes with the rows of every site, and that it does so after the sites before it.

    Other rows are written at one site after the other: the logits must change, and no row of a site that runs earlier
    may. Rows that are written back as they were must change no bit.
    Raises: ConfigError naming the site.
    """
    texts_BS = _texts(whole)
    logits_BSV, rows = whole.run(texts_BS)
    names = list(whole.sites)
    for number, site in enumerate(names):
        with Splice(whole, site, lambda x_BSM: x_BSM):
            same = whole.run(texts_BS)
        with Splice(whole, site, _other_rows):
            changed = whole.run(texts_BS)
        earlier = {name: rows[name] for name in names[:number]}
        errors = _differences({"the logits": logits_BSV, **rows}, {"the logits": same.logits_BSV, **same.captured})
        errors |= {name: max(errors[name], error) for name, error in _differences(earlier, changed.captured).items()}
        allowed = allowed_difference("repeated", _dtype(whole), whole.device.type)
        if wrong := [name for name, error in errors.items() if not error <= allowed]:
            raise ConfigError(f"store.sites: {site}: writing at this site changes {wrong[0]}, which it must not")
        if torch.equal(changed.logits_BSV, logits_BSV):
            raise ConfigError(
                f"store.sites: {site}: the model computes its logits without these rows (other rows here change no "
                f"logit); name another site"
            )


def _other_rows(x_BSM: Tensor) -> Tensor:
    """Rows far from `x_BSM`, zeros included; no constant, which a LayerNorm would take out again."""
    return x_BSM.flip(-1) + torch.linspace(-1, 1, x_BSM.shape[-1], dtype=x_BSM.dtype, device=x_BSM.device)


def _checked(capture: Capture, name: str) -> float:
    """The largest of what a probe measures. Raises: ConfigError if it is more than allowed."""
    one = PROBES[name]
    allowed = allowed_difference(name, _dtype(capture), capture.device.type)
    errors = one.measure(capture)
    for site, error in errors.items():
        if not error <= allowed:
            raise ConfigError(
                f"{one.key}: {one.failure}: a probe's rows at {site} are off by {error:.2g} of their length "
                f"({allowed:g} allowed); {one.advice}"
            )
    return max(errors.values(), default=0.0)


def allowed_difference(name: str, dtype: str, device: str = "cpu") -> float:
    """Largest |difference| / |row| that a probe lets pass."""
    allowed = PROBES[name].allowed
    # On other devices sums of many threads are added in any order, which is no fault of the model.
    return (SAME_SHAPE if allowed is SAME_BITS and device != "cpu" else allowed)[dtype]


def assumptions(dtype: str, *, isolated: bool) -> dict[str, float]:
    """What a plan records: the probes that every process passes before it fills a unit, and what each lets pass."""
    return {name: allowed_difference(name, dtype) for name in PROBES if isolated or name != ISOLATION}


def _run(capture: Capture, token_ids_BS: Tensor, position_ids_BS: Tensor | None = None) -> dict[str, Tensor]:
    try:
        return capture.forward(token_ids_BS, position_ids_BS)
    except ConfigError:
        raise
    except Exception as error:  # a model's code and a device may raise anything
        raise ConfigError(
            f"model.path: a forward pass of a few tokens fails: {type(error).__name__}: {first_line(error)}; "
            f"try another model.dtype or model.device"
        ) from error


def _dtype(capture: Capture) -> str:
    return str(capture.model.dtype).removeprefix("torch.")


def _differences(one: dict[str, Tensor], other: dict[str, Tensor], *, median: bool = False) -> Measured:
    """By site, over all rows of two equally shaped runs: the largest |difference| / |row|, or the median's."""
    errors = {}
    for site, expected_BSM in one.items():
        expected, found = expected_BSM.cpu().double(), other[site].cpu().double()  # not every device has float64
        error_BS = (found - expected).norm(dim=-1) / expected.norm(dim=-1).clamp(min=1e-12)
        errors[site] = float(error_BS.median() if median else error_BS.max())
    return errors


def _rows(captured: dict[str, Tensor], texts: slice, positions: slice) -> dict[str, Tensor]:
    return {site: rows_BSM[texts, positions] for site, rows_BSM in captured.items()}


def _texts(capture: Capture) -> Tensor:
    """Token ids [4, 12], spread over the vocabulary, without those that the config names (padding, BOS, images)."""
    n_ids = _vocabulary(capture.model)
    named = set(_named_ids(capture.model.config.to_dict()))
    ids = [place for place in range(min(n_ids, 4096)) if place not in named] or list(range(n_ids))
    length = min(_LENGTH, getattr(capture.model.config.get_text_config(), "max_position_embeddings", None) or _LENGTH)
    places = torch.arange(_TEXTS * length) * 7919 % len(ids)  # a prime: neighbours are far apart
    return torch.tensor(ids)[places].reshape(_TEXTS, length)


def _vocabulary(model: CausalModel) -> int:
    return int(model.get_input_embeddings().weight.shape[0])


def _named_ids(config: Mapping[str, Json]) -> Iterator[int]:
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _named_ids(value)
        elif str(key).endswith(("token_id", "token_index", "token_ids")):
            yield from (item for item in (value if isinstance(value, list) else [value]) if type(item) is int)


def _padding_ids(capture: Capture) -> list[int]:
    """Ids that may follow a text in a batch: 0, which batches are filled with, and those the config names."""
    embeddings = capture.model.get_input_embeddings()
    ids = {0, getattr(embeddings, "padding_idx", None), *_named_ids(capture.model.config.to_dict())}
    return sorted(place for place in ids if place is not None and 0 <= place < _vocabulary(capture.model))[:_TEXTS]


def _repeated(capture: Capture) -> Measured:
    texts_BS = _texts(capture)
    return _differences(_run(capture, texts_BS), _run(capture, texts_BS))


def _finite(capture: Capture) -> Measured:
    captured = _run(capture, _texts(capture))
    # Of float16 the weights, too: one that does not fit may belong to a token that no probe holds.
    weights = capture.model.parameters() if capture.model.dtype == torch.float16 else ()
    if not all(bool(weight.isfinite().all()) for weight in weights):
        return dict.fromkeys(captured, float("inf"))
    return {site: 0.0 if bool(rows_BSM.isfinite().all()) else float("inf") for site, rows_BSM in captured.items()}


def _neighbours(capture: Capture) -> Measured:
    texts_BS = _texts(capture)
    others_BS = torch.cat([texts_BS[:1], texts_BS[1:].flip(1)])  # the first text among others, in a batch of one shape
    return _differences(*(_rows(_run(capture, ids), slice(1), slice(None)) for ids in (texts_BS, others_BS)))


def _batch_size(capture: Capture) -> Measured:
    texts_BS = _texts(capture)
    return _differences(_rows(_run(capture, texts_BS), slice(1), slice(None)), _run(capture, texts_BS[:1]), median=True)


def _later_tokens(capture: Capture) -> Measured:
    texts_BS = _texts(capture)
    half = texts_BS.shape[1] // 2
    changed_BS = torch.cat([texts_BS[:, :half], texts_BS[:, half:].flip(0)], dim=1)
    return _differences(*(_rows(_run(capture, ids), slice(None), slice(half)) for ids in (texts_BS, changed_BS)))


def _padding(capture: Capture) -> Measured:
    texts_BS, fillings = _texts(capture)[:1], _padding_ids(capture)
    half = texts_BS.shape[1] // 2
    padded_BS = texts_BS.repeat(len(fillings) + 1, 1)  # the first is followed by text
    for row, filling in enumerate(fillings, start=1):
        padded_BS[row, half:] = filling
    rows = _rows(_run(capture, padded_BS), slice(None), slice(half))
    return _differences({site: rows_BSM[:1].expand_as(rows_BSM) for site, rows_BSM in rows.items()}, rows)


def _positions(capture: Capture) -> Measured:
    if "position_ids" not in inspect.signature(capture.model.forward).parameters:
        return {}
    texts_BS = _texts(capture)
    fillings = _padding_ids(capture)
    texts_BS[:, 1 : 1 + len(fillings)] = torch.tensor(fillings)  # a model may leave out padding when it counts
    counted_BS = torch.arange(texts_BS.shape[1]).expand_as(texts_BS)
    return _differences(_run(capture, texts_BS), _run(capture, texts_BS, counted_BS))


def _packed(capture: Capture) -> Measured:
    texts_BS = _texts(capture)
    half = texts_BS.shape[1] // 2
    first_S, second_S = texts_BS[0, :half], texts_BS[1, :half]
    positions_BS = restarted_positions([0, half], 2 * half)[None]
    packed = _run(capture, torch.cat([first_S, second_S])[None], positions_BS)
    return _differences(_run(capture, second_S[None]), _rows(packed, slice(None), slice(half, None)))


PROBES: dict[str, Probe] = {
    "finite": Probe(
        "this model's weights or rows hold infinities or NaN",
        _finite,
        SAME_BITS,
        advice="set it to bfloat16 or float32",
        key="model.dtype",
    ),
    "repeated": Probe(
        "this model gives other rows each time it runs (dropout, or noise of its own)", _repeated, SAME_BITS
    ),
    "neighbours": Probe("a row of this model depends on the other texts in its batch", _neighbours),
    "batch size": Probe("a row of this model depends on how many texts are in its batch", _batch_size, SAME_ROW),
    "causal": Probe(
        "a row of this model depends on the tokens after it, so that it is no causal language model", _later_tokens
    ),
    "padding": Probe("a row of this model depends on the padding after its text", _padding),
    "positions": Probe(
        "this model does not count positions 0, 1, 2, ... from the first token of a text", _positions, SAME_ROW
    ),
    ISOLATION: Probe(
        "this model lets packed documents see each other",
        _packed,
        SAME_ROW,
        key="corpus.isolate_documents",
        advice="set it to false, or use mode: sequential",
    ),
}
"""In the order they run. A row is stored as a function of its text, so none may depend on the rest of its batch."""
