"""What every test shares: a cache of compiled networks of its own, so that no test writes the user's ~/.cache; and the
detector as it ships with what it made of the samples, loaded once.
"""

from __future__ import annotations

import functools
import os
import shutil
import signal
import tempfile
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from detector.detector import Detector, Trace

VARIABLE = "XDG_CACHE_HOME"
CACHE = pytest.StashKey[tuple[str, str | None]]()  # (folder of this run, the value before it)


def pytest_configure(config: pytest.Config) -> None:
    """Name a temporary cache before any test module is read: some copy the environment for their subprocesses."""
    folder = tempfile.mkdtemp(prefix="googlenet-rcnn-cache-")
    config.stash[CACHE] = folder, os.environ.get(VARIABLE)
    os.environ[VARIABLE] = folder


def pytest_unconfigure(config: pytest.Config) -> None:
    folder, before = config.stash[CACHE]
    if before is None:
        os.environ.pop(VARIABLE, None)
    else:
        os.environ[VARIABLE] = before
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def temporary_cache(pytestconfig: pytest.Config) -> None:
    """Fail at once where something has pointed the cache elsewhere before the first test."""
    assert os.environ[VARIABLE] == pytestconfig.stash[CACHE][0]


@pytest.fixture(autouse=True, scope="session")
def interrupts_arrive():
    """Take SIGINT as usual, also where the tests run in the background of a shell, which ignores it."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def detector() -> Detector:
    """The detector with the default options. Tests must not change it; see `with_options` of test_detector.py."""
    from detector.detector import Detector

    return Detector()


@pytest.fixture(scope="session")
def trace(detector: Detector) -> Callable[[str], Trace]:
    """What the default detector made of a sample, made once."""
    from detector.samples import sample_path
    from proposals.images import read_image

    return functools.cache(lambda name: detector.trace(read_image(sample_path(name))))


@pytest.fixture(scope="session")
def small_network(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The weights file of a GoogLeNet of a tenth of the width, for tests in which the network is not the point.

    Its weights are random, the classes those of detection; scores of a region lie about 1/201. Crops have 75 px.
    """
    from detector.model import Spec
    from detector.networks.googlenet import googlenet
    from detector.networks.layers import convolutions
    from detector.weights import save_weights

    rng = np.random.default_rng(3)
    arrays = {}
    for c in convolutions(googlenet(201, "batch", 0.1)):
        spread = np.sqrt(2 / (c.inputs * c.kernel[0] * c.kernel[1]))
        arrays[f"{c.name}.weight"] = (spread * rng.standard_normal((c.outputs, c.inputs, *c.kernel))).astype(np.float32)
        arrays[f"{c.name}.bias"] = (0.05 * rng.standard_normal(c.outputs)).astype(np.float32)
    path = tmp_path_factory.mktemp("network") / "small.safetensors"
    spec = Spec(network="googlenet", size=75, mean=117, scale=60, classes=201, width=0.1, norm="batch")
    save_weights(path, arrays, spec)
    return str(path)
