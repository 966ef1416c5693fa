"""Every kind of picture comes out upright, opaque, eight-bit RGB; every other file gives one clear line."""

import io
import os
import socket
import struct
import threading
import time
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from proposals.images import ImageError, _open_header, read_image, read_stream

ROOT = Path(__file__).parents[2]
CAT = ROOT / "samples" / "chelsea.jpg"


@pytest.fixture(scope="module")
def cat() -> np.ndarray:
    return np.array(Image.open(CAT).convert("RGB"))  # [300, 451, 3]


def close(a: np.ndarray, b: np.ndarray, mean: float, most: int = 255) -> bool:
    difference = np.abs(a.astype(int) - b.astype(int))
    return a.shape == b.shape and difference.mean() <= mean and difference.max() <= most


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def luma(rgb: np.ndarray) -> np.ndarray:
    return np.array(Image.fromarray(rgb).convert("L"))


def as_grey(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=2)


def test_jpeg_of_a_path_a_string_and_bytes(cat: np.ndarray) -> None:
    for source in (CAT, str(CAT), CAT.read_bytes()):
        image = read_image(source)
        assert image.dtype == np.uint8
        assert image.flags.c_contiguous and image.flags.writeable
        np.testing.assert_array_equal(image, cat)


def test_jpeg_agrees_with_opencv() -> None:
    reference = cv2.cvtColor(cv2.imread(str(CAT)), cv2.COLOR_BGR2RGB)
    assert close(read_image(CAT), reference, mean=1)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_rotation(cat: np.ndarray, orientation: int, kind: str) -> None:
    upright = cat[:, :200]
    stored = {  # EXIF 2.32, tag Orientation: where the first row and the first column of the scene are stored
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless = {"JPEG": {"quality": 95}, "WEBP": {"lossless": True}}.get(kind, {})
    image = read_image(encoded(Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif, **lossless))
    assert image.flags.c_contiguous
    assert close(image, upright, mean=2 if kind == "JPEG" else 0)


@pytest.mark.parametrize("block", [b"garbage!garbage", b"MM\0*\0\0\0\x08\0\x05", b"MM\0*\xff\0\0\x08\0\x05"])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_garbage_for_exif_leaves_the_picture_as_it_is(cat: np.ndarray, block: bytes) -> None:
    assert close(read_image(encoded(Image.fromarray(cat), "PNG", exif=b"Exif\0\0" + block)), cat, mean=0)


def test_grey(cat: np.ndarray) -> None:
    np.testing.assert_array_equal(read_image(encoded(Image.fromarray(luma(cat)), "PNG")), as_grey(luma(cat)))
    assert close(read_image(encoded(Image.fromarray(luma(cat)), "JPEG")), as_grey(luma(cat)), mean=4)


def test_one_bit(cat: np.ndarray) -> None:
    image = read_image(encoded(Image.fromarray(cat).convert("1"), "PNG"))
    assert set(np.unique(image)) == {0, 255}
    assert abs(image.mean() - luma(cat).mean()) < 3  # dithering keeps the mean


def test_cmyk_jpeg_and_tiff(cat: np.ndarray) -> None:
    cmyk = Image.fromarray(cat).convert("CMYK")
    assert close(read_image(encoded(cmyk, "TIFF")), cat, mean=0)
    jpeg = encoded(cmyk, "JPEG", quality=95, subsampling=0)
    assert b"Adobe" in jpeg  # so its values are stored inverted
    assert close(read_image(jpeg), cat, mean=2)
    by_opencv = cv2.cvtColor(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    assert close(read_image(jpeg), by_opencv, mean=3)


def test_ycck_jpeg(cat: np.ndarray) -> None:
    # Adobe's YCCK, transform 2: C, M, Y turned to YCbCr as if they were R, G, B, and K, stored inverted. Pillow writes
    # transform 0 and inverts what it stores, so it is given the inverse of the wanted planes and the marker is patched.
    cmyk = np.array(Image.fromarray(cat).convert("CMYK"))
    ycc = np.array(Image.fromarray(cmyk[..., :3]).convert("YCbCr"))
    planes = np.concatenate([255 - ycc, cmyk[..., 3:]], axis=2)
    jpeg = encoded(Image.frombytes("CMYK", (cat.shape[1], cat.shape[0]), planes.tobytes()), "JPEG", quality=95)
    transform = jpeg.index(b"Adobe") + 11
    assert jpeg[transform] == 0
    ycck = jpeg[:transform] + b"\x02" + jpeg[transform + 1 :]
    assert close(read_image(ycck), cat, mean=3)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_alpha_lies_on_white(cat: np.ndarray, kind: str) -> None:
    alpha = np.zeros(cat.shape[:2], np.uint8)
    alpha[:, 150:300], alpha[:, 300:] = 128, 255
    picture = Image.fromarray(np.dstack([cat, alpha]))
    image = read_image(encoded(picture, kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {})))
    assert (image[:, :150] == 255).all()
    half = np.rint(cat[:, 150:300] * (128 / 255) + 255 * (127 / 255))
    assert close(image[:, 150:300], half, mean=0.6, most=1)
    np.testing.assert_array_equal(image[:, 300:], cat[:, 300:])


def test_grey_with_alpha(cat: np.ndarray) -> None:
    alpha = np.full(cat.shape[:2], 255, np.uint8)
    alpha[:100] = 0
    image = read_image(encoded(Image.fromarray(np.dstack([luma(cat), alpha]), "LA"), "PNG"))
    assert (image[:100] == 255).all()
    np.testing.assert_array_equal(image[100:], as_grey(luma(cat))[100:])


def test_one_colour_transparent(cat: np.ndarray) -> None:
    painted = cat.copy()
    painted[:50] = (1, 2, 3)
    image = read_image(encoded(Image.fromarray(painted), "PNG", transparency=(1, 2, 3)))
    assert (image[:50] == 255).all()
    np.testing.assert_array_equal(image[60:], painted[60:])


def test_palette(cat: np.ndarray) -> None:
    palette = Image.fromarray(cat).convert("P", palette=Image.Palette.ADAPTIVE, colors=256)
    assert close(read_image(encoded(palette, "PNG")), cat, mean=8)
    assert close(read_image(encoded(palette, "GIF")), cat, mean=8)


def test_palette_with_transparency(cat: np.ndarray) -> None:
    palette = Image.fromarray(cat).convert("P", palette=Image.Palette.ADAPTIVE, colors=16)
    indices = np.array(palette)
    expected = np.array(palette.convert("RGB"))
    expected[indices == 7] = 255
    assert (indices == 7).any()
    np.testing.assert_array_equal(read_image(encoded(palette, "PNG", transparency=7)), expected)
    each = bytes(0 if i == 7 else 255 for i in range(16))  # an alpha for every entry
    np.testing.assert_array_equal(read_image(encoded(palette, "PNG", transparency=each)), expected)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".ppm"])
