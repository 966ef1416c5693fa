"""The documents: no placeholder left, every command and file that they name is there."""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest

from detector import DetectOptions

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md"), *ROOT.glob("detector/models/*.md")]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_no_placeholder_is_left(path):
    text = path.read_text(encoding="utf-8")
    assert not re.findall(r"\b[A-Z]+_TABLE\b|\b[SBV]\d{3}\b|^[A-Z]{5,}$", text, flags=re.MULTILINE)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_scripts_and_pictures_that_are_named_exist(path):
    text = path.read_text(encoding="utf-8")
    for script in re.findall(r"python ((?:benchmarks|scripts)/\w+\.py)", text):
        assert (ROOT / script).is_file(), script
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (path.parent / link).exists(), link


def test_the_readme_has_both_lines():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert "pip install -c constraints.txt . && detect samples/dog.jpg" in lines
    assert 'pip install -c constraints.txt -e ".[test]" && pytest' in lines


def test_the_page_of_options_is_that_of_the_dataclasses():
    spec = importlib.util.spec_from_file_location("options_document", ROOT / "scripts" / "options_document.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.PAGE.read_text(encoding="utf-8") == script.document(), "run python scripts/options_document.py"


def blocks(language):
    """The blocks of README.md in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S)


@pytest.mark.slow
def test_the_python_of_the_readme_runs_from_top_to_bottom(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    for code in blocks("python"):
        if "from eval import" not in code:  # tests/eval/test_snippets.py has these
            exec(compile(code, "README.md", "exec"), names)
    found = names["found"]
    assert "dog" in found.names and capsys.readouterr().out.startswith(f"{found.names[0]} ")
    assert names["trace"].detections.same_as(found)
    assert len(names["together"]) > len(names["proposals"]) > 100


def test_the_commands_of_the_readme_are_understood(tmp_path, monkeypatch):
    from detector.cli.detect import detect_options, parse_arguments

    monkeypatch.chdir(tmp_path)
    lines = [line for block in blocks("sh") for line in block.splitlines() if re.search(r"(^|[|&] )detect ", line)]
    assert len(lines) >= 10
    for line in lines:
        words = shlex.split(re.split(r"(?:^|[|&] )detect ", line)[1], comments=True)
        options = detect_options(parse_arguments(words))  # an option without effect, or a model that is not there
        assert options == DetectOptions() or any(word.startswith("--") for word in words)
