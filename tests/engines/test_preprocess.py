import io
import struct
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from engines.errors import DataError, InputError
from engines.preprocess import MAX_PIXELS, Preprocess, open_image

EXACT = Preprocess(6, 9, resize="stretch")


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def smooth(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    planes = [np.sin(x / 9 + p) * np.cos(y / 7 - p) for p in range(3)]
    return np.rint(127.5 + 127.5 * np.stack(planes, -1)).astype(np.uint8)


def header_of_png(width: int, height: int) -> bytes:
    body = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = b""
    for kind, data in ((b"IHDR", body), (b"IDAT", zlib.compress(b"\0" * 64)), (b"IEND", b"")):
        chunks += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return b"\x89PNG\r\n\x1a\n" + chunks


@pytest.mark.parametrize(("height", "width"), [(24, 30), (50, 41), (120, 200)])
def test_stretching_agrees_with_an_antialiased_bilinear_resize_by_torch(height: int, width: int) -> None:
    image = smooth(height, width)
    spec = Preprocess(33, 47, resize="stretch")
    planes = torch.from_numpy(image).permute(2, 0, 1)[None].double()
    expected = torch.nn.functional.interpolate(planes, (33, 47), mode="bilinear", antialias=True, align_corners=False)
    difference = spec.pixels(image).astype(float) - expected[0].permute(1, 2, 0).numpy()
    assert np.abs(difference).max() <= 1.01  # two passes that each round to uint8


def test_cropping_keeps_the_aspect_and_cuts_the_centre() -> None:
    image = noise(256, 300)
    spec = Preprocess(224, 224, crop_fraction=0.875)  # 224 / 0.875 = 256: the short side fits without scaling
    assert np.array_equal(spec.pixels(image), image[16:240, 38:262])


def test_cropping_scales_the_image_to_cover_before_it_cuts() -> None:
    image = smooth(90, 60)
    spec = Preprocess(40, 40, crop_fraction=1.0)
    planes = torch.from_numpy(image).permute(2, 0, 1)[None].double()
    scaled = torch.nn.functional.interpolate(planes, (60, 40), mode="bilinear", antialias=True, align_corners=False)
    expected = scaled[0].permute(1, 2, 0).numpy()[10:50]
    assert np.abs(spec.pixels(image).astype(float) - expected).max() <= 1.01


def test_an_image_of_the_models_size_is_stretched_into_itself() -> None:
    image = noise(6, 9)
    assert np.array_equal(EXACT.pixels(image), image)


def test_nearest_interpolation_repeats_pixels() -> None:
    image = noise(4, 4)
    spec = Preprocess(12, 8, resize="stretch", interpolation="nearest")
    assert np.array_equal(spec.pixels(image), image.repeat(3, axis=0).repeat(2, axis=1))


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    out=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    fraction=st.floats(0.05, 1.0),
    resize=st.sampled_from(["stretch", "crop"]),
    channels=st.sampled_from([1, 3]),
)
def test_any_image_comes_out_in_the_models_size(
    size: tuple[int, int], out: tuple[int, int], fraction: float, resize: str, channels: int
) -> None:
    half = (0.5,) * channels
    spec = Preprocess(*out, channels=channels, resize=resize, crop_fraction=fraction, mean=half, std=half)
    pixels = spec.pixels(np.full((*size, 3), 77, np.uint8))
    assert pixels.shape == (*out, channels)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert set(np.unique(pixels)) <= {76, 77}  # a flat picture stays flat, and no border is invented


UPRIGHT = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 3),
    7: lambda a: np.rot90(a.transpose(1, 0, 2), 2),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", sorted(UPRIGHT))
def test_exif_orientation_turns_the_picture_upright(orientation: int) -> None:
    stored = noise(6, 9)
    exif = Image.Exif()
    exif[0x0112] = orientation
    expected = UPRIGHT[orientation](stored)
    spec = Preprocess(*expected.shape[:2], resize="stretch")
    assert np.array_equal(spec.pixels(encoded(Image.fromarray(stored), exif=exif)), expected)


def test_greyscale_becomes_three_equal_channels_or_stays_one() -> None:
    grey = noise(6, 9, 1)
    one = Preprocess(6, 9, channels=1, resize="stretch", mean=(0.5,), std=(0.5,))
    for form in (grey, grey[:, :, None], encoded(Image.fromarray(grey)), Image.fromarray(grey)):
        assert np.array_equal(EXACT.pixels(form), np.repeat(grey[:, :, None], 3, axis=2))
        assert np.array_equal(one.pixels(form), grey[:, :, None])


def test_colour_becomes_luminance_by_the_bt601_weights() -> None:
    image = noise(6, 9)
    one = Preprocess(6, 9, channels=1, resize="stretch", mean=(0.5,), std=(0.5,))
    expected = image @ np.array([0.299, 0.587, 0.114])
    assert np.abs(one.pixels(image)[:, :, 0] - expected).max() <= 0.51


