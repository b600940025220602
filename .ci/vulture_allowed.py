# ruff: noqa
# Names that vulture finds unused and that are not: a reason each. To see what is new, in the form of this file:
#     .venv/bin/vulture run_pipeline.py pipeline stores --make-whitelist
_.yaml_implicit_resolvers  # PyYAML reads it from its loaders and dumpers
_.ignore_aliases  # PyYAML calls it
_.model_config  # pydantic reads it
_.field_is_required  # pydantic calls it where it makes a JSON schema
_.activation_batches  # for users: the README's loader
_.units_of  # for users: docs/input_scale.md
_.ActivationDataset  # for users: the README's torch dataset
_.allow_bf16_reduced_precision_reduction  # a switch of torch
_.hf_quantizer  # transformers reads it from a model
_.is_quantized  # transformers reads it from a model
_.pad_token_id  # transformers reads it from a config
_.__class__  # Python reads it of every object
_.writeable  # a flag of NumPy's arrays
_.Folder  # found by its scheme, file://
_.ModelRepository  # found by its scheme, hf://
_.Bucket  # found by its scheme: s3://, gs://, az://
_.e_tag  # a field of what obstore says of an object; read by its name
_.last_modified  # a field of what obstore says of an object; read by its name
_.running_mean  # a field of a record; checked and read by its name
_.labelled_store_id  # a field of a record; checked and read by its name
_.labelled_store_ids  # a field of a record; checked and read by its name
_.without_latent  # a field of a record; checked and read by its name
_.norm_quantiles  # a field of a record; checked and read by its name
_.is_number  # a template reads it
_.redirect_slashes  # a switch of starlette
_.median_f1  # a template reads it
_.null_seed  # a field of a record; checked and read by its name
_.population_interval  # a field of a record; checked and read by its name
_.dead_latents  # a field of a record; checked and read by its name
_.epoch_rows  # a field of a record; checked and read by its name
_.perfect_documents  # a field of a record; checked and read by its name
_.perfect_positions  # a field of a record; checked and read by its name
_._py_file  # Numba asks its cache for it
_.ensure_cache_path  # Numba asks its cache for it
_.get_cache_path  # Numba asks its cache for it
_.get_source_stamp  # Numba asks its cache for it
_.get_disambiguator  # Numba asks its cache for it
_.from_function  # Numba asks its cache for it
_.py_func  # Numba asks its cache for it
_._cache_path  # Numba asks its cache for it
_._cache_file  # Numba asks its cache for it
_._experts_implementation  # transformers reads it from a config
_.missing_keys  # a key of what transformers returns
_.unexpected_keys  # a key of what transformers returns
_.mismatched_keys  # a key of what transformers returns
_.error_msgs  # a key of what transformers returns
_.input_ids  # a key of what transformers returns
_.offset_mapping  # a key of what transformers returns
_.kl_recovered_of_mean  # a field of a record; on the page, and read by its name
_.n_sequence_rows  # a field of a record; on the page, and read by its name
_.document_rows  # a field of a record; on the page, and read by its name
_.document_predictions  # a field of a record; on the page, and read by its name
_.clean_sums  # a field of a record; on the page, and read by its name
_.texts_sha256  # a field of labels.json, by which a labelled store is named
_.labels_sha256  # a field of labels.json, by which a labelled store is named
_.mse_per_dim  # a field of a record; on the page, and read by its name
_.r2_pooled  # a field of a record; on the page, and read by its name
_.by_position  # a field of a record; on the page, and read by its name
_.edited_codes  # for users: what `strata.attach` gives
_.sequence_P  # for users: a field of the codes that `strata.attach` gives
_.position_P  # for users: a field of the codes that `strata.attach` gives
_.fitted_on  # a key of token_labels.json, for people
_.least_rows  # the same; compared by `label_record` with all others
_.of_dense  # for users: effects that are a matrix, such as those of an ablation
_.ablators  # for users: the nodes of one side of a graph of effects
_.n_partners  # for users: what a histogram of numbers of partners counts
_.is_left_out  # a template reads it
_.focus  # a template reads it
_.log_x  # analysis.js reads it
_.left_title  # analysis.js reads it
_.right_title  # analysis.js reads it
_.share_after  # a template reads it
_.has_pages  # a template reads it
