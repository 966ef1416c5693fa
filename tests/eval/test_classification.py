"""Top-1 and top-5 errors: against brute force, from every kind of labelled set, and what wrong input is told."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from detector.classes import det_classes, leaf_matrix
from detector.model import find_model
from detector.runtimes.load import load_classifier
from detector.whole_crops import protocol_crops
from eval.classification import classify, main, mean_scores, ranks, summary, wilson
from eval.labelled import Labels, imagenet_classes, read_labelled
from proposals.images import read_image

SAMPLES = Path(__file__).parents[2] / "samples"
SHARED = Path(__file__).parents[2].parent / "shared" / "data" / "ilsvrc"
PLAIN = replace(find_model("inception_v3"), size=96, sharpness=0.0)
CAT, EAGLE = 285, 22  # Egyptian cat, bald eagle
SMALL = ("--crop-size", "96")


@pytest.fixture(scope="module")
def member():
    return load_classifier(PLAIN, "openvino", "cpu", "f32", 8, "imagenet")


@pytest.fixture
def listed(tmp_path):
    """A list of three bundled pictures: an Egyptian cat, a bald eagle and a dog."""
    path = tmp_path / "list.txt"
    rows = [("chelsea.jpg", "n02124075"), ("eagle.jpg", "22"), ("dog.jpg", "golden retriever")]
    path.write_text("".join(f"{SAMPLES / name}\t{label}\n" for name, label in rows))
    return path


def picture(path, colour=(200, 30, 90), size=(40, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


# figures


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 9).flatmap(
        lambda classes: st.integers(0, 6).flatmap(
            lambda count: st.tuples(
                arrays(np.float64, (count, classes), elements=st.sampled_from([0.0, 0.1, 0.2, 0.5])),
                arrays(np.int64, count, elements=st.integers(0, classes - 1)),
            )
        )
    )
)
def test_ranks_are_the_places_in_a_stable_sort(problem):
    scores, labels = problem
    expected = [
        sorted(range(scores.shape[1]), key=lambda c: -row[c]).index(label)
        for row, label in zip(scores, labels, strict=True)
    ]
    assert ranks(scores, labels).tolist() == expected


def test_a_constant_scorer_is_right_in_the_first_classes_only():
    assert ranks(np.full((8, 8), 0.125), np.arange(8)).tolist() == list(range(8))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scores_that_are_no_numbers_are_not_counted_as_right(value):
    with pytest.raises(ValueError, match="not a finite number; its weights are damaged"):
        ranks(np.array([[0.5, value]]), np.array([1]))


def test_wilson_by_hand():
    # Newcombe 1998, table I: 81 of 263 0.2553..0.3662, 15 of 148 0.0624..0.1605, 0 of 20 0..0.1611, 1 of 29 ..0.1718
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0, 0.1611), abs=5e-5)
    assert wilson(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)
    assert wilson(7, 7)[1] == 1


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_share_and_mirrors(numbers):
    errors, count = numbers
    low, high = wilson(errors, count)
    assert 0 <= low <= errors / count <= high <= 1
    other = wilson(count - errors, count)
    assert (1 - other[1], 1 - other[0]) == pytest.approx((low, high))


def test_summary_of_five_pictures_by_hand(tmp_path):
    rows = [("a", 3), ("b", 3), ("c", 7), ("d", 7), ("e", 7)]
    path = tmp_path / "list.txt"
    path.write_text("".join(f"{name}.png {label}\n" for name, label in rows))
    pictures = read_labelled(path, Labels("imagenet"))
    found = summary(pictures, np.arange(4), np.array([0, 5, 4, 0]), per_class=True)  # the last one could not be read
    assert (found["pictures"], found["top1_error"], found["top5_error"]) == (4, 0.5, 0.25)
    assert found["top1_interval"] == wilson(2, 4)
    assert [(row["class"], row["pictures"], row["top1_error"], row["top5_error"]) for row in found["per_class"]] == [
        ("n01491361", 2, 0.5, 0.5),
        ("n01514668", 2, 0.5, 0.0),
    ]


# networks


def test_imagenet_scores_sum_to_those_of_the_detection_classes(member):
    crops = protocol_crops(read_image(SAMPLES / "chelsea.jpg"), 96, 10)
    found = member(crops)
    assert found.shape == (10, 1000) and member(crops[:0]).shape == (0, 1000)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-4)
    summed = load_classifier(PLAIN, "openvino", "cpu", "f32", 8)(crops)
    np.testing.assert_allclose(found @ leaf_matrix(), summed, atol=1e-4)


def test_torch_gives_the_same_imagenet_scores(member):
    crops = protocol_crops(read_image(SAMPLES / "eagle.jpg"), 96, 1)
    found = load_classifier(PLAIN, "torch", "cpu", "f32", 8, "imagenet")
    np.testing.assert_allclose(found(crops), member(crops), atol=5e-4)
    assert found(crops[:0]).shape == (0, 1000)


def test_other_classes_are_refused():
    with pytest.raises(ValueError, match="classes must be det or imagenet, got 'coco'"):
        load_classifier(PLAIN, "openvino", "cpu", "f32", 8, "coco")


def test_scores_are_averaged_over_crops_and_members(member):
    other = load_classifier(replace(PLAIN, size=80), "openvino", "cpu", "f32", 8, "imagenet")
    images = [read_image(SAMPLES / name) for name in ("chelsea.jpg", "eagle.jpg")]
    cut = {size: [protocol_crops(image, size, 10) for image in images] for size in (96, 80)}
    expected = [(member(a).mean(axis=0) + other(b).mean(axis=0)) / 2 for a, b in zip(cut[96], cut[80], strict=True)]
    np.testing.assert_allclose(mean_scores([member, other], cut), expected, atol=1e-6)


def test_classify_equals_one_picture_at_a_time(member, listed):
    pictures = read_labelled(listed, Labels("imagenet"))
    assert pictures.labels.tolist() == [CAT, EAGLE, 207]
    moved, failed = [], []
    read, found = classify(pictures, [member], 10, lambda *what: failed.append(what), moved.append)
    assert read.tolist() == [0, 1, 2]
    for path, label, rank in zip(pictures.paths, pictures.labels, found, strict=True):
        scores = member(protocol_crops(read_image(path), 96, 10)).astype(float).mean(axis=0)
        assert (np.argsort(-scores, kind="stable") == label).argmax() == rank
    assert not failed and sum(moved) == 3


def test_chunks_do_not_matter(member, listed, monkeypatch):
    pictures = read_labelled(listed, Labels("imagenet"))
    _, whole = classify(pictures, [member], 1, print)
    monkeypatch.setattr("eval.classification.CHUNK", 1)
    np.testing.assert_array_equal(classify(pictures, [member], 1, print)[1], whole)


def test_a_member_of_other_classes_does_not_fit(listed):
    member = load_classifier(PLAIN, "openvino", "cpu", "f32", 8)
    with pytest.raises(ValueError, match="the model gives 201 scores, the labels are of 1000 classes"):
        classify(read_labelled(listed, Labels("imagenet")), [member], 1, print)


# labels


def test_the_thousand_classes():
    assert imagenet_classes()[0] == ("n01440764", "tench, Tinca tinca")
    assert imagenet_classes()[999][0] == "n15075141" and len({wnid for wnid, _ in imagenet_classes()}) == 1000
    sheep = next(c for c in det_classes() if c.name == "sheep")
    assert [imagenet_classes()[i][1].split(",")[0] for i in sheep.imagenet] == ["ram", "bighorn"]


def test_the_thousand_classes_are_those_of_the_challenge():
    path = SHARED / "LOC_synset_mapping.txt"
    if not path.is_file():
        pytest.skip("the challenge's LOC_synset_mapping.txt is not here")
    rows = [tuple(line.split(" ", 1)) for line in path.read_text().splitlines()]
    assert list(imagenet_classes()) == rows


@pytest.mark.parametrize(
    ("label", "column"),
    [
        ("0", 0),
        (999, 999),
        ("n01440764", 0),
        ("tench", 0),
        ("Tinca_tinca", 0),
        ("TENCH, tinca tinca", 0),
        ("maillot", 638),
    ],
)
def test_what_an_imagenet_class_may_be_called(label, column):
    assert Labels("imagenet").column(label) == column


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("1000", "class index 1000 is not in 0..999; give an ImageNet index"),
        ("-1", "unknown class '-1'"),
        ("nan", "unknown class 'nan'"),
        ("1.5", "unknown class '1.5'"),
        ("n99999999", "unknown class 'n99999999'; give an ImageNet index 0..999, a WordNet id"),
        ("crane", "'crane' is the name of 2 classes; give the WordNet id"),
        ("", "unknown class ''"),
    ],
)
def test_labels_that_are_no_class(label, message):
    with pytest.raises(ValueError, match=message):
        Labels("imagenet").column(label)


def test_detection_labels_are_leaves_or_the_classes_themselves():
    labels = Labels("det")
    dog = next(c for c in det_classes() if c.name == "dog")
    assert {labels.column(i) for i in dog.imagenet} == {dog.id - 1}
    assert labels.column(dog.wnid) == labels.column("dog") == labels.column("golden retriever") == dog.id - 1
    assert labels.column("n01440764") is None and labels.column(0) is None  # a tench is of no detection class
    assert labels.class_keys[dog.id - 1] == dog.wnid and len(labels.class_names) == 200


@pytest.mark.parametrize("index", range(0, 1000, 37))
def test_detection_columns_are_those_of_the_leaf_matrix(index):
    column = Labels("det").column(index)
    assert leaf_matrix()[index, 0 if column is None else column + 1] == 1
    assert Labels("det").column(imagenet_classes()[index][0]) == column


# kinds of sets


def test_a_folder_for_each_class(tmp_path):
    for name in ("n01440764/b10.png", "n01440764/b9.png", "goldfish/deep/c.png", "5/d.png"):
        picture(tmp_path / name)
    picture(tmp_path / "stray.png")
    (tmp_path / "5" / "notes.txt").write_text("no picture")
    picture(tmp_path / ".hidden" / "e.png")
    found = read_labelled(tmp_path, Labels("imagenet"))
    assert [path.name for path in found.paths] == ["d.png", "c.png", "b9.png", "b10.png"]
    assert found.labels.tolist() == [5, 1, 0, 0]
    assert found.left_out == {"beside the folders of the classes": 1}


def test_a_flat_folder_of_pictures_named_by_wordnet_id(tmp_path):
    for name in ("n01440764.png", "n01443537_18.png", "ILSVRC2012_val_00000293_n15075141.png"):
        picture(tmp_path / name)
    found = read_labelled(tmp_path, Labels("imagenet"))
    assert dict(zip((p.name[:9] for p in found.paths), found.labels.tolist(), strict=True)) == {
        "ILSVRC201": 999,
        "n01440764": 0,
        "n01443537": 1,
    }


def test_a_list_may_have_blanks_in_paths_and_with_tabs_in_names(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("\ufeffa b.png 3\n\nsub/c.png\ttench, Tinca tinca\r\n d.png   n01443537 \n", encoding="utf-8")
    found = read_labelled(path, Labels("imagenet"), tmp_path / "images")
    assert found.paths == tuple(tmp_path / "images" / name for name in ("a b.png", "sub/c.png", "d.png"))
    assert found.labels.tolist() == [3, 0, 1]
    assert read_labelled(path, Labels("imagenet")).paths[0] == tmp_path / "a b.png"


def test_a_coco_file(tmp_path):
    picture(tmp_path / "images" / "a.png")
    picture(tmp_path / "c.png")
    document = {
        "images": [{"id": i, "file_name": f"{name}.png"} for i, name in enumerate("abcd")],
        "annotations": [{"image_id": i, "category_id": c} for i, c in ((0, 7), (0, 7), (1, 7), (1, 8), (2, 8))],
        "categories": [{"id": 7, "name": "n01440764"}, {"id": 8, "name": "n01443537"}],
    }
    document["images"].append({"id": 9, "file_name": "e.png", "wnid": "n15075141"})
    (tmp_path / "a.json").write_text(json.dumps(document))
    found = read_labelled(tmp_path / "a.json", Labels("imagenet"))
    assert found.paths == tuple(tmp_path / name for name in ("images/a.png", "c.png", "images/e.png"))
    assert found.labels.tolist() == [0, 1, 999]
    assert found.left_out == {"of several classes": 1, "without a class": 1}
    chosen = read_labelled(tmp_path / "a.json", Labels("imagenet"), tmp_path / "elsewhere")
    assert chosen.paths[1] == tmp_path / "elsewhere" / "c.png"


def test_pictures_of_no_detection_class_are_left_out(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("a.png n01440764\nb.png n02099601\n")
    found = read_labelled(path, Labels("det"))
    assert found.labels.tolist() == [57] and found.left_out == {"of no detection class": 1}
    path.write_text("a.png n01440764\n")
    with pytest.raises(ValueError, match=r"no labelled pictures \(1 of no detection class left out\)"):
        read_labelled(path, Labels("det"))


def test_a_set_of_the_challenge():
    if not (SHARED / "loc_full").is_dir():
        pytest.skip("the set loc_full is not here")
    found = read_labelled(SHARED / "loc_full" / "annotations.json", Labels("imagenet"))
    assert len(found.paths) == 867 and found.left_out == {}
    assert all(path.is_file() for path in found.paths)


MALFORMED = [
    ("list.txt", "", "no labelled pictures"),
    ("list.txt", "a.png\n", "list.txt, line 1: 'a.png' is not 'path label'"),
    ("list.txt", "a.png 1\nb.png nan\n", "list.txt, line 2: unknown class 'nan'"),
    ("list.txt", "a.png 1000\n", "line 1: class index 1000 is not in 0..999"),
    ("list.txt", b"a.png \xff\n", "line 1: byte 0xff is not UTF-8"),
    ("list.txt", "a.png\t\n", "'a.png' is not 'path label'"),
    ("a.json", "{", "a.json, line 1: not valid JSON"),
    ("a.json", "[]", "a.json: not a COCO file"),
    ("a.json", "{}", "not a COCO file (KeyError: 'images'); it needs images"),
    ("a.json", '{"images": [{"id": 1}]}', "KeyError: 'file_name'"),
    ("a.json", '{"images": [], "annotations": [{"image_id": 1, "category_id": 2}]}', "KeyError: 2"),
    ("a.json", '{"images": 3}', "not a COCO file (TypeError"),
    ("a.json", "[" * 100_000, "a.json"),
    (
        "a.json",
        '{"images": [{"id": 1, "file_name": "x.png", "wnid": "person"}]}',
        "a.json: x.png: unknown class 'person'",
    ),
    ("flat/x.png", None, "no WordNet id in its name; put the pictures into a folder for each class"),
    ("classes/unheard of/x.png", None, "unknown class 'unheard of'"),
    ("classes/n01440764/notes.txt", "", "no labelled pictures"),
]


@pytest.mark.parametrize(("name", "content", "message"), MALFORMED)
def test_malformed_sets_get_one_clear_line(tmp_path, capsys, name, content, message):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if content is None:
        picture(path)
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    data = path if path.parent == tmp_path else tmp_path / Path(name).parts[0]
    assert main([str(data)]) == 1
    out, err = capsys.readouterr()
    assert not out and message in err and err.count("\n") == 1 and str(tmp_path) in err


# the command


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--crops", "5"], "invalid choice: 5"),
        (["--batch-size", "1025"], "--batch-size: must lie in 0..1024, got 1025"),
        (["--crop-size", "9"], "lie in 75..640, got 9"),
        (["--sharpness", "nan"], "--sharpness must not be below 0, got nan"),
        (["--model", "resnet"], "--model resnet: no model of that name and no file"),
        (["--classes", "coco"], "invalid choice: 'coco'"),
    ],
)
def test_wrong_usage_is_told(listed, capsys, arguments, message):
    try:
        status = main([str(listed), *arguments])
    except SystemExit as error:
        status = error.code
    out, err = capsys.readouterr()
    assert status == 2 and not out and message in err and err.count("\n") == 1


def test_a_missing_set_and_a_damaged_model(tmp_path, listed, capsys):
    assert main([str(tmp_path / "none.txt")]) == 1
    assert "none.txt: No such file or directory" in capsys.readouterr().err
    damaged = tmp_path / "mine.safetensors"
    damaged.write_bytes(b"not weights")
    assert main([str(listed), "--model", str(damaged)]) == 1
    assert "mine.safetensors: not a safetensors file" in capsys.readouterr().err


def test_the_table_and_json_say_the_same(listed, capsys):
    assert main([str(listed), "--json", "--per-class", "--quiet"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert not err and found["pictures"] == 3 and found["unreadable"] == [] and len(found["per_class"]) == 3
    assert "inception_v3 at 160 px" in found["models"][0]
    assert {row["class"]: row["top1_error"] for row in found["per_class"]} == {
        "n02099601": 1.0,  # the dog is no golden retriever
        "n01614925": 0.0,
        "n02124075": 0.0,
    }
    assert main([str(listed), "--per-class"]) == 0
    out, err = capsys.readouterr()
    assert "3 pictures, 1,000 classes, 1 crop a picture" in out and "inception_v3 at 160 px" in err
    assert f"top-1 {found['top1_error']:>9.2%}" in out and f"top-5 {found['top5_error']:>9.2%}" in out
    assert "n01614925 bald eagle" in out


def test_an_ensemble_of_two_equal_members_is_one_member(listed, capsys):
    results = []
    for models in (["inception_v3"], ["inception_v3", "inception_v3"]):
        words = [word for name in models for word in ("--model", name)]
        assert main([str(listed), *SMALL, "--json", "-q", "--crops", "10", *words]) == 0
        results.append(json.loads(capsys.readouterr().out))
    assert len(results[1].pop("models")) == 2 and len(results[0].pop("models")) == 1
    assert results[0] == results[1]


def test_unreadable_pictures_are_skipped_and_reported(tmp_path, capsys):
    names = [f"missing{i}.png" for i in range(7)]
    (tmp_path / "long.png").write_bytes(picture(tmp_path / "strip.png", size=(301, 3)).read_bytes())
    (tmp_path / "empty.png").write_bytes(b"")
    path = tmp_path / "list.txt"
    path.write_text(
        "".join(f"{name} 0\n" for name in ["long.png", "empty.png", *names]) + f"{SAMPLES / 'eagle.jpg'} 22\n"
    )
    assert main([str(path), *SMALL, "--json", "-q"]) == 1
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert found["pictures"] == 1 and len(found["unreadable"]) == 9
    assert "is 301 x 3 pixels" in err and "is empty (0 bytes)" in err and "no such file" in err
    assert "and 4 more pictures that cannot be read" in err and err.count("\n") == 6
    path.write_text("missing.png 0\n")
    assert main([str(path), *SMALL, "--json", "-q"]) == 1
    out, err = capsys.readouterr()
    assert not out and "none of its 1 pictures can be read; is --images right?" in err


def test_scored_in_the_detection_classes(listed, tmp_path, capsys):
    listed.write_text(listed.read_text() + "never read.png\tn01440764\n")
    assert main([str(listed), "--classes", "det", "--json", "-q"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert found["classes"] == 200 and found["pictures"] == 3 and found["top5_error"] == 0
    assert found["left_out"] == {"of no detection class": 1} and "1 picture left out: of no detection class" in err
