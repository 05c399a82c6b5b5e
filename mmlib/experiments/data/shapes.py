"""Pictures of coloured shapes with known boxes: a data set that needs no download, drawn with NumPy alone."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmlib._checks import check_int
from mmlib._typing import Float, Int, UInt8

SIZE = 32  # pixels on a side
RADIUS = (5.5, 11.5)  # of the circle around a shape, in pixels
STROKES = 5  # behind the shape
DARK, LIGHT, STROKE = (0.05, 0.5), (0.5, 1.0), (0.0, 0.9)  # limits of a channel in the ground, the shape, a stroke
GROUND, FILL, NOISE = 0.1, 0.06, 0.04  # how far waves in the ground and in the shape, and noise, move a channel
IMAGES_PER_BLOCK = 64  # images drawn at once, whose planes stay in a processor's cache

# A signed distance: negative inside the shape, in units of the radius of the circle around it. x and y are the points'
# coordinates, y down. float64 throughout, so that machines whose sines differ in the last bit round to the same bytes.
Plane = NDArray[np.float64]
Distance = Callable[[Plane, Plane], Plane]


def disc(x: Plane, y: Plane, *, at: tuple[float, float] = (0.0, 0.0), radius: float = 0.9) -> Plane:
    """Signed distance to a disc."""
    return np.sqrt((x - at[0]) ** 2 + (y - at[1]) ** 2) - radius


def polygon(*vertices: tuple[float, float]) -> Distance:
    """Signed distance to a simple polygon: to the nearest edge, negative where a ray meets an odd number.

    Source: Inigo Quilez, 2D distance functions.
    """

    def distance(x: Plane, y: Plane) -> Plane:
        nearest, inside = np.full_like(x, np.inf), np.zeros(x.shape, dtype=bool)
        for (ax, ay), (bx, by) in zip(vertices, vertices[1:] + vertices[:1]):
            ex, ey, px, py = bx - ax, by - ay, x - ax, y - ay
            along = np.clip((px * ex + py * ey) / (ex * ex + ey * ey), 0, 1)
            np.minimum(nearest, (px - ex * along) ** 2 + (py - ey * along) ** 2, out=nearest)
            if ey != 0:
                inside ^= ((ay <= y) != (by <= y)) & (px < py * (ex / ey))
        return np.sqrt(nearest) * np.where(inside, -1, 1)

    return distance


def star(points: int, inner: float) -> Distance:
    """A star whose corners alternate between radius 1 and `inner`; inner = cos(π/points) is a regular polygon."""
    angles = np.arange(2 * points) * np.pi / points - np.pi / 2
    radii = np.where(np.arange(2 * points) % 2, inner, 1)
    return polygon(*zip((radii * np.cos(angles)).tolist(), (radii * np.sin(angles)).tolist()))


def heart(x: Plane, y: Plane) -> Plane:
    """A square on its corner, and a disc on each of its upper sides."""
    lobes = np.minimum(disc(x, y, at=(-0.42, -0.22), radius=0.5), disc(x, y, at=(0.42, -0.22), radius=0.5))
    return np.minimum(lobes, polygon((0.0, -0.64), (0.77, 0.135), (0.0, 0.91), (-0.77, 0.135))(x, y))


def cross(x: Plane, y: Plane) -> Plane:
    """Two bars."""
    x, y = np.abs(x), np.abs(y)
    return np.minimum(np.maximum(x - 0.9, y - 0.3), np.maximum(x - 0.3, y - 0.9))


# No two are one another's rotation, mirror image or scaling.
SHAPES: dict[str, Distance] = {
    "arrow": polygon((0, -1), (0.75, -0.1), (0.28, -0.1), (0.28, 0.9), (-0.28, 0.9), (-0.28, -0.1), (-0.75, -0.1)),
    "crescent": lambda x, y: np.maximum(disc(x, y, radius=0.95), -disc(x, y, at=(0.45, 0.0), radius=0.72)),
    "cross": cross,
    "disc": disc,
    "heart": heart,
    "hexagon": star(3, 1.0),
    "ring": lambda x, y: np.abs(disc(x, y, radius=0.7)) - 0.22,
    "square": star(2, 1.0),
    "star": star(5, 0.45),
    "triangle": star(3, 0.5),
}


def draw_shapes(
    count: int, seed: int | Sequence[int]
) -> tuple[UInt8[Tensor, "n 3 32 32"], Int[Tensor, " n"], Float[Tensor, "n 4"]]:
    """Draw one shape an image, at a random place, size, rotation and colour, over a texture with strokes in it.

    Args:
        count: n; classes differ by one image at most, in random order.
        seed: the only source of randomness; a sequence of integers is one too.

    Returns:
        Images, labels (indices into `SHAPES`), and boxes x0, y0, x1, y1 in pixels, x1 and y1 exclusive: the
        tightest with every pixel that the shape covers in part.

    >>> images, labels, boxes = draw_shapes(10, seed=0)
    """
    check_int(1, count=count)
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % len(SHAPES))
    blocks = [_draw(labels[start : start + IMAGES_PER_BLOCK], rng) for start in range(0, count, IMAGES_PER_BLOCK)]
    images, boxes = (torch.from_numpy(np.concatenate(arrays)) for arrays in zip(*blocks))
    return images.permute(0, 3, 1, 2), torch.from_numpy(labels), boxes


def _draw(labels: NDArray[np.int64], rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Images (n, h, w, 3) and boxes (n, 4)."""
    n = len(labels)
    ground, colour = (rng.uniform(*limits, (n, 3)) for limits in (DARK, LIGHT))
    image = texture(ground, GROUND, rng)
    for _ in range(STROKES):
        image = blend(image, stroke(n, rng), rng.uniform(*STROKE, (n, 3))[:, :, None, None])
    covered = _coverage(labels, rng)
    image = blend(image, covered, texture(colour, FILL, rng))
    image += rng.uniform(-NOISE, NOISE, image.shape)
    pixels = (image.clip(0, 1) * 255).round().astype(np.uint8)
    return np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)), tightest_boxes(covered > 0)


