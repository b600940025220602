"""Nothing in the packages is unused, except what .ci/vulture_allowed.py names, each with who uses it."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
ALLOWED = ROOT / ".ci/vulture_allowed.py"


def unused(*paths: str) -> set[str]:
    """Names that vulture reports in these files and folders."""
    vulture = Path(sys.executable).with_name("vulture")
    done = subprocess.run([vulture, *paths], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 3), done.stdout + done.stderr
    return set(re.findall(r"unused \w+ '(\w+)'", done.stdout))


def allowed() -> dict[str, str]:
    """Name -> reason."""
    lines = [line for line in ALLOWED.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    matches = [re.fullmatch(r"_\.(\w+)  # (.+)", line) for line in lines]
    assert all(matches), [line for line, match in zip(lines, matches, strict=True) if not match]
    return {match[1]: match[2] for match in matches if match}


def test_what_is_unused_is_named_with_a_reason_and_what_is_named_is_unused() -> None:
    found = unused("run_pipeline.py", "pipeline", "stores")
    assert found - allowed().keys() == set(), "unused, and not allowed: remove it, or say in .ci/vulture_allowed.py who"
    assert allowed().keys() - found == set(), "used by now: take it off .ci/vulture_allowed.py"


def test_a_function_that_nobody_calls_is_seen(tmp_path: Path) -> None:
    """Control: the settings of pyproject.toml do not hide it."""
    (tmp_path / "new.py").write_text("def nobody_calls_this():\n    return 1\n", encoding="utf-8")
    assert unused(str(tmp_path)) == {"nobody_calls_this"}
