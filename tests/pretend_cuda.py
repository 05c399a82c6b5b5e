"""A CUDA device that is pretended: `with pretend() as card:` rehearses the GPU's path on a machine without one.

Every value is real and computed by the processor. Only the place of a storage is pretended: it carries a mark, and so
views, parameters, gradients and saved tensors are where their storage is. Inside the block

- `device="cuda"` means the processor and a mark; `.device`, `.is_cuda` and files of tensors say what is marked.
- An operation on tensors of both places raises, and so does a generator of the other place. What CUDA allows passes:
  0-dimensional tensors of the host in pointwise operations, indices from the host, `copy_` and `to`.
- `.numpy()` of a marked tensor raises. A generator's state has 16 bytes there and 5,056 here, as the real ones have.
- `card.waits` counts what makes the host wait for the device: values and shapes that are read from it, and blocking
  copies from and to it. `torch.cuda.set_sync_debug_mode("error")` turns a wait into an error, as on a real card.
- `card.launches` counts ATen operations on marked tensors, backward ones too: at least as many kernels start.
- `card.allocated` and `card.peak` are bytes of marked storages; `torch.cuda`'s figures of memory are these.
- `torch.cuda`'s global generator is apart from the processor's.
- Autocast for CUDA is the processor's, with those operations in single precision that CUDA keeps there.

Not rehearsed: kernels and their rounding, streams, pinned memory, several devices, `torch.compile`, other threads, C++
that asks for the device, and `.device` inside the backward pass of a custom function.
"""

import hashlib
import sys
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import torch
import torch._dynamo  # optimizers import it when they first step, which fails under what is patched here
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

CUDA, CPU, HALF = torch.device("cuda", 0), torch.device("cpu"), (torch.float16, torch.bfloat16)
RealGenerator = torch._C.Generator

# ATen's names. Pointwise operations have a tag, these excepted; views and what these make launch no kernel.
POINTWISE = {"fill_", "masked_fill", "masked_fill_", "floor_divide"}
NO_KERNEL = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view", "detach"}
NO_KERNEL |= {"lift_fresh", "_local_scalar_dense"}
INDEXING = {"index", "_unsafe_index", "index_put", "index_put_", "_index_put_impl_"}
WAITING = {torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output}
# Python's names of what CUDA's autocast computes in single precision, and the processor's in half.
SINGLE = {"exp", "expm1", "log", "log1p", "log2", "pow", "rsqrt", "reciprocal", "softplus", "softmax", "log_softmax"}
SINGLE |= {"sum", "prod", "cumsum", "cumprod", "norm", "dist", "cdist", "logsumexp", "cosine_similarity", "layer_norm"}
SINGLE |= {"group_norm", "cross_entropy", "nll_loss", "binary_cross_entropy_with_logits", "kl_div", "l1_loss"}
SINGLE |= {"mse_loss", "smooth_l1_loss"}

STATES: dict[bytes, Tensor] = {}  # what the 16 bytes of a pretended generator's state stand for


def storage_of(tensor: Tensor) -> torch.UntypedStorage:
    with torch._C.DisableTorchFunction():
        return tensor.untyped_storage()


def on_card(tensor: Tensor) -> bool:
    """Whether a tensor's storage is marked."""
    return hasattr(storage_of(tensor), "release")


def is_cuda(device: str | int | torch.device) -> bool:
    return isinstance(device, int) or torch.device(device).type == "cuda"


def leaves_of(value: object) -> list:
    """What arguments or results consist of; torch's `tree_leaves` would take most of the time here."""
    if isinstance(value, dict):
        value = list(value.values())
    return [leaf for item in value for leaf in leaves_of(item)] if isinstance(value, list | tuple) else [value]


def caller() -> str:
    """The innermost line of the code under rehearsal."""
    frame = sys._getframe(1)
    while frame.f_back and any(part in frame.f_code.co_filename for part in ("/lib/python", "<", __file__)):
        frame = frame.f_back
    return f"{'/'.join(Path(frame.f_code.co_filename).parts[-2:])}:{frame.f_lineno}"


