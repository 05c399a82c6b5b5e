"""The time of a step on the device, method by method: `pytest tests/cuda/test_cuda_speed.py` prints a table."""

import statistics
import time

import pytest
import torch

from mmlib.experiments import data
from mmlib.experiments.training import Config, Trainer
from mmlib.experiments.training.trainer import train_epoch

TIMED = {
    "erm": {},
    "mixup": {},
    "cutmix": {},
    "multimix": {"probability": 1.0},
    "dense_multimix": {"probability": 1.0},
    "multimix_distill": {"probability": 1.0},
    "dense_multimix_distill": {"probability": 1.0},
}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_print_the_time_of_a_step(device, capsys, precision):
    """Of 128 images of CIFAR-100's shape and PreActResNet-18 on a GPU; of something small elsewhere."""
    real = device == "cuda" and torch.cuda.get_device_name() != "Pretended"
    model, m, steps, rounds = ("preactresnet18", 128, 10, 5) if real else ("preactresnet-small", 8, 1, 1)
    generator = torch.Generator("cpu").manual_seed(0)
    images = torch.randint(256, (m * steps, 32, 32, 3), dtype=torch.uint8, generator=generator).permute(0, 3, 1, 2)
    split = data.Split(images, torch.randint(100, (m * steps,), generator=generator))
    dataset = data.Dataset("noise", split, None, split[:4], tuple(map(str, range(100))), m, padding=4, flip=True)
    trainers = {
        name: Trainer(Config(model=model, method=name, options=options, precision=precision), dataset, device)
        for name, options in TIMED.items()
    }
    seconds = {name: [] for name in TIMED}
    for _ in range(1 + rounds):
        for name, trainer in trainers.items():
            start = time.perf_counter()
            train_epoch(trainer, 0).sum().item()
            seconds[name].append((time.perf_counter() - start) / steps)
    medians = {name: statistics.median(of_method[1:]) for name, of_method in seconds.items()}
    with capsys.disabled():
        print(
            f"\n{model}, {m} images, {precision}, {torch.cuda.get_device_name() if device == 'cuda' else 'processor'}"
        )
        for name, median in medians.items():
            print(f"{name:<24}{1e3 * median:>9.2f} ms {median / medians['erm']:>7.2f} x ERM")
    assert all(median > 0 for median in medians.values())
