"""Run folders: where results lie, what their files hold, and how they are written."""

from strata_sae.pipeline.runs.folders import RunFolder, VariantFolder, only_writer
from strata_sae.pipeline.runs.record_files import (
    changed_keys,
    fingerprint,
    json_text,
    read_record,
    read_yaml,
    write_record,
    write_yaml,
)
from strata_sae.pipeline.runs.records import environment
from strata_sae.stores.files.filesystem import (
    make_folder,
    naming,
    publish_folder,
    remove_folder,
    remove_staged,
    staging_path,
    sync,
    write_bytes,
)
from strata_sae.stores.files.hashing import file_sha256 as sha256_of

__all__ = [
    "RunFolder",
    "VariantFolder",
    "changed_keys",
    "environment",
    "fingerprint",
    "json_text",
    "make_folder",
    "naming",
    "only_writer",
    "publish_folder",
    "read_record",
    "read_yaml",
    "remove_folder",
    "remove_staged",
    "sha256_of",
    "staging_path",
    "sync",
    "write_bytes",
    "write_record",
    "write_yaml",
]
