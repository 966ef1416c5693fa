"""Two prediction files on one ground truth: by hand, against themselves, and turned round."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_problems import truth_of

from eval.bootstrap import picture_weights
from eval.compare import as_json, as_table, main
from eval.comparison import compare_predictions
from eval.predictions.table import Predictions
from eval.protocols import PROTOCOLS, evaluate

ANNOTATIONS = Path(__file__).parents[2] / "samples" / "annotations.json"
NAMES = ("cat", "dog", "horse")


def ground_truth(objects, pictures, names=NAMES):
    """Ground truth of one 40 x 40 box for each (picture, label), side by side in the picture."""
    return truth_of([(p, c, (50 * i, 0, 50 * i + 40, 40)) for i, (p, c) in enumerate(sorted(objects))], pictures, names)


def predicted(truth, hits, scores):
    """For each object a prediction that finds it, or one beside it."""
    boxes = truth.boxes + np.where(np.array(hits, bool)[:, None], 0.0, 3000.0)
    return Predictions(truth.pictures, truth.labels, np.array(scores, float), boxes)


TRUTH = ground_truth([(0, 1), (1, 1), (2, 2), (3, 2), (3, 2)], 5)
ALL = predicted(TRUTH, [1, 1, 1, 1, 1], [0.9, 0.8, 0.7, 0.6, 0.5])
HALF = predicted(TRUTH, [1, 0, 1, 1, 1], [0.9, 0.8, 0.7, 0.6, 0.5])


@pytest.mark.parametrize("protocol", ["ilsvrc", "voc10"])
def test_one_object_missed_by_hand(protocol):
    found = compare_predictions(TRUTH, HALF, ALL, protocol, resamples=200)
    assert (found.pictures, found.objects) == (5, 5)
    # of two cats one is found, and first: AP 1/2; the dogs are all found; the class without ground truth is not there
    assert (found.a.mean_ap, found.b.mean_ap, found.difference) == (0.75, 1.0, 0.25)
    assert [(row.name, row.a, row.b, row.difference, row.objects) for row in found.classes] == [
        ("cat", 0.5, 1.0, 0.5, 2),
        ("dog", 1.0, 1.0, 0.0, 3),
    ]
    assert [(row.predictions_a, row.predictions_b) for row in found.classes] == [(2, 2), (3, 3)]


def test_the_share_of_resamples_is_that_of_the_pictures_drawn():
    """B is better exactly where picture 1, whose cat A misses, is drawn: 1 - (4/5)^5 = 67 % of the resamples."""
    found = compare_predictions(TRUTH, HALF, ALL, "ilsvrc", resamples=4000, seed=3)
    drawn = picture_weights(5, 4000, 3)[:, 1] > 0
    nothing = (picture_weights(5, 4000, 3)[:, :4] == 0).all(axis=1)  # resamples without ground truth do not count
    assert found.better == pytest.approx(drawn.sum() / (~nothing).sum(), abs=1e-12)
    assert found.better == pytest.approx(1 - (4 / 5) ** 5, abs=0.03)
    assert found.equal == pytest.approx(1 - found.better)
    assert found.interval[0] == 0 and 0.5 <= found.interval[1] <= 1


def test_the_interval_is_that_of_differences_of_the_same_resamples():
    """Against a loop that draws the pictures and evaluates them anew."""
    truth = ground_truth([(p, 1 + p % 3) for p in range(12)], 12)
    random = np.random.default_rng(0)
    a, b = (predicted(truth, random.random(12) < share, random.random(12)) for share in (0.4, 0.8))
    found = compare_predictions(truth, a, b, "voc10", resamples=60, seed=5)
    differences = []
    for weights in picture_weights(12, 60, 5):
        sides = []
        for side in (a, b):
            copies = np.repeat(np.arange(12), weights)  # picture of each copy; object i is in picture i
            copied = ground_truth([(i, truth.labels[p]) for i, p in enumerate(copies)], 12)
            moved = side.boxes[copies] - truth.boxes[copies] + copied.boxes
            again = Predictions(np.arange(12), side.labels[copies], side.scores[copies], moved)
            sides.append(evaluate("voc10", copied, again).mean_ap)
        differences.append(sides[1] - sides[0])
    assert found.interval == pytest.approx(np.quantile(differences, [0.025, 0.975]), abs=1e-9)
    assert found.better == pytest.approx(np.mean(np.array(differences) > 0))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_file_against_itself_is_exactly_nothing(protocol):
    found = compare_predictions(TRUTH, HALF, HALF, protocol, resamples=100)
    assert found.difference == 0 and found.interval == (0, 0)
    assert (found.better, found.equal) == (0, 1)
    assert found.a.mean_ap_interval == found.b.mean_ap_interval and all(row.difference == 0 for row in found.classes)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_worse_file_is_worse(protocol):
    found = compare_predictions(TRUTH, ALL, HALF, protocol, resamples=100)
    assert found.difference < 0 and found.better == 0 and found.equal < 1
    assert found.interval[0] < 0 and found.interval[1] <= 0


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(1, 3)), min_size=1, max_size=12),
    st.integers(0, 2**16),
    st.sampled_from(["ilsvrc", "voc07", "voc10"]),
)
def test_turned_round_the_difference_changes_its_sign(objects, seed, protocol):
    truth = ground_truth(objects, 6)
    random = np.random.default_rng(seed)
    count = len(truth)
    a, b = (predicted(truth, random.integers(0, 2, count), random.integers(0, 4, count)) for _ in "ab")
    forth, back = (compare_predictions(truth, *pair, protocol, resamples=30) for pair in ((a, b), (b, a)))
    assert forth.difference == -back.difference
    assert forth.interval == pytest.approx((-back.interval[1], -back.interval[0]), abs=1e-12)
    assert forth.better + forth.equal + back.better == pytest.approx(1)
    assert sorted(row.difference for row in forth.classes) == sorted(-row.difference for row in back.classes)
    for side in (forth.a, forth.b):
        assert 0 <= side.mean_ap_interval[0] <= side.mean_ap_interval[1] <= 1
    json.loads(as_json(forth, "data", ("a", "b")), parse_constant=lambda name: pytest.fail(name))


def test_without_ground_truth_there_is_nothing_to_compare():
    truth = ground_truth([], 3)
    with pytest.raises(ValueError, match="no ground truth that counts, so there is no AP to compare; is --split right"):
        compare_predictions(truth, predicted(truth, [], []), predicted(truth, [], []))


def test_no_predictions_are_nothing_found():
    nothing = Predictions(np.zeros(0, int), np.zeros(0, int), np.zeros(0), np.zeros((0, 4)))
    found = compare_predictions(TRUTH, nothing, ALL, resamples=50)
    assert (found.a.mean_ap, found.a.predictions, found.a.mean_ap_interval) == (0, 0, (0, 0)) and found.difference == 1


def test_the_table_has_all_classes_only_when_asked():
    names = tuple(f"class {i:02}" for i in range(12))
    truth = ground_truth([(0, label) for label in range(1, 13)], 1, names)
    found = compare_predictions(
        truth, predicted(truth, [0] * 12, [0.5] * 12), predicted(truth, [1] * 6 + [0] * 6, [0.5] * 12)
    )
    short, whole = (as_table(found, "data", ("a", "b"), per_class) for per_class in (False, True))
    assert [name for name in names if name not in short] == ["class 05", "class 06"]
    assert all(name in whole for name in names)
    assert "B - A: +50.00 points, 95 % interval +50.00 .. +50.00" in short
    assert "classes: B is better in 6, worse in 0, equal in 6" in short


# the command


def lines_of(path, change=lambda row: row):
    """Write the sample pictures' ground truth as ILSVRC prediction lines, each row changed."""
    document = json.loads(ANNOTATIONS.read_text())
    rows = []
    for number, entry in enumerate(document["annotations"]):
        x, y, w, h = entry["bbox"]
        row = [entry["image_id"], entry["category_id"], 1 - number / 100, x + 1, y + 1, x + w, y + h]
        rows.append(" ".join(str(value) for value in change(row)))
    path.write_text("\n".join(rows) + "\n")
    return str(path)


