"""The common instruction set: chosen after the import of torch it is in force, and another one gives other numbers."""

import os
import platform
import subprocess
import sys
from unittest import mock

import pytest

from mmlib.experiments.processor import COMMON_INSTRUCTIONS, instructions, use_common_instructions

TRAIN = """
import hashlib, sys, torch
from mmlib.experiments import processor
from mmlib.experiments.training import Config, load_data, train
if "common" in sys.argv:
    processor.use_common_instructions()
torch.set_num_threads(1)
config = Config(dataset="digits", method="mixup", epochs=3)
state = train(config, load_data(config)).classifier.state_dict()
weights = b"".join(v.numpy().tobytes() for v in state.values())
print(torch.backends.cpu.get_cpu_capability(), hashlib.sha256(weights).hexdigest())
"""
x86 = pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="only x86-64 has AVX2")


def train(*arguments: str, **variables: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in COMMON_INSTRUCTIONS}
    environment |= {"TQDM_DISABLE": "1"} | variables
    command = [sys.executable, "-c", TRAIN, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


@x86
@pytest.mark.slow
def test_instructions_are_those_of_the_environment():
    chosen = train("common")
    assert chosen == train(**COMMON_INSTRUCTIONS)
    assert chosen.startswith("AVX2 ")
    assert chosen != train("common", ATEN_CPU_CAPABILITY="default")


@pytest.fixture
def environment():
    """An environment of the test's own, without any of the variables."""
    with mock.patch.dict(os.environ):
        for name in COMMON_INSTRUCTIONS:
            os.environ.pop(name, None)
        yield os.environ


def test_what_is_set_already_stays(environment, monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    environment["MKL_CBWR"] = "AVX2"
    use_common_instructions()
    assert instructions() == COMMON_INSTRUCTIONS | {"MKL_CBWR": "AVX2"}


def test_other_processors_are_left_alone(environment, monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    use_common_instructions()
    assert set(instructions().values()) == {None}
