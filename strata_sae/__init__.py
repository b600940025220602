"""Strata: extract a language model's activations once, train many sparse autoencoders (SAEs) on them.

    import strata_sae as strata

    store = strata.open_store("data/demo")              # rows, tokens and text, mapped from disk
    sae = strata.load("runs/demo/variants/topk@blocks.8.hook_resid_post")

The face is `__init__.pyi`: each name says shapes, units and errors in its docstring, and is loaded at its first use.
docs/notebook.md shows them.
"""

from os import path as _path

import lazy_loader as _lazy_loader

# Both packages lie at the top of the repository, and this folder holds a link to each. An archive unpacked by a program
# that knows no links has a line of text in the place of each link: the packages are then found where they lie.
if not _path.isdir(_path.join(_path.dirname(__file__), "pipeline")):
    __path__.append(_path.dirname(_path.dirname(_path.abspath(__file__))))

__getattr__, __dir__, __all__ = _lazy_loader.attach_stub(__name__, __file__)
