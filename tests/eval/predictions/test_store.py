from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from small_problems import ground_truth

from eval.predictions.readers import read_predictions
from eval.predictions.store import (
    BEST_PROPOSAL,
    DETECTION,
    SCORED_PROPOSAL,
    OtherRunError,
    PredictionStore,
    read_run,
    truth_key,
)

PARAMETERS = {"model": "m", "threshold": 0.01}
NAMES = ("cat", "dog", "bird")
BOX = (1.0, 1.0, 40.0, 40.0)


def opened(path: Path, key: str = "", digests: Mapping[str, str] | None = None) -> closing[PredictionStore]:
    return closing(PredictionStore(path, PARAMETERS, NAMES, key, digests))


def add(store: PredictionStore, picture: str, count: int = 2) -> None:
    """Add `count` detections, a best proposal and a scored one."""
    boxes = np.arange(4 * (count + 2), dtype=np.float64).reshape(-1, 4)
    roles = [DETECTION] * count + [BEST_PROPOSAL, SCORED_PROPOSAL]
    labels = np.array([1] * count + [0, 2])
    store.add(picture, labels, np.linspace(0.9, 0.5, count + 2), boxes, np.array(roles))


def keep(path: Path, *pictures: str, key: str = "", digests: Mapping[str, str] | None = None, count: int = 2) -> None:
    """Finish a run on these pictures."""
    with opened(path, key, digests) as store:
        for picture in pictures:
            add(store, picture, count)
        store.finish()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "p.parquet"


def test_parts_become_one_file_and_are_read_back(path: Path) -> None:
    with opened(path) as store:
        add(store, "p7")
        store.flush()
        store.add("p3", np.zeros(0, np.int64), np.zeros(0), np.zeros((0, 4)), np.zeros(0, np.int64))
        assert store.done == {"p7", "p3"} and not path.exists()
        store.finish()
    assert path.exists() and not store.folder.exists()
    truth = ground_truth([], [3, 7])
    predictions, notes = read_predictions(path, truth)
    assert len(predictions) == 2 and predictions.pictures.tolist() == [1, 1] and notes == []
    with opened(path) as again:
        assert again.done == {"p7", "p3"}
        found = again.found(truth)
    assert found.predictions.labels.tolist() == [1, 1]
    assert found.proposals is not None and list(found.proposals) == [1]
    assert found.proposals[1].tolist() == [[8, 9, 10, 11]]
    assert found.raw is not None
    assert found.raw.labels.tolist() == [2] and found.raw.boxes.tolist() == [[12, 13, 14, 15]]
    assert not again.folder.exists()


def test_an_unfinished_run_keeps_its_parts(path: Path) -> None:
    with opened(path) as store:
        add(store, "p7")
        store.flush()
        add(store, "p3")  # not flushed: lost with the process
    with opened(path) as again:
        assert again.done == {"p7"}
        add(again, "p3")
        again.finish()
    assert pq.read_metadata(path).num_rows == 8


def test_a_picture_in_the_file_and_in_a_part_counts_once(path: Path) -> None:
    keep(path, "p7")
    parts = path.with_name("p.parquet.parts")
    parts.mkdir()
    (parts / "000001.parquet").write_bytes(path.read_bytes())  # killed between the rename and the removal
    with opened(path) as again:
        assert len(again.table()) == 4


def test_other_parameters_and_classes_are_refused(path: Path) -> None:
    keep(path, "p7")
    with pytest.raises(OtherRunError, match=r"made with other options \(model m, not n\); remove it, or name another"):
        PredictionStore(path, {**PARAMETERS, "model": "n"}, NAMES)
    with pytest.raises(OtherRunError, match="classes"):
        PredictionStore(path, PARAMETERS, ("cat", "dog", "cow"))
    assert path.exists() and not path.with_name("p.parquet.parts").exists()


def test_labels_of_a_run_are_those_of_its_classes(path: Path) -> None:
    """The run's second class is the dog, that of another data set the bird."""
    keep(path, "p7")
    truth = ground_truth([], [7], class_names=("dog", "bird", "cat"))
    assert read_predictions(path, truth)[0].labels.tolist() == [3, 3]
    with pytest.raises(ValueError, match="row 1: unknown class 'cat'"):
        read_predictions(path, ground_truth([], [7], class_names=("dog", "bird", "cow")))


def test_damaged_parts_are_thrown_away_and_a_damaged_file_is_an_error(path: Path) -> None:
    with opened(path) as store:
        add(store, "p7")
        store.flush()
        (store.folder / "000002.parquet").write_bytes(b"PAR1 cut off")
    with opened(path) as again:
        assert [p.name for p in again.damaged] == ["000002.parquet"] and again.done == {"p7"}
    path.write_bytes(b"no parquet")
    with pytest.raises(ValueError, match="not a file of predictions of this command, or a damaged one; remove it"):
        PredictionStore(path, PARAMETERS, NAMES)


def test_witnesses_of_other_ground_truth_are_left_out(path: Path) -> None:
    truth, thresholds = ground_truth([(7, 1, BOX)], [7]), np.array([0.5])
    keep(path, "p7", key=truth_key(truth, thresholds))
    with opened(path, truth_key(truth, thresholds)) as same:
        assert same.witnessed and len(same.table()) == 4
    found = read_run(path, truth, thresholds)
    assert found is not None and found.raw is not None and read_run(path, truth, np.array([0.6])) is None
    with opened(path, "other boxes") as other:
        assert not other.witnessed and len(other.table()) == 2 and other.done == {"p7"}
        found = other.found(truth)
    assert len(found.predictions) == 2 and found.proposals is None and found.raw is None


def test_a_file_that_lacks_witnesses_of_some_pictures_has_those_of_none(path: Path) -> None:
    keep(path, "p7", key="these boxes")
    keep(path, "p3", key="other boxes")  # a picture and a box more
    for key in ("these boxes", "other boxes"):
        with opened(path, key) as again:
            assert again.done == {"p7", "p3"} and not again.witnessed


def test_a_picture_that_has_changed_is_not_finished(path: Path) -> None:
    keep(path, "p7", "p3", digests={"p7": "a", "p3": "b"})
    with opened(path, digests={"p7": "a", "p3": "c"}) as again:
        assert again.done == {"p7"} and set(again.table()["picture"].to_pylist()) == {"p7"}
        add(again, "p3")
        again.finish()
    assert pq.read_metadata(path).num_rows == 8


def test_a_flipped_byte_is_noticed(path: Path) -> None:
    keep(path, *(f"p{i}" for i in range(40)), count=5)
    with opened(path) as good:
        rows = good.table()
    data = path.read_bytes()
    random = np.random.default_rng(0)
    silent = 0
    for place in random.integers(0, len(data), 100):
        path.write_bytes(data[:place] + bytes([data[place] ^ (1 << int(random.integers(8)))]) + data[place + 1 :])
        try:
            with opened(path) as store:
                silent += not store.table().equals(rows)
        except ValueError:
            continue
    assert silent <= 2  # what lies outside the pages, such as the names of pictures in the footer, has no checksum


def test_a_part_that_cannot_be_opened_is_kept(path: Path) -> None:
    with opened(path) as store:
        part = store.folder / "000001.parquet"
        part.symlink_to(part)  # ELOOP, also for the super-user
    with pytest.raises(OSError):
        PredictionStore(path, PARAMETERS, NAMES)
    assert part.is_symlink()


def test_one_run_at_a_time(path: Path) -> None:
    with opened(path), pytest.raises(BlockingIOError, match="another run is writing"):
        PredictionStore(path, PARAMETERS, NAMES)
    keep(path)
