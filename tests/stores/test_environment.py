"""Environment variables: what is a size is a size, nonsense is one line, and there is one reader."""

import ast
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from strata_sae.stores import ActivationStore, StoreError
from strata_sae.stores.files import environment

ROOT = Path(__file__).resolve().parents[2]
SIZES = {
    "0": 0,
    "123": 123,
    "50GiB": 50 * 2**30,
    "50 GB": 50 * 10**9,
    " 50gb ": 50 * 10**9,
    "1e9": 10**9,
    "1.5TiB": 3 * 2**39,
    "7 B": 7,
    "2kB": 2000,
    "2KiB": 2048,
    "3MB": 3 * 10**6,
    "3MiB": 3 * 2**20,
    "4 TB": 4 * 10**12,
    str(2**62): 2**62,
}
NONSENSE = ["abc", "-5", "-5GiB", "5G", "5 G B", "nan", "inf", "1e99", "9" * 5000, "\xb2", "0x10", "1,5GB", "5 GiBs"]
NONSENSE += ["١٢", str(2**63), "1_000", "5\n6", ".", "e9", "GiB", "5PB"]
SIZE_VARIABLES = {environment.CACHE_BYTES}
READERS = ["environment.text", "environment.size_bytes"]
ACCESS = ("environ", "environb", "getenv", "getenvb", "putenv")
DIRECT = {
    ("pipeline/commands/app.py", "OMP_WAIT_POLICY"): "set for torch, not read",
    ("pipeline/commands/app.py", "all of it"): "handed to why_not_here, which reads the numbers of threads",
    ("pipeline/extractor/tokenising.py", "TOKENIZERS_PARALLELISM"): "a switch of tokenizers, set in processes of ours",
    ("pipeline/engines/local.py", "VISIBLE"): "CUDA's own, set in a worker",
    ("pipeline/engines/ray_worker.py", "CUDA_VISIBLE_DEVICES"): "CUDA's own, set in a worker",
    ("pipeline/engines/ray_worker.py", "all of it"): "what a worker on another node is to have as well",
    ("pipeline/engines/ray_worker.py", "name"): "of the command, set in a worker",
    ("pipeline/engines/ray_connection.py", "name"): "switches of Ray, set where they are not",
    ("pipeline/engines/ray_connection.py", "RAY_ADDRESS"): "Ray's own, set while it connects",
    ("pipeline/language_model/tensors.py", "name"): "a switch of transformers, set for the length of one call",
    ("pipeline/paths.py", "DATA_ROOT"): "a path, read by as_path",
    ("pipeline/tracking/to_mlflow.py", "MLFLOW_ALLOW_FILE_STORE"): "a switch of MLflow, set where it is not",
    ("pipeline/tracking/to_mlflow.py", "MLFLOW_DISABLE_TELEMETRY"): "a switch of MLflow, set where it is not",
    ("pipeline/tracking/to_wandb.py", "WANDB_ERROR_REPORTING"): "a switch of wandb, set where it is not",
    ("pipeline/kernels/machine/compiled/loops.py", "NUMBA_CACHE_DIR"): "Numba's own; kernels know no stores",
}
"""Places that need not go through the reader, and why."""
NAMES_READ = {
    "pipeline/commands/engines.py": {"SHARE"},
    "pipeline/endpoint/address.py": {"key_env"},
    "pipeline/engines/__init__.py": {"RUN", "SHARE"},
    "pipeline/engines/devices.py": {"VISIBLE"},
    "pipeline/engines/ray_connection.py": {"RAY_ADDRESS"},
    "pipeline/commands/torchrun.py": {"SHARE"},
    "pipeline/formats/hub.py": {"HF_ENDPOINT"},
    "pipeline/sharding/launch.py": {"VARIABLES"},
    "pipeline/tracking/to_mlflow.py": {"MLFLOW_TRACKING_URI"},
    "pipeline/tracking/to_wandb.py": {"WANDB_MODE"},
    "stores/format/folders.py": {"STRATA_CACHE", "XDG_CACHE_HOME"},
    "stores/front/opening.py": {"CACHE_BYTES"},
    "stores/remote/hub.py": {"HF_ENDPOINT"},
    "stores/remote/buckets.py": {"AWS_PROFILE", "AWS_ACCESS_KEY_ID", "_ENDPOINTS"},
}


