"""What one variant is: an architecture, an objective, and what it changes of the training they all share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, GetCoreSchemaHandler, ValidatorFunctionWrapHandler, field_serializer, model_validator
from pydantic_core import CoreSchema, core_schema

from strata_sae.pipeline.config.knobs import MatchSettings, knob_of, with_knob
from strata_sae.pipeline.config.sweep import Sweep
from strata_sae.pipeline.config.training import (
    ResolvedTraining,
    TrainingSettings,
    UpdateSettings,
    check_schedule,
    resolved,
)
from strata_sae.pipeline.objective import TERMS, check_terms
from strata_sae.pipeline.objective.term import TermSettings
from strata_sae.pipeline.saes import ARCHITECTURES
from strata_sae.pipeline.saes.base import SAESettings
from strata_sae.pipeline.settings import Settings, SiteName
from strata_sae.pipeline.strict_yaml import Yaml

MAX_FOLDER_NAME = 255
"""Longest name of a folder on common file systems (bytes)."""


@dataclass(frozen=True)
class Route:
    """The sites whose rows are read, side by side, and the sites whose rows are reconstructed."""

    reads: tuple[str, ...]
    writes: tuple[str, ...]

    @property
    def name(self) -> str:
        """`a` for an SAE, `a-to-b` for a transcoder, `a+b` for a crosscoder."""
        reads, writes = "+".join(self.reads), "+".join(self.writes)
        return reads if reads == writes else f"{reads}-to-{writes}"

    @property
    def sites(self) -> tuple[str, ...]:
        """Every site once, those that are read first."""
        return tuple(dict.fromkeys((*self.reads, *self.writes)))

    @property
    def is_sae(self) -> bool:
        """Whether one site alone is read and written."""
        return self.reads == self.writes and len(self.reads) == 1

    def d_in(self, widths: Mapping[str, int]) -> int:
        """Width of what is read."""
        return sum(widths[site] for site in self.reads)

    def d_out(self, widths: Mapping[str, int]) -> int:
        """Width of what is written."""
        return sum(widths[site] for site in self.writes)


class ResamplingSettings(Settings):
    """Dead latents are started again at rows with a large error. Source: Bricken et al. 2023."""

    every_steps: int = Field(default=25_000, gt=0)
    """Steps between resamplings (count). Default: the paper's."""
    until_step: int | None = Field(default=100_000, gt=0)
    """The last step after which it may happen. null: to the end. Default: the paper's."""
    dead_after_steps: int = Field(default=12_500, gt=0, le=2**31)
    """A latent that has not been active for this many steps is started again. Default: the paper's."""
    encoder_scale: float = Field(default=0.2, gt=0.0)
    """Norm of its row of W_enc, in multiples of the mean norm of alive latents' rows. Default: the paper's."""
    compat: Literal["dictionary_learning"] | None = None
    """`dictionary_learning`: rows are drawn in proportion to |error|, not |error|^4, and keep their length in W_enc."""

    @model_validator(mode="after")
    def _happens_at_least_once(self) -> "ResamplingSettings":
        if self.until_step is not None and self.until_step < self.every_steps:
            raise ValueError(f"until_step ({self.until_step}) must not lie before every_steps ({self.every_steps})")
        return self


