"""How far a picture of a notebook is from the stored one: `pytest --nbval` compares texts alone."""

import base64
import io
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import maximum_filter, minimum_filter, uniform_filter

# In pixels, of which the figures have 200 to an inch: 3 pixels, shift and blur, are 0.4 mm.
SHIFT, BLUR, PATCH = 2, 1, 12
# Measured on curves, bars, hulls of dots, a confusion matrix and rows of images, by `mmbook.plots`. These must pass:
#   every number changed by a thousandth 0.007, 199 dots an inch stretched to 200 0.013, letters without hinting 0.025.
# These must fail:
#   another digit in a confusion matrix 0.060, in a tick's label 0.084, a line in the palette's next colour 0.113,
#   a curve 5 % higher 0.22, a bar 5 % higher 0.31 to 0.92, a dotted line gone 0.39, a curve gone 0.77.
# What moves by less than 3 pixels passes: a bar 1 % higher, 5 % of a low one. One moved dot of 300: 0.041.
# Another typeface mostly fails, as its letters differ (0.2 in the curves), and so do 100 dots an inch, stretched (0.4).
LIMIT = 0.04


def pictures(outputs: Sequence[dict]) -> list[bytes]:
    """The PNG files among a cell's outputs, in order."""
    found = [output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    return [base64.b64decode(text) for text in found]


def difference(stored: Image.Image, new: Image.Image) -> float:
    """How far two pictures of one size differ, from 0 to 1.

    A pixel differs by what its colour lies outside those of the other picture within `BLUR` pixels. Every square of
    `PATCH` pixels has the mean of that, at the shift of up to `SHIFT` pixels that suits it best. The result is the
    largest of these means. So a line or a letter may move a little, and none may change, come or go.
    """
    one, other = (np.asarray(picture.convert("RGB"), dtype=np.int16) for picture in (stored, new))
    other = np.pad(other, ((SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0)), mode="edge")
    (low, high), (low_of_other, high_of_other) = _colours_nearby(one), _colours_nearby(other)
    height, width, _ = one.shape
    best = np.full((height, width), np.inf)
    for down, right in product(range(2 * SHIFT + 1), repeat=2):
        moved = np.s_[down : down + height, right : right + width]
        beyond = [one - high_of_other[moved], low_of_other[moved] - one, other[moved] - high, low - other[moved]]
        excess = np.max(beyond, axis=(0, 3)).clip(min=0).astype(float)
        best = np.minimum(best, uniform_filter(excess, PATCH))
    return float(best.max()) / 255


def _colours_nearby(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The lowest and the highest value of each channel within `BLUR` pixels of each."""
    window = (2 * BLUR + 1, 2 * BLUR + 1, 1)
    return minimum_filter(pixels, window), maximum_filter(pixels, window)


def compare(stored: Sequence[bytes], new: Sequence[bytes], folder: Path, name: str) -> list[str]:
    """Say what differs between a cell's pictures, a line each, and leave both of each such pair in a folder.

    Args:
        stored: PNG files of the notebook.
        new: PNG files of its run.
        folder: is made where it is missing.
        name: begins the names of the files written.
    """
    if len(stored) != len(new):
        return [f"the notebook has {len(stored)} pictures here, its run made {len(new)}"]
    lines = []
    for index, pair in enumerate(zip(stored, new)):
        said = _said(*(Image.open(io.BytesIO(file)) for file in pair)) if pair[0] != pair[1] else None
        if said:
            folder.mkdir(parents=True, exist_ok=True)
            paths = [folder / f"{name}-{index}-{which}.png" for which in ("stored", "new")]
            for path, file in zip(paths, pair):
                path.write_bytes(file)
            lines.append(f"picture {index}: {said}; look at {paths[0]} and {paths[1]}")
    return lines


def _said(stored: Image.Image, new: Image.Image) -> str | None:
    """What is wrong with the new picture, if anything."""
    if stored.size != new.size:
        return "stored {} x {} pixels, new {} x {}".format(*stored.size, *new.size)
    measured = difference(stored, new)
    return f"differs by {measured:.3f}, where {LIMIT} is allowed" if measured > LIMIT else None