def sources() -> list[Path]:
    return [ROOT / "run_pipeline.py", *(ROOT / "stores").rglob("*.py"), *(ROOT / "pipeline").rglob("*.py")]


def name_of(node: ast.AST) -> str:
    return node.value if isinstance(node, ast.Constant) else getattr(node, "attr", None) or getattr(node, "id", "?")


def environment_uses(tree: ast.Module) -> list[str]:
    """What is read or set by `os.environ` and `os.getenv`, by the name of the variable or of its constant."""
    found = []
    for node in ast.walk(tree):
        inner = getattr(node, "func", None) if isinstance(node, ast.Call) else node
        text = ast.unparse(inner) if inner is not None else ""
        if isinstance(node, ast.Call) and text.startswith(("os.environ.", "os.getenv", "getenv", "environ.")):
            found += [name_of(node.args[0]) if node.args else "?"]
        elif isinstance(node, ast.Subscript) and text.startswith(("os.environ[", "environ[")):
            found += [name_of(node.slice)]
        elif isinstance(node, ast.Compare) and ast.unparse(node.comparators[0]).endswith("environ"):
            found += [name_of(node.left)]
        elif isinstance(node, ast.Call) and "os.environ" in map(ast.unparse, node.args):
            found += ["all of it"]
    return found


def test_every_use_of_the_environment_goes_through_the_one_reader() -> None:
    unknown = []
    for path in sources():
        name = path.relative_to(ROOT).as_posix()
        text = path.read_text(encoding="utf-8")
        uses = environment_uses(ast.parse(text))
        if name != "stores/files/environment.py":
            unknown += [(name, use) for use in uses if (name, use) not in DIRECT]
            mentions = sum(getattr(node, "attr", "") in ACCESS for node in ast.walk(ast.parse(text)))
            assert mentions == len(uses), f"{name}: uses the environment in a way that this test does not know"
    assert unknown == []


def test_every_variable_that_is_read_is_known() -> None:
    found: dict[str, set[str]] = {}
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            called = [ast.unparse(part) for part in (node.func, *node.args)] if isinstance(node, ast.Call) else []
            if called and called[0] in READERS:
                found.setdefault(path.relative_to(ROOT).as_posix(), set()).add(name_of(node.args[0]))
            elif called[:2] == ["map", READERS[0]]:
                found.setdefault(path.relative_to(ROOT).as_posix(), set()).add(name_of(node.args[1]))
    assert found == NAMES_READ


@pytest.mark.parametrize("text", SIZES)
def test_sizes(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(environment.CACHE_BYTES, text)
    assert environment.size_bytes(environment.CACHE_BYTES, -1) == SIZES[text]


@pytest.mark.parametrize("text", NONSENSE)
@pytest.mark.parametrize("variable", sorted(SIZE_VARIABLES))
def test_nonsense_is_one_line_that_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, text: str
) -> None:
    monkeypatch.setenv(variable, text)
    with pytest.raises(StoreError) as caught:
        environment.size_bytes(variable, 0)
    message = str(caught.value)
    assert message.startswith(f"{variable}: ")
    assert "50GiB" in message
    assert "\n" not in message
    assert len(message) < 300


def test_what_is_not_set_or_empty_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(environment.CACHE_BYTES, "5")
    for set_it in (monkeypatch.delenv, partial(monkeypatch.setenv, value="")):
        set_it(environment.CACHE_BYTES)
        assert environment.size_bytes(environment.CACHE_BYTES, 7) == 7
        assert environment.text(environment.CACHE_BYTES) is None


def test_where_the_cache_lies_does_not_decide_whether_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_store: Callable[..., Path]
) -> None:
    monkeypatch.setenv("STRATA_CACHE", str(tmp_path / "cache"))
    store = ActivationStore.open(make_store(n_rows=300, sites={"blocks.1.hook_resid_post": 8}, compressor="zstd"))
    store.rows("blocks.1.hook_resid_post", 0, 300)
    assert not (tmp_path / "cache").exists()
