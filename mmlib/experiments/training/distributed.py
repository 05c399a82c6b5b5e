"""Several processes, one device each, as `torchrun` starts them; a lone process is rank 0 of 1."""

import os

import torch
import torch.distributed as dist


def start(device: str) -> str:
    """Join the processes that torchrun started, if it did; returns the device of this one."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return device
    if device == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    return device


def stop() -> None:
    """Leave the other processes."""
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    """Which of the processes this is; the first writes files."""
    return dist.get_rank() if dist.is_initialized() else 0


def processes() -> int:
    """How many there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def gather(value: object) -> list:
    """Every process's value, in order of rank; each waits for all others."""
    values = [value] * processes()
    if dist.is_initialized():
        dist.all_gather_object(values, value)
    return values


def mean(values: torch.Tensor) -> torch.Tensor:
    """The mean over processes."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values / processes()
