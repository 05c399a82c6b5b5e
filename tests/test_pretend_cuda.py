"""The pretended device: what it refuses, what it counts, what it lets pass, as a real one does."""

import copy
import gc
import io

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.pretend_cuda import pretend

ON_CARD = torch.device("cuda", 0)


@pytest.fixture
def card():
    with pretend() as card:
        yield card


def marked(*shape, **options):
    return torch.rand(*shape, device="cuda", **options)


def saved(value):
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return file


# Where a tensor is


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.zeros(2, device="cuda"),
        lambda: torch.zeros(2, device=ON_CARD),
        lambda: torch.zeros(2).to("cuda"),
        lambda: torch.zeros(2).to(device="cuda", dtype=torch.double),
        lambda: torch.zeros(2).cuda(),
        lambda: torch.zeros(2).to(marked(1)),
        lambda: torch.zeros(2).type_as(marked(1)),
        lambda: torch.tensor([1.0, 2.0], device="cuda"),
        lambda: torch.as_tensor([1.0, 2.0], device="cuda"),
        lambda: torch.as_tensor(torch.ones(2), device="cuda"),
        lambda: marked(2).new_tensor([1.0]),
        lambda: marked(2).new_zeros(3),
        lambda: torch.zeros_like(torch.zeros(2), device="cuda"),
        lambda: torch.zeros_like(marked(2)),
        lambda: marked(2) + 1,
        lambda: marked(2).sum(),
        lambda: marked(4).view(2, 2).T[0],
        lambda: marked(4).to(torch.double),
        lambda: F.one_hot(torch.zeros(2, dtype=torch.long, device="cuda"), 3),
        lambda: nn.Parameter(marked(2)).detach(),
        lambda: copy.deepcopy(marked(2)),
        lambda: copy.deepcopy(nn.Linear(2, 2).to("cuda")).weight,
        lambda: torch.cat([marked(2), marked(2)]).chunk(2)[1],
        lambda: torch.zeros(2, device="cuda").copy_(torch.ones(2)),
        lambda: torch.load(saved(marked(2))),
        lambda: torch.load(saved(torch.ones(2)), map_location="cuda"),
    ],
)
def test_results_are_on_the_card(card, make):
    tensor = make()
    assert tensor.device == ON_CARD
    assert tensor.is_cuda
    assert not tensor.is_cpu


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.zeros(2),
        lambda: marked(2).cpu(),
        lambda: marked(2).to("cpu"),
        lambda: marked(2).to(torch.zeros(1)),
        lambda: torch.zeros_like(marked(2), device="cpu"),
        lambda: torch.zeros(2).copy_(marked(2)),
        lambda: torch.load(saved(marked(2)), map_location="cpu"),
    ],
)
def test_results_are_on_the_host(card, make):
    tensor = make()
    assert tensor.device.type == "cpu"
    assert tensor.is_cpu
    assert not tensor.is_cuda


def test_other_devices_are_what_they_are(card):
    with torch.device("meta"):
        assert nn.Linear(2, 2).weight.is_meta


def test_gradients_of_parameters_on_the_card_are_there(card):
    layer = nn.Linear(4, 2).to("cuda")
    images = marked(5, 4).requires_grad_()
    F.cross_entropy(layer(images), torch.zeros(5, dtype=torch.long, device="cuda")).backward()
    for gradient in (layer.weight.grad, layer.bias.grad, images.grad):
        assert gradient.device == ON_CARD


def test_values_are_those_of_the_processor(card):
    x = torch.arange(6.0).view(2, 3)
    assert torch.equal((x.to("cuda") @ x.T.to("cuda")).cpu(), x @ x.T)


def test_a_file_of_the_card_needs_a_place_where_there_is_none():
    with pretend():
        file = saved(marked(2))
    with pytest.raises(RuntimeError, match="map_location"):
        torch.load(file)


# What it refuses


@pytest.mark.parametrize(
    "mix",
    [
        lambda: marked(2) + torch.ones(2),
        lambda: torch.ones(2) @ marked(2),
        lambda: marked(2, 2) @ torch.ones(2, 2),
        lambda: torch.cat([marked(2), torch.ones(2)]),
        lambda: torch.ones(()).add_(torch.ones((), device="cuda")),
        lambda: torch.dot(marked(1), torch.ones(1)),
        lambda: torch.ones(3)[torch.tensor([0, 1], device="cuda")],
        lambda: marked(3).index_put_((torch.tensor([0]),), torch.ones(1)),
        lambda: marked(3).gather(0, torch.tensor([0])),
        lambda: F.cross_entropy(marked(2, 3), torch.tensor([0, 1])),
        lambda: nn.BatchNorm1d(3)(marked(2, 3)),
        lambda: F.embedding(torch.tensor([0]), marked(2, 3)),
        lambda: marked(2).masked_fill(torch.tensor([True, False]), 0.0),
        lambda: nn.Linear(2, 2)(marked(1, 2)),
    ],
)
def test_tensors_of_both_places_do_not_meet(card, mix):
    with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
        mix()