def _coverage(labels: NDArray[np.int64], rng: np.random.Generator) -> Plane:
    """Share of every pixel that the shape covers, (n, h, w): a ramp one pixel wide along its edge."""
    n = len(labels)
    radius, angle = rng.uniform(*RADIUS, (n, 1, 1)), rng.uniform(0, 2 * np.pi, (n, 1, 1))
    # Half a pixel's ramp outside the circle still lies within the image.
    x, y = around(rng.uniform(radius + 0.5, SIZE - radius - 0.5, (2, *radius.shape)), angle)
    covered = np.empty((n, SIZE, SIZE))
    for label, distance in enumerate(SHAPES.values()):
        of = labels == label
        covered[of] = radius[of] * distance(x[of] / radius[of], y[of] / radius[of])
    return (0.5 - covered).clip(0, 1)


def stroke(n: int, rng: np.random.Generator, size: int = SIZE) -> Plane:
    """Coverage of one straight stroke with round ends an image, (n, h, w)."""
    shape = (n, 1, 1)
    x, y = around(rng.uniform(0, size, (2, *shape)), rng.uniform(0, np.pi, shape), size)
    half, width = rng.uniform(0, 5, shape), rng.uniform(0.5, 1.5, shape)
    return (0.5 - (np.sqrt((x - x.clip(-half, half)) ** 2 + y * y) - width)).clip(0, 1)


def texture(colour: Plane, contrast: float, rng: np.random.Generator, size: int = SIZE) -> Plane:
    """Three waves of random colour, direction and length over a colour an image, (n, 3, h, w)."""
    n = len(colour)
    image = np.tile(colour[:, :, None, None], (1, 1, size, size))
    for longest in (SIZE, SIZE / 2, SIZE / 5):
        x, _ = around(rng.uniform(0, size, (2, n, 1, 1)), rng.uniform(0, np.pi, (n, 1, 1)), size)
        wave = np.sin(x * (2 * np.pi / rng.uniform(longest / 2, longest, (n, 1, 1))))
        image += rng.uniform(-contrast, contrast, (n, 3, 1, 1)) * wave[:, None]
    return image


def around(centre: Plane, angle: Plane, size: int = SIZE) -> tuple[Plane, Plane]:
    """Coordinates of all pixels' centres around `centre`, on axes turned by `angle`: two of (n, h, w)."""
    x, y = np.arange(size) + 0.5 - centre[0], (np.arange(size) + 0.5)[:, None] - centre[1]
    return x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)


def blend(image: Plane, covered: Plane, colour: Plane) -> Plane:
    """Images (n, 3, h, w) with a colour where they are covered, (n, h, w)."""
    return image + covered[:, None] * (colour - image)


def tightest_boxes(covered: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The tightest box around the pixels of every mask, (n, 4)."""
    columns, rows = covered.any(axis=1), covered.any(axis=2)
    low = [mask.argmax(axis=1) for mask in (columns, rows)]
    high = [mask.shape[1] - mask[:, ::-1].argmax(axis=1) for mask in (columns, rows)]
    return np.stack([*low, *high], axis=1).astype(np.float32)
