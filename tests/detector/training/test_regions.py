"""R-CNN's IoU rules by hand-made boxes; what each data set is taken to label; real data sets where they are there."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from detector.classes import BACKGROUND, det_names
from detector.datasets.ground_truth import GroundTruth
from detector.training.regions import (
    IGNORED,
    PoolOptions,
    RegionPool,
    Source,
    build_pool,
    jittered,
    label_regions,
    read_sources,
)
from proposals.boxes import iou
from proposals.types import MULTIBOX, SELECTIVE_SEARCH, Proposals

SHARED = Path(__file__).parents[3].parent / "shared"
DATA = SHARED / "data"
needs_shared = pytest.mark.skipif(not DATA.is_dir(), reason="the data sets of shared/ are not here")


def boxes_of(*rows: tuple[float, float, float, float]) -> np.ndarray:
    return np.array(rows, np.float32).reshape(-1, 4)


def proposals(*rows: tuple[float, float, float, float]) -> Proposals:
    return Proposals(boxes_of(*rows), np.zeros(len(rows)), np.full(len(rows), SELECTIVE_SEARCH))


def source(
    boxes: np.ndarray, labels: list[int], classes: int = 2, crowd: list[bool] | None = None, whole: bool = True
) -> Source:
    """A data set of one picture."""
    count = len(boxes)
    truth = GroundTruth(
        names=("p",),
        numbers=np.array([1]),
        sizes=np.array([[200, 200]]),
        paths=(Path("p.jpg"),),
        class_names=tuple(f"c{k}" for k in range(classes)),
        class_keys=tuple(f"c{k}" for k in range(classes)),
        pictures=np.zeros(count, np.int64),
        labels=np.ones(count, np.int64),
        boxes=boxes,
        difficult=np.zeros(count, bool),
        crowd=np.array(crowd or [False] * count, bool),
        areas=np.ones(count),
    )
    return Source(truth, np.array(labels, np.int64), np.ones((1, 1 + classes), bool), whole)


def pool_of(s: Source, found: Proposals, most: tuple[int, int] = (0, 0), seed: int = 0) -> RegionPool:
    return build_pool([s], s.truth.class_names, lambda path: found, PoolOptions(*most, seed=seed))


def write_coco(
    path: Path, names: tuple[str, ...], objects: list[tuple[str, tuple[float, float, float, float]]]
) -> Path:
    """A data set of one picture beside the file; boxes x, y, width, height."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (100, 80)).save(path.parent / "one.jpg")
    data = {
        "images": [{"id": 1, "file_name": "one.jpg", "width": 100, "height": 80}],
        "categories": [{"id": k, "name": name} for k, name in enumerate(names, 1)],
        "annotations": [
            {"id": k, "image_id": 1, "category_id": 1 + names.index(name), "bbox": list(box)}
            for k, (name, box) in enumerate(objects, 1)
        ],
    }
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def test_an_overlap_of_half_is_foreground_and_just_less_is_not():
    truth = boxes_of((0, 0, 10, 10))
    regions = boxes_of((0, 0, 10, 20), (0, 0, 10, 20.01), (0, 0, 10, 5), (0, 0, 10, 4.99), (50, 50, 60, 60))
    labels, best = label_regions(regions, truth, np.array([7]), np.array([False]))
    assert labels.tolist() == [7, BACKGROUND, 7, BACKGROUND, BACKGROUND]
    np.testing.assert_allclose(best, [0.5, 100 / 200.1, 0.5, 0.499, 0], rtol=1e-5)


def test_the_best_overlap_names_the_class_and_the_first_of_equals():
    truth = boxes_of((0, 0, 10, 10), (0, 0, 10, 12), (0, 0, 10, 12))
    labels, _ = label_regions(boxes_of((0, 0, 10, 12), (0, 0, 10, 10)), truth, np.array([1, 2, 3]), np.zeros(3, bool))
    assert labels.tolist() == [2, 1]


