"""The file of proposals: what is written is read, at random, and a file that is not whole is never taken for one."""

import errno
import hashlib
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proposals.parts import OtherParametersError, Parts
from proposals.store import PICTURES_A_GROUP, PictureProposals, ProposalStore, fingerprint, write_store
from proposals.types import BOTH, MULTIBOX, SELECTIVE_SEARCH, Proposals

PARAMETERS = {"algorithm": 1, "seed": 0, "max_boxes": None}


def proposals(count: int, seed: int = 0) -> Proposals:
    generator = np.random.default_rng(seed)
    corners = generator.random((count, 2)) * 300
    boxes = np.concatenate([corners, corners + generator.random((count, 2)) * 200], axis=1)
    scores = np.sort(generator.random(count))[::-1]
    return Proposals(boxes.astype(np.float32), scores, generator.choice([SELECTIVE_SEARCH, MULTIBOX, BOTH], count))


def row(name: str, count: int = 3, seed: int = 0) -> PictureProposals:
    return PictureProposals(name, 500 + count, 400 + seed, proposals(count, seed))


def same(a: Proposals, b: Proposals) -> bool:
    pairs = ((a.boxes, b.boxes), (a.scores, b.scores), (a.sources, b.sources))
    return all(x.dtype == y.dtype and x.tobytes() == y.tobytes() for x, y in pairs)


def test_round_trip_over_several_row_groups_in_any_order(tmp_path):
    rows = [row(f"folder/bild {i} ü.jpg", i % 7, i) for i in range(2 * PICTURES_A_GROUP + 5)]
    write_store(tmp_path / "all.parquet", iter(rows), PARAMETERS)
    store = ProposalStore(tmp_path / "all.parquet")
    assert len(store) == len(rows)
    assert list(store) == list(store.pictures) == [r.picture for r in rows]
    for i in np.random.default_rng(0).permutation(len(rows)):
        assert same(store[rows[i].picture], rows[i].proposals)
        assert store.size(rows[i].picture) == (rows[i].width, rows[i].height)
    assert all(same(found, r.proposals) for found, r in zip(store.values(), rows, strict=True))
    assert rows[0].picture in store and "other.jpg" not in store
    with pytest.raises(KeyError):
        store["other.jpg"]


def test_parameters_and_a_fingerprint_worked_by_hand(tmp_path):
    write_store(tmp_path / "a.parquet", [row("a")], PARAMETERS)
    store = ProposalStore(tmp_path / "a.parquet")
    assert store.parameters == PARAMETERS
    assert store.fingerprint == hashlib.sha256(b'{"algorithm":1,"max_boxes":null,"seed":0}').hexdigest()
    assert fingerprint(dict(reversed(PARAMETERS.items()))) == store.fingerprint
    assert fingerprint({**PARAMETERS, "seed": 1}) != store.fingerprint


def test_no_pictures_and_pictures_without_boxes(tmp_path):
    write_store(tmp_path / "none.parquet", [], PARAMETERS)
    assert len(ProposalStore(tmp_path / "none.parquet")) == 0
    write_store(tmp_path / "empty.parquet", [row("a", 0), row("b", 2), row("c", 0)], PARAMETERS)
    store = ProposalStore(tmp_path / "empty.parquet")
    assert [len(found) for found in store.values()] == [0, 2, 0]
    assert store["a"].boxes.shape == (0, 4)


def test_same_rows_same_bytes(tmp_path):
    for name in ("a", "b"):
        write_store(tmp_path / name, [row(str(i), i, i) for i in range(20)], PARAMETERS)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@given(counts=st.lists(st.integers(0, 5), max_size=40))
def test_any_numbers_of_boxes_come_back(tmp_path_factory, counts):
    path = tmp_path_factory.mktemp("store") / "x.parquet"
    rows = [row(str(i), count, i) for i, count in enumerate(counts)]
    write_store(path, rows, PARAMETERS)
    store = ProposalStore(path)
    assert all(same(store[r.picture], r.proposals) for r in rows)


def test_pickled_and_shared_between_threads(tmp_path):
    rows = [row(str(i), 50, i) for i in range(4 * PICTURES_A_GROUP)]
    write_store(tmp_path / "a.parquet", rows, PARAMETERS)
    store = pickle.loads(pickle.dumps(ProposalStore(tmp_path / "a.parquet")))
    with ThreadPoolExecutor(4) as pool:
        wanted = [rows[i] for i in np.random.default_rng(1).integers(0, len(rows), 200)]
        assert all(pool.map(lambda r: same(store[r.picture], r.proposals), wanted))


def test_a_file_cut_anywhere_is_refused_by_name(tmp_path):
    path = tmp_path / "whole.parquet"
    write_store(path, [row(str(i), 200, i) for i in range(20)], PARAMETERS)
    data = path.read_bytes()
    for length in (0, 1, 4, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match=r"whole\.parquet .*(truncated|damaged).*make it again"):
            ProposalStore(path)