def test_16_bit_colour_is_scaled(cat: np.ndarray, suffix: str) -> None:
    wide = cat.astype(np.uint16) * 257 // 4  # a dim picture: a reader that takes the low byte, or clips, breaks it
    data = cv2.imencode(suffix, wide[..., ::-1])[1].tobytes()
    assert close(read_image(data), cat / 4, mean=1, most=1)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm", ".jp2"])
def test_16_bit_grey_is_scaled(cat: np.ndarray, suffix: str) -> None:
    options = [cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000] if suffix == ".jp2" else []
    data = cv2.imencode(suffix, luma(cat).astype(np.uint16) * 257, options)[1].tobytes()
    assert close(read_image(data), as_grey(luma(cat)), mean=1 if suffix == ".jp2" else 0)


def test_16_bit_ends_and_rounding() -> None:
    values = np.array([[0, 128, 129, 257, 32768, 65406, 65407, 65535]], np.uint16)
    image = read_image(cv2.imencode(".png", values)[1].tobytes())
    assert image[0, :, 0].tolist() == [0, 0, 1, 1, 128, 254, 255, 255]  # round(v / 257)


def test_16_bit_with_alpha_and_with_a_transparent_grey(cat: np.ndarray) -> None:
    wide = cat.astype(np.uint16) * 257
    alpha = np.full((*cat.shape[:2], 1), 65535, np.uint16)
    alpha[:, :100] = 0
    image = read_image(cv2.imencode(".png", np.concatenate([wide[..., ::-1], alpha], axis=2))[1].tobytes())
    assert (image[:, :100] == 255).all()
    assert close(image[:, 100:], cat[:, 100:], mean=0)
    grey = Image.open(io.BytesIO(cv2.imencode(".png", wide[..., 0])[1].tobytes()))
    value = int(wide[0, 0, 0])
    image = read_image(encoded(grey, "PNG", transparency=value))
    assert (image[wide[..., 0] == value] == 255).all()
    assert close(image[wide[..., 0] != value], as_grey(cat[..., 0])[wide[..., 0] != value], mean=0)


