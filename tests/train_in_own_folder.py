"""A run under torchrun whose processes share no folder: each has `<folder>/<rank>`."""

import sys
from pathlib import Path

from mmlib.experiments import data
from mmlib.experiments.training import Config, distributed, train

folder, epochs = Path(sys.argv[1]), int(sys.argv[2])
distributed.init("cpu")
try:
    config = Config(method="erm", batch_size=20, epochs=epochs)
    train(config, data.load("digits"), folder=folder / str(distributed.rank()))
finally:
    distributed.shutdown()
