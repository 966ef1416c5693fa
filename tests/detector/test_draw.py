"""Drawn boxes have the colour of their class; plates neither leave the picture nor cover one another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from detector.classes import det_names
from detector.detections import Detections
from detector.drawing import colour_of, contact_sheet, draw, draw_boxes, place_plates, save_picture

GREY = 128


def grey(width: int, height: int) -> npt.NDArray[np.uint8]:
    return np.full((height, width, 3), GREY, np.uint8)


def boxes_of(*rows: tuple[float, float, float, float]) -> npt.NDArray[np.float32]:
    return np.array(rows, np.float32).reshape(-1, 4)


def detections_of(
    boxes: npt.NDArray[np.float32], scores: list[float], labels: list[int], size: tuple[int, int]
) -> Detections:
    count = len(boxes)
    return Detections(
        boxes, np.array(scores, np.float32), np.array(labels, np.int64), np.ones(count, np.uint8), size, det_names()
    )


@st.composite
def crowded(draw_value: st.DrawFn) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], tuple[int, int]]:
    """Return boxes [N, 4] inside a picture, plate sizes [3, N, 2] of falling font size, and (width, height)."""
    width, height = draw_value(st.integers(1, 300)), draw_value(st.integers(1, 300))
    rng = np.random.default_rng(draw_value(st.integers(0, 2**32 - 1)))
    count = draw_value(st.integers(0, 25))
    first = rng.integers(0, [width, height], (count, 2))
    last = rng.integers(first, [width, height]) if count else first
    sizes = rng.integers(0, [80, 24], (count, 2))
    return (
        np.concatenate([first, last + 1], axis=1),
        np.stack([sizes, sizes * 4 // 5, sizes * 13 // 20]),
        (width, height),
    )


@settings(max_examples=150, deadline=None)
@given(crowded())
def test_plates_lie_inside_and_apart(
    case: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], tuple[int, int]],
) -> None:
    boxes, sizes, (width, height) = case
    plates, levels = place_plates(boxes, sizes, (width, height))
    occupied = np.zeros((height, width), np.int64)
    for row, (x1, y1, x2, y2) in enumerate(plates.tolist()):
        if levels[row] < 0:
            assert (x1, y1, x2, y2) == (0, 0, 0, 0)
            continue
        assert 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height
        assert [x2 - x1, y2 - y1] == sizes[levels[row], row].tolist()
        occupied[y1:y2, x1:x2] += 1
        bx1, by1, bx2, by2 = boxes[row].tolist()
        assert x1 <= bx2 and bx1 <= x2 and y1 <= by2 and by1 <= y2, "the plate touches its own box"
    assert occupied.max() <= 1


def test_a_lone_plate_lies_above_its_box_at_the_left() -> None:
    plates, levels = place_plates(np.array([[20, 50, 120, 90]]), np.array([[[40, 12]], [[30, 9]]]), (200, 100))
    assert plates.tolist() == [[20, 38, 60, 50]]
    assert levels.tolist() == [0]


def test_without_room_above_the_plate_goes_below_and_without_room_there_inside() -> None:
    sizes = np.array([[[40, 12]]])
    below, _ = place_plates(np.array([[20, 5, 120, 60]]), sizes, (200, 100))
    assert below.tolist() == [[20, 60, 60, 72]]
    inside, _ = place_plates(np.array([[0, 0, 200, 100]]), sizes, (200, 100))
    assert inside.tolist() == [[0, 0, 40, 12]]


def test_the_plate_of_a_box_at_the_right_edge_is_pushed_inside() -> None:
    plates, _ = place_plates(np.array([[190, 50, 200, 90]]), np.array([[[40, 12]]]), (200, 100))
    assert plates.tolist() == [[160, 38, 200, 50]]


def test_the_last_box_chooses_first_and_the_others_shrink_or_give_way() -> None:
    boxes = np.array([[0, 0, 50, 12]] * 3)
    sizes = np.array([[[50, 12]] * 3, [[24, 10]] * 3])
    plates, levels = place_plates(boxes, sizes, (50, 12))
    assert plates[2].tolist() == [0, 0, 24, 10] or plates[2].tolist() == [0, 0, 50, 12]
    assert levels[2] >= 0
    assert (levels == -1).any()


def test_the_frame_has_the_colour_of_its_class_and_the_ground_stays() -> None:
    image = grey(200, 160)
    drawn = draw_boxes(image, boxes_of((20, 40, 120, 140)), [""], np.array([58]))
    colour = list(colour_of(58))
    for frame in (drawn[40, 20:120], drawn[139, 20:120], drawn[40:140, 20], drawn[40:140, 119]):
        assert (frame == colour).all()
    assert (drawn[60:120, 40:100] == GREY).all(), "inside"
    assert (drawn[:38] == GREY).all() and (drawn[:, 123:] == GREY).all(), "outside"
    assert (drawn[39, 20:120] < GREY).all(), "the dark rim"


def test_later_boxes_lie_on_top() -> None:
    boxes = boxes_of((20, 20, 100, 100), (20, 20, 100, 100))
    drawn = draw_boxes(grey(150, 150), boxes, ["", ""], np.array([1, 2]))
    assert drawn[20, 60].tolist() == list(colour_of(2))


def test_a_caption_is_a_plate_of_the_class_colour_with_ink_on_it() -> None:
    box = boxes_of((20, 60, 180, 140))
    bare = draw_boxes(grey(200, 160), box, [""], np.array([7]))
    captioned = draw_boxes(grey(200, 160), box, ["burrito 0.93"], np.array([7]))
    rows, columns = np.nonzero((bare != captioned).any(axis=2))
    plate = captioned[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    assert rows.max() < 60, "above the box"
    colours = {tuple(c) for c in plate.reshape(-1, 3).tolist()}
    assert colour_of(7) in colours
    assert {(0, 0, 0), (255, 255, 255)} & colours
    assert tuple(plate[0, 0].tolist()) == colour_of(7)


def test_the_input_stays_and_the_drawing_is_the_same_twice() -> None:
    image = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    image.flags.writeable = False
    before = image.copy()
    boxes = boxes_of((10.4, 20.6, 90, 100), (-20, -20, 60, 50))
    first = draw_boxes(image, boxes, ["dog 0.90", "table 0.50"], np.array([58, 177]))
    assert np.array_equal(image, before)
    assert not np.shares_memory(first, image)
    assert first.dtype == np.uint8 and first.shape == image.shape
    assert np.array_equal(first, draw_boxes(image, boxes, ["dog 0.90", "table 0.50"], np.array([58, 177])))
    first[0, 0] = 0  # writable


@pytest.mark.parametrize("size", [(1, 1), (1, 400), (400, 1), (17, 5)])
def test_tiny_pictures(size: tuple[int, int]) -> None:
    width, height = size
    boxes = boxes_of((0, 0, width, height), (0, 0, 0, 0), (width, height, width, height), (-1e30, -1e30, 1e30, 1e30))
    drawn = draw_boxes(grey(width, height), boxes, ["domestic cat 0.99"] * 4, np.arange(1, 5))
    assert drawn.shape == (height, width, 3)
    assert drawn[0, 0].tolist() == list(colour_of(4))


def test_no_boxes_or_only_boxes_outside_change_nothing() -> None:
    image = grey(60, 40)
    assert np.array_equal(draw_boxes(image, boxes_of(), [], np.zeros(0, np.int64)), image)
    outside = boxes_of((-30, 5, -10, 20), (70, 5, 90, 20), (5, 50, 20, 60), (5, -20, 20, -10))
    assert np.array_equal(draw_boxes(image, outside, ["dog"] * 4, np.ones(4, np.int64)), image)


def test_a_box_without_width_is_a_line_of_one_pixel() -> None:
    drawn = draw_boxes(grey(60, 60), boxes_of((30, 10, 30, 50)), [""], np.array([3]))
    assert (drawn[10:50, 30] == colour_of(3)).all()
    assert not (drawn[10:50, 31] == colour_of(3)).all(axis=1).any()


@settings(max_examples=30, deadline=None)
@given(st.text(max_size=40), st.integers(1, 200))
def test_any_caption_is_safe(caption: str, label: int) -> None:
    drawn = draw_boxes(grey(120, 90), boxes_of((10, 30, 100, 80)), [caption], np.array([label]))
    assert (drawn[79, 10:100] == colour_of(label)).all(), "the lower edge is free: the plate fits above"


def test_half_a_surrogate_pair_is_safe() -> None:
    draw_boxes(grey(120, 90), boxes_of((10, 30, 100, 80)), ["\ud800 dog\nand more"], np.array([1]))


def test_bad_input_is_told() -> None:
    with pytest.raises(ValueError, match="1 boxes, 2 captions and 1 labels"):
        draw_boxes(grey(9, 9), boxes_of((0, 0, 1, 1)), ["a", "b"], np.array([1]))
    with pytest.raises(ValueError, match="uint8 RGB"):
        draw_boxes(np.zeros((5, 5), np.uint8), boxes_of(), [], np.zeros(0, np.int64))
    with pytest.raises(ValueError, match="uint8 RGB"):
        draw_boxes(np.zeros((0, 5, 3), np.uint8), boxes_of(), [], np.zeros(0, np.int64))
    with pytest.raises(ValueError, match="inverted"):
        draw_boxes(grey(9, 9), boxes_of((5, 5, 1, 1)), ["a"], np.array([1]))


def test_every_class_has_its_own_light_colour() -> None:
    colours = [colour_of(label) for label in range(1, 201)]
    assert len(set(colours)) == 200
    for colour in colours:
        assert all(0 <= channel <= 255 for channel in colour)
        assert max(colour) >= 100, "seen on dark ground"
    neighbours = np.abs(np.diff(np.array(colours), axis=0)).sum(axis=1)
    assert neighbours.min() > 100, "classes of successive ids differ at a glance"
    assert colour_of(58) == colour_of(58)


def test_detections_are_captioned_and_the_best_lies_on_top() -> None:
    boxes = boxes_of((30, 40, 130, 140), (30, 40, 130, 140))
    best_first = draw(grey(200, 200), detections_of(boxes, [0.93, 0.41], [58, 59], (200, 200)))
    assert best_first[139, 60].tolist() == list(colour_of(58))
    best_last = draw(grey(200, 200), detections_of(boxes, [0.41, 0.93], [59, 58], (200, 200)))
    assert np.array_equal(best_first, best_last)
    captions = ["domestic cat 0.41", "dog 0.93"]
    assert np.array_equal(best_first, draw_boxes(grey(200, 200), boxes, captions, np.array([59, 58])))


def test_detections_of_another_picture_are_refused() -> None:
    with pytest.raises(ValueError, match="30 x 20 do not fit one of 20 x 30"):
        draw(grey(20, 30), detections_of(boxes_of((0, 0, 5, 5)), [0.5], [1], (30, 20)))


def test_contact_sheet_has_equal_cells_and_keeps_the_aspect() -> None:
    red = np.zeros((100, 400, 3), np.uint8)
    red[..., 0] = 255
    blue = np.zeros((400, 100, 3), np.uint8)
    blue[..., 2] = 255
    sheet = contact_sheet([red, blue, red], ["wide", "tall", "a title that is far too long for its cell " * 4], 2, 600)
    assert sheet.dtype == np.uint8 and sheet.shape[1] == 600
    halves = sheet[:, :300], sheet[:, 300:]
    tops = sheet[: sheet.shape[0] // 2]
    for half, colour, aspect in ((tops[:, :300], (255, 0, 0), 4.0), (tops[:, 300:], (0, 0, 255), 0.25)):
        rows, columns = np.nonzero((half == colour).all(axis=2))
        assert (np.ptp(columns) + 1) / (np.ptp(rows) + 1) == pytest.approx(aspect, rel=0.03)
    assert (halves[0][sheet.shape[0] // 2 :] == (255, 0, 0)).all(axis=2).any()
    assert not (halves[1][sheet.shape[0] // 2 :] == (255, 0, 0)).all(axis=2).any(), "the last cell is empty"
    assert np.array_equal(sheet[:, :2], np.broadcast_to(sheet[0, 0], sheet[:, :2].shape)), "a margin at the edge"


def test_contact_sheet_of_one_pixel() -> None:
    assert contact_sheet([grey(1, 1)], [""], 5, 200).shape[1] == 200


def test_contact_sheet_refuses_what_has_no_place() -> None:
    with pytest.raises(ValueError, match="a title for each picture, got 1 and 2"):
        contact_sheet([grey(5, 5)], ["a", "b"], 1, 100)
    with pytest.raises(ValueError, match="got 0 and 0"):
        contact_sheet([], [], 1, 100)
    with pytest.raises(ValueError, match="no room for 4 columns"):
        contact_sheet([grey(5, 5)], ["a"], 4, 100)


def test_saved_png_is_read_back_exactly_and_jpg_nearly(tmp_path: Path) -> None:
    image = np.zeros((40, 60, 3), np.uint8)
    image[:, 30:] = (200, 40, 90)
    save_picture(tmp_path / "a.PNG", image)
    assert np.array_equal(np.array(Image.open(tmp_path / "a.PNG")), image)
    save_picture(tmp_path / "a.jpg", image)
    with Image.open(tmp_path / "a.jpg") as read:
        assert read.format == "JPEG"
        assert np.abs(np.array(read).astype(int) - image).mean() < 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.PNG", "a.jpg"]


def test_a_failed_save_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(OSError, match=r"folder\.png"):
        save_picture(tmp_path / "folder.png", grey(4, 4))
    with pytest.raises(OSError, match=r"absent.*a\.png"):
        save_picture(tmp_path / "absent" / "a.png", grey(4, 4))
    with pytest.raises(ValueError, match=r"a\.gif: a picture is saved as \.jpg or \.png"):
        save_picture(tmp_path / "a.gif", grey(4, 4))
    with pytest.raises(ValueError, match=r"long\.jpg.*save it as \.png"):
        save_picture(tmp_path / "long.jpg", grey(65501, 1))
    assert [p.name for p in tmp_path.iterdir()] == ["folder.png"]
    assert not list((tmp_path / "folder.png").iterdir())


def test_saving_again_replaces_the_picture(tmp_path: Path) -> None:
    save_picture(tmp_path / "a.png", grey(4, 4))
    save_picture(tmp_path / "a.png", grey(9, 4))
    assert Image.open(tmp_path / "a.png").size == (9, 4)
