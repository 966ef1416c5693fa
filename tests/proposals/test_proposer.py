"""The five proposal methods behind one face, and the options that choose."""

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from detector.multibox import MultiBox, load_multibox
from proposals.images import Image, read_image
from proposals.merging import merge
from proposals.opencv import selective_search_opencv
from proposals.proposer import (
    Merged,
    OpenCvSearch,
    ProposalOptions,
    Proposer,
    SeededProposalOptions,
    SelectiveSearch,
    make_proposer,
)
from proposals.selective.search import selective_search
from proposals.store import PictureProposals, write_store
from proposals.stored import StoredProposals
from proposals.types import Proposals

PROJECT = Path(__file__).parents[2]
CAT = PROJECT / "samples" / "chelsea.jpg"


@pytest.fixture(scope="module")
def cat() -> Image:
    return np.ascontiguousarray(read_image(CAT)[::2, ::2])


def same(a: Proposals, b: Proposals) -> bool:
    return all(
        np.array_equal(getattr(a, name), getattr(b, name)) for name in ("boxes", "scores", "sources")
    ) and np.array_equal(np.asarray(a.objectness), np.asarray(b.objectness))


def test_each_method_is_its_function(cat: Image, tmp_path: Path):
    searched = selective_search(cat, "single", 1, 7, 50)
    learned = MultiBox(load_multibox(), top=30)
    write_store(tmp_path / "a.parquet", [PictureProposals("x.png", cat.shape[1], cat.shape[0], searched)], {})
    wanted: list[tuple[Proposer, ProposalOptions, Proposals]] = [
        (
            SelectiveSearch("single", 1, 7, 50),
            ProposalOptions("ss", "single", superpixel_scale=1, ss_boxes=50),
            searched,
        ),
        (
            OpenCvSearch(1, 7, 50),
            ProposalOptions("ss", backend="opencv", superpixel_scale=1, ss_boxes=50),
            selective_search_opencv(cat, 1, 7, 50),
        ),
        (learned, ProposalOptions("multibox", multibox_boxes=30), learned(cat)),
        (
            Merged(SelectiveSearch("single", 1, 7, 50), learned),
            ProposalOptions("both", "single", superpixel_scale=1, ss_boxes=50, multibox_boxes=30),
            merge(searched, learned(cat)),
        ),
        (StoredProposals(tmp_path / "a.parquet"), ProposalOptions(str(tmp_path / "a.parquet")), searched),
    ]
    keys = []
    for method, options, right in wanted:
        made = make_proposer(options, seed=7)
        assert type(made) is type(method) and made.key == method.key
        for proposer in (method, made, pickle.loads(pickle.dumps(made))):  # as a worker process gets it
            assert same(proposer(cat, Path("x.png")), right)
        assert method.describe() and method.describe() == made.describe()
        keys.append(tuple(sorted((name, str(value)) for name, value in method.key.items())))
    assert len(set(keys)) == 5


def test_a_budget_cuts_each_list(cat: Image):
    first, second = SelectiveSearch("single"), OpenCvSearch()
    merged = Merged(first, second, (10, None))
    assert same(merged(cat), merge(first(cat), second(cat), (10, None)))
    assert merged.key == {**first.key, **second.key, "budget_1": 10}


def test_one_thread_or_two_make_no_difference(cat: Image):
    one, many = (make_proposer(SeededProposalOptions(), 0, threads) for threads in (1, 0))
    assert one.key == many.key and same(one(cat), many(cat))


def test_a_file_that_is_not_there_is_an_error():
    with pytest.raises(FileNotFoundError):
        make_proposer(ProposalOptions("nowhere.parquet"))


def test_neither_options_nor_selective_search_import_the_detector():
    code = (
        "import sys, numpy as np\n"
        "from proposals.proposer import ProposalOptions, make_proposer\n"
        "light = {'numpy', 'cv2', 'numba'} & set(sys.modules) - {'numpy'}\n"
        "make_proposer(ProposalOptions('ss', 'single'))(np.zeros((40, 40, 3), np.uint8))\n"
        "print(light, {name.split('.')[0] for name in sys.modules} & {'detector', 'torch', 'openvino'})"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout == "set() set()\n"


def test_preparing_outlives_the_main_thread_in_silence():
    """Python refuses new thread pools once the main thread has ended, as `detect` may have by then."""
    code = (
        "import threading, time\n"
        "from proposals.proposer import SelectiveSearch\n"
        "def late():\n"
        "    threading.main_thread().join()\n"
        "    time.sleep(0.1)\n"
        "    SelectiveSearch().prepare()\n"
        "threading.Thread(target=late).start()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
