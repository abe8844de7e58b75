"""The format that a file's first bytes tell of, so that what is left out is called by its name."""

import re

from catdog.data.tiff_tags import Tag, directories

_BEGINNINGS: tuple[tuple[bytes, str], ...] = (
    (rb"\xff\xd8\xff\xf7", "JPEG-LS"),
    (rb"\xff\xd8\xff", "JPEG"),
    (rb"\x89PNG\r\n\x1a\n", "PNG"),
    (rb"GIF8[79]a", "GIF"),
    (rb"BM", "BMP"),
    (rb"RIFF....WEBP", "WebP"),
    (rb"II\*\0....CR[\x02\x03]\0", "CR2"),
    (rb"(II\*\0....IIII[\x04\x06]\0\x04\0|MM\0\*....MMMM\0\x04\0[\x04\x06])", "IIQ"),
    (rb"(II|MM)([*+]\0|\0[*+])", "TIFF"),
    (rb"P[1-7fF][\s#]", "PPM"),
    (rb"(\xff\x4f\xff\x51|\0\0\0\x0cjP  \r\n\x87\n)", "JPEG2000"),
    (rb"(\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n)", "JPEG XL"),
    (rb"II\xbc\x01", "JPEG XR"),
    (rb"(%!PS|\xc5\xd0\xd3\xc6)", "PostScript"),
    (rb"%PDF", "PDF"),
    (rb"8BPS", "PSD"),
    (rb"gimp xcf", "XCF"),
    (rb"\0\0[\x01\x02]\0[^\0]\0", "ICO"),
    (rb"icns", "ICNS"),
    (rb"(\xd7\xcd\xc6\x9a|\x01\0\x09\0)", "WMF"),
    (rb"\x01\0\0\0.{36} EMF", "EMF"),
    (rb"DDS ", "DDS"),
    (rb"qoif", "QOI"),
    (rb"BPG\xfb", "BPG"),
    (rb"SIMPLE  =", "FITS"),
    (rb"v/1\x01", "OpenEXR"),
    (rb"#\?R(ADIANCE|GBE)", "Radiance HDR"),
    (rb"FUJIFILMCCD-RAW", "RAF"),
    (rb"(II(R[OS]|U\0)|MMOR|II\x1a\0\0\0HEAPCCDR|FOVb|\0MRM)", "camera raw"),
    (rb"\x1a\x45\xdf\xa3", "Matroska"),
    (rb"PK(\x03\x04|\x05\x06)", "zip"),
    (rb"\x1f\x8b", "gzip"),
    (rb"Rar!", "RAR"),
    (rb"7z\xbc\xaf\x27\x1c", "7z"),
    (rb"version https://git-lfs", "Git LFS pointer"),
    (rb"(?i)\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?(<!DOCTYPE svg|<svg)", "SVG"),
    (rb"(?i)\s*<(!doctype html|html)", "HTML"),
    # It has no signature: kind of palette and of picture, the palette's numbers, a place, a size, bits and flags.
    (rb".\0[\x02\x03\x0a\x0b]\0{4}.{5}(?!\0\0)..(?!\0\0)..[\x08\x0f\x10\x18\x20][\0-\x3f]", "TGA"),
    (rb".\x01[\x01\x09]....[\x0f\x10\x18\x20].{4}(?!\0\0)..(?!\0\0)..[\x08\x10][\0-\x3f]", "TGA"),
)
_PATTERNS = [(re.compile(pattern, re.DOTALL), name) for pattern, name in _BEGINNINGS]
_HEAD = 4096

# What a sensor measured, through a colour filter or one colour a plane; its kind of TIFF is that of the camera's maker.
_SENSOR = frozenset({32803, 34892})
_RAW_OF_MAKERS = (
    (b"NIKON", "NEF"),
    (b"SONY", "ARW"),
    (b"PENTAX", "PEF"),
    (b"RICOH", "PEF"),
    (b"SAMSUNG", "SRW"),
    (b"HASSELBLAD", "3FR"),
    (b"EPSON", "ERF"),
)

# ISO base media files name the formats that they keep to; the first of these that is among them is it.
_BRANDS: tuple[tuple[frozenset[bytes], str], ...] = (
    (frozenset({b"avif", b"avis"}), "AVIF"),
    (frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}), "HEIC"),
    (frozenset({b"crx "}), "CR3"),
)


def format_of(content: bytes) -> str | None:
    """The name of the format that the content begins as, also of many that are not read; None for an unknown one."""
    head = content[:_HEAD]
    if head[4:8] == b"ftyp":
        return _of_brands(head)
    name = next((name for pattern, name in _PATTERNS if pattern.match(head)), None)
    return _of_tiff(content) if name == "TIFF" else name


def _of_tiff(content: bytes) -> str:
    """That of a camera's raw data where it holds such, of which its other pages are but previews."""
    pages, below = directories(content)
    if any(Tag.DNG_VERSION in tags for tags in pages):
        return "DNG"
    if not any(_SENSOR.intersection(tags.get(Tag.PHOTOMETRIC, ())) for tags in (*pages, *below)):
        return "TIFF"
    make = bytes(pages[0].get(Tag.MAKE, ())).upper()
    return next((name for maker, name in _RAW_OF_MAKERS if make.startswith(maker)), "camera raw")


def _of_brands(head: bytes) -> str:
    size = min(int.from_bytes(head[:4]), len(head))
    brands = {head[8:12], *(head[at : at + 4] for at in range(16, size, 4))}
    return next((name for known, name in _BRANDS if brands & known), "MP4")
