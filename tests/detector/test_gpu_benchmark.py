"""The pieces of the GPU benchmark, at tiny sizes on the CPU; its numbers are not looked at here."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def gpu():
    """The benchmark as a module, which worker processes can import too."""
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module("gpu")
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture
def plan(gpu):
    return gpu.Plan(
        "cpu", (4,), (1,), (1, 2), ("googlenet",), "f32", 75, width=0.2, regions=9, most=6, window=0.05, runs=1
    )


def test_is_skipped_without_cuda():
    if torch.cuda.is_available():
        pytest.skip("there is CUDA here")
    found = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, str(BENCHMARKS / "gpu.py")], capture_output=True, text=True, env=found)
    assert (done.returncode, done.stdout) == (0, "skipped: torch finds no CUDA device here\n"), done.stderr


@pytest.mark.slow
def test_everything_is_measured(gpu, plan, capsys):
    gpu.measure(plan, 120)
    printed = capsys.readouterr()
    assert "failed" not in printed.out and "left out" not in printed.out, printed.out + printed.err
    assert re.search(r"copy [\d.]+ TB/s .* matrix product in bf16 \d+ TFLOP/s", printed.out)
    assert re.search(r"googlenet at 75 px: +[\d,]+ crops/s, .*batches of 4\n", printed.out)
    assert re.search(r"upload to scores +[\d.]+ ms", printed.out)
    for source in ("proposals at hand", " 1 worker processes"):
        for nets in (1, 2):
            assert re.search(rf"^{source}, googlenet x {nets}: +[\d.]+ pictures/s, +[\d,]+ crops/s", printed.out, re.M)
    assert re.search(r"[\d.]+ GiB resident", printed.out)


@pytest.mark.parametrize(("name", "size", "norm"), [("googlenet", 224, "lrn"), ("googlenet batch norm", 224, "batch")])
def test_googlenet_is_built_as_the_paper_has_it_or_with_batch_norm(gpu, name, size, norm):
    model = gpu.model_of(name)
    assert (model.network, model.size, model.norm) == ("googlenet", size, norm)
    plan = gpu.Plan("cpu", (2,), (1,), networks=(name,), precision="f32", crop_size=75, width=0.2)
    scores = gpu.classifier_of(plan, name, 2)(torch.zeros((1, 75, 75, 3), dtype=torch.uint8).numpy())
    assert scores.shape == (1, 201)


def test_a_part_that_fails_or_has_no_time_does_not_lose_the_rest(gpu, capsys):
    def fails():
        raise RuntimeError("no kernel image\nand more")

    gpu.part("first", lambda: 1.0, fails)
    gpu.part("second", lambda: 0.0, fails)
    gpu.part("third", lambda: 1.0, lambda: ["a", "b"])
    printed = capsys.readouterr()
    assert printed.out == ("first: failed (RuntimeError: no kernel image)\nsecond: left out, no time left\na\nb\n")
    assert "Traceback" in printed.err
