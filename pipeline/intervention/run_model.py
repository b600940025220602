"""The model of a run's store with the run's SAEs beside it: prompts, edits, continuations."""

from collections.abc import Sequence

from strata_sae.pipeline.config.run import TrainConfig
from strata_sae.pipeline.queries.asked_model import Edit, Prompted
from strata_sae.pipeline.runs.folders import RunFolder


class RunModel:
    """The model of one run; it is loaded at the first question, and then stays in memory with the SAEs."""

    def __init__(self, config: TrainConfig, run: RunFolder) -> None:
        self._config, self._run = config, run

    def load(self) -> None:
        """As `AskedModel.load`."""
        raise NotImplementedError

    def prompt(self, text: str, edits: Sequence[Edit] = (), n_following: int = 10) -> Prompted:
        """As `AskedModel.prompt`."""
        raise NotImplementedError

    def continuations(self, text: str, ways: Sequence[Sequence[Edit]], n_tokens: int) -> list[str]:
        """As `AskedModel.continuations`."""
        raise NotImplementedError