class Generator(RealGenerator):
    """A generator of the processor; one that was made for CUDA says that it is there."""

    def __new__(cls, device: str | torch.device = "cpu") -> "Generator":
        self = super().__new__(cls, device="cpu")
        self.on_card = is_cuda(device)
        return self

    @property
    def device(self) -> torch.device:
        return CUDA if self.on_card else CPU

    def get_state(self) -> Tensor:
        state = super().get_state()
        if not self.on_card:
            return state
        name = hashlib.blake2b(state.numpy().tobytes(), digest_size=16).digest()
        STATES[name] = state
        return torch.frombuffer(bytearray(name), dtype=torch.uint8)

    def set_state(self, state: Tensor) -> "Generator":
        if on_card(state):
            raise TypeError(f"RNG state must be a torch.ByteTensor on the CPU at {caller()}")
        if self.on_card and len(state) != 16:
            raise RuntimeError(f"RNG state is wrong size: {len(state)} bytes instead of CUDA's 16 at {caller()}")
        return super().set_state(STATES[state.numpy().tobytes()] if self.on_card else state)


class Call(NamedTuple):
    """The call in Python that ATen's operations come from."""

    here: bool = False  # what it makes is on the card
    moves: bool = False  # it moves a tensor
    checks: bool = False  # it looks at values where CUDA would not


