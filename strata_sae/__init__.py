"""Strata: extract a language model's activations once, train many sparse autoencoders (SAEs) on them.

    import strata_sae as strata

    store = strata.open_store("data/demo")              # rows, tokens and text, mapped from disk
    sae = strata.load("runs/demo/variants/topk@blocks.8.hook_resid_post")

The names of `__all__` are the face: each says shapes, units and errors in its docstring. docs/notebook.md shows them.
"""

from importlib import import_module
from os import path as _path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from strata_sae.pipeline.face import evaluate, load, train
    from strata_sae.stores import ActivationStore, Batches, Filters, StoreError, open_store, write_store

__all__ = [
    "ActivationStore",
    "Batches",
    "Filters",
    "StoreError",
    "evaluate",
    "load",
    "open_store",
    "train",
    "write_store",
]

# Both packages lie at the top of the repository, and this folder holds a link to each. An archive unpacked by a program
# that knows no links has a line of text in the place of each link: the packages are then found where they lie.
if not _path.isdir(_path.join(_path.dirname(__file__), "pipeline")):
    __path__.append(_path.dirname(_path.dirname(_path.abspath(__file__))))

if not TYPE_CHECKING:  # for a type checker these names are the imports above, and any other name is an error

    def __getattr__(name):
        """Load a name's module when the name is first used: importing the package loads neither numpy nor torch."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has: {', '.join(__all__)}")
        home = "pipeline.face" if name in ("evaluate", "load", "train") else "stores"
        return getattr(import_module(f"{__name__}.{home}"), name)
