"""Write docs/options.md from the dataclasses that hold the options: `python scripts/options_document.py`."""

from __future__ import annotations

from pathlib import Path

from detector.options import DetectOptions
from eval.data import EvalOptions
from proposals.files import write_text_atomic
from proposals.options import options_table

PAGE = Path(__file__).parents[1] / "docs" / "options.md"
HEAD = """\
# Options

`python scripts/options_document.py` writes this page from the dataclasses.

Each option is a flag of the command line (`superpixel_scale` is `--superpixel-scale`), a key of the TOML file that
`--config` names, and a field of a dataclass in Python. The command line wins over the file, the file over the default.
A value outside its range, an unknown key, and an option without effect beside the others are errors.

## Detection

`detect`, and every command that runs the detector: `detector.options.DetectOptions`.

"""


EVALUATION = """
## Evaluation

`python -m eval.map`, `eval.compare` and, of the data, `eval.recall`: `eval.data.EvalOptions`.

"""


def document() -> str:
    """Return the page."""
    return HEAD + options_table(DetectOptions) + EVALUATION + options_table(EvalOptions)


if __name__ == "__main__":
    write_text_atomic(PAGE, document())
