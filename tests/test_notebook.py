"""The notebook: it runs from top to bottom, and what is committed comes from such a run."""

import json
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import detector
from detector.samples import sample_path
from proposals.images import read_image

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "visualise.ipynb"
MACHINE_PATH = re.compile(r"/(home|root|tmp|work)/")
LARGEST = 1_500_000  # bytes


@pytest.fixture
def notebook() -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [output for cell in code_cells(notebook) for output in cell.outputs]


def figures(notebook: nbformat.NotebookNode) -> int:
    """Return how many outputs are pictures."""
    return sum(any(kind.startswith("image/") for kind in output.get("data", {})) for output in outputs(notebook))


def without_pictures(notebook: nbformat.NotebookNode) -> str:
    """Return the file's text; base64 may spell anything and is left out."""
    for output in outputs(notebook):
        for kind in [kind for kind in output.get("data", {}) if kind.startswith("image/")]:
            del output["data"][kind]
    return json.dumps(notebook, ensure_ascii=False)


@pytest.mark.slow
def test_runs_from_top_to_bottom_in_an_empty_folder(
    notebook: nbformat.NotebookNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(detector.__file__).parents[1]))
    committed = figures(notebook)
    for cell in code_cells(notebook):
        cell.outputs, cell.execution_count = [], None
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()
    assert [o for o in outputs(notebook) if o.output_type == "error" or o.get("name") == "stderr"] == []
    assert figures(notebook) == committed > 0
    assert MACHINE_PATH.search(without_pictures(notebook)) is None
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert written == [tmp_path / "out" / "dog.jpg"]
    assert read_image(written[0]).shape == read_image(sample_path("dog.jpg")).shape


def test_committed_run_is_complete_and_in_order(notebook: nbformat.NotebookNode) -> None:
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert all(cell.outputs for cell in cells[1:]), "a cell after the imports shows nothing"
    assert [o for o in outputs(notebook) if o.output_type == "error" or o.get("name") == "stderr"] == []
    assert figures(notebook) >= 7  # one a step


def test_committed_file_is_valid_and_small(notebook: nbformat.NotebookNode) -> None:
    nbformat.validate(notebook)
    assert NOTEBOOK.stat().st_size < LARGEST
    assert notebook.metadata.kernelspec.name == "python3"


def test_no_path_of_a_machine(notebook: nbformat.NotebookNode) -> None:
    found = MACHINE_PATH.search(without_pictures(notebook))
    assert found is None, f"the notebook holds the path of a machine: {found}"


def test_text_and_code_alternate_without_empty_cells(notebook: nbformat.NotebookNode) -> None:
    kinds = [cell.cell_type for cell in notebook.cells]
    assert kinds == ["markdown", "code"] * (len(kinds) // 2)
    assert [cell.id for cell in notebook.cells if not cell.source.strip()] == []