def test_regions_on_a_crowd_or_an_unclear_object_are_no_example():
    truth = boxes_of((0, 0, 10, 10), (20, 0, 30, 10), (40, 0, 50, 10))
    regions = boxes_of((0, 0, 10, 9), (20, 0, 30, 9), (40, 0, 50, 9), (0, 0, 10, 4))
    labels, _ = label_regions(regions, truth, np.array([1, IGNORED, 2]), np.array([True, False, False]))
    assert labels.tolist() == [IGNORED, IGNORED, 2, BACKGROUND]


def test_no_truth_or_no_region():
    labels, best = label_regions(boxes_of((0, 0, 5, 5)), boxes_of(), np.zeros(0, np.int64), np.zeros(0, bool))
    assert labels.tolist() == [BACKGROUND] and best.tolist() == [0]
    labels, best = label_regions(boxes_of(), boxes_of((0, 0, 5, 5)), np.array([1]), np.array([False]))
    assert len(labels) == len(best) == 0


def test_labels_equal_a_loop_over_random_boxes():
    rng = np.random.default_rng(3)
    corners = rng.integers(0, 30, (2, 60, 2))
    boxes = np.concatenate([corners[0], corners[0] + 1 + corners[1]], axis=1).astype(np.float32)
    truth, regions = boxes[:6], boxes[6:]
    labels, _ = label_regions(regions, truth, np.arange(1, 7), np.zeros(6, bool))

    def overlap(a: np.ndarray, b: np.ndarray) -> float:
        width = min(a[2], b[2]) - max(a[0], b[0])
        height = min(a[3], b[3]) - max(a[1], b[1])
        inside = max(0.0, float(width)) * max(0.0, float(height))
        return inside / (float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2])) - inside)

    wanted = []
    for region in regions:
        found = [overlap(region, box) for box in truth]
        wanted.append(1 + int(np.argmax(found)) if max(found) >= 0.5 else BACKGROUND)
    assert labels.tolist() == wanted
    assert BACKGROUND in wanted and len(set(wanted)) > 2


def test_ground_truth_comes_first_and_objects_of_no_class_are_certain_background():
    s = source(np.array([[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10], [60, 0, 70, 10.0]]), [1, 0, IGNORED, 2])
    found = proposals((0, 0, 10, 9), (20, 0, 30, 9), (40, 0, 50, 9), (60, 0, 70, 3), (100, 100, 120, 120))
    pool = pool_of(s, found)
    assert pool.truth.tolist() == [True, True, False, False, False, False, False]
    assert pool.boxes[:, 0].tolist() == [0, 60, 20, 0, 20, 60, 100]
    assert pool.labels.tolist() == [1, 2, BACKGROUND, 1, BACKGROUND, BACKGROUND, BACKGROUND]
    assert pool.pictures.tolist() == [0] * 7 and pool.sets.tolist() == [0] * 7
    assert pool.other is not None and pool.other.tolist() == [False, False, True, False, True, False, False]
    known = pool.known_of(np.arange(7))
    assert known[[2, 4]].all() and np.array_equal(known[0], pool.known[0])


def test_half_of_the_background_is_near_objects_where_there_is_as_much():
    s = source(np.array([[0, 0, 100, 100.0]]), [1])
    near = [(0.0, 0.0, 100.0, 12.0 + number) for number in range(20)]
    far = [(200.0 + number, 200.0, 240.0 + number, 240.0) for number in range(60)]

    def counts(*regions: tuple[float, float, float, float], share: float) -> tuple[int, int]:
        pool = build_pool([s], ("a", "b"), lambda path: proposals(*regions), PoolOptions(0, 10, near=share))
        background = pool.boxes[pool.labels == BACKGROUND]
        return int((background[:, 0] == 0).sum()), int((background[:, 0] > 0).sum())

    assert counts(*near, *far, share=0.5) == (5, 5)
    assert counts(*near[:2], *far, share=0.5) == (2, 8)
    assert counts(*near, *far, share=1.0) == (10, 0)