def test_sixteen_bit_greyscale_keeps_its_high_byte() -> None:
    deep = np.random.default_rng(1).integers(0, 65536, (6, 9), np.uint16)
    expected = np.repeat((deep >> 8).astype(np.uint8)[:, :, None], 3, axis=2)
    for kind in ("PNG", "TIFF"):
        assert np.array_equal(EXACT.pixels(encoded(Image.fromarray(deep), kind)), expected), kind


def test_sixteen_bit_colour_keeps_its_high_byte() -> None:
    deep = np.random.default_rng(2).integers(0, 65536, (6, 9, 3), np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in deep)
    png = b"\x89PNG\r\n\x1a\n"
    for kind, data in (
        (b"IHDR", struct.pack(">IIBBBBB", 9, 6, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ):
        png += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    assert np.array_equal(EXACT.pixels(png), deep >> 8)


def test_a_cmyk_jpeg_shows_its_colours_not_their_negative() -> None:
    inks = {(0, 0, 0, 0): (255, 255, 255), (255, 0, 0, 0): (0, 255, 255), (0, 0, 0, 255): (0, 0, 0)}
    for cmyk, rgb in inks.items():
        data = encoded(Image.new("CMYK", (9, 6), cmyk), "JPEG", quality=100)
        assert np.abs(EXACT.pixels(data).astype(int) - rgb).max() <= 2, cmyk


def test_a_transparent_palette_colour_shows_white_and_the_others_themselves() -> None:
    palette = Image.new("P", (9, 6), 0)
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.paste(1, (0, 0, 4, 6))
    pixels = EXACT.pixels(encoded(palette, transparency=0))
    assert (pixels[:, :4] == (200, 100, 50)).all()
    assert (pixels[:, 4:] == 255).all()
    assert (EXACT.pixels(encoded(palette))[:, 4:] == (10, 20, 30)).all()


def test_half_transparent_pixels_blend_with_white() -> None:
    rng = np.random.default_rng(3)
    rgba = rng.integers(0, 256, (6, 9, 4), np.uint8)
    alpha = rgba[:, :, 3:] / 255
    expected = rgba[:, :, :3] * alpha + 255 * (1 - alpha)
    assert np.abs(EXACT.pixels(encoded(Image.fromarray(rgba))) - expected).max() <= 1
    grey = rgba[:, :, [0, 3]]
    expected = grey[:, :, :1] * alpha + 255 * (1 - alpha)
    assert np.abs(EXACT.pixels(encoded(Image.fromarray(grey, "LA"))) - expected).max() <= 1


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_colour_that_the_file_calls_transparent_shows_white(mode: str) -> None:
    key = (10, 20, 30) if mode == "RGB" else 10
    image = Image.new(mode, (9, 6), key)
    image.paste((1, 2, 3) if mode == "RGB" else 1, (0, 0, 4, 6))
    pixels = EXACT.pixels(encoded(image, transparency=key))
    assert (pixels[:, 4:] == 255).all()
    assert (pixels[:, :4] == ((1, 2, 3) if mode == "RGB" else (1, 1, 1))).all()


def test_a_bilevel_picture_is_black_and_white() -> None:
    bits = noise(6, 9, 1) > 127
    expected = np.repeat(bits[:, :, None], 3, axis=2) * 255
    assert np.array_equal(EXACT.pixels(encoded(Image.fromarray(bits))), expected)


def test_a_picture_of_floats_is_refused_rather_than_shown_black() -> None:
    with pytest.raises(DataError, match="floating-point"):
        EXACT.pixels(encoded(Image.new("F", (9, 6), 0.5), "TIFF"))


def test_of_an_animation_the_first_frame_counts_and_the_file_is_closed(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (9, 6), (shade, shade, shade)) for shade in (40, 200)]
    for name in ("a.webp", "a.png", "a.tiff"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], lossless=True)
        assert (EXACT.pixels(tmp_path / name) == 40).all(), (
            name
        )  # a file left open would fail here as a ResourceWarning


def test_paths_bytes_images_and_arrays_give_the_same_pixels(tmp_path: Path) -> None:
    image = smooth(31, 57)
    data = encoded(Image.fromarray(image))
    path = tmp_path / "picture.png"
    path.write_bytes(data)
    spec = Preprocess(16, 16)
    expected = spec.pixels(image)
    for given_as in (path, str(path), data, Image.fromarray(image), np.asfortranarray(image), Image.open(path)):
        assert np.array_equal(spec.pixels(given_as), expected)


def test_the_callers_image_stays_usable() -> None:
    mine = Image.open(io.BytesIO(encoded(Image.fromarray(noise(6, 9)), "TIFF")))
    EXACT.pixels(mine)
    assert np.asarray(mine).shape == (6, 9, 3)
    assert np.array_equal(EXACT.pixels(mine), noise(6, 9))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.9])
def test_a_truncated_file_is_refused_by_name(kind: str, share: float, tmp_path: Path) -> None:
    data = encoded(Image.fromarray(noise(64, 64)), kind)
    path = tmp_path / "cut.jpg"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(DataError, match=r"can't read '.*cut\.jpg' as an image: .") as caught:
        Preprocess(8, 8).pixels(path)
    assert caught.value.remedy == "replace or remove the file"


