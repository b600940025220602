"""What README promises a newcomer: its file runs, its commands exist, its picture is small."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from strata_sae.pipeline.commands.app import app
from strata_sae.pipeline.config import load
from support.extraction import write_corpus
from support.page_names import is_key, unknown
from support.tiny_models import save_tiny_model

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(kind: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)
    return [text for of_kind, text in found if of_kind == kind]


def strata(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["--quiet", *arguments])
    return result.exit_code, result.stderr


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STRATA_DATA", raising=False)
    save_tiny_model(Path("model"), "llama")
    write_corpus(Path("texts"), 60)
    return tmp_path


def test_the_complete_file_runs(folder: Path) -> None:
    """But for the model, which no test may download, and the sizes that fit it."""
    (whole,) = (block for block in blocks("yaml") if block.startswith("name:"))
    Path("mine.yaml").write_text(whole, encoding="utf-8")
    assert list(load(Path("mine.yaml")).variants) == ["topk", "relu"]
    smaller = ["model.path=model", "corpus.context_length=32", "store.sites=[blocks.1.hook_resid_post]"]
    smaller += ["training={n_steps: 20, batch_size: 64}", "variants.topk.sae.d_sae=64", "variants.relu.sae.d_sae=64"]
    code, said = strata("run", "mine.yaml", *(word for change in smaller for word in ("--set", change)))
    assert code == 0, said
    assert Path("runs/mine/report.html").is_file()


@pytest.mark.parametrize("block", [block for block in blocks("yaml") if not block.startswith("name:")])
def test_a_part_of_a_file_fits_the_complete_one(folder: Path, block: str) -> None:
    (whole,) = (block for block in blocks("yaml") if block.startswith("name:"))
    sections = re.findall(r"^\w+", block, flags=re.MULTILINE)
    rest = [line for line in whole.splitlines() if line.partition(":")[0] not in sections]
    Path("mine.yaml").write_text("\n".join([*rest, block]), encoding="utf-8")
    load(Path("mine.yaml"))


def test_every_command_and_option_of_its_blocks_exists() -> None:
    lines = [line for block in blocks("") for line in block.splitlines() if line.startswith("strata ")]
    assert len(lines) > 10
    for line in lines:
        words = line.partition(" #")[0].split()[1:]
        command = [word for word in words[:2] if re.fullmatch(r"[a-z][a-z-]+", word)][: 2 if words[0] == "store" else 1]
        result = CliRunner().invoke(app, [*command, "--help"])
        assert result.exit_code == 0, line
        for option in (word for word in words if word.startswith("--")):
            assert option in result.stdout, line


def test_every_key_that_a_command_sets_exists() -> None:
    keys = [key for block in blocks("") for key in re.findall(r"--set ([\w.]+)=", block)]
    assert {"interpretation.base_url", "store.path"} <= set(keys)
    assert [key for key in keys if not is_key(key)] == []
    assert not is_key("interpretation.base_ulr")


@pytest.mark.parametrize("page", ["analyzing", "exploring", "interpreting", "prompting"])
def test_every_command_option_and_key_of_a_page_about_latents_exists(page: str) -> None:
    text = (ROOT / f"docs/{page}.md").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = re.findall(r"^(?:\$ )?(strata [^#\n]*)", text, flags=re.MULTILINE)
    assert len(lines) >= 3
    assert unknown(" ".join(f"`{line.strip()}`" for line in lines)) == []
    assert [key for key in re.findall(r"--set ([\w.]+)=", text) if not is_key(key)] == []
    assert unknown("`strata interpret runs/demo --dry-runs`") != [], "control"


def test_control_a_command_that_is_none_is_seen() -> None:
    assert CliRunner().invoke(app, ["trai", "--help"]).exit_code == 2


def test_the_picture_is_a_small_png() -> None:
    data = (ROOT / "docs/report.png").read_bytes()
    assert data.startswith(b"\x89PNG")
    assert len(data) < 300_000
