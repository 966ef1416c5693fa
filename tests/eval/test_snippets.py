"""The Python of README.md and docs/evaluation.md runs, on a piece of the official demo."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PIECE = Path(__file__).parent / "data"
SNIPPETS = [
    pytest.param(code, id=f"{document} {number}")
    for document in ("README.md", "docs/evaluation.md")
    for number, code in enumerate(re.findall(r"```python\n(.*?)```", (ROOT / document).read_text("utf-8"), re.S), 1)
    if "from eval import" in code
]


@pytest.mark.parametrize("code", SNIPPETS)
def test_it_runs(
    code: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, source in (("val.json", "val2_three_classes.json"), ("submission.txt", "demo_three_classes.txt")):
        shutil.copy(PIECE / source, name)
    shutil.copy("submission.txt", "other.txt")
    exec(compile(code, "snippet", "exec"), {})
    assert capsys.readouterr().out.startswith("0.5523")  # mAP of the three classes


def test_both_documents_have_some() -> None:
    assert len(SNIPPETS) == 2
