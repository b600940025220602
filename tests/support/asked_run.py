"""A run on a tiny model's store, with hand-made SAEs at several sites, whose model can be asked."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from strata_sae.pipeline.config import dump
from strata_sae.pipeline.intervention.run_model import RunModel
from strata_sae.pipeline.runs.folders import RunFolder
from support.judged_run import MLP_IN, MLP_OUT, STREAM, identity, judged_config, put, rough
from support.tiny_models import D_MODEL

TEXT = "the king of the town"
ROUGH, OTHER, SAME = f"rough@{STREAM}", f"other@{STREAM}", f"same@{STREAM}"
TRANSCODER, CROSSCODER = f"rough@{MLP_IN}-to-{MLP_OUT}", f"rough@{MLP_IN}+{STREAM}"
LATE = "blocks.2.hook_resid_post"
LAYER = "model.layers.1"


def make(folder: Path, **changes: Any) -> RunFolder:
    """The store of a tiny model under `folder`, and runs/small with five SAEs; none has codes."""
    with contextlib.chdir(folder):
        config = judged_config(folder, **changes)
        put(config, "rough", rough(D_MODEL), [STREAM])
        put(config, "other", {**rough(D_MODEL, seed=5), "b_dec": torch.linspace(-1, 1, D_MODEL)}, [STREAM])
        put(config, "same", identity(D_MODEL), [STREAM])
        put(config, "rough", rough(D_MODEL, seed=3), [MLP_IN], [MLP_OUT])
        put(config, "rough", rough(2 * D_MODEL, seed=4), [MLP_IN, STREAM])
        run = RunFolder(folder / config.run_path())
        run.config.write_text(dump(config))
    return run


def asked(run: RunFolder, only: tuple[str, ...] = ()) -> RunModel:
    """Its model, as commands make it."""
    return RunModel(run, only=only)


@contextlib.contextmanager
def rows_written(model: Any, path: str, write: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Passes of a model in which the output of a module is changed, by a hook of these tests' own."""

    def after(module: Any, args: Any, output: Any) -> Any:
        return write(output) if isinstance(output, Tensor) else (write(output[0]), *output[1:])

    handle = model.get_submodule(path).register_forward_hook(after)
    try:
        yield
    finally:
        handle.remove()


def logits_of(model: Any, ids_BS: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(input_ids=ids_BS, use_cache=False).logits
    return logits
