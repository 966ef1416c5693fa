"""What `from eval import ...` gives: every name, lazily, without torch and OpenVINO."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import eval

ROOT = Path(__file__).resolve().parents[2]
LOADED = """
import sys, eval
assert "numpy" not in sys.modules, "the package itself loads nothing"
{names}
print(*[name for name in ("torch", "openvino") if name in sys.modules])
"""


def test_all_names_are_there_and_load_neither_torch_nor_openvino() -> None:
    names = "\n".join(f"from eval import {name}" for name in eval.__all__)
    done = subprocess.run(
        [sys.executable, "-c", LOADED.format(names=names)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""


def test_other_names_are_errors_and_no_module_hides_a_function() -> None:
    with pytest.raises(AttributeError, match="module 'eval' has no attribute 'evalute'"):
        _ = eval.evalute
    folder = Path(eval.__file__).parent
    assert not {path.stem for path in folder.iterdir()} & set(eval.__all__)