def test_garbage_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="can't read the image as an image"):
        EXACT.pixels(b"<html>not found</html>")
    with pytest.raises(DataError, match=r"can't read '.*none\.png' as an image: no such file"):
        EXACT.pixels(tmp_path / "none.png")
    with pytest.raises(DataError, match="can't read"):
        EXACT.pixels(tmp_path)
    with pytest.raises(DataError, match="can't read"):
        EXACT.pixels("bad\0name.png")


@pytest.mark.parametrize("size", [(1 << 31) - 1, 60_000])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(size: int) -> None:
    with pytest.raises(DataError, match=r"too large|decompression bomb|image size|pixels"):
        open_image(header_of_png(size, size))


def test_a_picture_just_over_the_limit_is_refused() -> None:
    with pytest.raises(DataError, match=r"\d"):
        open_image(header_of_png(MAX_PIXELS // 1000 + 1, 1000))


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((2, 4, 4, 3), np.uint8),
        np.zeros(4, np.uint8),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_an_array_that_is_no_image_is_refused(array: np.ndarray) -> None:
    with pytest.raises(DataError, match="image array"):
        EXACT.pixels(array)


@pytest.mark.parametrize("value", [5, None, [1, 2], bytearray(b"xx")])
def test_what_is_no_image_at_all_is_refused(value: object) -> None:
    with pytest.raises(DataError, match=type(value).__name__):
        EXACT.pixels(value)  # type: ignore[arg-type]


def test_decoding_in_threads_leaves_the_warning_filters_as_they_were() -> None:
    data = encoded(Image.fromarray(noise(64, 64)), "JPEG")
    before = list(warnings.filters)

    def work() -> None:
        for _ in range(150):
            EXACT.pixels(data)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(warnings.filters) == before


def test_normalising_subtracts_the_mean_and_divides_by_the_deviation() -> None:
    spec = Preprocess(6, 9, mean=(0.1, 0.5, 0.9), std=(0.2, 0.3, 0.7))
    pixels = np.stack([noise(6, 9, seed=s) for s in range(4)])
    result = spec.normalise(pixels)
    exact = (np.moveaxis(pixels, -1, 1) / 255 - np.array(spec.mean)[:, None, None]) / np.array(spec.std)[
        :, None, None
    ]
    assert result.shape == (4, 3, 6, 9)
    assert result.dtype == np.float32
    assert result.flags.c_contiguous
    assert np.abs(result - exact).max() < 4 * np.spacing(np.float32(np.abs(exact).max()))


def test_normalising_is_one_multiplication_and_one_addition_in_float32() -> None:
    spec = Preprocess(1, 256, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    levels = np.repeat(np.arange(256, dtype=np.uint8)[None, None, :, None], 3, axis=3)
    scale, shift = spec.affine()
    assert scale.dtype == shift.dtype == np.float32
    for channel in range(3):
        expected = [
            np.float32(np.float32(level) * scale[channel]) + shift[channel]
            for level in np.arange(256, dtype=np.float32)
        ]
        assert spec.normalise(levels)[0, channel, 0].tolist() == [float(value) for value in expected]


def test_a_batch_is_its_images_normalised() -> None:
    images = [noise(20, 30, seed=s) for s in range(3)]
    spec = Preprocess(8, 8)
    singles = [spec.normalise(spec.pixels(image)[None])[0] for image in images]
    assert np.array_equal(spec.batch(images), np.stack(singles))


@pytest.mark.parametrize(
    "wrong",
    [
        {"height": 0}, {"width": 20_000}, {"channels": 2}, {"mean": (0.5,)}, {"std": (0.1, 0.0, 0.1)},
        {"std": (0.1, float("nan"), 0.1)}, {"mean": (float("inf"), 0.0, 0.0)}, {"resize": "fit"},
        {"interpolation": "lanczos"}, {"crop_fraction": 0.0}, {"crop_fraction": 1.5},
    ],
)  # fmt: skip
def test_a_spec_that_cannot_work_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InputError, match="bad preprocessing"):
        Preprocess(**({"height": 8, "width": 8} | wrong))  # type: ignore[arg-type]


def test_a_spec_survives_json_and_its_digest_tells_it_from_others() -> None:
    spec = Preprocess(8, 9, resize="stretch", mean=(0.1, 0.2, 0.3))
    again = Preprocess.from_json(spec.to_json())
    assert again == spec
    assert again.digest() == spec.digest() != Preprocess(8, 9, resize="stretch").digest()


@pytest.mark.parametrize("change", [{"mean": "abc"}, {"mean": None}, {"zoom": 2}, {"height": "8"}, {"std": [1, 2]}])
def test_damaged_preprocessing_metadata_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(InputError, match="preprocessing"):
        Preprocess.from_json(Preprocess(8, 8).to_json() | change)
