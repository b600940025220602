"""What is known of the forward pass that runs in somebody else's model: its tokens, and how often each site ran."""

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.language_model.capture import Passed
from strata_sae.pipeline.language_model.sites import Site
from strata_sae.pipeline.language_model.transformers_library import CausalModel


class ForwardPass:
    """Hooks at a model's entry and at its embeddings, so that wrappers and the model below its head are seen, too."""

    def __init__(self, model: CausalModel, sites: Sequence[Site]) -> None:
        self._model, self._sites = model, sites
        self._n_ran: Counter[str] = Counter()
        self.token_ids_BS: Tensor | None = None
        """None where the model was given embeddings."""
        self._shape_BS: Sequence[int] | None = None

    def hook(self) -> list[RemovableHandle]:
        """The hooks, to be removed by the caller."""
        handles = [
            self._model.register_forward_pre_hook(self._begin, with_kwargs=True),
            self._model.register_forward_hook(self._end),
        ]
        try:
            embeddings: nn.Module | None = self._model.get_input_embeddings()
        except (AttributeError, NotImplementedError):
            embeddings = None
        if isinstance(embeddings, nn.Module):
            handles.append(embeddings.register_forward_pre_hook(self._embed, with_kwargs=True))
        return handles

    def ran(self, site: Site) -> None:
        """A site ran."""
        self._n_ran[site.name] += 1

    def shape_of(self, value: Tensor, site: Site) -> Sequence[int]:
        """(B, S) of the pass in which a site gave `value`. Raises: ConfigError where it cannot be known."""
        if self._shape_BS is not None:
            return self._shape_BS
        if value.ndim != 3:
            raise ConfigError(
                f"{site.named_in}: {site.name!r}: gives {list(value.shape)}, which does not say how many sequences "
                "run; call the model with token ids"
            )
        return value.shape[:2]

    def _begin(self, module: nn.Module, args: tuple[Passed, ...], kwargs: dict[str, Passed]) -> None:
        self._n_ran.clear()
        self.token_ids_BS = self._shape_BS = None
        embedded = kwargs.get("inputs_embeds")
        if isinstance(embedded, Tensor):
            self._shape_BS = embedded.shape[:2]
        self._embed(module, (kwargs.get("input_ids", args[0] if args else None),), {})

    def _embed(self, module: nn.Module, args: tuple[Passed, ...], kwargs: dict[str, Passed]) -> None:
        given = args[0] if args else next(iter(kwargs.values()), None)
        if isinstance(given, Tensor) and given.ndim == 2 and not torch.is_floating_point(given):
            self.token_ids_BS, self._shape_BS = given, given.shape

    def _end(self, module: nn.Module, args: tuple[Passed, ...], output: Passed) -> None:
        """Raises: ConfigError for a site that did not run once: the model's result would not be what was asked for."""
        for site in self._sites:
            if (n := self._n_ran[site.name]) != 1:
                raise ConfigError(
                    f"{site.named_in}: {site.name!r}: {site.module_path} ran {n} times in this forward pass; name a "
                    "module that runs once"
                )
