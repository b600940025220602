"""Explanations that others published, brought from files that the user has into an SAE's folder (row 64)."""

from collections.abc import Iterable
from pathlib import Path

from pydantic import JsonValue

from strata_sae.pipeline.errors import CheckpointError, ConfigError
from strata_sae.pipeline.interpretation.neuronpedia_files import Entry, entries, file_hash, files_of
from strata_sae.pipeline.pages.text import visible
from strata_sae.pipeline.runs.chain import read_config, read_training
from strata_sae.pipeline.runs.folders import VariantFolder
from strata_sae.pipeline.runs.interpretation_records import MOST_CHARACTERS, PublishedExplanation, PublishedRecord
from strata_sae.pipeline.runs.record_files import write_record
from strata_sae.pipeline.runs.records import SAERecord

KEPT_OF_A_LATENT = 4
"""Different explanations of one latent that are kept, in the order of the files (count)."""
MAX_CHARACTERS = 2**27
"""Of all explanations together; those of a million latents have some 60 million."""
_NAMED_SOURCES = 5


def keep_published(folder: VariantFolder, given: Path) -> list[str]:
    """Write published.json of an SAE from files of Neuronpedia's, whole or not at all.

    given: a file, or the folder that holds the batches.
    Returns: lines for people: what was kept, and what was not.
    Raises: ConfigError for files that cannot be read, or are of another SAE; CheckpointError if the SAE's are damaged.
    """
    config = read_config(folder).record
    if not folder.training.is_file():
        raise CheckpointError(f"{folder.path}: its training has not ended; run train, which goes on")
    training = read_training(folder, config).record
    collected, files = _Collected(), dict[str, str]()
    for path in files_of(given):
        collected.take(entries(path, config.sae.d_sae), path)
        files[path.name] = file_hash(path)
    source = _source(collected.sources, config, given)
    if not collected.kept:
        raise ConfigError(f"--published: {given}: holds no explanation")
    record = PublishedRecord(
        sae=config.fingerprint,
        weights_sha256=training.sha256.weights,
        source="neuronpedia",
        files=files,
        n_latents=config.sae.d_sae,
        explanations=[
            PublishedExplanation(latent=latent, text=text, by=by)
            for latent, found in sorted(collected.kept.items())
            for text, by in found
        ],
    )
    write_record(folder.published, record)
    return [_kept_line(folder, record, source), *collected.notes(), *_unsaid(config, source)]


class _Collected:
    """The explanations of all files, and what was passed over."""

    def __init__(self) -> None:
        self.kept: dict[int, list[tuple[str, str]]] = {}
        self.sources: set[str] = set()
        self._n_characters = self._n_empty = self._n_cut = self._n_over = 0

    def take(self, found: Iterable[Entry], path: Path) -> None:
        """Raises: ConfigError if there is more text than a record may have, or it is of many SAEs."""
        for entry in found:
            if entry.source and len(self.sources) <= _NAMED_SOURCES:
                self.sources.add(entry.source)
            if not entry.text:
                self._n_empty += 1
                continue
            of_latent = self.kept.setdefault(entry.latent, [])
            if (entry.text, entry.by) in of_latent:
                continue
            if len(of_latent) == KEPT_OF_A_LATENT:
                self._n_over += 1
                continue
            of_latent.append((entry.text, entry.by))
            self._n_cut += entry.is_cut
            self._n_characters += len(entry.text) + len(entry.by)
            if self._n_characters > MAX_CHARACTERS:
                raise ConfigError(f"--published: {path}: more than {MAX_CHARACTERS:,} characters of explanations")

    def notes(self) -> list[str]:
        """A line for each kind of thing that was not kept as it is."""
        said = {
            f"{self._n_empty:,} entries have no text": self._n_empty,
            f"{self._n_cut:,} explanations are cut after {MOST_CHARACTERS:,} characters": self._n_cut,
            f"{self._n_over:,} explanations are left out: {KEPT_OF_A_LATENT} of a latent are kept": self._n_over,
        }
        return [line for line, n in said.items() if n]


def _kept_line(folder: VariantFolder, record: PublishedRecord, source: str) -> str:
    n_latents = len({one.latent for one in record.explanations})
    of = f" of {visible(source)}" if source else ""
    return (
        f"{folder.name}: {len(record.explanations):,} published explanations{of} for {n_latents:,} of "
        f"{record.n_latents:,} latents"
    )


def _source(sources: set[str], config: SAERecord, given: Path) -> str:
    """The SAE that the files are of, by Neuronpedia's name; empty: they do not say.

    Raises: ConfigError if they are of several, or if this SAE's own files name another.
    """
    if len(sources) > 1:
        named = ", ".join(visible(source) for source in sorted(sources)[:_NAMED_SOURCES])
        raise ConfigError(f"--published: {given}: holds explanations of several SAEs ({named}); give those of one")
    source = next(iter(sources), "")
    own = _own_name(config)
    if own and source and own != source:
        raise ConfigError(
            f"--published: {given}: is of {visible(source)}, but {config.name} says that Neuronpedia calls it "
            f"{visible(own)}; give the files of that one"
        )
    return source


def _unsaid(config: SAERecord, source: str) -> list[str]:
    """A warning where no name says that the files are of this SAE: they hold no hash of the weights explained."""
    if source and source == _own_name(config):
        return []
    return ["nothing in these files or in the SAE's own says that they belong together: that rests on you"]


def _own_name(config: SAERecord) -> str:
    """`<model>/<layer>-<set>` as the files that an SAE was imported from say; empty: they do not."""
    facts: dict[str, JsonValue] = config.imported.facts if config.imported else {}
    metadata = facts.get("metadata")
    places = [facts, metadata] if isinstance(metadata, dict) else [facts]
    found = [name for place in places if isinstance(name := place.get("neuronpedia_id"), str)]
    return found[0].strip("/") if found else ""
