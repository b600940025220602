# ruff: noqa
# Names that vulture finds unused and that are not: a reason each. To see what is new, in the form of this file:
#     .venv/bin/vulture run_pipeline.py pipeline stores --make-whitelist
_.sweep  # a key of the config files; the loader expands it before the settings are made
_.yaml_implicit_resolvers  # PyYAML reads it from its loaders and dumpers
_.ignore_aliases  # PyYAML calls it
_.model_config  # pydantic reads it
_.activation_batches  # for users: the README's loader
_.ActivationDataset  # for users: the README's torch dataset
_.using  # for tests and users: another kernel backend for a while
_.allow_bf16_reduced_precision_reduction  # a switch of torch
_.__qualname__  # Numba names its cache files by it
_.n_parameters  # for tests: how much of a model is kept below the deepest site
_.hf_quantizer  # transformers reads it from a model
_.is_quantized  # transformers reads it from a model
_.pad_token_id  # transformers reads it from a config
_.trace  # the last argument that Python gives to __exit__
_.debug  # an option of every command; the error handler reads it from the context
_.writeable  # a flag of NumPy's arrays
_.fill_seconds  # a field of the loader's records; written by its dictionary
_.decode_seconds  # a field of the loader's records; written by its dictionary
_.thread_seconds  # a field of the loader's records; written by its dictionary
_.wait_seconds  # a field of the loader's records; written by its dictionary
_.decoding  # LoaderClock, which the loader is to be connected to (issue 9, C2)
_.waiting  # LoaderClock, which the loader is to be connected to (issue 9, C2)
_.unit_files  # for tests and benchmarks: the files of a unit
_.calibration_files  # the plan's list of files, which planning is to count by (issue 9, A6)
_.as_path  # the one reading of paths, which every key is to go through (issue 9, A10)
_.parse_json  # the one JSON parser, which every reader is to use (issue 9, A8)
_.Folder  # found by its scheme, file://
_.HubRepository  # found by its scheme, hf://
_.Bucket  # found by its scheme, s3://
