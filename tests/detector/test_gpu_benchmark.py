"""The benchmark of the torch runtime on a GPU: it says where there is none, and its rows at a tiny size on the CPU."""

import importlib
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module("gpu")
    sys.modules.pop("gpu", None)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA here")
def test_it_says_that_there_is_no_gpu(gpu, capsys):
    gpu.main([])
    assert capsys.readouterr().out == "no GPU: torch finds no CUDA device here, so nothing was measured\n"


def test_a_row_for_each_network_and_precision(gpu, capsys, monkeypatch):
    monkeypatch.setattr(gpu, "SHIPPED", replace(gpu.SHIPPED, size=75))
    monkeypatch.setattr(gpu, "RANDOM", replace(gpu.RANDOM, size=75, width=0.25))
    monkeypatch.setattr(gpu, "BATCHES", 1)
    monkeypatch.setattr(gpu, "RUNS", 1)
    gpu.measure("cpu", [2], False)
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) == 4 and all("crops/s" in row and row.endswith("batches of 2") for row in rows)
    assert sum("googlenet at 75 px" in row for row in rows) == 2
