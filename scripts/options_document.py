"""Write docs/options.md from the dataclasses that hold the options: `python scripts/options_document.py`."""

from __future__ import annotations

import inspect
from pathlib import Path

from detector.cli.inputs import InputOptions
from detector.options import DetectOptions
from detector.training.options import (
    BboxOptions,
    ClassifierOptions,
    DistillOptions,
    FinetuneOptions,
    LoopOptions,
    MultiBoxOptions,
    PictureOptions,
    RegionOptions,
    SvmOptions,
)
from eval.data import EvalOptions
from proposals.extract import ExtractOptions
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

INPUTS = """
`detect` alone, on the command line: `detector.cli.inputs.InputOptions`.

"""
EXTRACTION = """
## Proposals

The options from `proposals` to `seed` are the same in `detect`, `eval.map`, `eval.recall` and `python -m
proposals.extract`; `finetune`, `svm` and `bbox` have them too, with `pool_seed` in the place of `seed`.
`proposals.extract` has besides them, in `proposals.extract.ExtractOptions`:

"""
EVALUATION = """
## Evaluation

`python -m eval.map`, `eval.compare` and, of the data, `eval.recall`: `eval.data.EvalOptions`.

"""

TRAINING = """
## Training

`python -m detector.train STAGE` (docs/training.md): keys of the TOML file that `--config` names, or `KEY=VALUE` on the
command line; `detector.training.options`.
"""
TRAINED = {  # what a table is of -> the dataclass whose own fields it lists
    "`classifier`, `distill`, `finetune` and `multibox`: the loop": LoopOptions,
    "`classifier` and `distill`": PictureOptions,
    "`classifier` alone": ClassifierOptions,
    "`distill` alone": DistillOptions,
    "`finetune`, `svm` and `bbox`: the regions, beside the options of proposals": RegionOptions,
    "`finetune` alone": FinetuneOptions,
    "`svm` alone": SvmOptions,
    "`bbox` alone": BboxOptions,
    "`multibox` alone": MultiBoxOptions,
}


def document() -> str:
    """Return the page."""
    training = "".join(
        f"\n### {title}\n\n{options_table(cls, inspect.get_annotations(cls))}" for title, cls in TRAINED.items()
    )
    detection = HEAD + options_table(DetectOptions) + INPUTS + options_table(InputOptions)
    extraction = EXTRACTION + options_table(ExtractOptions, inspect.get_annotations(ExtractOptions))
    return detection + extraction + EVALUATION + options_table(EvalOptions) + TRAINING + training


if __name__ == "__main__":
    write_text_atomic(PAGE, document())