def test_a_flipped_bit_among_the_boxes_is_noticed(tmp_path):
    path = tmp_path / "a.parquet"
    write_store(path, [row("a", 500)], PARAMETERS)
    chunk = pq.ParquetFile(path).metadata.row_group(0).column(3)
    data = bytearray(path.read_bytes())
    data[chunk.data_page_offset + chunk.total_compressed_size // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.parquet .*damaged"):
        ProposalStore(path)["a"]


def test_foreign_files(tmp_path):
    pq.write_table(pa.table({"picture": ["a"], "boxes": [[1.0]]}), tmp_path / "other.parquet")
    with pytest.raises(ValueError, match=r"other\.parquet is a Parquet file, but none of proposals"):
        ProposalStore(tmp_path / "other.parquet")
    (tmp_path / "text").write_text("x" * 1000)
    with pytest.raises(ValueError, match="is no file of proposals"):
        ProposalStore(tmp_path / "text")
    with pytest.raises(FileNotFoundError):
        ProposalStore(tmp_path / "nothing")
    with pytest.raises(IsADirectoryError):
        ProposalStore(tmp_path)


def test_parameters_that_were_changed_in_the_file_are_noticed(tmp_path):
    write_store(tmp_path / "a", [row("a")], PARAMETERS)
    table = pq.read_table(tmp_path / "a")
    changed = {**table.schema.metadata, b"proposals.parameters": b'{"seed":9}'}
    pq.write_table(table.replace_schema_metadata(changed), tmp_path / "b")
    with pytest.raises(ValueError, match="fingerprint"):
        ProposalStore(tmp_path / "b")


def test_a_picture_twice_is_refused(tmp_path):
    write_store(tmp_path / "a", [row("a"), row("a")], PARAMETERS)
    with pytest.raises(ValueError, match="twice"):
        ProposalStore(tmp_path / "a")


def test_rows_that_fail_half_way_leave_the_old_file(tmp_path):
    path = tmp_path / "a"
    write_store(path, [row("old")], PARAMETERS)

    def failing():
        yield from (row(str(i)) for i in range(2 * PICTURES_A_GROUP))
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match=r"cannot write .*: No space left"):
        write_store(path, failing(), PARAMETERS)
    assert ProposalStore(path).pictures == ("old",)
    assert list(tmp_path.iterdir()) == [path]


def test_parts_merge_in_the_order_asked_for_and_go_away(tmp_path):
    parts = Parts(tmp_path / "all", PARAMETERS)
    for names in ("db", "ac", "e"):
        parts.add([row(name, 3, ord(name)) for name in names])
    assert len(parts) == 5 and "a" in parts and "x" not in parts
    assert parts.merge("abcdx")
    parts.close()
    store = ProposalStore(tmp_path / "all")
    assert store.pictures == tuple("abcde")
    assert all(same(store[name], proposals(3, ord(name))) for name in "abcde")
    assert list(tmp_path.iterdir()) == [tmp_path / "all"]


def test_a_kill_between_merging_and_removing_parts_doubles_nothing(tmp_path):
    parts = Parts(tmp_path / "all", PARAMETERS)
    parts.add([row("a"), row("b")])
    part = parts.folder / "part-000001.parquet"
    left = part.read_bytes()
    parts.merge("ab")
    part.write_bytes(left)  # as after a kill
    parts.close()
    again = Parts(tmp_path / "all", PARAMETERS)
    assert len(again) == 2
    assert not again.merge("ab")
    again.close()
    assert ProposalStore(tmp_path / "all").pictures == ("a", "b")
    assert not again.folder.exists()


def test_a_damaged_part_is_thrown_away_and_its_number_not_lost(tmp_path):
    parts = Parts(tmp_path / "all", PARAMETERS)
    parts.add([row("a")])
    parts.add([row("b")])
    parts.close()
    second = parts.folder / "part-000002.parquet"
    second.write_bytes(second.read_bytes()[:-9])
    again = Parts(tmp_path / "all", PARAMETERS)
    assert again.damaged == [second]
    assert "a" in again and "b" not in again
    again.close()


def test_two_runs_and_other_parameters_are_told_apart(tmp_path):
    first = Parts(tmp_path / "all", PARAMETERS)
    first.add([row("a")])
    with pytest.raises(BlockingIOError, match="another run is writing"):
        Parts(tmp_path / "all", PARAMETERS)
    first.close()
    with pytest.raises(OtherParametersError, match="was made with max_boxes None, seed 0, not max_boxes 5, seed 2"):
        Parts(tmp_path / "all", {**PARAMETERS, "seed": 2, "max_boxes": 5})
    resumed = Parts(tmp_path / "all", PARAMETERS)  # the refusal has kept the parts and let go of the lock
    assert "a" in resumed
    resumed.close()