def test_float_and_wide_integers(cat: np.ndarray) -> None:
    unit = (luma(cat) / np.float32(255)).astype(np.float32)
    assert close(read_image(encoded(Image.fromarray(unit), "TIFF")), as_grey(luma(cat)), mean=0)
    wide = luma(cat).astype(np.int32) * 257
    assert close(read_image(encoded(Image.fromarray(wide), "TIFF")), as_grey(luma(cat)), mean=0)
    for values in (unit * 255, unit - 1, np.where(unit > 0.5, np.float32(np.nan), unit)):
        with pytest.raises(ImageError, match=r"pixels outside 0\.\.1, so its white is not known; save it again as"):
            read_image(encoded(Image.fromarray(values), "TIFF"))
    with pytest.raises(ImageError, match=r"pixels outside 0\.\.65535"):
        read_image(encoded(Image.fromarray(wide * 100), "TIFF"))


def test_animation_gives_its_first_frame(cat: np.ndarray) -> None:
    frames = [Image.fromarray(cat), Image.fromarray(255 - cat)]
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        assert Image.open(io.BytesIO(data)).n_frames == 2
        np.testing.assert_array_equal(read_image(data), cat)
    gif = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert close(read_image(gif), cat, mean=10)


@pytest.mark.parametrize("kind", ["BMP", "WEBP", "AVIF", "JPEG2000", "PPM"])
def test_other_formats(cat: np.ndarray, kind: str) -> None:
    assert close(read_image(encoded(Image.fromarray(cat), kind)), cat, mean=4)


def test_ycbcr_and_lab(cat: np.ndarray) -> None:
    picture = Image.fromarray(cat)
    assert close(read_image(encoded(picture.convert("YCbCr"), "TIFF")), cat, mean=2)
    lab = ImageCms.profileToProfile(
        picture, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    assert close(read_image(encoded(lab, "TIFF")), cat, mean=1)


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1)])
def test_thin_pictures(cat: np.ndarray, size: tuple[int, int]) -> None:
    picture = Image.fromarray(cat).resize(size)
    np.testing.assert_array_equal(read_image(encoded(picture, "PNG")), np.array(picture))


def reason(source: Path | bytes, **options: int) -> str:
    with pytest.raises(ImageError) as caught:
        read_image(source, **options)
    assert "\n" not in str(caught.value)
    assert str(caught.value) == f"{source if isinstance(source, Path) else 'picture'}: {caught.value.reason}"
    assert isinstance(caught.value, ValueError)
    return caught.value.reason


def test_missing_folder_empty_and_device(tmp_path: Path) -> None:
    assert reason(tmp_path / "no.jpg") == "no such file"
    assert reason(tmp_path) == "is a folder; give a picture inside it"
    (tmp_path / "empty.jpg").touch()
    assert reason(tmp_path / "empty.jpg") == "is empty (0 bytes)"
    assert reason(b"") == "is empty (0 bytes)"
    (tmp_path / "link.jpg").symlink_to(tmp_path / "gone.jpg")
    assert reason(tmp_path / "link.jpg") == "no such file"
    assert reason(CAT / "x.jpg") == "cannot be read: Not a directory"
    assert reason(tmp_path / ("x" * 300 + ".jpg")) == "cannot be read: File name too long"
    assert reason(Path("/dev/zero")) == "is a device; give a picture file, or - for standard input"


def test_unreadable(tmp_path: Path) -> None:
    locked = tmp_path / "locked.jpg"
    locked.write_bytes(CAT.read_bytes())
    locked.chmod(0)
    user = os.geteuid()
    if user == 0:
        try:
            os.seteuid(65534)  # root may read everything
        except OSError:
            pytest.skip("permissions do not bind this user")
    try:
        assert reason(locked) == "permission denied; make it readable (chmod u+r)"
    finally:
        os.seteuid(user)


