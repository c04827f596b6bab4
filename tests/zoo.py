"""Pictures of every kind with the pixels that they show, computed without the library that decodes them."""

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 6, 9
Pixels = np.ndarray


@dataclass(frozen=True)
class Animal:
    """An encoded picture.

    Attributes:
        name: what is special about it.
        data: the file.
        shown: uint8 [H, W, 3]: what it shows.
        tolerance: levels by which decoding may differ from that: lossy formats, rounding.
    """

    name: str
    data: bytes
    shown: Pixels
    tolerance: int = 0


def noise(*shape: int, seed: int = 0, bits: int = 8) -> Pixels:
    kind = np.uint8 if bits <= 8 else np.uint16
    return np.random.default_rng(seed).integers(0, 1 << bits, shape, kind)


def coloured(grey: Pixels) -> Pixels:
    return np.repeat(grey[:, :, None], 3, axis=2)


def on_white(values: Pixels, alpha: Pixels) -> Pixels:
    share = alpha[..., None] / 255.0
    return np.rint(values * share + 255 * (1 - share)).astype(np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(pixels: Pixels, colour: int, bits: int, *between: bytes) -> bytes:
    """A PNG (ISO/IEC 15948) of rows without a filter: ``pixels`` [H, W] or [H, W, C], ``colour`` its colour type."""
    height, width = pixels.shape[:2]
    rows = pixels.reshape(height, pixels.size // max(height, 1))
    if bits == 16:
        lines = [row.astype(">u2").tobytes() for row in rows]
    elif bits == 8:
        lines = [row.astype(np.uint8).tobytes() for row in rows]
    else:
        planes = np.unpackbits(rows.astype(np.uint8)[..., None], axis=2)[..., -bits:]
        lines = [np.packbits(row.ravel()).tobytes() for row in planes]
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + line for line in lines)))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(between) + body + chunk(b"IEND", b"")


def tiff(pixels: Pixels, *, order: str = "<", photometric: int = 1, bits: int = 16, sample: int = 1) -> bytes:
    """A TIFF 6.0 of one uncompressed strip, ``order`` "<" or ">"; ``sample``: 1 unsigned, 2 signed, 3 float."""
    height, width = pixels.shape[:2]
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    if bits == 12:
        pairs = pixels.reshape(height, -1, 2).astype(np.uint32)
        whole = pairs[..., 0] << 12 | pairs[..., 1]
        data = np.stack([whole >> 16, whole >> 8 & 255, whole & 255], -1).astype(np.uint8).tobytes()
    else:
        data = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    entries = 11
    extra = 8 + 2 + 12 * entries + 4
    start = extra + 4 * channels

    def entry(tag: int, kind: int, count: int, value: int) -> bytes:
        short = kind == 3 and count == 1
        return struct.pack(f"{order}HHI{'HH' if short else 'I'}", tag, kind, count, value, *([0] if short else []))

    where = extra if channels > 2 else None
    body = b"".join([
        entry(256, 3, 1, width), entry(257, 3, 1, height),
        entry(258, 3, channels, bits if where is None else where),
        entry(259, 3, 1, 1), entry(262, 3, 1, photometric), entry(273, 4, 1, start), entry(277, 3, 1, channels),
        entry(278, 3, 1, height), entry(279, 4, 1, len(data)), entry(284, 3, 1, 1),
        entry(339, 3, channels, sample if where is None else where + 2 * channels),
    ])  # fmt: skip
    tail = struct.pack(f"{order}{channels}H", *[bits] * channels) + struct.pack(
        f"{order}{channels}H", *[sample] * channels
    )
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, entries)
    return head + body + bytes(4) + tail + data


def jpeg_marker(data: bytes, marker: int) -> tuple[int, int]:
    """Where a segment of a JPEG begins and ends, its marker included."""
    place = 2
    while data[place + 1] != marker:
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return place, place + 2 + int.from_bytes(data[place + 2 : place + 4], "big")


