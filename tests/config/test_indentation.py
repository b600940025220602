"""A key that is indented wrongly is told with the section it belongs to."""

from pathlib import Path

import pytest

from strata_sae.pipeline.config import load
from strata_sae.pipeline.errors import ConfigError

RIGHT = """\
name: base
model:
  path: demo
corpus:
  sources: [{kind: python_docs}]
  n_tokens: 1000
store:
  sites: [blocks.8.hook_resid_post]
training:
  n_steps: 10
  warmup_steps: 0
  filters:
    drop_bos: true
variants:
  topk:
    sae:
      architecture: topk
      d_sae: 16
      k: 4
    objective:
      reconstruction: {}
report:
  title: mine
"""


def told(folder: Path, text: str) -> list[str]:
    path = folder / "c.yaml"
    path.write_text(text, encoding="utf-8")
    try:
        load(path)
    except ConfigError as error:
        return [line.replace(str(path), "c.yaml") for line in str(error).splitlines()]
    return []


SLIPS = {
    "out of its section": (
        ("  n_steps: 10\n  warmup_steps: 0\n  filters:\n    drop_bos: true", "n_steps: 10"),
        "c.yaml:10: n_steps: no such key; it is a key of training: is it indented as it should be?",
    ),
    "of an empty section": (
        ("  path: demo", "path: demo"),
        "c.yaml:3: path: no such key; it is a key of model and of corpus.sources.<n> and of store and of "
        "variants.<name>.from: is it indented as it should be?",
    ),
    "a section within another": (
        ("report:\n  title: mine", "  report:\n    title: mine"),
        "variants.report.title: no such key; it is a key of report: is it indented as it should be?",
    ),
    "a section within settings": (
        ("training:\n  n_steps: 10\n  warmup_steps: 0", "  training:\n    n_steps: 10\n    warmup_steps: 0"),
        None,
    ),
    "a group's key beside the group": (
        ("    drop_bos: true", "  drop_bos: true"),
        "c.yaml:13: training.drop_bos: no such key; it is a key of training.filters: is it indented as it should be?",
    ),
    "an architecture's key beside it": (
        ("      k: 4", "    k: 4"),
        "c.yaml:19: variants.topk.k: no such key; it is a key of variants.<name>.sae: is it indented as it should be?",
    ),
    "into the section above": (
        ("name: base\nmodel:\n  path: demo", "model:\n  path: demo\n  name: base"),
        "c.yaml:3: model.name: no such key; it is a key of the top of the file and of corpus.sources.<n>: "
        "is it indented as it should be?",
    ),
    "a section of its own": (
        ("  filters:\n    drop_bos: true\nvariants:", "  filters:\n    drop_bos: true\n  evaluation: {}\nvariants:"),
        "c.yaml:14: training.evaluation: no such key; it belongs at the top of the file: "
        "write it at the beginning of a line",
    ),
}


@pytest.mark.parametrize("slip", SLIPS)
def test_the_line_names_the_section(tmp_path: Path, slip: str) -> None:
    (old, new), said = SLIPS[slip]
    assert old in RIGHT
    lines = told(tmp_path, RIGHT.replace(old, new))
    assert lines, "it is refused"
    if said is not None:
        assert any(said in line for line in lines), lines


def test_control_the_file_as_it_should_be(tmp_path: Path) -> None:
    assert told(tmp_path, RIGHT) == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("  n_steps: 10", "  n_stepss: 10", "training.n_stepss: no such key; did you mean 'n_steps'?"),
        ("    drop_bos: true", "    weight: 3", "training.filters.weight: no such key; known: drop_bos, "),
    ],
)
def test_control_a_misspelt_key_and_one_of_many_places_are_told_as_before(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    assert any(said in line for line in told(tmp_path, RIGHT.replace(old, new)))


@pytest.mark.parametrize(("old", "new"), [("  n_steps: 10", "n_steps: 10"), ("  n_steps: 10", "    n_steps: 10")])
def test_lines_of_uneven_columns_are_told_as_such(tmp_path: Path, old: str, new: str) -> None:
    (line,) = told(tmp_path, RIGHT.replace(old, new))
    assert line.endswith("the indentation is wrong: keys of one section begin in the same column")


def test_control_other_broken_yaml_is_not(tmp_path: Path) -> None:
    (line,) = told(tmp_path, RIGHT.replace("name: base", "name: 'base"))
    assert "column" not in line


def test_set_names_the_whole_key(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(RIGHT, encoding="utf-8")
    with pytest.raises(ConfigError, match="n_steps: no such key; it is a key of training"):
        load(tmp_path / "c.yaml", ["n_steps=5"])
