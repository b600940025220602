"""The activation store: plain zarr v3 on disk, with the durability, completeness and integrity that zarr leaves out.

Its face is `__init__.pyi`: each name there, and nothing else, may be used from outside, beside `stores.files` and
`stores.errors`. A name's module is loaded when the name is first used, so a command's `--help` loads no array.
"""

import lazy_loader

if __name__ == "stores":  # a second copy of every class, unequal to the first
    raise ImportError("import strata_sae.stores")

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
