"""`engine`: by its name alone or with its settings, from a file or `--set`; what is wrong is one line."""

from pathlib import Path

import pytest

from strata_sae.pipeline.config import dump, load
from strata_sae.pipeline.config.engine import LocalSettings, RaySettings, SlurmSettings
from strata_sae.pipeline.config.schema import json_schema
from strata_sae.pipeline.errors import ConfigError
from strata_sae.stores.files.canonical import as_list, as_object

BASE = """\
name: base
store: {path: store, sites: [blocks.0.hook_resid_post]}
training: {n_steps: 10, warmup_steps: 0}
variants:
  relu: {sae: {architecture: relu, d_sae: 16}, objective: {reconstruction: {}}}
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tmp_path / "base.yaml"


@pytest.mark.parametrize(
    ("text", "overrides", "expected"),
    [
        ("", (), LocalSettings()),
        ("engine: local", (), LocalSettings()),
        ("engine: {workers: 3}", (), LocalSettings(workers=3)),
        ("engine: ray", (), RaySettings(kind="ray")),
        (
            'engine: {kind: ray, address: "head:6379", gpus: 1}',
            (),
            RaySettings(kind="ray", address="head:6379", gpus=1),
        ),
        (
            "engine: {kind: slurm, sbatch: [--partition=gpu]}",
            (),
            SlurmSettings(kind="slurm", sbatch=["--partition=gpu"]),
        ),
        ("", ("engine.workers=4",), LocalSettings(workers=4)),
        ("", ("engine=ray", "engine.workers=4"), RaySettings(kind="ray", workers=4)),
        ("engine: ray", ("engine.gpus=1",), RaySettings(kind="ray", gpus=1)),
        ("engine: {workers: 2}", ("engine.kind=ray",), RaySettings(kind="ray", workers=2)),
        ("engine: {kind: slurm, workers: 64, gpus: 1}", ("engine=local",), LocalSettings()),
    ],
)
def test_an_engine_by_its_name_or_with_its_settings(
    text: str, overrides: tuple[str, ...], expected: object, base: Path
) -> None:
    base.write_text(BASE + text, encoding="utf-8")
    config = load(base, overrides)
    assert config.engine == expected
    base.write_text(dump(config), encoding="utf-8")
    assert load(base) == config


@pytest.mark.parametrize(
    ("text", "overrides", "line"),
    [
        ("engine: dask", (), "engine: kind 'dask' is unknown; known: local, ray, slurm"),
        ("engine: Ray", (), "engine: kind 'Ray' is unknown; known: local, ray, slurm; did you mean 'ray'?"),
        (
            "",
            ("engine=rey",),
            "--set engine=rey: engine: kind 'rey' is unknown; known: local, ray, slurm; did you mean 'ra",
        ),
        ("engine: {gpus: 1}", (), "engine.gpus: no such key; known: kind, workers"),
        ("engine: {kind: ray, adress: x}", (), "engine.adress: no such key; did you mean 'address'?"),
        (
            "engine: {kind: slurm, address: x}",
            (),
            "engine.address: no such key; known: workers, cpus, gpus, kind, sbatch",
        ),
        ("engine: ray", ("engine.sbatch=[]",), "engine.sbatch: no such key; known: workers, cpus, gpus, kind, address"),
        ("engine: {workers: 0}", (), "engine.workers: must be greater than 0, got 0"),
        ("engine: {kind: ray, gpus: 2}", (), "engine.gpus: must be at most 1, got 2"),
        ('engine: {kind: ray, address: "ray://head:1"}', (), "engine.address: must match ^(auto|"),
        ('engine: {kind: slurm, sbatch: ["--a b"]}', (), "engine.sbatch.0: must match ^--"),
        ("engine:", (), "engine: expected a mapping, got null"),
        ("engine: 4", (), "engine: expected a mapping, got 4 (an integer)"),
        ("engines: ray", (), "engines: no such key; did you mean 'engine'?"),
    ],
)
def test_what_is_wrong_is_one_line(text: str, overrides: tuple[str, ...], line: str, base: Path) -> None:
    base.write_text(BASE + text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(base, overrides)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_editors_take_the_name_alone_too() -> None:
    engine = as_object(as_object(json_schema()["properties"])["engine"])
    names, groups = as_list(engine["anyOf"])
    assert as_object(names) == {"enum": ["local", "ray", "slurm"]}
    assert len(as_list(as_object(groups)["oneOf"])) == 3
