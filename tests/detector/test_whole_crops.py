"""The crops of the classification protocols: where each comes from, worked by hand, and what no picture changes."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.whole_crops import CROPS, image_views, in_proportion, protocol_crops


def coordinates(width, height):
    """A picture whose red is x and whose green is y, so that a crop tells where it was cut."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x % 256, y % 256, x // 256 + 16 * (y // 256)], axis=2).astype(np.uint8)


def place(crop):
    """Return (x, y) of the top left pixel of an unresized crop of `coordinates`."""
    red, green, high = (int(v) for v in crop[0, 0])
    return red + 256 * (high % 16), green + 256 * (high // 16)


def test_one_crop_is_the_centre_of_the_picture():
    image = coordinates(400, 256)  # its shorter side is 256 already: nothing is resized
    (crop,) = protocol_crops(image, 224, 1)
    # centre square: x from (400 - 256) / 2 = 72; its centre crop: (256 - 224) / 2 = 16 further
    assert place(crop) == (88, 16)
    np.testing.assert_array_equal(crop, image[16:240, 88:312])


def test_ten_crops_are_krizhevskys():
    crops = protocol_crops(coordinates(400, 256), 224, 10)
    assert [place(crop) for crop in crops[:5]] == [(72, 0), (104, 0), (72, 32), (104, 32), (88, 16)]
    np.testing.assert_array_equal(crops[5:], crops[:5, :, ::-1])
    np.testing.assert_array_equal(crops[4], protocol_crops(coordinates(400, 256), 224, 1)[0])


def test_an_upright_picture_has_its_squares_one_above_the_other():
    crops = protocol_crops(coordinates(256, 401), 224, 10)
    assert place(crops[0]) == (0, 72)  # (401 - 256) / 2 = 72.5, down
    assert place(protocol_crops(coordinates(256, 400), 224, 144)[0]) == (0, 0)


def test_144_crops_of_the_first_scale():
    crops = protocol_crops(coordinates(400, 256), 224, 144)
    for square, x in enumerate((0, 72, 144)):  # left, centre, right
        five = crops[6 * square : 6 * square + 5]
        assert [place(crop) for crop in five] == [(x, 0), (x + 32, 0), (x, 32), (x + 32, 32), (x + 16, 16)]
        whole = cv2.resize(coordinates(400, 256)[:, x : x + 256], (224, 224), interpolation=cv2.INTER_AREA)
        np.testing.assert_array_equal(crops[6 * square + 5], whole)


@pytest.mark.parametrize(("scale", "side"), list(enumerate((256, 288, 320, 352))))
@pytest.mark.parametrize("upright", [False, True])
def test_144_crops_of_every_scale_against_a_literal_loop(scale, side, upright):
    noise = np.random.default_rng(0).integers(0, 256, (300, 411, 3), dtype=np.uint8)
    image = noise.transpose(1, 0, 2).copy() if upright else noise
    longer = int(411 * side / 300 + 0.5)
    size = (side, longer) if upright else (longer, side)
    method = cv2.INTER_AREA if side < 300 else cv2.INTER_CUBIC
    resized = cv2.resize(image, size, interpolation=method)
    expected = []
    for start in (0, (longer - side) // 2, longer - side):
        square = resized[start : start + side] if upright else resized[:, start : start + side]
        last, middle = side - 224, (side - 224) // 2
        for y, x in ((0, 0), (0, last), (last, 0), (last, last), (middle, middle)):
            expected.append(square[y : y + 224, x : x + 224])
        expected.append(cv2.resize(square, (224, 224), interpolation=cv2.INTER_AREA))
    found = protocol_crops(image, 224, 144)
    np.testing.assert_array_equal(found[18 * scale : 18 * scale + 18], expected)
    np.testing.assert_array_equal(found[72 + 18 * scale : 90 + 18 * scale], np.array(expected)[:, :, ::-1])


@pytest.mark.parametrize(
    ("size", "sides"), [(224, (256, 288, 320, 352)), (299, (342, 384, 427, 470)), (160, (183, 206, 229, 251))]
)
def test_other_networks_get_the_numbers_in_proportion(size, sides):
    assert tuple(in_proportion(side, size) for side in (256, 288, 320, 352)) == sides


def test_half_a_pixel_goes_up():
    assert in_proportion(256, 7) == 8 and in_proportion(320, 7) == 10 and in_proportion(352, 7) == 11
    assert in_proportion(288, 49) == 63 and in_proportion(16, 7) == 1  # 0.5


@settings(max_examples=40, deadline=None)
@given(width=st.integers(1, 90), height=st.integers(1, 90), size=st.integers(1, 60), crops=st.sampled_from(CROPS))
def test_any_picture_gives_that_many_crops(width, height, size, crops):
    image = np.full((height, width, 3), (10, 200, 77), np.uint8)
    found = protocol_crops(image, size, crops)
    assert found.shape == (crops, size, size, 3) and found.dtype == np.uint8
    assert (found == (10, 200, 77)).all()  # one colour stays that colour: nothing comes from outside the picture


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), crops=st.sampled_from((10, 144)))
def test_the_second_half_mirrors_the_first(seed, crops):
    random = np.random.default_rng(seed)
    image = random.integers(0, 256, (*random.integers(20, 80, 2), 3), dtype=np.uint8)
    found = protocol_crops(image, 28, crops)
    np.testing.assert_array_equal(found[crops // 2 :, :, ::-1], found[: crops // 2])


def test_the_larger_protocols_hold_the_smaller_ones():
    image = coordinates(500, 375)
    one, ten, all_crops = (protocol_crops(image, 224, crops) for crops in CROPS)
    np.testing.assert_array_equal(one[0], ten[4])
    np.testing.assert_array_equal(ten[:5], all_crops[6:11])  # the centre square at 256
    np.testing.assert_array_equal(ten[5:], all_crops[72 + 6 : 72 + 11])


@pytest.mark.parametrize(
    ("shape", "size", "crops", "message"),
    [
        ((30, 30, 3), 224, 5, "crops must be one of 1, 10, 144, got 5"),
        ((30, 30, 3), 0, 1, "size must be at least 1, got 0"),
        ((30, 30), 224, 1, "must be uint8 RGB"),
        ((0, 30, 3), 224, 1, "must be uint8 RGB"),
        ((1, 101, 3), 224, 1, "is 101 x 1 pixels, more than 100 times as long as wide"),
        ((201, 2, 3), 224, 144, "is 2 x 201 pixels, more than 100 times as long as wide"),
    ],
)
def test_what_is_no_picture_or_protocol_is_refused(shape, size, crops, message):
    with pytest.raises(ValueError, match=message):
        protocol_crops(np.zeros(shape, np.uint8), size, crops)


def test_a_picture_a_hundred_times_as_long_as_wide_is_taken():
    assert protocol_crops(np.zeros((1, 100, 3), np.uint8), 32, 10).shape == (10, 32, 32, 3)


@pytest.mark.parametrize("upright", [False, True])
def test_views_for_context_by_hand(upright: bool) -> None:
    """Of a picture twice as long as high, whose quarters have the grey values 10, 20, 30 and 40."""
    image = np.repeat(np.repeat(np.array([10, 20, 30, 40], np.uint8), 8)[None, :, None], 16, axis=0)
    image = np.repeat(image.transpose(1, 0, 2) if upright else image, 3, axis=2)
    views = image_views(image, 8)
    assert views.shape == (4, 8, 8, 3) and views.dtype == np.uint8
    lines = views[:, :, 0, 0] if upright else views[:, 0, :, 0]
    assert lines[0].tolist() == [10, 10, 20, 20, 30, 30, 40, 40]
    assert lines[1].tolist() == [20] * 4 + [30] * 4
    assert (views[2] == views[0][:, ::-1]).all() and (views[3] == views[1][:, ::-1]).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (700, 500)])
def test_views_of_any_picture(size: tuple[int, int]) -> None:
    assert image_views(np.zeros((*size, 3), np.uint8), 75).shape == (4, 75, 75, 3)