ORIENTATIONS: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 3),
    7: lambda a: np.rot90(a.transpose(1, 0, 2), 2),
    8: lambda a: np.rot90(a, 1),
}
"""What each EXIF orientation (Exif 2.32, tag 0x0112) makes of the stored pixels."""


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def cmyk_animals() -> list[Animal]:
    flat = (40, 90, 160, 30)
    ink = np.full((HEIGHT, WIDTH, 4), flat, np.uint8)
    shown = np.rint((255.0 - ink[..., :3]) * (255.0 - ink[..., 3:]) / 255).astype(np.uint8)
    adobe = encoded(Image.fromarray(ink, "CMYK"), "JPEG", quality=100)
    start, end = jpeg_marker(adobe, 0xEE)
    plain = adobe[:start] + adobe[end:]  # libjpeg then gives the stored values, which are 255 - ink, as ink
    negative = np.rint(ink[..., :3].astype(float) * ink[..., 3:] / 255).astype(np.uint8)
    ycck = adobe[: end - 1] + b"\x02" + adobe[end:]  # the same values taken for Y, Cb, Cr and black
    y, cb, cr, black = (255.0 - value for value in flat)
    rgb = np.array([
        y + 1.402 * (cr - 128), y - 0.344136 * (cb - 128) - 0.714136 * (cr - 128), y + 1.772 * (cb - 128),
    ])  # fmt: skip
    converted = np.rint((255 - rgb.clip(0, 255)) * black / 255).astype(np.uint8)
    return [
        Animal("CMYK JPEG by Adobe", adobe, shown, 3),
        Animal("CMYK JPEG without Adobe's marker", plain, negative, 3),
        Animal("YCCK JPEG", ycck, np.broadcast_to(converted, (HEIGHT, WIDTH, 3)), 3),
        Animal("CMYK TIFF", encoded(Image.fromarray(ink, "CMYK"), "TIFF"), shown, 1),
    ]


def deep_animals() -> list[Animal]:
    grey, colour = noise(HEIGHT, WIDTH, seed=1, bits=16), noise(HEIGHT, WIDTH, 3, seed=2, bits=16)
    alpha = noise(HEIGHT, WIDTH, seed=3, bits=16)
    high, alphas = (grey >> 8).astype(np.uint8), (alpha >> 8).astype(np.uint8)
    twelve = noise(HEIGHT, 10, seed=4, bits=12)
    key = struct.pack(">H", int(grey[2, 3]))
    keyed = high.copy()
    keyed[grey == grey[2, 3]] = 255
    return [
        Animal("16-bit grey PNG", png(grey, 0, 16), coloured(high)),
        Animal("16-bit grey PNG with a transparent level", png(grey, 0, 16, chunk(b"tRNS", key)), coloured(keyed)),
        Animal("16-bit RGB PNG", png(colour, 2, 16), (colour >> 8).astype(np.uint8)),
        Animal(
            "16-bit grey PNG with alpha",
            png(np.stack([grey, alpha], -1), 4, 16),
            coloured(on_white(high[..., None], alphas)[..., 0]),
            1,
        ),
        Animal(
            "16-bit RGBA PNG",
            png(np.dstack([colour, alpha]), 6, 16),
            on_white((colour >> 8).astype(np.uint8), alphas),
            1,
        ),
        Animal("16-bit grey TIFF, little-endian", tiff(grey), coloured(high)),
        Animal("16-bit grey TIFF, big-endian", tiff(grey, order=">"), coloured(high)),
        Animal("16-bit grey TIFF, white is zero", tiff(grey, photometric=0), coloured(255 - high)),
        Animal("16-bit RGB TIFF, little-endian", tiff(colour, photometric=2), (colour >> 8).astype(np.uint8)),
        Animal("16-bit RGB TIFF, big-endian", tiff(colour, order=">", photometric=2), (colour >> 8).astype(np.uint8)),
        Animal("12-bit grey TIFF", tiff(twelve, bits=12), coloured((twelve >> 4).astype(np.uint8))),
        Animal("12 bits in 16-bit PNG", png(twelve, 0, 16), coloured((twelve >> 8).astype(np.uint8))),
        Animal("16-bit PGM", b"P5 9 6 65535\n" + grey.astype(">u2").tobytes(), coloured(high)),
    ]


