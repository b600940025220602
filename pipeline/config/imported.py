"""A variant that another library trained: where its files lie, and whose rows it reads."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import (
    AfterValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    WithJsonSchema,
    field_serializer,
    model_validator,
)

from strata_sae.pipeline.config.sweep import Sweep
from strata_sae.pipeline.config.training import UpdateSettings
from strata_sae.pipeline.config.variants import Route, Terms, Variant
from strata_sae.pipeline.errors import nearest
from strata_sae.pipeline.formats import FORMATS
from strata_sae.pipeline.settings import Settings, SiteName
from strata_sae.pipeline.strict_yaml import Yaml


def _a_format(name: str) -> str:
    if name not in FORMATS:
        raise ValueError(f"{name!r} is unknown; known: {', '.join(FORMATS)}{nearest(name, FORMATS)}")
    return name


FormatName = Annotated[str, AfterValidator(_a_format), WithJsonSchema({"type": "string", "enum": list(FORMATS)})]
"""A name in FORMATS."""


class SourceSettings(Settings):
    """Files of an SAE that another library wrote."""

    format: FormatName | None = None
    """The library or release that wrote them (pipeline/formats). null: guessed, where they say it for certain."""
    path: str = Field(min_length=1)
    """A folder, a file of one, or `hf://owner/repo[@revision]/folder`."""


class ImportedVariant(Settings):
    """A published SAE, which takes part in the run as it is: it is scored, compared and shown. Nothing trains it, but
    `train --extend STEPS --only NAME` goes on from its weights where there is an objective.
    """

    model_config = ConfigDict(json_schema_extra={"required": ["from"]})

    from_: SourceSettings = Field(alias="from")
    """Where it lies, and in whose format."""
    site: SiteName | None = None
    """The stored site whose rows it reads. null: the one that its files name."""
    writes: SiteName | None = None
    """The stored site whose rows it writes: a transcoder's. null: the one that its files name, else `site`."""
    objective: Terms | None = Field(default=None, min_length=1)
    """Loss terms by name, for `train --extend` alone. null: it is never trained."""
    training: UpdateSettings = UpdateSettings()
    """What that training changes of the training section."""
    kind: str | None = None
    """As every variant's: those of one kind are alternatives, of which the report names the one nearest
    `evaluation.target_l0`."""
    sweep: Sweep = Field(default=None, exclude=True)
    """A grid over keys of this variant, such as from.path; `load` writes it out as variants."""

    @model_validator(mode="before")
    @classmethod
    def _is_not_trained(cls, data: Yaml) -> Yaml:
        own = {field.alias or name for name, field in cls.model_fields.items()}
        if isinstance(data, Mapping) and (wrong := [key for key in data if key in Variant.model_fields.keys() - own]):
            allowed = ", ".join(sorted(own - {"from", "sweep"}))
            raise ValueError(
                f"from names an SAE that is imported as it is, so {', '.join(wrong)} cannot stand beside it; allowed "
                f"there: {allowed}; remove {'them' if len(wrong) > 1 else 'it'}, or from to train a variant"
            )
        return data

    @field_serializer("training")
    def _only_what_is_changed(self, training: UpdateSettings) -> dict[str, Yaml]:
        return training.model_dump(mode="json", exclude_unset=True)

    def sites(self) -> dict[str, str]:
        """Those that the config names, by key: all that is known before the files are read."""
        return {key: site for key, site in (("site", self.site), ("writes", self.writes)) if site is not None}

    def lies_on(self, route: Route) -> bool:
        """Whether what was imported for a route is this variant, and not the same SAE at another site."""
        return self.site in (None, *route.reads) and self.writes in (None, *route.writes)

    def route_of(self, site: str | None, writes: str | None) -> Route | None:
        """Whose rows it reads and writes; None where nobody names the site.

        site, writes: what the files say.
        """
        reads = self.site or site
        return None if reads is None else Route((reads,), (self.writes or writes or reads,))


def _class_of(value: Yaml | Variant | ImportedVariant) -> str:
    imported = "from" in value if isinstance(value, Mapping) else isinstance(value, ImportedVariant)
    return ImportedVariant.__name__ if imported else Variant.__name__


# The tags are the names of the classes, as those of every union are: errors_text tells branches by them.
AnyVariant = Annotated[
    Annotated[Variant, Tag(Variant.__name__)] | Annotated[ImportedVariant, Tag(ImportedVariant.__name__)],
    Discriminator(_class_of),
]
"""What stands under a name in `variants`: the key `from` makes it an imported one."""
