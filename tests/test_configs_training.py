"""The training configurations: each is read as the command reads it, and its comments say what is so."""

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
    "shipped_trunk": "finetune",
    "shipped_member": "finetune",
    "voc_svm": "svm",
    "voc_bbox": "bbox",
    "own_multibox": "multibox",
    "shipped_multibox": "multibox",
}
FINETUNE = [name for name, stage in STAGES.items() if stage == "finetune"]
IMAGENET, COCO, VOC = 1_281_167, 118_287, 5_717  # training pictures of ILSVRC 2012, COCO 2017 and VOC 2012


def read(name, *overrides):
    return read_config(STAGES[name], CONFIGS / f"{name}.toml", overrides)


def test_every_training_config_is_known_here():
    tables = {path.stem for path in CONFIGS.glob("*.toml")}
    assert set(STAGES) == tables - {"class_maps", "det_hierarchy", "ilsvrc_det", "models"}


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


def test_the_classifier_s_solver_is_bvlc_s():
    options = read("ilsvrc_classifier")
    per_epoch = IMAGENET / options.mini_batch
    assert options.epochs * per_epoch == pytest.approx(10_000_000, rel=0.01)  # max_iter
    assert options.decay_epochs * per_epoch == pytest.approx(320_000, rel=0.01)  # stepsize


def test_the_modern_classifier_marks_what_is_not_the_paper_s():
    options, paper = read("ilsvrc_classifier_modern"), read("ilsvrc_classifier")
    assert options.warmup_steps == pytest.approx(5 * IMAGENET / options.mini_batch, rel=0.01)
    for line in (CONFIGS / "ilsvrc_classifier_modern.toml").read_text(encoding="utf-8").splitlines():
        key, equals, rest = line.partition(" = ")
        if equals and not line.startswith("#") and key not in ("workers", "log_steps", "validate_steps", "data"):
            assert ("# +" in rest) == (getattr(options, key) != getattr(paper, key)), line


def test_distillation_has_a_teacher_that_ships():
    options = read("ilsvrc_distill")
    assert Path(find_model(options.teachers[0]).file).is_file()
    assert options.temperature * 1.0 == find_model(options.teachers[0]).sharpness  # logits of a deviation of 1


@pytest.mark.parametrize("name", [name for name in FINETUNE if name != "ilsvrc_finetune"])
def test_frozen_layers_are_there_and_something_is_left_to_train(name):
    options = read(name)
    layers = find_model(options.model).layers
    assert 0 < cut_after(layers, options.frozen) < len(layers)
    assert options.most_foreground and options.most_background  # says how much is kept


def test_the_disk_that_the_comments_tell():
    for name, pictures, objects, region, disk in (
        ("voc_finetune", VOC, 0, 2 * 1280 * 3 * 3, 12e9),
        ("coco_finetune", COCO, 7, 2 * 1280 * 3 * 3, 85e9),
        ("voc_svm", VOC, 0, 2 * 2048, 8e9),
    ):
        options = read(name)
        most = options.most_foreground + options.most_background + objects
        assert pictures * most * region == pytest.approx(disk, rel=0.06)
        assert f"{region:,} bytes" in (CONFIGS / f"{name}.toml").read_text(encoding="utf-8")
