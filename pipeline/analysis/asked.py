"""What was asked: the run and SAEs that addresses name, and the options, checked."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.queries.asked_model import AskedModel
from strata_sae.pipeline.queries.opened import CodedRun, CodedSAE, open_coded
from strata_sae.pipeline.queries.populations import POPULATIONS, Population
from strata_sae.pipeline.runs.folders import RunFolder


class Options(NamedTuple):
    """The options of the command as they were given; None: left out."""

    other: str | None = None
    latent: int | None = None
    n: int | None = None
    least: float | None = None
    most: int | None = None
    rows: str | None = None
    text: str | None = None


class Asked(NamedTuple):
    """A question with all that it is asked of."""

    run: CodedRun
    given_sae: CodedSAE | None
    given_other: CodedSAE | None
    given_latent: int | None
    n: int
    """Rows of the table, at most."""
    least: float
    most: int | None
    population: Population
    text: str
    given_model: AskedModel | None = None

    @property
    def model(self) -> AskedModel:
        """The language model, for a question that needs it."""
        assert self.given_model is not None
        return self.given_model

    @property
    def sae(self) -> CodedSAE:
        """The SAE that was named."""
        assert self.given_sae is not None
        return self.given_sae

    @property
    def other(self) -> CodedSAE:
        """The second one."""
        assert self.given_other is not None
        return self.given_other

    @property
    def latent(self) -> int:
        """Of `sae`."""
        assert self.given_latent is not None
        return self.given_latent

    @property
    def n_rows(self) -> int:
        """Rows of the population (count)."""
        return int(self.sae.kept(self.population).sum())


def population_of(name: str | None) -> Population:
    """Raises: ConfigError if it is none."""
    if name is None:
        return "as_trained"
    for population in POPULATIONS:
        if population == name:
            return population
    raise ConfigError(f"--rows: {name!a} is not known; allowed: {', '.join(POPULATIONS)}")


def run_and_name(address: Path) -> tuple[Path, str | None]:
    """The run's folder and the name of an SAE in it, of RUN, RUN/VARIANT or RUN/variants/VARIANT; None: a run alone.

    Raises: ConfigError if there is no such run.
    """
    if RunFolder(address).config.is_file():
        return address, None
    run = address.parent.parent if address.parent.name == "variants" else address.parent
    if RunFolder(run).config.is_file():
        return run, address.name
    raise ConfigError(f"RUN: {address} is no run and no SAE of one; give the folder of a run, which holds config.yaml")


def sae_of(run: CodedRun, name: str, where: str) -> CodedSAE:
    """An SAE by `<variant>@<site>`, or by `<variant>` if it is at one site. where: the argument, for the error.

    Raises: ConfigError naming the SAEs there are; or how its codes are made.
    """
    found = [sae for sae in run.saes.values() if name in (sae.name, sae.name.partition("@")[0])]
    if len(found) == 1:
        return found[0]
    if found:
        raise ConfigError(f"{where}: {name} is at several sites; name one: {', '.join(sae.name for sae in found)}")
    uncoded = [folder.name for folder in run.folder.trained() if name in (folder.name, folder.variant)]
    if uncoded:
        raise ConfigError(f"{where}: {uncoded[0]} has no codes yet; make them with: strata codes {run.folder.path}")
    near = difflib.get_close_matches(name, run.saes, 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise ConfigError(f"{where}: {name!a} is no SAE of {run.folder.path}{hint} There are: {', '.join(run.saes)}")


def opened_at(address: Path, overrides: Sequence[str]) -> tuple[CodedRun, CodedSAE | None]:
    """The run at an address, and the SAE that it names. Raises: ConfigError, StoreError, CheckpointError."""
    path, name = run_and_name(address)
    run = open_coded(path, overrides)
    return run, None if name is None else sae_of(run, name, "RUN/VARIANT")


def other_of(run: CodedRun, given: str, overrides: Sequence[str]) -> CodedSAE:
    """The SAE that --other names: by its name in the same run, or by an address. Raises: ConfigError."""
    if "/" not in given:
        return sae_of(run, given, "--other")
    path, name = run_and_name(Path(given))
    if name is None:
        raise ConfigError(
            f"--other: {given} is a whole run; name one of its SAEs, as in {given}/{next(iter(run.saes))}"
        )
    if path.resolve() == run.folder.path.resolve():
        return sae_of(run, name, "--other")
    return sae_of(open_coded(path, overrides), name, "--other")