def test_neither_do_they_in_the_optimiser(card):
    layer = nn.Linear(2, 2).to("cuda")
    optimizer = torch.optim.SGD(layer.parameters(), momentum=0.9, lr=0.1)
    layer(marked(1, 2)).sum().backward()
    optimizer.step()
    for state in optimizer.state.values():
        state["momentum_buffer"] = state["momentum_buffer"].cpu()
    with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
        optimizer.step()


@pytest.mark.parametrize(
    "allowed",
    [
        lambda: marked(2) * torch.tensor(2.0),
        lambda: torch.tensor(2.0) / marked(2),
        lambda: torch.where(marked(2) > 0, marked(2), torch.tensor(0.0)),
        lambda: marked(2).masked_fill(marked(2) > 0, torch.tensor(0.0)),
        lambda: marked(2).fill_(torch.tensor(0.0)),
        lambda: torch.lerp(marked(2), marked(2), 0.5),
        lambda: marked(2).clamp(0, 1) ** 2,
        lambda: marked(3)[torch.tensor([0, 1])],
    ],
)
def test_numbers_and_indices_of_the_host_are_welcome(card, allowed):
    assert allowed().device == ON_CARD


@pytest.mark.parametrize("read", [lambda x: x.numpy(), lambda x: x.__array__(), lambda x: x.__dlpack__()])
def test_numpy_cannot_read_the_card(card, read):
    read(marked(2).cpu())
    with pytest.raises(TypeError, match="can't convert cuda"):
        read(marked(2))


@pytest.mark.parametrize(
    "draw",
    [
        lambda generator, device: torch.rand(2, generator=generator, device=device),
        lambda generator, device: torch.randperm(4, generator=generator, device=device),
        lambda generator, device: torch.empty(2, device=device).uniform_(generator=generator),
        lambda generator, device: torch._standard_gamma(torch.ones(2, device=device), generator=generator),
    ],
)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_generator_draws_in_its_own_place(card, draw, device):
    assert draw(torch.Generator(device).manual_seed(0), device).device.type == device
    other = {"cpu": "cuda", "cuda": "cpu"}[device]
    with pytest.raises(RuntimeError, match=f"Expected a '{device}' device type for generator but found '{other}'"):
        draw(torch.Generator(other), device)


def test_states_of_generators_fit_generators_of_their_own_kind(card):
    there, here = torch.Generator("cuda").manual_seed(1), torch.Generator().manual_seed(1)
    assert (there.device, here.device.type) == (ON_CARD, "cpu")
    assert (len(there.get_state()), len(here.get_state())) == (16, 5056)
    state, drawn = there.get_state(), marked(3, generator=there)
    assert torch.equal(marked(3, generator=there.set_state(state)), drawn)
    with pytest.raises(RuntimeError, match="wrong size"):
        there.set_state(here.get_state())
    with pytest.raises(RuntimeError):
        here.set_state(state)
    with pytest.raises(TypeError, match="on the CPU"):
        there.set_state(state.to("cuda"))


def test_the_cards_global_generator_is_its_own(card):
    host, there = torch.get_rng_state(), torch.cuda.get_rng_state()
    drawn = marked(3)
    assert torch.equal(torch.get_rng_state(), host)
    assert not torch.equal(torch.cuda.get_rng_state(), there)
    torch.cuda.set_rng_state(there)
    assert torch.equal(marked(3), drawn)
    torch.manual_seed(0)
    seeded = torch.cuda.get_rng_state()
    torch.rand(3)
    assert torch.equal(torch.cuda.get_rng_state(), seeded)
    assert not torch.equal(seeded, there)
    torch.cuda.manual_seed(1)
    assert not torch.equal(torch.cuda.get_rng_state(), seeded)


# What it counts

