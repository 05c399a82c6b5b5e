"""Mini-batches against literal loops over pixels."""

import itertools

import numpy as np
import pytest
import torch
from scipy import stats

from mmlib.experiments.data.batches import Batches
from mmlib.experiments.data.dataset import Dataset
from mmlib.experiments.data.split import Split


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(n: int, size: int = 6, channels: int = 3, seed: int = 0) -> Split:
    """Images that no crop or mirroring can confuse, each labelled with its own number."""
    images = torch.randint(1, 256, (n, channels, size, size), generator=generator(seed), dtype=torch.uint8)
    return Split(images, torch.arange(n))


def crops(image: np.ndarray, padding: int) -> dict[tuple[int, int, int], np.ndarray]:
    """All that augmentation can make of one (channels, h, w) image, pixel by pixel."""
    channels, h, w = image.shape
    made = {}
    for top, left, mirrored in itertools.product(range(2 * padding + 1), range(2 * padding + 1), range(2)):
        out = np.zeros_like(image)
        for channel, y, x in itertools.product(range(channels), range(h), range(w)):
            row, column = y + top - padding, (w - 1 - x if mirrored else x) + left - padding
            if 0 <= row < h and 0 <= column < w:
                out[channel, y, x] = image[channel, row, column]
        made[top, left, mirrored] = out
    return made


def draws(split: Split, batches: Batches, padding: int) -> np.ndarray:
    """The (top, left, mirrored) of every image of one epoch, (batches, m, 3): each must be one possible crop."""
    possible = [crops(image, padding) for image in split.images.numpy()]
    found = []
    for images, labels in batches:
        for image, label in zip((images * 255).round().byte().numpy(), labels):
            matches = [draw for draw, made in possible[label].items() if np.array_equal(made, image)]
            assert len(matches) == 1
            found.append(matches[0])
    return np.array(found).reshape(len(batches), -1, 3)


@pytest.mark.parametrize("channels", [1, 3])
def test_every_image_is_cropped_and_mirrored_by_its_own_uniform_draw(channels):
    padding, split = 1, noise(300, size=4, channels=channels)
    batches = Batches(split, 50, padding=padding, flip=True, generator=generator())
    epochs = np.concatenate([draws(split, batches, padding) for _ in range(3)])
    for of_batch in epochs:
        assert len(np.unique(of_batch, axis=0)) > 9  # of 18, in 50 draws
    cells = np.ravel_multi_index(epochs.reshape(-1, 3).T, (3, 3, 2))
    assert stats.chisquare(np.bincount(cells, minlength=18)).pvalue > 1e-3


def test_wider_padding_reaches_every_offset():
    split = noise(200, size=6, channels=1)
    found = draws(split, Batches(split, 100, padding=2, generator=generator()), 2).reshape(-1, 3)
    assert {tuple(draw[:2]) for draw in found} == set(itertools.product(range(5), range(5)))
    assert not found[:, 2].any()


def test_flip_alone_moves_nothing():
    split = noise(64)
    found = draws(split, Batches(split, 32, flip=True, generator=generator()), 0)
    assert 0.3 < found[..., 2].mean() < 0.7


def test_an_epoch_shows_every_image_once_in_a_new_order():
    split, orders = noise(60), []
    batches = Batches(split, 20, generator=generator())
    for _ in range(2):
        images, labels = (torch.cat(parts) for parts in zip(*batches))
        assert torch.equal(images, split.images[labels].float() / 255)
        assert sorted(labels.tolist()) == list(range(60))
        orders.append(labels.tolist())
    assert orders[0] != orders[1]
    assert list(range(60)) not in orders


@pytest.mark.parametrize(("n", "m", "count"), [(10, 4, 2), (8, 4, 2), (3, 3, 1), (1, 1, 1)])
def test_the_size_of_a_mini_batch_is_constant(n, m, count):
    batches = Batches(noise(n), m, padding=1, flip=True, generator=generator())
    assert [len(labels) for _, labels in batches] == [m] * count
    assert len(batches) == count


