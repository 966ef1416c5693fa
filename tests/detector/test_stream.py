"""The overlapped pipeline: order, bounds, errors in their place, ends without hanging, the bytes of the plain way."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from detector.detector import Detector, Trace
from detector.options import DetectOptions
from detector.stream import PATIENCE, detect_stream
from proposals.images import Image

SAMPLES = Path(__file__).parents[2] / "samples"


@pytest.fixture(scope="module")
def detector(small_network: str) -> Detector:
    return Detector(DetectOptions(model=small_network, proposals="ss", threshold=0.006))


@pytest.fixture(scope="module")
def strips() -> list[Image]:
    """Small pieces of real pictures, with few regions each, which take little time."""
    pieces = [("dog", (130, 330, 290, 340)), ("chelsea", (100, 100, 180, 110)), ("coffee", (200, 100, 280, 106))]
    return [np.asarray(Pillow.open(SAMPLES / f"{name}.jpg").convert("RGB").crop(box)) for name, box in pieces]


def threads_of_streams() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("detect-")]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert threads_of_streams() == []


def tiny(number: int) -> Image:
    """A picture of one colour, of another width for each number."""
    return np.full((3, 4 + number, 3), 10 * number % 256, np.uint8)


@pytest.fixture(scope="module")
def expected(detector: Detector, strips: list[Image]) -> list[Trace]:
    """What the detector makes of the pieces one by one."""
    return [detector.trace(image) for image in strips]


@pytest.mark.parametrize("ahead", [1, 2, 5])
def test_same_bytes_as_one_after_another(
    detector: Detector, strips: list[Image], expected: list[Trace], ahead: int
) -> None:
    outcomes = list(detect_stream(range(3), strips.__getitem__, lambda: detector, ahead))
    assert [item for item, _, _ in outcomes] == [0, 1, 2]
    for (_, trace, image), wanted, strip in zip(outcomes, expected, strips, strict=True):
        assert isinstance(trace, Trace) and image is strip
        assert trace.scores.tobytes() == wanted.scores.tobytes()
        assert trace.proposals.boxes.tobytes() == wanted.proposals.boxes.tobytes()
        assert trace.crops == wanted.crops == len(trace.scores) > 1
        for name in ("boxes", "scores", "labels", "sources"):
            assert getattr(trace.detections, name).tobytes() == getattr(wanted.detections, name).tobytes()
        assert trace.asked == wanted.asked
        assert list(trace.seconds) == list(wanted.seconds) and min(trace.seconds.values()) >= 0


@pytest.mark.parametrize("ahead", [1, 2, 7])
def test_order_and_bounds_with_readers_of_any_speed(detector: Detector, ahead: int) -> None:
    begun: list[int] = []

    def read(number: int) -> Image:
        begun.append(number)
        time.sleep(0.03 if number % 3 == 0 else 0)
        return tiny(number)

    taken = []
    for item, trace, _ in detect_stream(iter(range(12)), read, lambda: detector, ahead):
        assert isinstance(trace, Trace) and trace.detections.image_size == (4 + item, 3)
        taken.append(item)
        time.sleep(0.02 if item in (1, 2, 3) else 0)  # a slow caller: the others must not run away from it
        assert len(begun) - len(taken) <= ahead
    assert taken == begun == list(range(12))


def test_reading_goes_on_while_the_caller_is_busy(detector: Detector) -> None:
    third = threading.Event()

    def read(number: int) -> Image:
        if number == 2:
            third.set()
        return tiny(number)

    outcomes = detect_stream(range(4), read, lambda: detector, 2)
    next(outcomes)
    assert third.wait(10)
    assert [item for item, _, _ in outcomes] == [1, 2, 3]


@pytest.mark.parametrize("ahead", [1, 2])
def test_nothing_and_one(detector: Detector, ahead: int) -> None:
    assert list(detect_stream([], tiny, lambda: detector, ahead)) == []
    ((item, trace, image),) = detect_stream([3], tiny, lambda: detector, ahead)
    assert item == 3 and isinstance(trace, Trace) and image is not None and image.shape == (3, 7, 3)


@pytest.mark.parametrize("ahead", [1, 2])
def test_a_failing_picture_yields_its_error_in_its_place(detector: Detector, ahead: int) -> None:
    def read(number: int) -> Image:
        if number == 1:
            raise ValueError("one is bad")
        if number == 2:
            return np.zeros((3, 3), np.uint8)  # no picture for the proposals
        if number == 4:
            raise MemoryError
        return tiny(number)

    outcomes = list(detect_stream(range(6), read, lambda: detector, ahead))
    assert [item for item, _, _ in outcomes] == list(range(6))
    kinds = [type(result) for _, result, _ in outcomes]
    assert kinds == [Trace, ValueError, ValueError, Trace, MemoryError, Trace]
    assert str(outcomes[1].result) == "one is bad" and outcomes[1].image is None
    assert "uint8 RGB" in str(outcomes[2].result) and outcomes[2].image is not None


@pytest.mark.parametrize("ahead", [1, 2])
def test_an_error_of_the_items_comes_after_the_outcomes_before_it(detector: Detector, ahead: int) -> None:
    def items() -> Iterator[int]:
        yield 0
        yield 1
        raise OSError("the list of pictures ends badly")

    outcomes = detect_stream(items(), tiny, lambda: detector, ahead)
    assert [next(outcomes).item, next(outcomes).item] == [0, 1]
    with pytest.raises(OSError, match="ends badly"):
        next(outcomes)
    assert list(outcomes) == []


def test_what_is_no_error_of_a_picture_ends_the_stream(detector: Detector) -> None:
    def read(number: int) -> Image:
        if number == 1:
            raise SystemExit(7)
        return tiny(number)

    outcomes = detect_stream(range(5), read, lambda: detector)
    assert next(outcomes).item == 0
    with pytest.raises(SystemExit):
        next(outcomes)


@pytest.mark.parametrize("ahead", [1, 2])
def test_closing_early_ends_the_threads_and_the_items(detector: Detector, ahead: int) -> None:
    closed = []

    def items() -> Iterator[int]:
        try:
            yield from range(1_000_000)
        finally:
            closed.append(True)

    outcomes = detect_stream(items(), tiny, lambda: detector, ahead)
    assert next(outcomes).item == 0
    outcomes.close()
    assert closed == [True] and threads_of_streams() == []
    detect_stream(range(3), tiny, lambda: detector, ahead).close()  # never begun


def test_interrupt_while_waiting_for_a_reader(detector: Detector) -> None:
    def read(number: int) -> Image:
        if number == 1:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.3)
        return tiny(number)

    seen = []
    with pytest.raises(KeyboardInterrupt):
        for outcome in detect_stream(range(5), read, lambda: detector):
            seen.append(outcome.item)
    assert seen in ([], [0])


def test_a_reader_that_never_ends_does_not_hold_the_caller(detector: Detector) -> None:
    release = threading.Event()

    def read(number: int) -> Image:
        if number == 1:
            release.wait(30)
        return tiny(number)

    outcomes = detect_stream(range(5), read, lambda: detector)
    assert next(outcomes).item == 0
    begin = time.perf_counter()
    outcomes.close()
    assert time.perf_counter() - begin < PATIENCE + 2
    assert threads_of_streams() == ["detect-read"]
    release.set()
    for thread in threading.enumerate():
        if thread.name == "detect-read":
            thread.join(10)


def test_items_that_heed_the_stop_are_waited_for(detector: Detector) -> None:
    """However long they take, they end in their own thread, closed, and nothing more is read."""
    stop, asked = threading.Event(), threading.Event()
    ends: list[str] = []
    begun: list[int] = []

    def items() -> Iterator[int]:
        try:
            yield 0
            asked.set()
            assert stop.wait(30)
            time.sleep(PATIENCE + 0.5)  # one long step
            yield 1
        finally:
            ends.append(threading.current_thread().name)

    def read(number: int) -> Image:
        begun.append(number)
        return tiny(number)

    outcomes = detect_stream(items(), read, lambda: detector, stop=stop)
    assert next(outcomes).item == 0 and asked.wait(10)
    outcomes.close()
    assert threads_of_streams() == [] and ends == ["detect-read"] and begun == [0]


def test_a_reader_that_never_ends_does_not_hold_the_caller_with_a_stop(detector: Detector) -> None:
    release, stop = threading.Event(), threading.Event()

    def read(number: int) -> Image:
        if number == 1:
            release.wait(30)
        return tiny(number)

    outcomes = detect_stream(range(5), read, lambda: detector, stop=stop)
    assert next(outcomes).item == 0
    begin = time.perf_counter()
    outcomes.close()
    assert stop.is_set() and time.perf_counter() - begin < PATIENCE + 2
    release.set()
    for thread in threading.enumerate():
        if thread.name == "detect-read":
            thread.join(10)


def test_the_detector_loads_while_the_first_item_is_read(detector: Detector) -> None:
    begun = threading.Event()

    def load() -> Detector:
        assert begun.wait(30)
        return detector

    def read(number: int) -> Image:
        begun.set()
        return tiny(number)

    assert [type(result) for _, result, _ in detect_stream(range(2), read, load)] == [Trace, Trace]


def test_a_detector_that_cannot_be_had_ends_the_stream() -> None:
    def load() -> Detector:
        raise FileNotFoundError("no such model")

    with pytest.raises(FileNotFoundError, match="no such model"):
        next(detect_stream(range(5), tiny, load))


@pytest.mark.parametrize("ahead", [0, -1])
def test_refuses_to_read_nothing_ahead(detector: Detector, ahead: int) -> None:
    with pytest.raises(ValueError, match=f"ahead must be at least 1, got {ahead}"):
        detect_stream([], tiny, lambda: detector, ahead)
