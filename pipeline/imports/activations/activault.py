"""activault's files: a folder a hook, `metadata.json` and `<uuid>--<n>_<job>.saved.pt`, beside `cfg.json` of the run.

Source: activault's pipeline/vault/hook_uploader.py and pipeline/generate.py. A file holds `states` [B, S, M] and
`input_ids` [B, S] of some batches; files of one uuid are of the same batches at every hook. Special tokens were dropped
before, so a position is the place among what is left. Its deepest hook reads the output of a model that was cut behind
that layer, which the final norm has gone over.
"""

import torch

from strata_sae.pipeline.errors import ConfigError, shown
from strata_sae.pipeline.imports.activations.activations import Activations, Theirs, same
from strata_sae.pipeline.imports.activations.pieces import Joined, in_sequences
from strata_sae.pipeline.imports.activations.source_folder import SourceFolder
from strata_sae.pipeline.imports.activations.torch_files import TorchRows, read_tensors, rows_encoding
from strata_sae.stores.files.canonical import Json

_FILES = "*.saved.pt"
_STATES, _IDS = "states", "input_ids"
_FACTS = ("batch_size", "sequence_length", "batches_per_file", "dtype")


def is_one(folder: SourceFolder) -> bool:
    """Whether it, or a folder in it, has files that are named as activault names them."""
    return any(folder.names(_FILES, below=hook) for hook in _hooks(folder))


def read(folder: SourceFolder) -> Activations:
    """A site for each hook, in the order of the uuids. Raises: ConfigError."""
    hooks = {hook: _groups(folder, hook) for hook in _hooks(folder) if folder.names(_FILES, below=hook)}
    if not hooks:
        raise ConfigError(f"{folder.path}: holds no {_FILES}; give the folder of a run, or of one of its hooks")
    _same_groups(folder, hooks)
    described = {hook: folder.object(_in(hook, "metadata.json")) for hook in hooks}
    sites, encodings = {}, {}
    for hook, groups in hooks.items():
        states = {name: _checked(folder, name, described[hook]) for name in groups.values()}
        first = next(iter(states.values()))
        encodings[hook] = rows_encoding(first, str(folder.path / hook))
        name = folder.name if hook == "." else hook
        rows_NM = Joined([TorchRows(folder, file, _STATES, tensor) for file, tensor in states.items()])
        sites[name] = Theirs(name, rows_NM)
    same(folder, encodings, "the type")
    same(folder, {name: site.rows_NM.shape[0] for name, site in sites.items()}, "the number of rows")
    first_hook = next(iter(hooks))
    ids = {name: read_tensors(folder, name)[_IDS] for name in hooks[first_hook].values()}
    _same_ids(folder, hooks, first_hook)
    n_rows, length = next(iter(sites.values())).rows_NM.shape[0], next(iter(ids.values())).shape[1]
    token_ids = Joined([TorchRows(folder, name, _IDS, tensor, flat=True) for name, tensor in ids.items()])
    config = folder.object("cfg.json") if folder.has("cfg.json") else {}
    return Activations(
        format="activault",
        folder=folder,
        sites=sites,
        encoding=encodings[first_hook],
        tokens={"token_id": token_ids, **in_sequences(n_rows, length)},
        model=_text(config, "transformer_config", "model_name"),
        dataset=_text(config, "data_config", "data_key"),
        left_out=[name for hook in hooks if folder.has(name := _in(hook, "statistics.json"))],
        facts={key: value for key, value in described[first_hook].items() if key in _FACTS},
    )


def _hooks(folder: SourceFolder) -> list[str]:
    return [".", *folder.folders()]


def _in(hook: str, name: str) -> str:
    return name if hook == "." else f"{hook}/{name}"


def _groups(folder: SourceFolder, hook: str) -> dict[str, str]:
    """Files by their uuid, in the order of the uuids. Raises: ConfigError if there are two of one."""
    found: dict[str, str] = {}
    for name in folder.names(_FILES, below=hook):
        group = name.rpartition("/")[2].partition("--")[0]
        if group in found:
            raise ConfigError(f"{folder.path / name}: is of the same batches as {found[group]}; remove one of them")
        found[group] = name
    return dict(sorted(found.items()))


def _same_groups(folder: SourceFolder, hooks: dict[str, dict[str, str]]) -> None:
    all_groups = {group for groups in hooks.values() for group in groups}
    for hook, groups in hooks.items():
        if missing := sorted(all_groups - set(groups)):
            raise ConfigError(
                f"{folder.path / hook}: has no file of the batches {shown(missing[0])}, which another hook has; fetch "
                "it, or import the folder of one hook"
            )


def _checked(folder: SourceFolder, name: str, metadata: dict[str, Json]) -> torch.Tensor:
    """The states of a file, which are what the hook's metadata says. Raises: ConfigError."""
    where = folder.path / name
    about = f"{name.rpartition('/')[0]}/metadata.json".removeprefix("/")
    sizes = [
        folder.count(metadata, key, about) for key in ("batch_size", "batches_per_file", "sequence_length", "d_in")
    ]
    expected = (sizes[0] * sizes[1], sizes[2], sizes[3])
    tensors = read_tensors(folder, name)
    if missing := {_STATES, _IDS} - set(tensors):
        raise ConfigError(f"{where}: holds no tensor {min(missing)}; activault writes {_STATES} and {_IDS}")
    states, ids = tensors[_STATES], tensors[_IDS]
    if tuple(states.shape) != expected or str(states.dtype) != metadata.get("dtype"):
        raise ConfigError(
            f"{where}: {_STATES} are {tuple(states.shape)} of {states.dtype}; {about} says {expected} of "
            f"{shown(str(metadata.get('dtype')))}"
        )
    if ids.shape != states.shape[:2] or ids.dtype not in (torch.int64, torch.int32):
        raise ConfigError(f"{where}: {_IDS} are {tuple(ids.shape)} of {ids.dtype}; a token id a row is needed")
    return states


def _same_ids(folder: SourceFolder, hooks: dict[str, dict[str, str]], first: str) -> None:
    for group, name in hooks[first].items():
        ids = read_tensors(folder, name)[_IDS]
        for hook, groups in hooks.items():
            if hook != first and not torch.equal(ids, read_tensors(folder, groups[group])[_IDS]):
                raise ConfigError(f"{folder.path / groups[group]}: its tokens are not those of {name}; import one hook")


def _text(config: dict[str, Json], section: str, key: str) -> str | None:
    found = config.get(section)
    value = found.get(key) if isinstance(found, dict) else None
    return value if isinstance(value, str) and value else None
