"""No module remembers what ran before, and files are parsed in one place: found by walking the source."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted([*ROOT.glob("stores/**/*.py"), *ROOT.glob("pipeline/**/*.py"), ROOT / "run_pipeline.py"])

STATE = {
    "pipeline/kernels/break_even.py: @cache measured_break_even": "what --dry-run prints, measured once for a shape",
    "pipeline/kernels/machine/cuda.py: @cache _has_triton": "what is installed",
    "pipeline/kernels/machine/compiled/loops.py: _pools[n_threads] =": "idle threads; no result depends on them",
    "pipeline/kernels/machine/compiled/loops.py: @cache folder": "where compiled loops are kept, looked at once",
    "stores/files/beats.py: @cache this_machine": "names of the machine and its boot, which no process outlives",
    "pipeline/config/run.py: @cache _follow": "what the settings are made of, made anew when more is registered",
    "pipeline/config/schema.py: @cache _whole_config": "the schema of these settings, made anew when they are",
    "pipeline/reading/t_distribution.py: @cache quantile": "a pure function of two numbers",
    "stores/format/shards.py: @cache _literals": "a compressor of fixed settings",
    "pipeline/sharding/cut.py: @cache offered": "a pure function of two numbers",
    "stores/files/claims.py: _CLAIMS.add": "what this process holds, for a child that must not hold it",
    "stores/files/claims.py: _CLAIMS.discard": "the same",
    "stores/files/claims.py: _CLAIMS.clear": "the same",
    "pipeline/stopping.py: _state['asked'] =": "that this process is to end; asked for from outside",
    "pipeline/stopping.py: _state['patient'] =": "blocks that this process is in",
    "pipeline/pages/__init__.py: @cache template": "compiled from a file of the package",
    "pipeline/explore/pages.py: @cache style_text": "files of the package",
    "pipeline/explore/pages.py: @cache script_text": "the same",
    "pipeline/explore/pages.py: @cache page_policy": "hashes of the two",
    "pipeline/explore/words.py: @cache explanations": "of an SAE that is open: the app shows what was there then",
    "pipeline/explore/measures.py: @cache scores": "of a folder that is open: the app shows what was there then",
    "pipeline/explore/screens/comparing.py: @cache compared": "a pure function of two SAEs that are open",
    "pipeline/explore/screens/map.py: @cache placed": "a pure function of an SAE that is open",
    "pipeline/export/viewers/spelling.py: @cache spelled": "a pure function of a text",
    "pipeline/queries/logits.py: @cache _opened": "the head of a store that is open",
    "stores/format/shards.py: @cache _blosc": "a compressor of fixed settings",
}
"""Where -> why it changes no result."""
PARSERS = {
    "stores/files/canonical.py: json.loads": "the one parser of JSON: parse_canonical, parse_json",
    "pipeline/strict_yaml.py: yaml.SafeLoader": "the one parser of YAML",
}
"""Where JSON or YAML is parsed -> what it is."""

MUTATORS = {"append", "extend", "insert", "pop", "popitem", "clear", "update", "setdefault", "add", "discard", "remove"}
CACHES = {"cache", "lru_cache"}


def module_names(tree: ast.Module) -> set[str]:
    """Names assigned at the top of a module."""
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def base(node: ast.AST) -> str | None:
    """`X` of X[...], X.y and deeper."""
    while isinstance(node, ast.Subscript | ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


def local_names(function: ast.AST) -> set[str]:
    """Arguments, and names assigned inside."""
    found = {node.arg for node in ast.walk(function) if isinstance(node, ast.arg)}
    return found | {n.id for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}


def state_of(tree: ast.Module) -> Iterator[str]:
    """Where functions change what belongs to the module, or remember results."""
    names = module_names(tree)
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for decorator in function.decorator_list:
            called = decorator.func if isinstance(decorator, ast.Call) else decorator
            if ast.unparse(called).split(".")[-1] in CACHES:
                yield f"@cache {function.name}"
        ours = names - local_names(function)
        for node in ast.walk(function):
            if isinstance(node, ast.Global):
                yield f"global {', '.join(node.names)}"
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                if node.func.attr in MUTATORS and base(node.func.value) in ours:
                    yield ast.unparse(node.func)
            elif is_written(node) and base(node) in ours:
                yield f"{ast.unparse(node)} ="


def is_written(node: ast.AST) -> bool:
    """X[...] or X.y that is assigned or deleted."""
    return isinstance(node, ast.Subscript | ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del)


def parsers_of(tree: ast.Module) -> Iterator[str]:
    """Uses of a parser of JSON or YAML."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in {"json", "yaml"}:
            yield f"from {node.module}"
        elif isinstance(node, ast.Attribute):
            name = ast.unparse(node)
            is_yaml = name.startswith("yaml.") and ("load" in name or "Loader" in name)
            if is_yaml or name in {"json.loads", "json.load", "json.JSONDecoder"} or node.attr == "model_validate_json":
                yield name


def everywhere(found) -> set[str]:
    return {
        f"{path.relative_to(ROOT)}: {what}"
        for path in SOURCES
        for what in found(ast.parse(path.read_text(encoding="utf-8")))
    }


def test_no_module_remembers_what_ran_before():
    assert everywhere(state_of) == STATE.keys()


def test_json_and_yaml_are_parsed_in_these_places_only():
    assert everywhere(parsers_of) == PARSERS.keys()


@pytest.mark.parametrize(
    "code",
    [
        "X = 1\ndef f():\n    global X\n    X = 2",
        "X = {}\ndef f(k):\n    X[k] = 2",
        "X = {}\ndef f(k):\n    del X[k]",
        "X = []\ndef f(k):\n    X.append(k)",
        "X: dict = {}\ndef f(k):\n    X['a'].update(k)",
        "X = T()\ndef f(k):\n    X.y = k",
        "@functools.lru_cache(maxsize=1)\ndef f(): return 1",
    ],
)
def test_control_state_is_seen(code: str):
    assert list(state_of(ast.parse(code)))


@pytest.mark.parametrize("code", ["json.loads(x)", "yaml.safe_load(x)", "from json import loads", "yaml.load(x, L)"])
def test_control_parsing_is_seen(code: str):
    assert list(parsers_of(ast.parse(code)))


def test_control_what_is_local_is_no_state():
    assert not list(state_of(ast.parse("X = {}\ndef f():\n    X = {}\n    X['a'] = 1\n    y = []\n    y.append(1)")))
