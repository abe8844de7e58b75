import pytest
from pictures import encoded, picture

from catdog.data.picture_formats import format_of


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *(
            (kind, kind)
            for kind in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000", "ICO", "ICNS", "DDS", "PDF")
        ),
        ("WEBP", "WebP"),
        ("EPS", "PostScript"),
    ],
)
def test_what_a_program_writes_is_known_by_its_first_bytes(kind: str, name: str) -> None:
    assert format_of(encoded(picture(1), kind)) == name


def brands(major: bytes, *others: bytes) -> bytes:
    content = b"ftyp" + major + bytes(4) + b"".join(others)
    return (len(content) + 4).to_bytes(4) + content + b"avif" * 9


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (brands(b"heic", b"mif1", b"heic"), "HEIC"),
        (brands(b"mif1", b"heic"), "HEIC"),
        (brands(b"mif1", b"avif"), "AVIF"),
        (brands(b"msf1", b"hevc"), "HEIC"),
        (brands(b"crx ", b"isom"), "CR3"),
        (brands(b"isom", b"mp42"), "MP4"),
        (b"\xff\x0a" + bytes(9), "JPEG XL"),
        (b"\xff\xd8\xff\xf7" + bytes(9), "JPEG-LS"),
        (b"\xd7\xcd\xc6\x9a" + bytes(9), "WMF"),
        (b"8BPS\0\1", "PSD"),
        (b"<?xml version='1.0'?>\n<!-- drawn -->\n<svg xmlns='x'>", "SVG"),
        (b"\n<!DOCTYPE HTML>", "HTML"),
        (b"version https://git-lfs.github.com/spec/v1", "Git LFS pointer"),
        (b"PK\3\4", "zip"),
    ],
)
def test_formats_that_are_not_read_are_called_by_their_names(content: bytes, name: str) -> None:
    assert format_of(content) == name


@pytest.mark.parametrize("content", [b"", b"\xff", b"hello", b"ftyp", bytes(100), b"P hello"])
def test_what_begins_as_no_known_format_has_no_name(content: bytes) -> None:
    assert format_of(content) is None