@given(st.integers(0, 2**32 - 1))
def test_moved_copies_stay_on_their_object_and_in_the_picture(seed):
    boxes = np.array([[0, 0, 30, 20], [50, 40, 99, 60], [10, 10, 11, 11]], np.float32)
    moved = jittered(boxes, 7, (100, 60), np.random.default_rng(seed))
    assert moved.shape == (21, 4) and moved.dtype == np.float32
    assert (moved >= 0).all() and (moved[:, [0, 2]] <= 100).all() and (moved[:, [1, 3]] <= 60).all()
    own = iou(moved, boxes)[np.arange(21), np.repeat(np.arange(3), 7)]
    assert (own >= 0.5 - 1e-6).all() and (own < 1).any()


def test_a_picture_with_a_label_alone_takes_the_largest_of_its_best_learned_boxes(tmp_path):
    (tmp_path / "images").mkdir()
    for name in ("cat.png", "dog.png"):
        Image.new("RGB", (64, 64)).save(tmp_path / "images" / name)
    images = [
        {"id": 1, "file_name": "cat.png", "width": 64, "height": 64, "label": "domestic cat"},
        {"id": 2, "file_name": "dog.png", "width": 64, "height": 64, "label": "dog"},
    ]
    categories = [{"id": 1, "name": "dog"}, {"id": 2, "name": "domestic cat"}]
    file = tmp_path / "labels.json"
    file.write_text(json.dumps({"images": images, "annotations": [], "categories": categories}))
    sources, names = read_sources((str(file),), (), False, (str(file),))
    boxes = np.array([[0, 0, 64, 64], [1, 1, 9, 9], [0, 0, 40, 40], [5, 5, 20, 20], [0, 0, 39, 40]], np.float32)
    found = Proposals(boxes, np.linspace(1, 0.1, 5), np.array([SELECTIVE_SEARCH, *[MULTIBOX] * 4]))
    pool = build_pool(sources, names, lambda path: found, PoolOptions())
    expected = [det_names().index(name) + 1 for name in ("domestic cat", "dog")]
    assert pool.boxes[pool.truth].tolist() == [[0, 0, 40, 40]] * 2
    assert pool.labels[pool.truth].tolist() == expected
    assert [np.flatnonzero(row).tolist() for row in pool.known] == [[0, label] for label in expected]
    first = pool.pictures == 0
    assert set(pool.labels[first].tolist()) == {expected[0], BACKGROUND}  # 0.39 x 0.64 near, the two small ones neither

    images[1]["label"] = "no such thing"
    file.write_text(json.dumps({"images": images, "annotations": [], "categories": categories}))
    with pytest.raises(ValueError, match=r"labels.json: picture dog has no label"):
        read_sources((str(file),), (), False, (str(file),))


def test_a_crowd_is_no_ground_truth():
    pool = pool_of(source(np.array([[0, 0, 10, 10.0]]), [1], crowd=[True]), proposals((0, 0, 10, 9), (50, 50, 60, 60)))
    assert pool.labels.tolist() == [BACKGROUND] and pool.boxes[0].tolist() == [50, 50, 60, 60]


def test_a_partly_labelled_set_gives_only_near_misses_as_background():
    """Of IoU 0, 0.099, 0.1, 0.49, 0.5 with the only labelled box: the middle two."""
    regions = [(50.0, 50.0, 60.0, 60.0), *((0.0, 0.0, 10.0, height) for height in (0.99, 1.0, 4.9, 5.0))]
    near = source(np.array([[0, 0, 10, 10.0]]), [2], whole=False)
    pool = pool_of(near, proposals(*regions))
    assert [(float(box[3]), int(label)) for box, label in zip(pool.boxes, pool.labels, strict=True)] == [
        (10.0, 2),
        (1.0, BACKGROUND),
        (pytest.approx(4.9), BACKGROUND),
        (5.0, 2),
    ]
    whole = pool_of(source(np.array([[0, 0, 10, 10.0]]), [2]), proposals(*regions))
    assert (whole.labels == BACKGROUND).sum() == 4


