"""Our own SAEs, exported to a library's files and imported as variants: their scores to the bit."""

from pathlib import Path

from strata_sae.pipeline.commands import stages
from strata_sae.pipeline.evaluation.evaluate import scores_of
from strata_sae.pipeline.export.exporting import export
from strata_sae.pipeline.runs.folders import RunFolder
from support.imported_run import TRAINED, config_of
from support.small_run import SITE

FITTING = [
    ("saelens", "topk"),
    ("saelens", "relu"),
    ("dictionary_learning", "topk"),
    ("dictionary_learning", "relu"),
    ("sparsify", "topk"),
]


def test_what_is_exported_and_imported_is_scored_alike_to_the_bit(here: Path):
    variants = {}
    for format, name in FITTING:
        export(Path(f"runs/run/{name}@{SITE}"), format, Path("exported") / format / name)
        variants[f"{name}-{format}"] = {"from": {"path": f"exported/{format}/{name}"}, "site": SITE}
    stages.train_saes(config := config_of(TRAINED | variants))
    stages.evaluate_saes(config)
    scores = scores_of(RunFolder(Path("runs/run")))
    for format, name in FITTING:
        ours, theirs = (scores[f"{one}@{SITE}"] for one in (name, f"{name}-{format}"))
        assert theirs["r2_pooled"] is not None
        different = {key for key in theirs if theirs[key] != ours.get(key)}
        assert different == set(), f"{format}, {name}"