def test_the_generator_is_the_only_source_of_randomness():
    def epochs(state: torch.Tensor, count: int) -> tuple[list[torch.Tensor], torch.Tensor]:
        source = torch.Generator()
        source.set_state(state)
        batches = Batches(noise(40), 16, padding=2, flip=True, generator=source)
        return [tensor for _ in range(count) for batch in batches for tensor in batch], source.get_state()

    torch.manual_seed(1)
    before = torch.get_rng_state()
    one, half = epochs(generator(5).get_state(), 1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    two, _ = epochs(generator(5).get_state(), 2)
    rest, _ = epochs(half, 1)
    assert all(torch.equal(a, b) for a, b in zip(one + rest, two, strict=True))
    other, _ = epochs(generator(6).get_state(), 1)
    assert not torch.equal(one[0], other[0])


def test_order_and_augmentation_have_generators_of_their_own():
    def epoch(order: int, augmentation: int) -> tuple[torch.Tensor, torch.Tensor]:
        sources = {"generator": generator(order), "augmentation_generator": generator(augmentation)}
        return tuple(map(torch.cat, zip(*Batches(noise(40), 10, padding=2, flip=True, **sources))))

    images, labels = epoch(0, 1)
    assert torch.equal(labels, epoch(0, 2)[1])
    assert not torch.equal(images, epoch(0, 2)[0])
    assert torch.equal(labels, torch.randperm(40, generator=generator(0)))
    draws = generator(1)
    offsets = torch.randint(5, (2, 40), generator=draws)
    mirrored = torch.randint(2, (40,), generator=draws)
    for k, image in enumerate(images):
        made = crops(noise(40).images[labels[k]].numpy(), 2)
        expected = made[offsets[0, k].item(), offsets[1, k].item(), mirrored[k].item()]
        assert np.array_equal((image * 255).round().byte().numpy(), expected)


def test_more_processes_than_images_are_refused():
    with pytest.raises(ValueError, match="split must have an image for each of 5 processes, got 4"):
        Batches(noise(4), 2, shard=(4, 5))


@pytest.mark.parametrize(("processes", "words"), [(1, "4 training images"), (2, "2 training images of each process")])
def test_more_images_than_there_are_make_no_mini_batch(processes, words):
    with pytest.raises(ValueError, match=f"^batch_size must be at most the {words}, got 5$"):
        Batches(noise(4), 5, shard=(0, processes))


@pytest.mark.parametrize(("n", "m"), [(200, 128), (100, 100)])
def test_a_data_set_s_own_size_is_that_of_what_it_has(n, m):
    split = noise(n)
    dataset = Dataset("noise", split, None, split, tuple(map(str, range(n))), batch_size=128, padding=0, flip=False)
    assert dataset.batches("cpu").batch_size == m
    with pytest.raises(ValueError, match=f"split must have an image for each of {n + 1} processes, got {n}"):
        dataset.batches("cpu", shard=(0, n + 1))


def test_an_epoch_takes_its_draws_when_it_starts():
    source = generator()
    batches = iter(Batches(noise(40), 10, padding=1, flip=True, generator=source))
    next(batches)
    state = source.get_state()
    assert len(list(batches)) == 3
    assert torch.equal(source.get_state(), state)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("augmentation", [{}, {"padding": 1, "flip": True}])
def test_batches_are_channels_last_whatever_the_split_is(dtype, augmentation):
    split = noise(12)
    last = Split(split.images.contiguous(memory_format=torch.channels_last), split.labels)
    for one, other in zip(*(Batches(s, 6, generator=generator(), dtype=dtype, **augmentation) for s in (split, last))):
        assert one[0].shape == (6, 3, 6, 6)
        assert one[0].dtype == dtype
        assert one[0].is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(one[0], other[0])


@pytest.mark.parametrize(("options", "minimum"), [({"batch_size": 0}, 1), ({"padding": -1}, 0)])
def test_impossible_numbers_are_refused(options, minimum):
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=f"{name} must be an integer >= {minimum}, got {value}"):
        Batches(noise(4), **{"batch_size": 2, **options})