WAITS = {
    "item": lambda x: x[0].item(),
    "float": lambda x: float(x[0]),
    "bool": lambda x: bool(x[0] > 2),
    "if": lambda x: 1 if (x > 2).any() else 0,
    "tolist": lambda x: x.tolist(),
    "cpu": lambda x: x.cpu(),
    "to host": lambda x: x.to("cpu"),
    "to card": lambda x: torch.ones(2).to("cuda"),
    "tensor": lambda x: torch.tensor([1.0], device="cuda"),
    "new_tensor": lambda x: x.new_tensor([1.0]),
    "copy_": lambda x: x.copy_(torch.ones(3)),
    "copy_ back": lambda x: torch.empty(3).copy_(x),
    "nonzero": lambda x: x.nonzero(),
    "masked_select": lambda x: x.masked_select(x > 2),
    "mask": lambda x: x[x > 2],
    "put by a mask": lambda x: x.index_put_((x > 2,), torch.zeros(3, device="cuda")[x > 2].sum()),
    "index of the host": lambda x: x[torch.tensor([0])],
    "unique": lambda x: x.unique(),
    "bincount": lambda x: x.long().bincount(),
    "equal": lambda x: torch.equal(x, x),
    "allclose": lambda x: torch.allclose(x, x),
    "repeat_interleave": lambda x: x.repeat_interleave(torch.ones(3, dtype=torch.long, device="cuda")),
    "one_hot without classes": lambda x: F.one_hot(x.long()),
    "synchronize": lambda x: torch.cuda.synchronize(),
}


@pytest.mark.parametrize("name", WAITS)
def test_waits_are_counted_at_their_line(card, name):
    x = torch.ones(3, device="cuda")
    assert not card.waits
    WAITS[name](x)
    assert card.waits.total() >= 1
    assert all(line.startswith("tests/test_pretend_cuda.py:") for line, _ in card.waits)
    torch.cuda.set_sync_debug_mode("error")
    with pytest.raises(RuntimeError, match=r"synchronizing CUDA operation.*tests/test_pretend_cuda.py"):
        WAITS[name](x)


def test_what_does_not_wait_is_not_counted(card):
    x, k = torch.ones(3, device="cuda"), torch.zeros(2, dtype=torch.long, device="cuda")
    marked(3).uniform_()
    F.one_hot(k, 3)
    F.cross_entropy(marked(2, 3), k)
    x[k], x[:2], x[None], x.shape, len(x)
    torch.where(x > 0, x, 0.0).mul_(2).masked_fill_(x > 0, 1.0)
    torch.ones(3).to("cuda", non_blocking=True)
    x.copy_(torch.ones(3), non_blocking=True)
    torch.ones(3)[torch.ones(3) > 0].sum().item()
    x.topk(2).indices, x.sort(), x.cumsum(0)
    assert not card.waits


def test_launches_are_operations_on_the_card_backward_included(card):
    x = torch.ones(3, device="cuda", requires_grad=True)
    torch.ones(3).mul(2)
    assert card.launches == {"ones": 1}
    (x.view(3, 1) * 2).sum().backward()
    assert card.launches["mul"] == 2
    assert not {"view", "expand", "detach"} & card.launches.keys()


def test_memory_is_that_of_storages_on_the_card(card):
    torch.ones(1000)
    x = torch.ones(1000, device="cuda")
    y = x.view(10, 100)[:5]
    assert torch.cuda.memory_allocated() == 4000
    del x
    gc.collect()
    assert torch.cuda.memory_allocated() == 4000
    z = y + 1
    assert torch.cuda.max_memory_allocated() == 6000
    del y, z
    gc.collect()
    assert (torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()) == (0, 6000)
    torch.cuda.reset_peak_memory_stats()
    assert torch.cuda.max_memory_allocated() == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, None])
def test_autocast_is_that_of_cuda(card, dtype):
    x, half = marked(2, 2), dtype or torch.float16
    with torch.autocast("cuda", dtype):
        assert (x @ x).dtype == half
        assert (x @ x).relu().dtype == half
        assert (x @ x).exp().dtype == torch.float32
        assert (x @ x).softmax(1).dtype == torch.float32
        assert F.cross_entropy(x @ x, torch.zeros(2, dtype=torch.long, device="cuda")).dtype == torch.float32
        with torch.autocast("cuda", enabled=False):
            assert (x @ x).dtype == torch.float32
    assert (x @ x).dtype == torch.float32


def test_nothing_is_left_behind():
    def patched():
        files = torch.serialization._package_registry
        return torch.Generator, torch.autocast.__init__, torch.cuda.is_available, torch.accelerator.is_available, files

    before = patched()
    with pretend():
        assert not any(now is then for now, then in zip(patched(), before))
    assert all(now is then for now, then in zip(patched(), before))
