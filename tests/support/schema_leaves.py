"""Every place of a config where a plain value may stand, from the schema itself: architectures, terms and all."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from strata_sae.pipeline.config.run import RunConfig
from strata_sae.pipeline.objective import TERMS
from strata_sae.pipeline.objective.term import TermSettings
from strata_sae.pipeline.saes import ARCHITECTURES
from strata_sae.pipeline.saes.base import SAESettings

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Leaf:
    """`path` leads there in a config whose variant is called v; `types` may stand there; `settings` hold it."""

    path: Path
    types: tuple[Any, ...]
    settings: type[BaseModel]
    architecture: str | None = None
    """That the variant must have for the place to be there."""

    @property
    def key(self) -> str:
        return ".".join(map(str, self.path))

    @property
    def description(self) -> str:
        """What the config says of it."""
        names = [step for step in self.path if isinstance(step, str)]
        return str(self.settings.model_fields[names[-1]].description)


def leaves(*wanted: type) -> list[Leaf]:
    """The places where one of the wanted types may stand, each once."""
    some = (leaf for leaf in _of(RunConfig, ()) if set(leaf.types) & set(wanted))
    return list({(leaf.path, leaf.settings, leaf.architecture): leaf for leaf in some}.values())


def options(annotation: Any) -> list[Any]:
    """The members of a union, without `Annotated`; one member for any other annotation."""
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) not in (Union, UnionType):
        return [annotation]
    return [inner for option in get_args(annotation) for inner in options(option)]


def _of(settings: type[BaseModel], prefix: Path) -> Iterator[Leaf]:
    for name, field in settings.model_fields.items():
        yield from _at((*prefix, name), field.annotation, settings)


def _at(path: Path, annotation: Any, settings: type[BaseModel]) -> Iterator[Leaf]:
    plain = []
    for option in options(annotation):
        origin = get_origin(option)
        if isinstance(option, type) and issubclass(option, SAESettings):
            for name, architecture in ARCHITECTURES.items():
                yield from (replace(leaf, architecture=name) for leaf in _of(architecture.Settings, path))
        elif isinstance(option, type) and issubclass(option, BaseModel):
            yield from _of(option, path)
        elif origin is list or origin is tuple:
            yield from _at((*path, 0), get_args(option)[0], settings)
        elif origin is dict:
            inner = get_args(option)[1]
            while get_origin(inner) is Annotated:
                inner = get_args(inner)[0]
            if inner is TermSettings:
                for term, kind in TERMS.items():
                    yield from _of(kind.Settings, (*path, term))
            else:
                yield from _at((*path, "v"), inner, settings)
        else:
            plain.append(option)
    if plain:
        yield Leaf(path, tuple(plain), settings)
