"""Variants with `from`: what stands in a file, what is refused in one line, sweeps, `--add`, `--set`, and back."""

from pathlib import Path

import pytest

from strata_sae.pipeline.config import dump, load
from strata_sae.pipeline.config.commented import commented
from strata_sae.pipeline.config.imported import ImportedVariant
from strata_sae.pipeline.config.run import RunConfig
from strata_sae.pipeline.errors import ConfigError

SITE = "blocks.0.hook_resid_post"
FILE = f"""\
name: x
store: {{sites: [{SITE}]}}
training: {{n_steps: 3}}
variants:
  topk: {{sae: {{architecture: topk, d_sae: 64, k: 3}}, objective: {{reconstruction: {{}}}}}}
"""


def loaded(tmp_path: Path, theirs: str, *overrides: str, before: str = "") -> RunConfig:
    path = tmp_path / "c.yaml"
    path.write_text(f"{before}{FILE}  theirs: {theirs}\n")
    return load(path, overrides)


@pytest.mark.parametrize(
    ("theirs", "expected"),
    [
        ("{from: {path: a/b}}", ("a/b", None, None, None)),
        ("{from: {format: saelens, path: ~/a}, site: null}", ("~/a", "saelens", None, None)),
        (f"{{from: {{path: 'hf://o/r@main/f'}}, site: {SITE}, kind: k}}", ("hf://o/r@main/f", None, SITE, "k")),
    ],
)
def test_what_may_stand_in_a_file(tmp_path: Path, theirs: str, expected: tuple[str | None, ...]):
    config = loaded(tmp_path, theirs)
    (variant,) = config.imported_variants().values()
    assert (variant.from_.path, variant.from_.format, variant.site, variant.kind) == expected
    assert [*config.trained_variants()] == ["topk"]
    written = tmp_path / "written.yaml"
    for spelt in (dump(config), commented(config)):
        written.write_text(spelt)
        assert load(written) == config


@pytest.mark.parametrize(
    ("theirs", "said"),
    [
        (
            "{from: {path: a}, sae: {architecture: topk, d_sae: 3, k: 1}}",
            "so sae cannot stand beside it; allowed there",
        ),
        ("{from: {path: a}, match: {l0: 3}, seed: 1}", "so match, seed cannot stand beside it; allowed there"),
        ("{from: {path: a}, reads: [a]}", "so reads cannot stand beside it; allowed there"),
        ("{from: {path: a}, sitee: x}", "variants.theirs.sitee: no such key; did you mean 'site'?"),
        ("{from: {path: a, pth: b}}", "variants.theirs.from.pth: no such key; did you mean 'path'?"),
        ("{from: {format: saelens}}", "variants.theirs.from.path: missing; A folder"),
        ("{from: {path: 3}}", "variants.theirs.from.path: expected a string, got 3"),
        ("{from: {path: ''}}", "variants.theirs.from.path"),
        ("{from: null}", "variants.theirs.from: expected a mapping, got null"),
        ("{from: a/b}", "variants.theirs.from: expected a mapping, got 'a/b'"),
        ("{from: {path: a, format: saelesn}}", "'saelesn' is unknown; known: "),
        ("{from: {path: a}, site: blocks.9}", "variants.theirs.site: 'blocks.9' is not among store.sites"),
        ("{from: {path: a}, site: ../x}", "variants.theirs.site: must match"),
        ("{from: {path: a}, writes: blocks.9}", "variants.theirs.writes: 'blocks.9' is not among store.sites"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, theirs: str, said: str):
    with pytest.raises(ConfigError) as refused:
        loaded(tmp_path, theirs)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith(str(tmp_path / "c.yaml"))


def test_variants_that_are_trained_are_refused_as_before(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"theirs\.sae\.k: missing"):
        loaded(tmp_path, "{sae: {architecture: topk, d_sae: 3}, objective: {reconstruction: {}}}")
    with pytest.raises(ConfigError, match="reads: 'a' alone, which it writes too"):
        loaded(tmp_path, "{sae: {architecture: relu, d_sae: 3}, objective: {reconstruction: {}}, reads: [a]}")


def test_sweeps(tmp_path: Path):
    """One over every variant is of what is trained; one in the variant may be of its path."""
    config = loaded(tmp_path, "{from: {path: a}}", before="sweep: {seed: [0, 1]}\n")
    assert [*config.variants] == ["topk_seed-0", "topk_seed-1", "theirs"]
    config = loaded(tmp_path, "{from: {path: a}, sweep: {from.path: {low: l0_20, high: l0_80}}}")
    swept = config.imported_variants()
    assert {name: (one.from_.path, one.kind) for name, one in swept.items()} == {
        "theirs_path-low": ("l0_20", "theirs"),
        "theirs_path-high": ("l0_80", "theirs"),
    }


def test_set_and_add(tmp_path: Path):
    config = loaded(tmp_path, "{from: {path: a}}", "variants.theirs.from.path=b", f"variants.theirs.site={SITE}")
    theirs = config.variants["theirs"]
    assert isinstance(theirs, ImportedVariant)
    assert (theirs.from_.path, theirs.site) == ("b", SITE)
    with pytest.raises(ConfigError, match=r"--set variants\.theirs\.from\.pth=b: .*did you mean 'path'"):
        loaded(tmp_path, "{from: {path: a}}", "variants.theirs.from.pth=b")
    (tmp_path / "more.yaml").write_text("variants: {others: {from: {path: c}}}\n")
    added = load(tmp_path / "c.yaml", (), [tmp_path / "more.yaml"])
    assert [*added.imported_variants()] == ["theirs", "others"]
