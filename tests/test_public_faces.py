"""What `from detector import ...`, `from eval import ...` and `from proposals import ...` give: every name, lazily."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LOADED = """
import sys, {package}
assert "numpy" not in sys.modules, "the package itself loads nothing"
for name in {package}.__all__:
    if name not in {compiled}:
        getattr({package}, name)
print(*[name for name in {slow} if name in sys.modules])
"""


@pytest.mark.parametrize(
    ("package", "slow", "compiled"),
    [
        ("detector", ["torch", "openvino", "numba"], []),
        ("eval", ["torch", "openvino"], []),
        ("proposals", ["torch", "openvino", "detector", "numba"], ["selective_search", "Strategy"]),
        ("proposals", ["torch", "openvino", "detector"], []),
    ],
)
def test_all_names_are_there_and_load_nothing_slow(package: str, slow: list[str], compiled: list[str]) -> None:
    code = LOADED.format(package=package, slow=slow, compiled=compiled)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("package", ["detector", "eval", "proposals"])
def test_other_names_are_errors_and_no_module_hides_a_function(package: str) -> None:
    module = importlib.import_module(package)
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'evalute'"):
        _ = module.evalute
    assert module.__file__ is not None
    assert not {path.stem for path in Path(module.__file__).parent.iterdir()} & set(module.__all__)
    listed = {name for names in module._HOMES.values() for name in names}
    assert listed == set(module.__all__)
