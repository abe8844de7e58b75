import pytest
from pictures import encoded, picture, rgb_page, tiff_of

from catdog.data.picture_formats import format_of


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *(
            (kind, kind)
            for kind in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000", "ICO", "ICNS", "DDS", "PDF")
        ),
        ("TGA", "TGA"),
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


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P"])
@pytest.mark.parametrize("options", [{}, {"compression": "tga_rle"}, {"id_section": b"by a program"}])
def test_a_tga_of_every_kind_is_told_as_what_it_is(mode: str, options: dict[str, object]) -> None:
    assert format_of(encoded(picture(1).convert(mode), "TGA", **options)) == "TGA"


def test_a_cursor_is_told_as_an_icon() -> None:
    assert format_of(b"\0\0\2\0\1\0\x20\x20\0\0" + bytes(12)) == "ICO"


SENSOR = {254: 0, 256: 48, 257: 40, 258: 14, 259: 34713, 262: 32803, 277: 1}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("pages", "name"),
    [
        ([rgb_page(picture(1), t254=1, t50706=b"\1\4\0\0"), rgb_page(picture(2))], "DNG"),
        ([rgb_page(picture(1), t271=b"NIKON CORPORATION\0", t254=1, t330=[rgb_page(picture(2)), SENSOR])], "NEF"),
        ([rgb_page(picture(1), t271=b"SONY\0", t254=1, t330=[SENSOR])], "ARW"),
        ([SENSOR | {271: b"PENTAX \0"}, rgb_page(picture(1), t254=1)], "PEF"),
        ([rgb_page(picture(1), t271=b"samsung\0", t254=1), SENSOR], "SRW"),
        ([rgb_page(picture(1), t254=1, t330=[SENSOR | {262: 34892}])], "camera raw"),
        ([rgb_page(picture(1), t271=b"NIKON CORPORATION\0")], "TIFF"),
        ([rgb_page(picture(1)), rgb_page(picture(1), t254=1)], "TIFF"),
    ],
    ids=["DNG", "NEF", "ARW", "PEF", "SRW", "no maker", "by a camera, but no raw", "a preview behind"],
)
def test_camera_raw_in_a_tiff_is_told_by_its_name(pages: list, name: str, order: str) -> None:
    assert format_of(tiff_of(*pages, order=order)) == name


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"II*\0\x10\0\0\0CR\2\0" + bytes(40), "CR2"),
        (b"II*\0\x08\0\0\0IIII\4\0\4\0" + bytes(40), "IIQ"),
        (b"II\x1a\0\0\0HEAPCCDR", "camera raw"),
        (b"II*\0\xff\xff\xff\xff", "TIFF"),
        (b"MM\0\x2b\0\x08\0\0" + b"\xff" * 40, "TIFF"),
    ],
)
def test_a_tiff_is_known_by_what_follows_its_first_bytes_whatever_that_is(content: bytes, name: str) -> None:
    assert format_of(content) == name


def test_directories_that_go_round_in_a_circle_end() -> None:
    content = bytearray(tiff_of(SENSOR, SENSOR | {271: b"SONY\0"}))
    content[-4:] = content[4:8]
    assert format_of(bytes(content)) == "camera raw"
