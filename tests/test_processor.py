"""The common instruction set: chosen after the import of torch it is in force, and another one gives other numbers."""

import os
import platform
import subprocess
import sys
from unittest import mock

import pytest

from mmlib.experiments.processor import COMMON_INSTRUCTIONS, instructions, is_x86_64, use_common_instructions

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
GRADIENTS = """
import hashlib, torch
from mmlib import DenseMultiMixLoss, MultiMixLoss
torch.set_num_threads(1)
numbers = torch.Generator().manual_seed(0)
logits = torch.randn(50, 10, generator=numbers, requires_grad=True)
features = torch.randn(50, 32, 4, 4, generator=numbers, requires_grad=True)
head, labels = torch.nn.Linear(32, 10), torch.arange(50) % 10
torch.nn.init.normal_(head.weight, generator=numbers), torch.nn.init.zeros_(head.bias)
draws = torch.Generator().manual_seed(1)
loss = MultiMixLoss(generator=draws)(logits, labels) + DenseMultiMixLoss(generator=draws)(features, head, labels)
gradients = torch.autograd.grad(loss, [logits, features, head.weight, head.bias])
bits = [hashlib.sha256(gradient.numpy().tobytes()).hexdigest()[:16] for gradient in gradients]
print(torch.__version__.split("+")[0], loss.item(), *bits)
"""
# Of the code at 79f75da, which most records were made with.
GOLDEN = ["5.37247371673584", "34dd6fe1a4d856b1", "ac3b35960739ebdf", "a60a136ac073b6a1", "45f2e7cd27ebfbfa"]
x86 = pytest.mark.skipif(not is_x86_64(), reason="only x86-64 has AVX2")


def run(code: str, *arguments: str, **variables: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in COMMON_INSTRUCTIONS}
    environment |= {"TQDM_DISABLE": "1"} | variables
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


@x86
@pytest.mark.slow
def test_instructions_are_those_of_the_environment():
    chosen = run(TRAIN, "common")
    assert chosen == run(TRAIN, **COMMON_INSTRUCTIONS)
    assert chosen.startswith("AVX2 ")
    assert chosen != run(TRAIN, "common", ATEN_CPU_CAPABILITY="default")


@x86
@pytest.mark.slow
def test_gradients_have_the_bits_that_the_records_were_made_with():
    """A change of a sum's order moves what a network learns; here it is seen without training one."""
    torch_version, *bits = run(GRADIENTS, **COMMON_INSTRUCTIONS).split()
    if torch_version != "2.15.0":
        pytest.skip("the records are of torch 2.15.0")
    assert bits == GOLDEN


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