@pytest.mark.parametrize("content", [b"hello, world\n" * 50, b"%PDF-1.7\n" + b"x" * 99, b"\0" * 5000, b"x"])
def test_not_a_picture(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "fake.jpg"
    path.write_bytes(content)
    assert reason(path) == "is not a picture; JPEG, PNG, WebP, GIF, BMP, TIFF and the like are read"


def test_heic_video_and_eps() -> None:
    assert reason(struct.pack(">I", 24) + b"ftypheic" + bytes(40)) == (
        "is a HEIC picture or a video, which cannot be read; convert it to JPEG"
    )
    assert "AVIF" in reason(struct.pack(">I", 24) + b"ftypavif" + bytes(40))
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"
    assert reason(eps) == "is an EPS drawing, not a picture; save it as PNG"


def test_truncated() -> None:
    data = CAT.read_bytes()
    for size in (len(data) // 2, len(data) - 1000):
        assert reason(data[:size]) == "is truncated: the file ends too early; copy or download it again"
    assert reason(data[:30]) == "is truncated: the file ends too early; copy or download it again"
    assert reason(data[:5]) == (
        "is a damaged JPEG file, or a kind of JPEG that cannot be read; save it again as an 8-bit JPEG or PNG"
    )


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "PPM", "JPEG2000"])
def test_half_of_any_format_is_an_error(cat: np.ndarray, kind: str) -> None:
    data = encoded(Image.fromarray(cat), kind)
    assert "truncated" in reason(data[: len(data) // 2]) or "damaged" in reason(data[: len(data) // 2])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"]), st.data())
@pytest.mark.filterwarnings("ignore")
def test_a_damaged_file_gives_a_picture_or_one_line(kind: str, data: st.DataObject) -> None:
    content = bytearray(encoded(Image.open(CAT).resize((40, 30)), kind))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(1, len(content)))]
    try:
        image = read_image(bytes(content), max_pixels=1_000_000)
    except ImageError as error:
        assert "\n" not in str(error)
    else:
        assert image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8


def png_of_size(width: int, height: int) -> bytes:
    """A PNG that claims a size but holds hardly any pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(10_000, 10_001), (12_000, 12_000), (60_000, 60_000)])
def test_bomb_is_refused_by_its_header(size: tuple[int, int]) -> None:
    begin = time.perf_counter()
    text = reason(png_of_size(*size))
    assert text == f"holds {size[0] * size[1]:,} pixels, more than 100,000,000; raise the limit with --max-pixels"
    assert time.perf_counter() - begin < 0.2


def test_the_limit_is_the_callers(cat: np.ndarray) -> None:
    pixels = cat.shape[0] * cat.shape[1]
    assert read_image(CAT, max_pixels=pixels).shape == cat.shape
    assert reason(CAT, max_pixels=pixels - 1).startswith(f"holds {pixels:,} pixels, more than {pixels - 1:,};")
    assert "ends too early" in reason(png_of_size(15_000, 15_000), max_pixels=400_000_000)  # let through to the decoder
    assert Image.MAX_IMAGE_PIXELS == 89_478_485  # Pillow's own limit is as it was


def test_two_threads_leave_pillows_limit_as_it_was() -> None:
    class Held(io.BytesIO):
        """A file whose first read waits until it is let go."""

        def __init__(self) -> None:
            super().__init__(png_of_size(10, 10))
            self.reached, self.go = threading.Event(), threading.Event()

        def read(self, size: int | None = -1) -> bytes:
            self.reached.set()
            self.go.wait(10)
            return super().read(size)

    files = Held(), Held()
    first, second = (threading.Thread(target=_open_header, args=(file, 1000)) for file in files)
    before = Image.MAX_IMAGE_PIXELS
    first.start()
    assert files[0].reached.wait(10)
    second.start()
    assert not files[1].reached.wait(0.1)  # else it would take the first one's limit for Pillow's own
    files[0].go.set()
    first.join(10)
    files[1].go.set()
    second.join(10)
    assert files[1].reached.is_set() and before == Image.MAX_IMAGE_PIXELS


def test_a_pipe_without_a_writer_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    assert reason(tmp_path / "pipe.jpg") == "is a pipe; give a picture file, or - for standard input"


def test_a_socket_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path is at most 107 bytes long
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.jpg")
        assert reason(Path("socket.jpg")) == "is a socket; give a picture file, or - for standard input"


def test_a_stream_is_read_up_to_its_limit() -> None:
    for size in (0, 1, 2**20, 3 * 2**20 + 5):
        data = bytes(size)
        assert read_stream(io.BytesIO(data), "-", max_bytes=size) == data
    with pytest.raises(ImageError, match=r"^-: does not end within 1,000 bytes; save it as a file and give that$"):
        read_stream(io.BytesIO(bytes(1001)), "-", max_bytes=1000)
    with Path("/dev/zero").open("rb") as endless, pytest.raises(ImageError, match="within 5,000,000 bytes"):
        read_stream(endless, "-", max_bytes=5_000_000)


def test_a_common_jpeg_is_fast() -> None:
    data = encoded(Image.open(CAT).resize((500, 375)), "JPEG", quality=90)
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        read_image(data)
        times.append(time.perf_counter() - begin)
    assert min(times) < 0.010


def test_pillow_is_not_told_to_accept_truncated_files() -> None:
    from PIL import ImageFile

    assert not ImageFile.LOAD_TRUNCATED_IMAGES