def palette_animals() -> list[Animal]:
    colours, indices = noise(4, 3, seed=5), noise(HEIGHT, WIDTH, seed=6, bits=2)
    shown = colours[indices]
    alphas = np.array([0, 128, 255, 255], np.uint8)
    plte = chunk(b"PLTE", colours.tobytes())
    bits = noise(HEIGHT, WIDTH, seed=7, bits=1)
    animals = [Animal(f"palette PNG of {depth} bits", png(indices, 3, depth, plte), shown) for depth in (2, 4, 8)]
    return [
        *animals,
        Animal("palette PNG of 1 bit", png(bits, 3, 1, chunk(b"PLTE", colours[:2].tobytes())), colours[bits]),
        Animal(
            "palette PNG with transparency",
            png(indices, 3, 8, plte, chunk(b"tRNS", alphas.tobytes())),
            on_white(shown, alphas[indices]),
            1,
        ),
        Animal("1-bit PNG", png(bits, 0, 1), coloured(bits * np.uint8(255))),
        Animal("1-bit TIFF", encoded(Image.fromarray(bits.astype(bool)), "TIFF"), coloured(bits * np.uint8(255))),
        Animal(
            "1-bit PBM",
            b"P1 9 6 " + " ".join(str(1 - bit) for bit in bits.ravel()).encode(),
            coloured(bits * np.uint8(255)),
        ),
        Animal("palette GIF", encoded(Image.fromarray(bits * np.uint8(255)), "GIF"), coloured(bits * np.uint8(255))),
    ]


def plain_animals() -> list[Animal]:
    rgb, grey, alpha = noise(HEIGHT, WIDTH, 3, seed=8), noise(HEIGHT, WIDTH, seed=9), noise(HEIGHT, WIDTH, seed=10)
    frames = [Image.new("RGB", (WIDTH, HEIGHT), (level,) * 3) for level in (40, 200)]
    first = np.full((HEIGHT, WIDTH, 3), 40, np.uint8)
    profile = bytes(128)
    animals = [
        Animal(
            f"EXIF orientation {number} in {kind}",
            encoded(Image.fromarray(rgb), kind, exif=exif(number), **more),
            turn(rgb),
        )
        for number, turn in ORIENTATIONS.items()
        for kind, more in (("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {}))
        if kind == "PNG" or number == 6
    ]
    animals += [
        Animal(f"animated {kind}", encoded(frames[0], kind, save_all=True, append_images=frames[1:], **more), first)
        for kind, more in (("GIF", {}), ("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {}))
    ]
    return [
        *animals,
        Animal("grey PNG", png(grey, 0, 8), coloured(grey)),
        Animal(
            "grey PNG with alpha",
            png(np.stack([grey, alpha], -1), 4, 8),
            coloured(on_white(grey[..., None], alpha)[..., 0]),
            1,
        ),
        Animal("RGBA PNG", png(np.dstack([rgb, alpha]), 6, 8), on_white(rgb, alpha), 1),
        Animal("BMP", encoded(Image.fromarray(rgb), "BMP"), rgb),
        Animal("PPM", b"P6 9 6 255\n" + rgb.tobytes(), rgb),
        Animal("with a colour profile", encoded(Image.fromarray(rgb), "PNG", icc_profile=profile), rgb),
        Animal(
            "grey JPEG",
            encoded(Image.fromarray(np.full((HEIGHT, WIDTH), 77, np.uint8)), "JPEG"),
            np.full((HEIGHT, WIDTH, 3), 77, np.uint8),
            1,
        ),
    ]


def zoo() -> list[Animal]:
    """One of each."""
    return [*plain_animals(), *deep_animals(), *palette_animals(), *cmyk_animals()]
