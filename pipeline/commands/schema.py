"""`strata schema`: the JSON schema of a config."""

import json

import typer


def schema() -> None:
    """Print the JSON schema of a config: every section, architecture and loss term with its keys, for editors."""
    from strata_sae.pipeline.config import json_schema

    typer.echo(json.dumps(json_schema(), indent=1, ensure_ascii=False))