class _OneArchitecture:
    """The settings of an architecture, which the key `architecture` names: a union made from ARCHITECTURES."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: type[SAESettings], handler: GetCoreSchemaHandler) -> CoreSchema:
        choices = {name: handler.generate_schema(sae.Settings) for name, sae in ARCHITECTURES.items()}
        return core_schema.tagged_union_schema(choices, "architecture", from_attributes=True)


class _SomeTerms:
    """The settings of terms by their names, made from TERMS. `null` stands for a term's defaults.

    The name is the key, so it is no tag inside the settings: a file says each name once, and none can stand twice.
    """

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: type[dict[str, TermSettings]], handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        settings = {name: handler.generate_schema(term.Settings) for name, term in TERMS.items()}
        fields = {
            name: core_schema.typed_dict_field(core_schema.nullable_schema(schema), required=False)
            for name, schema in settings.items()
        }
        terms = core_schema.typed_dict_schema(fields, extra_behavior="forbid")
        return core_schema.no_info_wrap_validator_function(cls._in_order, terms)

    @staticmethod
    def _in_order(value: Yaml, validate: ValidatorFunctionWrapHandler) -> dict[str, TermSettings]:
        """The terms in the order of the file, which is that of the sum; pydantic's is the registry's."""
        if isinstance(value, dict):
            value = {name: {} if settings is None else settings for name, settings in value.items()}
        terms: dict[str, TermSettings] = validate(value)
        return {name: terms[name] for name in value} if isinstance(value, dict) else terms


Terms = Annotated[dict[str, TermSettings], _SomeTerms]
"""Loss terms by name."""


class Variant(Settings):
    """One SAE idea: an architecture, an objective, and what it changes of `training`."""

    sae: Annotated[SAESettings, _OneArchitecture]
    """`architecture` and its settings; the architectures are those of pipeline/saes."""
    objective: Terms = Field(min_length=1)
    """Loss terms by name; the terms are those of pipeline/objective."""
    training: UpdateSettings = UpdateSettings()
    """What this variant changes of the training section; a key that it does not name has that section's value."""
    resampling: ResamplingSettings | None = None
    """Dead latents started again. null: never."""
    seed: int | None = Field(default=None, ge=0)
    """This variant's seed; null: the config's."""
    reads: list[SiteName] | None = Field(default=None, min_length=1)
    """Sites that it encodes side by side: a transcoder or crosscoder. null: an SAE at each of `training.sites`."""
    writes: list[SiteName] | None = Field(default=None, min_length=1)
    """Sites that it reconstructs. null: those of `reads`."""

    match: MatchSettings | None = None
    """Trained again with other values of its knob (a weight, a target, k) until L0 fits. null: trained as it stands."""
    kind: str | None = None
    """Variants of one kind are alternatives: the report names the one nearest `evaluation.target_l0`. A sweep gives its
    variants the name it stood under. null: of no kind."""
    sweep: Sweep = Field(default=None, exclude=True)
    """A grid over keys of this variant; `load` writes it out as variants (config/sweep.py)."""

    @model_validator(mode="after")
    def _parts_fit_together(self) -> "Variant":
        check_terms(self.objective, self.sae)
        if self.resampling and not ARCHITECTURES[self.sae.architecture].learns:
            raise ValueError(f"resampling: {self.sae.architecture!r} has no latents that are trained; remove it")
        if self.route is not None:
            check_route(self.route, self.sae)
        for name, term in self.objective.items():
            if getattr(term, "per_site", False) and (self.route is None or len(self.route.writes) == 1):
                raise ValueError(f"objective.{name}.per_site: needs several sites that are written; set it to false")
        if self.match is not None:
            knob = knob_of(self.match, self.sae, self.objective)
            for value in (knob.start, *knob.first.values()):
                self.with_knob(value)
        return self

    @property
    def route(self) -> Route | None:
        """The sites read and written; None: an SAE. Raises: ValueError if they make no route."""
        return route_of(self.reads, self.writes)

    @field_serializer("training")
    def _only_what_is_changed(self, training: UpdateSettings) -> dict[str, Yaml]:
        return training.model_dump(mode="json", exclude_unset=True)

    def with_knob(self, value: float) -> "Variant":
        """The variant that is trained where `match` searches: its knob at a value, and nothing left to search."""
        assert self.match is not None
        name = knob_of(self.match, self.sae, self.objective).name
        sae, objective = with_knob(name, value, self.sae, self.objective)
        return self.model_copy(update={"sae": sae, "objective": objective, "match": None})

    def merged(self, training: TrainingSettings) -> TrainingSettings:
        """The training section with what this variant changes of it."""
        return training.model_copy(
            update={name: getattr(self.training, name) for name in self.training.model_fields_set}
        )

    def resolved(self, training: TrainingSettings, n_rows: int | None = None) -> ResolvedTraining:
        """The same with every `auto` and `null` as a number. n_rows: rows of an epoch, which `epochs` counts.

        Raises: ValueError if the numbers contradict each other.
        """
        # dictionary_learning's TopK family: with four times the latents, half the rate.
        settings = resolved(self.merged(training), 2e-4 / (self.sae.d_sae / 2**14) ** 0.5, n_rows)
        check_schedule(settings)
        if settings.input_scale == "per_document" and self.route is not None:
            raise ValueError(
                "input_scale: per_document is of one site, but this variant has reads; use statistics or none"
            )
        if self.resampling and self.resampling.every_steps > settings.n_steps:
            raise ValueError(
                f"resampling.every_steps ({self.resampling.every_steps}) exceeds n_steps ({settings.n_steps}), "
                "so it never happens; lower it, or remove resampling"
            )
        return settings


def route_of(reads: Sequence[str] | None, writes: Sequence[str] | None) -> Route | None:
    """The route of a variant that names one, else None. Raises: ValueError for sites that make no route."""
    if reads is None:
        if writes is not None:
            raise ValueError(
                "writes: needs reads beside it, the sites whose rows are encoded; add it, or remove writes"
            )
        return None
    for key, sites in (("reads", reads), ("writes", writes or [])):
        if len(set(sites)) < len(sites):
            raise ValueError(f"{key}: a site stands twice in {list(sites)}; name each once")
    route = Route(tuple(reads), tuple(reads if writes is None else writes))
    if route.is_sae:
        raise ValueError(
            f"reads: {route.reads[0]!r} alone, which it writes too, is an ordinary SAE; remove reads and writes and "
            "set training.sites, or add the site to write, or a second one to read"
        )
    return route


def check_route(route: Route, sae: SAESettings) -> None:
    """Raises: ValueError naming every setting that needs the sites read and the sites written to be the same."""
    wrong = []
    if route.reads != route.writes:
        if sae.pre_bias:
            wrong.append("sae.pre_bias: false (b_dec is a centre of what is written)")
        if getattr(sae, "tied", False):
            wrong.append("sae.tied: false")
        elif sae.initial.encoder == "transpose":
            wrong.append("sae.initial.encoder: independent (W_enc cannot start as W_dec)")
    if sae.architecture == "identity":
        wrong.append("another sae.architecture (the identity is that of one site)")
    if len(route.writes) > 1 and getattr(sae, "rank_by", None) == "contribution":
        wrong.append("sae.rank_by: pre_activation (in raw units sites weigh otherwise in a decoder row's norm)")
    if wrong:
        raise ValueError(f"reads and writes ({route.name}) need {' and '.join(wrong)}")


def check_sites(name: str, route: Route, stored: Sequence[str]) -> None:
    """Raises: ValueError if the store lacks a site, or if `<variant>@<route>` is too long for a folder's name."""
    for key, sites in (("reads", route.reads), ("writes", route.writes)):
        for site in sites:
            if site not in stored:
                raise ValueError(
                    f"variants.{name}.{key}: {site!r} is not among store.sites {list(stored)}; add it there"
                )
    if route.name in stored:
        raise ValueError(f"variants.{name}: {route.name} is the name of a site, too; write it as an SAE of that site")
    if len(folder := f"{name}@{route.name}") > MAX_FOLDER_NAME:
        raise ValueError(
            f"variants.{name}: its folder {folder} would have {len(folder)} characters, at most {MAX_FOLDER_NAME} make "
            "a name; shorten the variant's name, or read fewer sites"
        )
