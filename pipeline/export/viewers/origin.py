"""strata.json beside a viewer's files: what they were made from."""

from importlib import metadata
from pathlib import Path

from strata_sae.pipeline.export.viewers.subject import Subject
from strata_sae.stores.files.canonical import canonical_json
from strata_sae.stores.files.filesystem import naming


def write_origin(subject: Subject, format: str, out: Path) -> None:
    """The ids of the SAE, its store and its codes: data without anybody's paths."""
    plan = subject.sae.codes.plan
    path = out / "strata.json"
    with naming(path):
        path.write_bytes(
            canonical_json(
                {
                    "format": format,
                    "strata_version": metadata.version("strata-sae"),
                    "run": subject.run_name,
                    "sae": subject.sae.name,
                    "config_fingerprint": plan.sae,
                    "weights_sha256": plan.weights_sha256,
                    "store_ids": dict(plan.store_ids),
                    "plan_id": plan.plan_id,
                    "n_latents": plan.d_sae,
                    "n_rows": plan.n_rows,
                    "population": "as_trained",
                    "n_rows_kept": subject.n_kept,
                }
            )
        )