def test_limits_a_picture_keep_all_ground_truth_and_the_seed_decides():
    truth = np.array([[10.0 * k, 0, 10 * k + 10, 10] for k in range(12)])
    s = source(truth, [1] * 12)
    near = [(10.0 * k, 0.0, 10.0 * k + 10, 9.0) for k in range(12)]
    far = [(float(k), 100.0, k + 10.0, 110.0) for k in range(40)]
    found = proposals(*near, *far)
    limited = pool_of(s, found, (3, 5), seed=1)
    foreground = limited.labels > BACKGROUND
    assert (limited.truth.sum(), (foreground & ~limited.truth).sum(), (~foreground).sum()) == (12, 3, 5)
    assert len(pool_of(s, found)) == 12 + 12 + 40
    again = pool_of(s, found, (3, 5), seed=1)
    assert np.array_equal(limited.boxes, again.boxes) and limited.fingerprint() == again.fingerprint()
    other = pool_of(s, found, (3, 5), seed=2)
    assert not np.array_equal(limited.boxes, other.boxes) and limited.fingerprint() != other.fingerprint()


def test_pictures_without_proposals_are_left_out_and_without_any_there_is_an_error():
    first, second = source(np.array([[0, 0, 10, 10.0]]), [1]), source(np.array([[0, 0, 10, 10.0]]), [2])
    store = iter([None, proposals((50, 50, 60, 60))])
    pool = build_pool([first, second], ("c0", "c1"), lambda path: next(store), PoolOptions())
    assert len(pool.paths) == 1 and pool.labels.tolist() == [2, BACKGROUND] and pool.sets.tolist() == [1, 1]
    with pytest.raises(ValueError, match="no region to train on"):
        build_pool([first], ("c0", "c1"), lambda path: None, PoolOptions())


def test_a_split_is_named_behind_the_path(tmp_path: Path):
    write_coco(tmp_path / "train.json", ("dog",), [("dog", (0, 0, 10, 10))])
    write_coco(tmp_path / "val.json", ("dog",), [("dog", (0, 0, 10, 10)), ("dog", (20, 0, 10, 10))])
    (plain,), names = read_sources([str(tmp_path)], (), True)
    (val,), _ = read_sources([f"{tmp_path}#val"], (), True)
    assert (len(plain.truth), len(val.truth), names) == (1, 2, ("dog",))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("Widget", "widget"), r"a\.json: classes 'Widget' and 'widget' differ by case or blanks alone"),
        (("widget", "widget "), "classes 'widget' and 'widget ' differ"),
        (("my_widget", "my widget"), "classes 'my_widget' and 'my widget' differ"),
        (("widget\n", "nut"), r"class name 'widget\\n' is empty or holds a control character"),
        (("wid\tget", "nut"), "class name 'wid"),
    ],
)
def test_class_names_that_no_model_can_hold_are_refused_before_any_work(
    tmp_path: Path, names: tuple[str, ...], message: str
):
    file = write_coco(tmp_path / "a.json", names, [(names[0], (0, 0, 10, 10))])
    with pytest.raises(ValueError, match=message):
        read_sources([str(file)], (), True)


def test_own_classes_are_those_of_the_first_set_and_must_agree(tmp_path: Path):
    one = write_coco(tmp_path / "one" / "a.json", ("screw", "nut"), [("nut", (0, 0, 10, 10))])
    two = write_coco(tmp_path / "two" / "b.json", ("screw", "bolt"), [("bolt", (0, 0, 10, 10))])
    (found,), names = read_sources([str(one)], (), True)
    assert names == ("screw", "nut") and found.labels.tolist() == [2] and found.known.tolist() == [[True] * 3]
    with pytest.raises(ValueError, match=r"b\.json: its classes are not those of .*a\.json"):
        read_sources([str(one), str(two)], (), True)
    with pytest.raises(ValueError, match="class 'screw'"):
        read_sources([str(one)], (), False)


