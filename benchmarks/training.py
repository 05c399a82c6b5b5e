"""The cost of a training step compared with ERM's, and of an epoch compared with the loop that most people write.

`python benchmarks/training.py [--device cuda] [--precision bfloat16]` prints ratios and writes them to build/bench.

Steps are timed through `train_epoch` of `mmlib.experiments.training.trainer`, on mini-batches where the method
applies, all methods in turn on the same mini-batch; a ratio is that of the medians. The common loop is torchvision's:
images from a data set, cropped, flipped and normalised one by one in two workers of a DataLoader, the same network in
the default memory format and single precision.
"""

import argparse
import json
import time
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from torchvision import transforms

from mmlib.experiments import data, models
from mmlib.experiments.provenance import environment
from mmlib.experiments.training.config import Config
from mmlib.experiments.training.trainer import Trainer, train_epoch

METHODS = {"erm": {}, "multimix": {"probability": 1.0}, "dense_multimix": {"probability": 1.0}}


def noise(count: int) -> data.Dataset:
    """A data set of random images of CIFAR-100's shape: their content does not change the cost."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, 32, 32, 3), dtype=torch.uint8, generator=generator).permute(0, 3, 1, 2)
    split = data.Split(images, torch.randint(100, (count,), generator=generator))
    return data.Dataset("noise", split, None, split[:100], tuple(map(str, range(100))), 128, 4, True)


def synchronise(device: str) -> None:
    """Wait for the device, so that a clock read next means something."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def step_times(
    model: str, device: str, precision: str, rounds: int, compiled: bool = False, steps: int = 1
) -> dict[str, list[float]]:
    """Seconds a step, by method; every round times each method once, in turn, after two rounds of warm-up."""
    dataset, runs = noise(128 * steps), {}
    for name, options in METHODS.items():
        config = Config(model=model, method=name, options=options, precision=precision)
        runs[name] = Trainer(config, dataset, device)
        if compiled:
            runs[f"{name}-compiled"] = Trainer(config, dataset, device, compile=True)
    times = {name: [] for name in runs}
    for _ in range(rounds + 2):
        for name, run in runs.items():
            synchronise(device)
            start = time.perf_counter()
            train_epoch(run, 0)
            synchronise(device)
            times[name].append((time.perf_counter() - start) / steps)
    return {name: seconds[2:] for name, seconds in times.items()}


class ImageFiles(torch.utils.data.Dataset):
    """Images and labels as torchvision's CIFAR data sets give them, one by one through the transforms."""

    def __init__(self, dataset: data.Dataset) -> None:
        self.images = [transforms.functional.to_pil_image(image) for image in dataset.train.images]
        self.labels = dataset.train.labels.tolist()
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(*dataset.moments),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return self.transform(self.images[i]), self.labels[i]


def common_epoch(dataset: data.Dataset, device: str) -> float:
    """Images per second of an epoch of the loop that most people write, workers already started."""
    network = models.build("preactresnet-small", dataset).to(device)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    loader = torch.utils.data.DataLoader(
        ImageFiles(dataset), 128, shuffle=True, drop_last=True, num_workers=2, persistent_workers=True
    )
    for _ in range(2):
        start = time.perf_counter()
        for images, labels in loader:
            logits = network.head(network.encoder(images.to(device)).mean((2, 3)))
            loss = F.cross_entropy(logits, labels.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        synchronise(device)
        seconds = time.perf_counter() - start
    return len(loader) * 128 / seconds


def our_epoch(dataset: data.Dataset, device: str, precision: str) -> float:
    """Images per second of an epoch of `train_epoch`."""
    run = Trainer(Config(method="erm", precision=precision), dataset, device)
    for _ in range(2):
        synchronise(device)
        start = time.perf_counter()
        train_epoch(run, 0)
        synchronise(device)
        seconds = time.perf_counter() - start
    return len(run.batches) * 128 / seconds


def main() -> None:
    """Time, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--compile", action="store_true", help="steps under torch.compile too: minutes, and a compiler")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    parser.add_argument("--images", type=int, default=2560, help="of an epoch")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    figures = {"precision": arguments.precision, **environment(arguments.device)}
    for model in ("preactresnet-small", "preactresnet18"):
        times = step_times(model, arguments.device, arguments.precision, arguments.rounds, arguments.compile)
        medians = {name: median(seconds) for name, seconds in times.items()}
        figures[model] = {name: {"milliseconds": 1e3 * t, "ratio": t / medians["erm"]} for name, t in medians.items()}
        for name, row in figures[model].items():
            print(f"{model:<20}{name:<24}{row['milliseconds']:>9.1f} ms   {row['ratio']:.3f} x ERM")
    dataset = noise(arguments.images)
    rates = {"common": [], "ours": []}
    for _ in range(3):
        rates["common"].append(common_epoch(dataset, arguments.device))
        rates["ours"].append(our_epoch(dataset, arguments.device, arguments.precision))
    figures["images_per_second"] = {name: median(rate) for name, rate in rates.items()}
    for name, rate in figures["images_per_second"].items():
        ratio = rate / figures["images_per_second"]["common"]
        print(f"epoch, small network, {name:<8}{rate:>9.0f} images/s   {ratio:.2f} x the common loop")
    arguments.out.mkdir(parents=True, exist_ok=True)
    target = arguments.out / f"training-{arguments.device}-{arguments.precision}-{arguments.threads}.json"
    target.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
