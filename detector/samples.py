"""The bundled photographs: `samples/` of a checkout, `detector/samples/` of an installed package."""

from __future__ import annotations

from pathlib import Path


def samples_folder() -> Path:
    """Return the folder of the sample pictures and their `annotations.json`.

    Raises: FileNotFoundError when the installation lacks it.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "samples", package.parent / "samples"):
        if (folder / "annotations.json").is_file():
            return folder
    raise FileNotFoundError("the bundled sample pictures are missing; install the package again")


def sample_path(name: str) -> Path:
    """Return the path of the sample picture `name` ("dog.jpg" or "dog").

    Raises: FileNotFoundError naming the samples there are.
    """
    folder = samples_folder()
    for candidate in (folder / Path(name).name, folder / f"{Path(name).name}.jpg"):
        if candidate.is_file() and candidate.suffix == ".jpg":
            return candidate
    known = ", ".join(sorted(p.stem for p in folder.glob("*.jpg")))
    raise FileNotFoundError(f"{name}: no such sample picture; there are {known}")
