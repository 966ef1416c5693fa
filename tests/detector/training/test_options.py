"""The options of training: ends belong to ranges, and what does nothing beside the others is refused."""

from __future__ import annotations

from typing import Any

import pytest

from detector.training.options import (
    BboxOptions,
    ClassifierOptions,
    DistillOptions,
    FinetuneOptions,
    LoopOptions,
    MultiBoxOptions,
    SvmOptions,
)
from proposals.options import FILE, about, options_from

LOOP: dict[str, Any] = {"steps": 1}
REGIONS: dict[str, Any] = {"data": ["samples"]}
FINETUNE = LOOP | REGIONS
CLASSIFIER: dict[str, Any] = {"steps": 1, "data": "folder"}
DISTILL = CLASSIFIER | {"teachers": ["inception_v3"]}
STAGES = {
    LoopOptions: LOOP,
    FinetuneOptions: FINETUNE,
    ClassifierOptions: CLASSIFIER,
    DistillOptions: DISTILL,
    MultiBoxOptions: FINETUNE,
    SvmOptions: REGIONS,
    BboxOptions: REGIONS,
}


@pytest.mark.parametrize("kind", STAGES)
def test_the_ends_of_a_range_are_taken_and_what_lies_outside_is_not(kind: type[Any]):
    """Also NaN; every option of every stage says what it is."""
    base = options_from(kind, STAGES[kind], "here")
    for name, what in about(kind).items():
        assert what.help
        wrong: list[Any] = ["nonsense"] if what.choices and FILE not in what.choices else []
        if what.low is not None and isinstance(getattr(base, name), float):
            wrong.append(float("nan"))
        wrong += [] if what.low is None else [type(getattr(base, name) or 0)(what.low - 1)] if not what.off else []
        wrong += [] if what.high is None else [what.high + 1]
        for value in wrong if not isinstance(getattr(base, name), tuple) else ():
            with pytest.raises(ValueError, match=f"^{name} must"):
                kind(**{**vars(base), name: value})
    assert {f.name for f in kind.__dataclass_fields__.values()} == set(about(kind))


@pytest.mark.parametrize(
    ("kind", "fields", "told"),
    [
        (LoopOptions, {"steps": 0}, "give the length of the run: steps above 0, or epochs above 0"),
        (LoopOptions, {"epochs": 2.0}, "epochs has no effect with steps 1; give steps 0, or leave it out"),
        (LoopOptions, {"optimizer": "adamw", "momentum": 0.5}, "momentum has no effect with optimizer adamw"),
        (LoopOptions, {"schedule": "cosine", "decay": 0.5}, "decay has no effect with schedule cosine; give schedule"),
        (LoopOptions, {"decay_steps": 5, "decay_epochs": 1.0}, "decay_epochs has no effect with decay_steps 5"),
        (LoopOptions, {"ema_decay": 0.9}, "ema_decay has no effect with average none; give average ema"),
        (LoopOptions, {"average_from": 0.5}, "average_from has no effect with average none; give average equal or ema"),
        (FinetuneOptions, {"shares": [1, 2]}, "shares must have a number for each of the 1 data sets"),
        (FinetuneOptions, {"shares": [-1]}, "shares must be at least 0, got -1"),
        (FinetuneOptions, {"label_only": ["x"]}, "label_only names 'x', which must be one of data"),
        (FinetuneOptions, {"cut_precision": "f32"}, "cut_precision has no effect without frozen; leave it out"),
        (FinetuneOptions, {"cache": "x"}, "cache has no effect without frozen"),
        (FinetuneOptions, {"cache": "x", "frozen": "a", "keep_features": False}, "give keep_features true"),
        (FinetuneOptions, {"near": 0.5}, "near has no effect without most_background"),
        (FinetuneOptions, {"teachers": ["x"]}, "teachers has no effect without distill"),
        (FinetuneOptions, {"teachers": ["x"], "distill": 1, "frozen": "a"}, "set keep_features = false"),
        (FinetuneOptions, {"distill": 1, "classes": "own"}, "distill has no effect with classes own; give classes det"),
        (FinetuneOptions, {"kept": "b", "frozen": "a"}, "kept and kept_from go together"),
        (
            ClassifierOptions,
            {"network": "inception_v3", "norm": "batch"},
            "norm has no effect with network inception_v3",
        ),
        (ClassifierOptions, {"auxiliary": False, "auxiliary_weight": 0.5}, "auxiliary_weight has no effect with"),
        (ClassifierOptions, {"validate_pictures": 5}, "validate_pictures has no effect without validation"),
        (DistillOptions, {"mixup": 0.2}, "unknown key 'mixup'"),
        (DistillOptions, {"label_smoothing": 0.1}, "unknown key 'label_smoothing'"),
        (DistillOptions, {"teachers": []}, "teachers names no network to learn from"),
        (SvmOptions, {"easy": -0.5}, "easy (-0.5) lies above hard (-1.0)"),
        (BboxOptions, {"min_pairs": 9, "max_pairs": 8}, "min_pairs must be 1 to max_pairs, got 9 of 8"),
        (BboxOptions, {"partial": ["x"]}, "partial names 'x', which data does not"),
    ],
)
def test_what_makes_no_sense_or_has_no_effect(kind: type[Any], fields: dict[str, Any], told: str):
    with pytest.raises(ValueError) as caught:
        options_from(kind, STAGES[kind] | fields, "here")
    assert told in str(caught.value) and "\n" not in str(caught.value)