@pytest.fixture
def files(tmp_path):
    worse = lines_of(
        tmp_path / "worse.txt", lambda row: [*row[:3], row[3] + 2000 * (row[1] != 58), row[4], row[5] + 2000, row[6]]
    )
    return worse, lines_of(tmp_path / "perfect.txt")


def test_the_command_on_the_sample_pictures(files, capsys):
    assert main([*files, "--data", str(ANNOTATIONS), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (
        found["b"]["mean_ap"] == 1
        and found["a"]["mean_ap"] < 0.2
        and found["pictures"] == 11
        and found["objects"] == 32
    )
    assert found["difference"] == found["b"]["mean_ap"] - found["a"]["mean_ap"] and found["better"] > 0.9
    assert main([*files, "--data", str(ANNOTATIONS), "--per-class", "-q"]) == 0
    out = capsys.readouterr().out
    assert f"B - A: {100 * found['difference']:+.2f} points" in out
    assert all(row["class"] in out for row in found["classes"]) and files[0] in out


def test_the_seed_and_the_resamples_decide_alone(files, capsys):
    outputs = []
    for seed in ("1", "1", "2"):
        words = ["--data", str(ANNOTATIONS), "--json", "--resamples", "37", "--seed", seed]
        assert main([*files, *words]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1] != outputs[2] and json.loads(outputs[0])["resamples"] == 37


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--protocol", "voc08"], 2, "invalid choice: 'voc08'"),
        (["--data", "DATA", "--resamples", "0"], 2, "--resamples must lie in 1..10000, got 0"),
        (["--data", "DATA", "--seed", "-1"], 2, "--seed: must be at least 0, got -1"),
        (["--data", "DATA", "--iou", "nan"], 2, "--iou: must lie in 0..1, got nan"),
        (["--data", "DATA", "--protocol", "lvis"], 2, "invalid choice: 'lvis'"),
        (["--data", "missing.json"], 1, "missing.json: No such file or directory"),
    ],
)
def test_wrong_usage_is_told(files, capsys, arguments, status, message):
    words = [str(ANNOTATIONS) if word == "DATA" else word for word in arguments]
    try:
        found = main([*files, *words])
    except SystemExit as error:
        found = error.code
    out, err = capsys.readouterr()
    assert found == status and not out and message in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file or directory"),
        ("", "no predictions in it"),
        ("1 58 nan 1 1 5 5\n", "bad.txt"),
        ("1 58\n", "bad.txt"),
    ],
)
def test_a_bad_prediction_file_is_named(files, tmp_path, capsys, content, message):
    bad = tmp_path / "bad.txt"
    if content is not None:
        bad.write_text(content)
    for pair in ((files[0], str(bad)), (str(bad), files[0])):
        assert main([*pair, "--data", str(ANNOTATIONS)]) == 1
        out, err = capsys.readouterr()
        assert not out and message in err and "bad.txt" in err and err.count("\n") == 1
