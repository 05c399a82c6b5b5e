"""Several processes with one device each, as `torchrun` starts them; a lone process is rank 0 of 1."""

import os

import torch
import torch.distributed as dist


def init(device: str) -> str:
    """Join the processes that torchrun started, if it did.

    Returns:
        The device of this process. Under torchrun `cuda` becomes the GPU of its local rank.

    Raises:
        ValueError: under torchrun, a device with an index, which all processes would share.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return device
    if device.startswith("cuda:"):
        raise ValueError(f"device must be 'cuda' under torchrun, which gives each process a GPU, got {device!r}")
    if device == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
        dist.init_process_group("nccl", device_id=torch.device(device))
    else:
        dist.init_process_group("gloo")
    return device


def shutdown() -> None:
    """Leave the other processes; does nothing in a lone process."""
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    """Return the number of this process; rank 0 writes files."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def barrier() -> None:
    """Wait until every process is here."""
    if dist.is_initialized():
        dist.barrier()


def broadcast_object(value: object) -> object:
    """Return the value of rank 0 on every process."""
    values = [value]
    if dist.is_initialized():
        dist.broadcast_object_list(values)
    return values[0]


def all_gather_object(value: object) -> list:
    """Return the values of all processes, in order of rank."""
    values = [value] * world_size()
    if dist.is_initialized():
        dist.all_gather_object(values, value)
    return values


def all_reduce_mean(values: torch.Tensor) -> torch.Tensor:
    """Return the mean over processes."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values / world_size()
