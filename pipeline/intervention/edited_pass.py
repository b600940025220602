"""Forward passes in which latents of several SAEs are edited, each sequence of the batch in its own way."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.intervention.edits import latent_values, with_latents
from strata_sae.pipeline.intervention.opened_model import OpenedModel
from strata_sae.pipeline.kernels.codes import Codes
from strata_sae.pipeline.language_model.splice import Splice
from strata_sae.pipeline.queries.asked_model import LARGEST_AMOUNT, Edit
from strata_sae.pipeline.runs.trained import TrainedSAE


class _Planned(NamedTuple):
    """The edits of one SAE: of B sequences and the L latents that one of them edits."""

    sae: TrainedSAE
    reads: tuple[str, ...]
    writes: str
    latents_L: Tensor
    is_set_BL: Tensor
    """Whether the latent's code is set (ablate, clamp)."""
    amount_BL: Tensor
    """What it is set to, or what is added to it; 0 where a sequence does not edit it."""


def check_edits(opened: OpenedModel, edits: Sequence[Edit]) -> None:
    """Raises: ConfigError for an edit that cannot be made."""
    seen: set[tuple[str, int]] = set()
    for edit in edits:
        opened.check_latent(edit.sae, edit.latent, edit.kind)
        route = opened.routes[edit.sae]
        where = f"{edit.kind}: {edit.sae}"
        if len(route.writes) > 1:
            raise ConfigError(
                f"{where}: writes {len(route.writes)} sites at once, and a forward pass goes on from one; its codes "
                "can only be read"
            )
        if not abs(edit.amount) <= LARGEST_AMOUNT:
            raise ConfigError(
                f"{where}: latent {edit.latent}: {edit.amount} is no amount; the largest is {LARGEST_AMOUNT:,.0f}"
            )
        if (edit.sae, edit.latent) in seen:
            raise ConfigError(f"{where}: latent {edit.latent} is edited twice; name it once")
        seen.add((edit.sae, edit.latent))


class EditedPass:
    """Edits at the sites of a model, while the `with` block of `on` runs; what SAEs miss of a row is kept.

    A row becomes x + sum over latents of (new code - code) * decoder row. SAEs at one site act in the order of their
    names: each reads what the one before has left. A row that no edit changes keeps its bits.
    """

    def __init__(self, opened: OpenedModel, ways: Sequence[Sequence[Edit]]) -> None:
        """ways: the edits of each of B sequences. Raises: ConfigError for an edit that cannot be made."""
        for way in ways:
            check_edits(opened, way)
        self._opened = opened
        named = {edit.sae for way in ways for edit in way}
        self._planned = {name: _planned(opened, name, ways) for name in opened.saes if name in named}
        places = list(opened.whole.sites)
        self._sites = sorted(
            {at for one in self._planned.values() for at in (*one.reads, one.writes)}, key=places.index
        )
        for name, one in self._planned.items():
            if places.index(one.writes) < max(map(places.index, one.reads)):
                raise ConfigError(f"{name}: writes {one.writes}, which runs before {one.reads[-1]}, which it reads")
        written = [places.index(one.writes) for one in self._planned.values()]
        self.changed_sites = places[min(written) :] if written else []
        """Sites whose rows may be others than without the edits, in the order of execution."""
        self._is_special_BS = torch.empty(0, 0, dtype=torch.bool)
        self.rows: dict[str, Tensor] = {}
        """Of the pass that ran last: what the model went on with at the sites that are read or written."""
        self.edited: dict[str, Codes] = {}
        """Of the pass that ran last: the codes with the edits, of the rows of all sequences one after another."""

    @contextmanager
    def on(self) -> Iterator[None]:
        """The block in which forward passes of the model are edited."""
        with ExitStack() as stack:
            for site in self._sites:
                stack.enter_context(Splice(self._opened.whole, site, partial(self.write, site)))
            yield

    def begin(self, token_ids_BS: Tensor) -> None:
        """Say which tokens the next pass is over: special ones are not edited."""
        flat = self._opened.words.are_special(token_ids_BS.flatten().tolist())
        self._is_special_BS = torch.tensor(flat, device=self._opened.whole.device).reshape(token_ids_BS.shape)
        self.rows, self.edited = {}, {}

    def write(self, site: str, y_BSM: Tensor) -> Tensor:
        """What the model goes on with at a site, of the rows that it computed there."""
        for name, one in self._planned.items():
            if one.writes != site:
                continue
            x_BSM = torch.cat([y_BSM if at == site else self.rows[at] for at in one.reads], dim=-1)
            self.edited[name], delta_BSL = _change(one, x_BSM, self._is_special_BS)
            y_BSM = _added(y_BSM, one, delta_BSL)
        self.rows[site] = y_BSM.clone()  # a model may go on to add into this very tensor
        return y_BSM


def _change(one: _Planned, x_BSM: Tensor, is_special_BS: Tensor) -> tuple[Codes, Tensor]:
    """The codes of rows with the edits, and by how much the edits change each of the L latents: [B, S, L]."""
    B, S, M = x_BSM.shape
    codes = one.sae.encode(x_BSM.reshape(B * S, M).to(torch.float32, copy=True))
    found_BSL = latent_values(codes, one.latents_L).reshape(B, S, -1)
    is_set_BSL, amount_BSL = one.is_set_BL[:, None], one.amount_BL[:, None]
    edited_BSL = torch.where(is_set_BSL, amount_BSL, found_BSL + amount_BSL)
    # Of an added amount the amount itself: (code + amount) - code would round it.
    delta_BSL = torch.where(is_set_BSL, amount_BSL - found_BSL, amount_BSL)
    edited_BSL = torch.where(is_special_BS[..., None], found_BSL, edited_BSL)
    delta_BSL = delta_BSL.expand(B, S, -1).masked_fill(is_special_BS[..., None], 0.0)
    return with_latents(codes, one.latents_L, edited_BSL.flatten(0, 1)), delta_BSL


def _planned(opened: OpenedModel, name: str, ways: Sequence[Sequence[Edit]]) -> _Planned:
    sae, route = opened.saes[name], opened.routes[name]
    own = [[edit for edit in way if edit.sae == name] for way in ways]
    latents = sorted({edit.latent for way in own for edit in way})
    is_set_BL = torch.zeros(len(ways), len(latents), dtype=torch.bool)
    amount_BL = torch.zeros(len(ways), len(latents))
    for number, way in enumerate(own):
        for edit in way:
            place = latents.index(edit.latent)
            is_set_BL[number, place] = edit.kind != "steer"
            amount_BL[number, place] = 0.0 if edit.kind == "ablate" else edit.amount
    device = opened.whole.device
    latents_L = torch.tensor(latents, device=device)
    return _Planned(sae, route.reads, route.writes[0], latents_L, is_set_BL.to(device), amount_BL.to(device))


def _added(y_BSM: Tensor, one: _Planned, delta_BSL: Tensor) -> Tensor:
    """Rows with what the edits change of the reconstruction."""
    changed_BSM = (y_BSM.float() + delta_BSL @ one.sae.sae.W_dec[one.latents_L]).to(y_BSM.dtype)
    return torch.where((delta_BSL != 0).any(-1, keepdim=True), changed_BSM, y_BSM)
