"""The training configurations: each is read as the command reads it, and holds what its comments cite."""

import tomllib
from pathlib import Path

import pytest

from detector.cli.train import read_config
from detector.model import find_model
from detector.networks.layers import cut_after

CONFIGS = Path(__file__).parents[1] / "configs"
STAGES = {
    "ilsvrc_classifier": "classifier",
    "ilsvrc_classifier_modern": "classifier",
    "ilsvrc_distill": "distill",
    "ilsvrc_finetune": "finetune",
    "voc_finetune": "finetune",
    "coco_finetune": "finetune",
    "own_finetune": "finetune",
    "samples_finetune": "finetune",
}
FINETUNE = [name for name, stage in STAGES.items() if stage == "finetune"]
IMAGENET, COCO = 1_281_167, 118_287  # training pictures of ILSVRC 2012 and COCO 2017


def read(name, *overrides):
    return read_config(STAGES[name], CONFIGS / f"{name}.toml", overrides)


def holds(options, **wanted):
    assert {key: getattr(options, key) for key in wanted} == wanted


def test_every_training_config_is_known_here():
    found = {path.stem for path in CONFIGS.glob("*.toml") if path.stem.endswith(("_finetune", "_distill"))}
    found |= {path.stem for path in CONFIGS.glob("*_classifier*.toml")}
    assert found == set(STAGES)


@pytest.mark.parametrize("name", STAGES)
def test_all_keys_are_options_and_come_through(name):
    options = read(name)
    table = tomllib.loads((CONFIGS / f"{name}.toml").read_text(encoding="utf-8"))
    assert table
    for key, value in table.items():
        assert getattr(options, key) == (tuple(value) if isinstance(value, list) else value), key


def test_a_misspelt_key_is_refused():
    with pytest.raises(ValueError, match="momentum"):
        read("ilsvrc_classifier", "momentun=0.9")


def test_the_classifier_is_the_paper_s():
    options = read("ilsvrc_classifier")
    holds(options, network="googlenet", norm="lrn", size=224, width=1.0, precision="f32", mixup=0.0)
    holds(options, optimizer="sgd", momentum=0.9, schedule="step", decay=0.96, decay_epochs=8.0, decay_steps=0)
    holds(options, average="equal", auxiliary=True, auxiliary_weight=0.3, dropout=0.4, label_smoothing=0.0)
    holds(options, area_min=0.08, aspect_min=0.75, photometric=True, interpolations=4, warmup_steps=0, clip=0.0)
    assert 0 < options.average_from < 1


def test_the_classifier_s_solver_is_bvlc_s():
    options = read("ilsvrc_classifier")
    holds(options, learning_rate=0.01, weight_decay=2e-4, mini_batch=32)
    per_epoch = IMAGENET / options.mini_batch
    assert options.epochs * per_epoch == pytest.approx(10_000_000, rel=0.01)  # max_iter
    assert options.decay_epochs * per_epoch == pytest.approx(320_000, rel=0.01)  # stepsize


def test_the_modern_classifier_marks_what_is_not_the_paper_s():
    options, paper = read("ilsvrc_classifier_modern"), read("ilsvrc_classifier")
    holds(options, norm="batch", schedule="cosine", precision="bf16", mini_batch=256, label_smoothing=0.1)
    per_epoch = IMAGENET / options.mini_batch
    assert options.warmup_steps == pytest.approx(5 * per_epoch, rel=0.01)
    for line in (CONFIGS / "ilsvrc_classifier_modern.toml").read_text(encoding="utf-8").splitlines():
        key, equals, rest = line.partition(" = ")
        if equals and not line.startswith("#") and key not in ("workers", "log_steps", "validate_steps", "data"):
            assert ("# +" in rest) == (getattr(options, key) != getattr(paper, key)), line


def test_distillation_has_a_teacher_that_ships_and_a_student_with_batch_norm():
    options = read("ilsvrc_distill")
    holds(options, teachers=("inception_v3",), network="googlenet", norm="batch", start="")
    assert Path(find_model(options.teachers[0]).file).is_file()
    assert options.temperature * 1.0 == find_model(options.teachers[0]).sharpness  # logits of a deviation of 1


def test_the_fine_tuning_is_r_cnn_s():
    options = read("ilsvrc_finetune")
    holds(options, steps=50_000, learning_rate=1e-3, schedule="step", decay=0.1, decay_steps=20_000, momentum=0.9)
    holds(options, weight_decay=5e-4, head_rate=10.0, foreground=32, background=96, balance=0.0, average="none")
    holds(options, classes="det", frozen="", unlabelled=0.0, distill=0.0, dropout=0.4, model="runs/classifier")


@pytest.mark.parametrize("name", FINETUNE)
def test_a_mini_batch_is_r_cnn_s(name):
    holds(read(name), foreground=32, background=96)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("voc_finetune", "Mixed_7a"),
        ("coco_finetune", "Mixed_7a"),
        ("own_finetune", "Mixed_7c"),
        ("samples_finetune", "Mixed_7c"),
    ],
)
def test_frozen_layers_are_there_and_something_is_left_to_train(name, layer):
    options = read(name)
    assert options.frozen == layer
    layers = find_model(options.model).layers
    assert 0 < cut_after(layers, layer) < len(layers)


@pytest.mark.parametrize("name", FINETUNE)
def test_old_scores_are_kept_only_where_it_can_be(name):
    options = read(name)
    assert not options.distill or (options.frozen and options.classes == "det")


@pytest.mark.parametrize("name", FINETUNE)
def test_frozen_runs_say_how_much_they_keep(name):
    options = read(name)
    assert bool(options.frozen) == bool(options.most_foreground and options.most_background)


def test_own_classes_take_a_few_hundred_steps_on_a_cpu():
    options = read("own_finetune", 'data=["other.json"]')
    holds(options, classes="own", device="cpu", data=("other.json",), workers=0)
    assert 100 <= options.steps <= 1000


def test_the_disk_that_the_comments_tell():
    voc, coco = read("voc_finetune"), read("coco_finetune")
    region = 2 * 1280 * 3 * 3
    assert region == 23_040
    assert 5717 * (voc.most_foreground + voc.most_background) * region == pytest.approx(12e9, rel=0.05)
    assert COCO * (coco.most_foreground + coco.most_background + 7) * region == pytest.approx(85e9, rel=0.05)
