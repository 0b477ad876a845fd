"""Picture files become the pixels that viewers show, the same for `prepare` and `measure`; programs are not run."""

import ast
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.data.decode import PIXELS, decode, decode_picture
from pipeline.data.records import BadRecord
from pipeline.data.shards import read_pictures
from pipeline.errors import TrilemmaError
from pipeline.metrics.standalone.measure import measure
from tests.pipeline.data.test_datasets import prepare

ROOT = Path(__file__).parents[3]
ORIENTATION = 0x0112
TALL = np.random.default_rng(0).integers(0, 256, (8, 6, 3), dtype=np.uint8)
UPRIGHT = {  # by EXIF orientation; TIFF 6.0, tag 274: where the stored first row and column are
    1: TALL,
    2: TALL[:, ::-1],
    3: TALL[::-1, ::-1],
    4: TALL[::-1],
    5: TALL.transpose(1, 0, 2),
    6: np.rot90(TALL, -1),
    7: np.rot90(TALL, 2).transpose(1, 0, 2),
    8: np.rot90(TALL, 1),
}


def picture(seed: int, height: int = 8, width: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(image: np.ndarray | Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(buffer, kind, **options)
    return buffer.getvalue()


def turned(image: np.ndarray, orientation: int, kind: str = "PNG") -> bytes:
    tag = Image.Exif()
    tag[ORIENTATION] = orientation
    return encoded(image, kind, exif=tag, **({"lossless": True} if kind == "WEBP" else {}))


def channels_first(image: np.ndarray) -> np.ndarray:
    return image.transpose(2, 0, 1)


def png_of(depth: int, colour: int, rows: np.ndarray) -> bytes:
    """rows: big-endian numbers [H, W, ...]."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", rows.shape[1], rows.shape[0], depth, colour, 0, 0, 0)
    lines = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", lines) + chunk(b"IEND", b"")


POSTSCRIPT = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(executed) (w) file closefile\nshowpage\n%%EOF\n"
)
PROGRAMS = {
    "PostScript": POSTSCRIPT,
    "PostScript with a preview": struct.pack("<3I", 0xC6D3D0C5, 32, len(POSTSCRIPT)) + bytes(20) + POSTSCRIPT,
    "PDF": b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n",
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><script>1</script></svg>',
    "Windows metafile": b"\xd7\xcd\xc6\x9a" + b"\0" * 60,
    "icon": encoded(np.zeros((16, 16, 3), np.uint8), "ICO"),
}  # fmt: skip


@pytest.mark.parametrize("kind", PROGRAMS)
def test_a_program_called_png_is_refused_and_not_run(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def started(*arguments: object, **options: object) -> None:
        raise AssertionError(f"started {arguments}")

    for name in ("Popen", "run", "check_call", "check_output", "call"):
        monkeypatch.setattr(f"subprocess.{name}", started)
    for i in range(3):
        (tmp_path / "pics" / "a").mkdir(parents=True, exist_ok=True)
        (tmp_path / "pics" / "a" / f"{i}.png").write_bytes(PROGRAMS[kind] if i == 1 else encoded(picture(i)))
    with pytest.raises(TrilemmaError, match=r"1\.png is not a readable picture: no known format \(PNG, JPEG"):
        prepare("image_folder", tmp_path / "pics", tmp_path / "out")
    with pytest.raises(TrilemmaError, match=r"1\.png is not a readable picture: no known format"):
        measure(tmp_path / "pics", tmp_path / "pics", "pixels")
    assert not (tmp_path / "executed").exists()


def test_pictures_are_opened_with_a_list_of_formats_and_in_two_places() -> None:
    opened = {
        file.relative_to(ROOT).as_posix(): {keyword.arg for keyword in call.keywords}
        for file in (ROOT / "pipeline").rglob("*.py")
        for call in ast.walk(ast.parse(file.read_text()))
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "Image.open"
    }
    assert opened == {"pipeline/data/decode.py": {"formats"}, "pipeline/report/page.py": {"formats"}}


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_a_picture_is_turned_as_its_tag_says(kind: str, orientation: int) -> None:
    found = decode(turned(TALL, orientation, kind), "it")
    np.testing.assert_array_equal(found.image, channels_first(UPRIGHT[orientation]))
    assert found.conversions == (("turned by EXIF",) if orientation > 1 else ())


def test_a_turned_photograph_has_the_pixels_of_the_upright_one() -> None:
    stored = decode_picture(encoded(TALL, "JPEG"), "it")
    np.testing.assert_array_equal(decode_picture(turned(TALL, 8, "JPEG"), "it"), np.rot90(stored, 1, (1, 2)))


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0MM\0*\xff\xff\xff\xff", b""])
def test_a_broken_tag_is_ignored_as_viewers_do(exif: bytes) -> None:
    np.testing.assert_array_equal(
        decode_picture(encoded(TALL, "JPEG", exif=exif), "it"), decode_picture(encoded(TALL, "JPEG"), "it")
    )


DEEP = np.random.default_rng(1).integers(0, 2**16, (4, 5, 3)).astype(">u2")
GREY = TALL[:, :, :1]
OPAQUE = np.full_like(GREY, 255)
TABLE = Image.fromarray(TALL).quantize(16)
CMYK = Image.fromarray(TALL).convert("CMYK")
MAIN = encoded(TALL, "MPO", save_all=True, append_images=[Image.fromarray(TALL[:4, :4])], quality=95)
SEEN: dict[str, tuple[bytes, np.ndarray, tuple[str, ...]]] = {
    "CMYK TIFF": (encoded(CMYK, "TIFF"), np.asarray(CMYK.convert("RGB")), ("CMYK to RGB",)),
    "two pictures in one JPEG": (
        MAIN,
        np.asarray(Image.open(io.BytesIO(encoded(TALL, "JPEG", quality=95)))),
        ("main picture of several",),
    ),
    "16-bit colour": (png_of(16, 2, DEEP), (DEEP >> 8).astype(np.uint8), ("high byte of 16 bits",)),
    "colour table": (encoded(TABLE), np.asarray(TABLE.convert("RGB")), ("colour table looked up",)),
    "opaque alpha": (encoded(np.dstack([TALL, OPAQUE])), TALL, ("opaque alpha dropped",)),
    "grey with opaque alpha": (encoded(np.concatenate([GREY, OPAQUE], 2)), GREY, ("opaque alpha dropped",)),
    "two levels": (encoded(Image.fromarray(TALL[:, :, 0] > 99)), np.where(GREY > 99, 255, 0).astype(np.uint8), ()),
    "JPEG of CMYK": (
        encoded(CMYK, "JPEG"),
        np.asarray(Image.open(io.BytesIO(encoded(CMYK, "JPEG"))).convert("RGB")),
        ("CMYK to RGB",),
    ),
}


@pytest.mark.parametrize("what", SEEN)
def test_pixels_are_those_that_viewers_show(what: str) -> None:
    content, image, conversions = SEEN[what]
    found = decode(content, "it")
    np.testing.assert_array_equal(found.image, channels_first(image))
    assert found.conversions == conversions


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (encoded(np.full((8, 8), 40_000, np.uint16)), "has mode I;16: pass 8-bit grey or RGB"),
        (encoded(np.dstack([TALL, OPAQUE // 2])), "is transparent in places"),
        (encoded(Image.fromarray(TALL[:, :, 0]), transparency=int(TALL[0, 0, 0])), "is transparent in places"),
        (encoded(Image.fromarray(TALL).quantize(8), transparency=0), "is transparent in places"),
        (encoded(Image.new("1", (9000, 9000))), "9000x9000, more than the 67108864 pixels allowed"),
    ],
)
def test_pixels_that_are_not_clear_are_named(content: bytes, message: str) -> None:
    with pytest.raises(BadRecord, match=f"it .*{message}"):
        decode(content, "it")


def test_any_broken_content_is_a_bad_record_of_one_line() -> None:
    rng, messages = np.random.default_rng(0), list[str]()
    for content in (MAIN, *(SEEN[what][0] for what in SEEN), encoded(TALL, "GIF"), encoded(TALL, "PPM")):
        for _ in range(20):
            broken = bytearray(content)
            for place in rng.integers(0, len(broken), 5):
                broken[place] = rng.integers(256)
            try:
                decode(bytes(broken[: rng.integers(1, len(broken) + 1)]), "it")
            except BadRecord as error:
                messages.append(str(error))
    assert len(messages) > 50
    assert all(message.isprintable() for message in messages)


def test_turned_pictures_are_prepared_and_measured_as_seen(tmp_path: Path) -> None:
    for i in range(6):
        for name, content in (("stored", turned(picture(i), 6)), ("upright", encoded(np.rot90(picture(i), -1)))):
            (tmp_path / name / "a").mkdir(parents=True, exist_ok=True)
            (tmp_path / name / "a" / f"{i}.png").write_bytes(content)
    found = measure(tmp_path / "stored", tmp_path / "upright", "pixels", ["fd"])
    assert found.values["fd"].value == pytest.approx(0, abs=1e-6)
    made = prepare("image_folder", tmp_path / "stored", tmp_path / "out")
    seen = {channels_first(np.rot90(picture(i), -1)).tobytes() for i in range(6)}
    assert {
        image.tobytes() for split in ("train", "held_out") for image in read_pictures(made.path, split).images
    } == seen
    assert made.manifest.facts["pixels"] == {"rules": PIXELS, "changed": {"turned by EXIF": 6}}


def test_one_cmyk_picture_does_not_stop_imagenet(tmp_path: Path) -> None:
    for i in range(20):
        image = Image.fromarray(picture(i, 12, 16))
        image = image.convert("CMYK") if i == 7 else image.convert("L") if i == 9 else image
        (tmp_path / "imagenet" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        (tmp_path / "imagenet" / "ab"[i % 2] / f"{i}.JPEG").write_bytes(encoded(image, "JPEG"))
    made = prepare(
        "image_folder",
        tmp_path / "imagenet",
        tmp_path / "out",
        preprocess={"crop": "square", "size": 8, "colour": "rgb"},
    )
    facts = made.manifest.facts
    assert (facts["train"] + facts["held_out"], facts["label_names"]) == (20, ["a", "b"])
    assert facts["pixels"]["changed"] == {"CMYK to RGB": 1}
