from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from small_problems import ground_truth

from eval.detector_run import found_in
from eval.predictions.readers import read_predictions
from eval.predictions.store import (
    BEST_PROPOSAL,
    DETECTION,
    SCORED_PROPOSAL,
    OtherRunError,
    PredictionStore,
    is_witnessed,
)

PARAMETERS = {"model": "m", "threshold": 0.01}
NAMES = ("cat", "dog", "bird")


def add(store: PredictionStore, picture: str, count: int = 2) -> None:
    """Add `count` detections, a best proposal and a scored one."""
    boxes = np.arange(4 * (count + 2), dtype=np.float64).reshape(-1, 4)
    roles = [DETECTION] * count + [BEST_PROPOSAL, SCORED_PROPOSAL]
    labels = np.array([1] * count + [0, 2])
    store.add(picture, labels, np.linspace(0.9, 0.5, count + 2), boxes, np.array(roles))


def test_parts_become_one_file_and_are_read_back(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    store = PredictionStore(path, PARAMETERS, NAMES)
    add(store, "p7")
    store.flush()
    store.add("p3", np.zeros(0, np.int64), np.zeros(0), np.zeros((0, 4)), np.zeros(0, np.int64))
    assert store.done == {"p7", "p3"} and not path.exists()
    store.finish()
    store.close()
    assert path.exists() and not store.folder.exists()
    truth = ground_truth([], [3, 7])
    predictions, notes = read_predictions(path, truth)
    assert len(predictions) == 2 and predictions.pictures.tolist() == [1, 1] and notes == []
    again = PredictionStore(path, PARAMETERS, NAMES)
    assert again.done == {"p7", "p3"}
    found = found_in(again.table(), truth, again.witnessed)
    assert found.predictions.labels.tolist() == [1, 1]
    assert (
        found.proposals is not None and list(found.proposals) == [1] and found.proposals[1].tolist() == [[8, 9, 10, 11]]
    )
    assert found.scored is not None
    assert found.scored.labels.tolist() == [2] and found.scored.boxes.tolist() == [[12, 13, 14, 15]]
    again.close()
    assert not again.folder.exists()


def test_an_unfinished_run_keeps_its_parts(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    store = PredictionStore(path, PARAMETERS, NAMES)
    add(store, "p7")
    store.flush()
    add(store, "p3")  # not flushed: lost with the process
    store.close()
    again = PredictionStore(path, PARAMETERS, NAMES)
    assert again.done == {"p7"}
    add(again, "p3")
    again.finish()
    again.close()
    assert pq.read_metadata(path).num_rows == 8


def test_a_picture_in_the_file_and_in_a_part_counts_once(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    store = PredictionStore(path, PARAMETERS, NAMES)
    add(store, "p7")
    store.finish()
    store.close()
    store.folder.mkdir()
    (store.folder / "000001.parquet").write_bytes(path.read_bytes())  # killed between the rename and the removal
    again = PredictionStore(path, PARAMETERS, NAMES)
    assert len(again.table()) == 4
    again.close()


def test_other_parameters_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    store = PredictionStore(path, PARAMETERS, NAMES)
    add(store, "p7")
    store.finish()
    store.close()
    with pytest.raises(OtherRunError, match=r"made with other options \(model m, not n\); remove it, or name another"):
        PredictionStore(path, {**PARAMETERS, "model": "n"}, NAMES)
    assert path.exists() and not store.folder.exists()


def test_damaged_parts_are_thrown_away_and_a_damaged_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    store = PredictionStore(path, PARAMETERS, NAMES)
    add(store, "p7")
    store.flush()
    (store.folder / "000002.parquet").write_bytes(b"PAR1 cut off")
    store.close()
    again = PredictionStore(path, PARAMETERS, NAMES)
    assert [p.name for p in again.damaged] == ["000002.parquet"] and again.done == {"p7"}
    again.close()
    path.write_bytes(b"no parquet")
    with pytest.raises(ValueError, match="not a file of predictions of this command, or a damaged one; remove it"):
        PredictionStore(path, PARAMETERS, NAMES)


def test_rows_for_the_analysis_of_other_ground_truth_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    store = PredictionStore(path, PARAMETERS, NAMES, "these boxes")
    add(store, "p7")
    store.finish()
    store.close()
    same = PredictionStore(path, PARAMETERS, NAMES, "these boxes")
    assert same.witnessed and len(same.table()) == 4
    same.close()
    other = PredictionStore(path, PARAMETERS, NAMES, "other boxes")
    assert not other.witnessed and len(other.table()) == 2 and other.done == {"p7"}
    found = found_in(other.table(), ground_truth([], [7]), other.witnessed)
    assert len(found.predictions) == 2 and found.proposals is None and found.scored is None
    other.close()


def test_a_file_that_lacks_rows_for_the_analysis_of_some_pictures_has_those_of_none(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    first = PredictionStore(path, PARAMETERS, NAMES, "these boxes")
    add(first, "p7")
    first.finish()
    first.close()
    second = PredictionStore(path, PARAMETERS, NAMES, "other boxes")  # a picture and a box more
    add(second, "p3")
    second.finish()
    second.close()
    for key in ("these boxes", "other boxes"):
        again = PredictionStore(path, PARAMETERS, NAMES, key)
        assert again.done == {"p7", "p3"} and not again.witnessed
        assert not is_witnessed(path, key)
        again.close()


def test_a_picture_that_has_changed_is_not_finished(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    store = PredictionStore(path, PARAMETERS, NAMES, digests={"p7": "a", "p3": "b"})
    add(store, "p7")
    add(store, "p3")
    store.finish()
    store.close()
    again = PredictionStore(path, PARAMETERS, NAMES, digests={"p7": "a", "p3": "c"})
    assert again.done == {"p7"} and set(again.table()["picture"].to_pylist()) == {"p7"}
    add(again, "p3")
    again.finish()
    again.close()
    assert pq.read_metadata(path).num_rows == 8


def test_other_classes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    store = PredictionStore(path, PARAMETERS, NAMES)
    add(store, "p7")
    store.finish()
    store.close()
    with pytest.raises(OtherRunError, match="classes"):
        PredictionStore(path, PARAMETERS, ("cat", "dog", "cow"))


def test_a_flipped_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    store = PredictionStore(path, PARAMETERS, NAMES)
    for i in range(40):
        add(store, f"p{i}", 5)
    store.finish()
    store.close()
    good = PredictionStore(path, PARAMETERS, NAMES)
    rows = good.table()
    good.close()
    data = path.read_bytes()
    random = np.random.default_rng(0)
    silent = 0
    for place in random.integers(0, len(data), 200):
        path.write_bytes(data[:place] + bytes([data[place] ^ (1 << int(random.integers(8)))]) + data[place + 1 :])
        try:
            store = PredictionStore(path, PARAMETERS, NAMES)
        except ValueError:
            continue
        silent += not store.table().equals(rows)
        store.close()
    assert silent <= 2  # what lies outside the pages, such as the names of pictures in the footer, has no checksum


def test_a_part_that_cannot_be_opened_is_kept(tmp_path: Path) -> None:
    store = PredictionStore(tmp_path / "p.parquet", PARAMETERS, NAMES)
    part = store.folder / "000001.parquet"
    part.symlink_to(part)  # ELOOP, also for the super-user
    store.close()
    with pytest.raises(OSError):
        PredictionStore(tmp_path / "p.parquet", PARAMETERS, NAMES)
    assert part.is_symlink()


def test_one_run_at_a_time(tmp_path: Path) -> None:
    store = PredictionStore(tmp_path / "p.parquet", PARAMETERS, NAMES)
    with pytest.raises(BlockingIOError, match="another run is writing"):
        PredictionStore(tmp_path / "p.parquet", PARAMETERS, NAMES)
    store.close()
    PredictionStore(tmp_path / "p.parquet", PARAMETERS, NAMES).close()