class Card(TorchFunctionMode):
    """The pretended device: every call in Python comes here, and every operation of ATen through `Operations`."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[tuple[str, str]] = Counter()  # by line and cause
        self.launches: Counter[str] = Counter()  # by operation
        self.allocated = self.peak = 0  # bytes
        self.generator = Generator("cuda")  # of draws that are given none
        self.sync_debug_mode: int | str = "default"
        self.call = Call()

    def place(self, tensor: Tensor) -> Tensor:
        """Mark a tensor's storage."""
        storage = storage_of(tensor)
        if not hasattr(storage, "release"):
            self.allocated += storage.nbytes()
            self.peak = max(self.peak, self.allocated)
            storage.release = weakref.finalize(storage, self._free, storage.nbytes())
        return tensor

    def wait(self, cause: str) -> None:
        """The host waits for the card."""
        if self.sync_debug_mode in (2, "error"):
            raise RuntimeError(f"called a synchronizing CUDA operation: {cause} at {caller()}")
        self.waits[caller(), cause] += 1

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs, name = dict(kwargs or {}), getattr(func, "__name__", str(func))
        leaves = leaves_of((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        there = bool(tensors) and on_card(tensors[0])
        if name == "__get__":
            said = {"device": CUDA, "is_cuda": True, "is_cpu": False} if there else {}
            return said.get(func.__self__.__name__, func(*args))
        if name in ("numpy", "__array__", "__dlpack__") and there:
            raise TypeError(f"can't convert cuda:0 device type tensor to numpy at {caller()}; use Tensor.cpu() first")
        if name == "pin_memory":
            return args[0]
        if name in ("to", "cpu", "cuda", "type_as", "as_tensor") and isinstance(args[0], Tensor):
            return self._move(name, *args, **kwargs)
        if name == "tolist" and there:  # it reads memory, without an operation
            self.wait(name)
        here, asked = any(map(on_card, tensors)), kwargs.get("device")
        if asked is not None:
            here = is_cuda(asked)
            kwargs["device"] = CPU if here else asked
        for generator in leaves:
            if isinstance(generator, RealGenerator) and (generator.device.type == "cuda") != here:
                found, wanted = generator.device.type, "cuda" if here else "cpu"
                raise RuntimeError(f"Expected a '{wanted}' device type for generator but found '{found}' at {caller()}")
        from_python = name in ("tensor", "as_tensor", "new_tensor")  # no operation either
        if here and from_python:
            self.wait("copy to the device")
        if here and torch.is_autocast_enabled("cpu") and name.strip("_") in SINGLE:
            args, kwargs = tree_map_only(Tensor, lambda x: x.float() if x.dtype in HALF else x, (args, kwargs))
        checks = name == "one_hot" and args[1:] not in ((), (-1,))
        out = self._run(Call(here, checks=checks), func, *args, **kwargs)
        return self.place(out) if here and (from_python or name == "__deepcopy__") else out

    def _move(self, name: str, tensor: Tensor, *rest, **options) -> Tensor:
        """`to` in its three forms, `cpu`, `cuda`, `type_as`, and `as_tensor` of a tensor."""
        first = rest[0] if rest else None
        if isinstance(first, Tensor):
            names = ("other", "non_blocking", "copy")
        elif isinstance(first, torch.dtype):
            names = ("dtype", "device") if name == "as_tensor" else ("dtype", "non_blocking", "copy")
        else:
            names = ("device", "dtype", "non_blocking", "copy") if name == "to" else ("device", "non_blocking")
        options = {key: value for key, value in (dict(zip(names, rest)) | options).items() if value is not None}
        here = on_card(tensor)
        goal = is_cuda(options.pop("device", name if name in ("cpu", "cuda") else CUDA if here else CPU))
        if (other := options.pop("other", None)) is not None:
            goal, options["dtype"] = on_card(other), other.dtype
        if goal == here:
            return self._run(Call(here), tensor.to, **options) if options else tensor
        if not options.get("non_blocking"):
            self.wait(f"copy to the {'device' if goal else 'host'}")
        return self._run(Call(goal, moves=True), tensor.to, **options | {"device": CPU, "copy": True})

    def _run(self, call: Call, func: Callable, *args, **kwargs):
        before, self.call = self.call, call
        try:
            return func(*args, **kwargs)
        finally:
            self.call = before

    def operation(self, func, args: tuple, kwargs: dict):
        """One operation of ATen, below autograd and autocast: refuse it, count it, run it, mark what it makes."""
        name, leaves = func.overloadpacket.__name__, leaves_of((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        there = [on_card(tensor) for tensor in tensors]
        if name == "_to_copy":
            here = self.call.here if self.call.moves else there[0]
        elif "device" in kwargs or not tensors:
            here = self.call.here
        elif any(there) and not all(there):
            here = self._mixed(func, name, args, tensors, there)
        else:
            here = there[0]
        if not here:
            return func(*args, **kwargs)
        if not self.call.checks:
            self._count(func, name, args)
        draws = torch.Tag.nondeterministic_seeded in func.tags and not any(isinstance(x, RealGenerator) for x in leaves)
        with self._global_generator() if draws else nullcontext():
            out = func(*args, **kwargs)
        for made in leaves_of(out):
            if isinstance(made, Tensor):
                self.place(made)
        return out

    def _mixed(self, func, name: str, args: tuple, tensors: list[Tensor], there: list[bool]) -> bool:
        """Whether an operation on tensors of both places makes something on the card; most operations are refused."""
        refused = [tensor for tensor, cuda in zip(tensors, there) if not cuda]
        if name == "copy_":
            if not (args[2:] and args[2]):
                self.wait(f"copy to the {'device' if there[0] else 'host'}")
            return there[0]
        if name in INDEXING and there[0]:
            self.wait("indices from the host")
            refused = [values for values in args[2:3] if values.ndim and not on_card(values)]
        elif torch.Tag.pointwise in func.tags or name in POINTWISE:
            changes_host = func._schema.is_mutable and not there[0]
            refused = [tensor for tensor in refused if tensor.ndim or changes_host]
        if refused:
            places = ", ".join(f"{tuple(t.shape)} on {CUDA if cuda else CPU}" for t, cuda in zip(tensors, there))
            raise RuntimeError(f"Expected all tensors to be on the same device, but {name} at {caller()} got {places}")
        return True

    def _count(self, func, name: str, args: tuple) -> None:
        if not func.is_view and name not in NO_KERNEL:
            self.launches[name] += 1
        if name in INDEXING:
            masked = any(isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in args[1])
            filled = any(values.numel() == 1 and not on_card(values) for values in args[2:3])  # by `masked_fill_`
            if masked and not filled:
                self.wait(f"{name} by a mask")
        elif WAITING & set(func.tags):
            self.wait(name)

    @contextmanager
    def _global_generator(self) -> Iterator[None]:
        """The card's global generator in place of the processor's."""
        before = torch.default_generator.get_state()
        torch.default_generator.set_state(RealGenerator.get_state(self.generator))
        try:
            yield
        finally:
            RealGenerator.set_state(self.generator, torch.default_generator.get_state())
            torch.default_generator.set_state(before)

    def _free(self, size: int) -> None:
        self.allocated -= size

    def names(self) -> dict[str, object]:
        """What stands in for names of `torch.cuda`."""
        seed, state = self.generator.manual_seed, self.generator.get_state
        return {
            "default_generators": (self.generator,),
            "is_available": lambda: True,
            "is_bf16_supported": lambda including_emulation=True: True,
            "device_count": lambda: 1,
            "current_device": lambda: 0,
            "set_device": lambda device: None,
            "get_device_name": lambda device=None: "Pretended",
            "get_device_capability": lambda device=None: (9, 0),
            "synchronize": lambda device=None: self.wait("synchronize"),
            "set_sync_debug_mode": lambda mode: setattr(self, "sync_debug_mode", mode),
            "get_sync_debug_mode": lambda: self.sync_debug_mode,
            "memory_allocated": lambda device=None: self.allocated,
            "max_memory_allocated": lambda device=None: self.peak,
            "reset_peak_memory_stats": lambda device=None: setattr(self, "peak", self.allocated),
            "empty_cache": lambda: None,
            "manual_seed": seed,
            "manual_seed_all": seed,
            "get_rng_state": lambda device="cuda": state(),
            "set_rng_state": lambda new_state, device="cuda": self.generator.set_state(new_state),
        }


class Operations(TorchDispatchMode):
    """Brings ATen's operations to the card."""

    def __init__(self, card: Card) -> None:
        super().__init__()
        self.card = card

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # or every operation is wrapped once more

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunction():
            return self.card.operation(func, args, kwargs or {})


@contextmanager
def pretend() -> Iterator[Card]:
    """Inside, there is a CUDA device; what comes out are its counts.

    >>> with pretend() as card:
    ...     x = torch.ones(3, device="cuda")
    ...     x.device, x.sum().item(), dict(card.launches), card.waits.total()
    (device(type='cuda', index=0), 3.0, {'ones': 1, 'sum': 1}, 1)
    """
    card, enter_autocast, autocast_is_on = Card(), torch.autocast.__init__, torch.is_autocast_enabled

    def autocast(self, device_type: str, dtype: torch.dtype | None = None, *args, **kwargs) -> None:
        if device_type == "cuda":
            device_type, dtype = "cpu", dtype or torch.float16
        enter_autocast(self, device_type, dtype, *args, **kwargs)

    def is_autocast_enabled(device_type: str = "cuda") -> bool:
        return autocast_is_on("cpu" if device_type == "cuda" else device_type)

    def location(storage: torch.UntypedStorage) -> str | None:
        return "cuda:0" if hasattr(storage, "release") else None

    def restore(storage: torch.UntypedStorage, location: str) -> torch.UntypedStorage | None:
        if not is_cuda(location):
            return None
        card.place(torch.empty(0, dtype=torch.uint8).set_(storage))
        return storage

    no_graphs = mock.patch.object(torch.optim.Optimizer, "_accelerator_graph_capture_health_check", create=True)
    files = [(0, location, restore), *torch.serialization._package_registry]
    with ExitStack() as stack:
        stack.enter_context(mock.patch.multiple(torch.cuda, **card.names()))
        stack.enter_context(mock.patch.object(torch, "Generator", Generator))
        stack.enter_context(mock.patch.object(torch.autocast, "__init__", autocast))
        stack.enter_context(mock.patch.object(torch, "is_autocast_enabled", is_autocast_enabled))
        stack.enter_context(mock.patch.object(torch.accelerator, "is_available", return_value=True))
        stack.enter_context(mock.patch.object(torch.serialization, "_package_registry", files))
        stack.enter_context(no_graphs)
        stack.enter_context(Operations(card))
        yield stack.enter_context(card)