def test_a_set_without_pictures_is_refused(tmp_path: Path):
    path = write_coco(tmp_path / "a.json", ("dog",), [("dog", (0, 0, 10, 10))])
    (tmp_path / "one.jpg").unlink()
    with pytest.raises(ValueError, match="no picture of this data set is there"):
        read_sources([str(path)], (), True)


def test_coco_names_map_to_det_and_unclear_ones_are_masked(tmp_path: Path):
    """A bottle may be one of two classes, a giraffe is none of the 200: neither column is known."""
    path = write_coco(
        tmp_path / "a.json",
        ("dog", "bottle", "giraffe"),
        [("bottle", (0, 0, 10, 10)), ("giraffe", (20, 0, 10, 10)), ("dog", (40, 0, 10, 10))],
    )
    (found,), names = read_sources([str(path)], (), False)
    dog = 1 + det_names().index("dog")
    assert names == det_names() and found.labels.tolist() == [IGNORED, BACKGROUND, dog]
    assert np.flatnonzero(found.known[0]).tolist() == [BACKGROUND, dog]


def test_a_partial_set_knows_only_the_class_of_each_picture(tmp_path: Path):
    path = write_coco(tmp_path / "a.json", ("dog", "cat"), [("cat", (0, 0, 10, 10))])
    (found,), _ = read_sources([str(path)], [str(path)], False)
    cat = 1 + det_names().index("domestic cat")
    assert not found.whole and np.flatnonzero(found.known[0]).tolist() == [BACKGROUND, cat]


@needs_shared
def test_the_real_sets_know_what_they_label():
    voc, coco, loc = DATA / "voc2012", DATA / "coco2017", DATA / "ilsvrc" / "loc_full"
    sources, names = read_sources(
        [f"{voc}#val", f"{coco}#val", str(loc / "annotations.json")], [str(loc / "annotations.json")], False
    )
    assert names == det_names()
    of_voc, of_coco, of_loc = sources
    assert (of_voc.known.sum(axis=1) == 1 + 19).all()  # of VOC's twenty, the bottle is unclear
    wanted = json.loads((DATA / "class_maps.json").read_text(encoding="utf-8"))["coco"]
    clear = {wnid for wnid in wanted.values() if wnid and wnid != "ambiguous"}
    assert (of_coco.known.sum(axis=1) == 1 + len(clear)).all()
    assert IGNORED in of_coco.labels
    columns = of_loc.known.sum(axis=1)
    assert set(columns.tolist()) <= {1, 2} and (columns == 2).mean() > 0.3
    for picture in range(0, len(of_loc.truth.names), 97):
        labels = of_loc.labels[of_loc.truth.of_picture(picture)]
        assert set(np.flatnonzero(of_loc.known[picture]).tolist()) == {BACKGROUND, *labels[labels > 0].tolist()}
    assert [s.whole for s in sources] == [True, True, False]


@needs_shared
def test_a_pool_of_real_pictures_has_every_clear_object(tmp_path: Path):
    (found,), names = read_sources([f"{DATA / 'voc2012'}#val"], (), False)
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 200, (300, 2))
    random = np.concatenate([corners, corners + rng.uniform(20, 250, (300, 2))], axis=1)
    shown = proposals(*map(tuple, random.tolist()))
    pool = build_pool([found], names, lambda path: shown, PoolOptions(5, 10))
    clear = found.labels[(found.labels > 0) & ~found.truth.crowd]
    assert Counter(pool.labels[pool.truth].tolist()) == Counter(clear.tolist())
    counts = np.bincount(pool.pictures[pool.labels == BACKGROUND], minlength=len(pool.paths))
    assert counts.max() == 10 and (np.diff(pool.pictures) >= 0).all()
