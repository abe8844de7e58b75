"""Photos of a folder as one array; what they show is not asked."""

import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from infra.folder_lock import Refused

_FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP"}


def load(folder: Path, side: int) -> np.ndarray:
    """The JPEG, PNG and WebP files below a folder, by name, squashed to uint8 [photos, side, side, 3].

    A line on stderr tells of each that cannot be read. Raises Refused where none can.
    """
    if not folder.is_dir():
        raise Refused(f"{folder}: no such folder")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _FORMATS and path.is_file())
    with ThreadPoolExecutor() as threads:
        photos = [photo for photo in threads.map(partial(_decoded, side=side), paths) if photo is not None]
    if not photos:
        raise Refused(f"{folder}: holds no JPEG, PNG or WebP that can be read")
    return np.stack(photos)


def _decoded(path: Path, side: int) -> np.ndarray | None:
    try:
        with Image.open(path, formats=sorted({*_FORMATS.values()})) as image:
            image.draft("RGB", (2 * side, 2 * side))
            upright = ImageOps.exif_transpose(image).convert("RGB")
        return np.asarray(upright.resize((side, side), Image.Resampling.LANCZOS))
    except Exception as error:  # a codec may raise anything on broken input
        print(f"left out: {path}: {' '.join(str(error).split())}", file=sys.stderr)
        return None
