"""Records of detectors' runs, and the grid of `detection.yml` that they belong to."""

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path

import yaml
from torch import Tensor, nn

from mmbook import scenes
from mmbook.detection.config import Config
from mmbook.detection.detectors import build
from mmbook.detection.training import mean_average_precision, predict, train
from mmbook.grids import GridRecords, match_cells, read_text
from mmbook.ledger import load_valid, read_verified
from mmbook.notebook import project_root
from mmlib.experiments import runs
from mmlib.experiments.provenance import environment
from mmlib.experiments.training.devices import check_device

NUM_SHOWN, MIN_SCORE = 8, 0.3  # test images whose predictions a record keeps, and their lowest score


@dataclass(frozen=True)
class Cell:
    """One run of `detection.yml`.

    Args:
        path: of its record, relative to the ledger of detection.
        config: the configuration, which decides the result.
    """

    path: Path
    config: Config


@dataclass(frozen=True)
class DetectionRecord:
    """The record of a finished run of a detector; its `path` is relative to the ledger of detection."""

    path: Path
    config: dict
    metrics: dict
    history: list[dict]
    environment: dict
    predictions: list[dict]


def run(config: Config, path: Path, *, root: str | Path = "data", device: str = "cpu", workers: int = 0) -> dict:
    """Train and evaluate a detector, and write its record whole or not at all.

    Args:
        path: of the record, a `.json` file that does not exist yet.
        root: the folder in which VOC lies.
        device: `cpu` or `cuda`.
        workers: processes that read images.

    Returns:
        The content that was written. It has the configuration with that of the run it starts from, metrics of the test
        split (and the mAP of the validation split, where there is one), history, environment, and the predictions of
        the first test images. `ledger.read_verified` reads it back.

    Raises:
        ValueError: the file exists, or is not a `.json` file; there is no such device.
    """
    if path.suffix != ".json" or path.exists():
        raise ValueError(f"record must be a .json file that does not exist yet, got {str(path)!r}")
    check_device(device)
    data = scenes.load(config.dataset, root=root, seed=config.seed, train_images=config.train_images, size=config.size)
    detector, pretrain_config = build(config, data)
    result_config = _result_config(config, data, pretrain_config, detector.backbone.body)
    history = train(detector.to(device), config, data, workers=workers)
    classes = len(data.class_names)
    predictions, targets = predict(detector, data.test)
    metrics = mean_average_precision(predictions, targets, classes)
    validation = data.validation and mean_average_precision(*predict(detector, data.validation), classes)["map"]
    content = {
        "config": result_config | {"digest": runs.checksum(result_config)},
        "metrics": metrics | {"validation_map": validation},
        "history": history,
        "environment": environment(device) | {"train_seconds": sum(row["seconds"] for row in history)},
        "predictions": [_confident(found) for found in predictions[:NUM_SHOWN]],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    runs.write_json(path, content | {"checksum": runs.checksum(content)})
    return content


def _result_config(config: Config, data: scenes.Scenes, pretrain_config: dict | None, encoder: nn.Module) -> dict:
    """The configuration as a record has it: data set and start by what they are instead of by a path."""
    start = None
    if pretrain_config:
        names = ("dataset", "model", "method", "options", "seed", "epochs", "digest")
        start = {name: pretrain_config[name] for name in names} | {"weights": _weights_digest(encoder)}
    return dataclasses.asdict(config) | {"dataset": data.name, "data": data.fingerprint, "start": start}


def _weights_digest(encoder: nn.Module) -> str:
    """Sixteen hexadecimal digits of all weights and buffers."""
    arrays = (value.cpu().contiguous().numpy() for value in encoder.state_dict().values())
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()[:16]


def _confident(prediction: dict[str, Tensor]) -> dict[str, list]:
    """The boxes of one image with a score of at least `MIN_SCORE`, rounded."""
    kept = {name: value[prediction["scores"] >= MIN_SCORE] for name, value in prediction.items()}
    return {
        "boxes": [[round(x, 1) for x in box] for box in kept["boxes"].tolist()],
        "labels": kept["labels"].tolist(),
        "scores": [round(x, 3) for x in kept["scores"].tolist()],
    }


def cells() -> list[Cell]:
    """List the runs of `detection.yml`, all of one seed before the next seed.

    Raises:
        FileNotFoundError: the current folder lies in no clone of the repository.

    >>> str(cells()[0].path)
    'canvas/preactresnet-small/ssd/scratch/seed0.json'
    """
    grid = yaml.safe_load(read_text("detection.yml"))
    return [
        Cell(
            Path(grid["dataset"], grid["settings"]["model"], detector, name, f"seed{seed}.json"),
            Config(
                dataset=grid["dataset"],
                detector=detector,
                start=start and f"{start}/seed{seed}",
                seed=seed,
                **grid["settings"] | detector_settings,
            ),
        )
        for seed in grid["seeds"]
        for detector, detector_settings in grid["detectors"].items()
        for name, start in grid["starts"].items()
    ]


def load_record(path: Path, folder: Path) -> DetectionRecord:
    """Load one record of the ledger's folder.

    Raises:
        ValueError: the file is incomplete, or was edited by hand.
    """
    content = read_verified(path)
    kinds = {"config": dict, "metrics": dict, "history": list, "environment": dict, "predictions": list}
    if content.keys() != kinds.keys() or not all(isinstance(content[part], kind) for part, kind in kinds.items()):
        raise ValueError(f"{path} is incomplete: a record must have {', '.join(sorted(kinds))}")
    return DetectionRecord(path.relative_to(folder), **content)


def grid_records(root: Path | str = "book/results/detection") -> GridRecords:
    """Read the records of `detection.yml`; a record that does not match its cell is listed, never averaged.

    Args:
        root: the ledger of detection; a relative path starts at the root of the clone.
    """
    folder, planned = project_root() / root, cells()
    records, rejected = load_valid(folder, lambda path: load_record(path, folder))
    order = {cell.path: k for k, cell in enumerate(planned)}
    records.sort(key=lambda record: order.get(record.path, len(order)))
    return match_cells(records, planned, _mismatch, rejected)


def _mismatch(record: DetectionRecord, cell: Cell) -> tuple[str, object, object] | None:
    wanted = {name: v for name, v in dataclasses.asdict(cell.config).items() if name not in ("dataset", "start")}
    return next(
        ((name, record.config.get(name), v) for name, v in wanted.items() if record.config.get(name) != v), None
    )


def table(records: list[DetectionRecord]) -> list[dict]:
    """Return one row for each record: detector, start as the grid names it, seed, and scalar metrics.

    >>> table([])
    []
    """
    return [
        {"detector": r.config["detector"], "start": r.path.parts[-2], "seed": r.config["seed"]}
        | {name: value for name, value in r.metrics.items() if not isinstance(value, list)}
        for r in records
    ]
