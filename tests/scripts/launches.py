"""What a GPU would start for compiled losses, for the test that started it, without a GPU.

Inductor writes the code that it would write for one, forward and backward. Prints a line of JSON for every loss: what
that code calls, which are fused kernels, products of matrices and torch's own. None of it is run.
"""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.aot_autograd import make_boxed_func
from torch._inductor.debug import DebugContext
from torch._inductor.decomposition import select_decomp_table
from torch._inductor.fx_passes.post_grad import view_to_reshape
from torch._inductor.fx_passes.replace_random import replace_random_passes
from torch._inductor.graph import GraphLowering
from torch._inductor.virtualized import V
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule
from torch.fx.passes.fake_tensor_prop import FakeTensorProp

from mmlib import DenseMultiMixLoss, MultiMixLoss, _autograd

M, CLASSES, CHANNELS, SIDE = 128, 100, 64, 4
GPU = torch.device("cuda", 0)
# An H100, as far as Inductor asks.
CARD = SimpleNamespace(
    name="H100",
    major=9,
    minor=0,
    multi_processor_count=132,
    warp_size=32,
    max_threads_per_block=1024,
    max_threads_per_multi_processor=2048,
    regs_per_multiprocessor=65536,
    shared_memory_per_block=49152,
    shared_memory_per_block_optin=232448,
    shared_memory_per_multiprocessor=233472,
    L2_cache_size=50 * 2**20,
    total_memory=80 * 2**30,
)
CALL = re.compile(r"^\s+(?:\S+ = )?(triton_\w+\.run|extern_kernels\.\w+|(?:torch\.ops\.)?aten\.[\w.]+)\(", re.MULTILINE)


@contextmanager
def card() -> Iterator[None]:
    """Let Inductor believe that there is a GPU."""
    interface = "torch._dynamo.device_interface.CudaInterface"
    answers = {
        f"{interface}.get_device_properties": CARD,
        f"{interface}.current_device": 0,
        f"{interface}.raise_if_triton_unavailable": None,
        "torch.cuda.get_device_properties": CARD,
        "torch._inductor.scheduler.has_triton": True,
        "torch.utils._triton.triton_hash_with_backend": "",
    }
    with ExitStack() as patches:
        for name, answer in answers.items():
            patches.enter_context(mock.patch(name, return_value=answer))
        yield


def graphs_of(loss: Callable[[], Tensor]) -> list[tuple[GraphModule, list]]:
    """Trace a loss and its gradients on the CPU, in one graph each."""
    graphs = []

    def keep(graph: GraphModule, inputs: list) -> Callable:
        graphs.append((graph, list(inputs)))
        return make_boxed_func(graph.forward)

    torch._dynamo.reset()
    backend = aot_autograd(fw_compiler=keep, bw_compiler=keep, decompositions=select_decomp_table)
    torch.compile(loss, backend=backend, fullgraph=True)().backward()
    return graphs


def calls_on_gpu(graph: GraphModule, inputs: list) -> list[str]:
    """Name what Inductor's code for a graph calls on a GPU."""
    for node in graph.graph.nodes:
        if "device" in node.kwargs:
            node.kwargs = node.kwargs | {"device": GPU}
    mode = FakeTensorMode()
    with card(), V.set_fake_mode(mode):
        with mode:
            inputs = [torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=GPU) for x in inputs]
        for prepare in (lambda _: None, replace_random_passes, view_to_reshape):
            prepare(graph)
            FakeTensorProp(graph, mode).propagate_dont_convert_inputs(*inputs)
        lowering = GraphLowering(graph, example_inputs=inputs)
        with V.set_debug_handler(DebugContext()), V.set_graph_handler(lowering), V.set_extern_kernel_nodes([]):
            lowering.run(*inputs)
            code = lowering.codegen()[0].value
    return CALL.findall(code[code.index("def call(") :])


_autograd.CPU_CHUNK_ELEMENTS = _autograd.GPU_CHUNK_ELEMENTS  # the graphs are traced on the CPU
labels, logits = torch.arange(M) % CLASSES, torch.randn(M, CLASSES, requires_grad=True)
features, head = torch.randn(M, CHANNELS, SIDE, SIDE, requires_grad=True), nn.Linear(CHANNELS, CLASSES)
plain, dense = MultiMixLoss(), DenseMultiMixLoss()
LOSSES = {
    "cross-entropy": lambda: F.cross_entropy(logits, labels),
    "plain": lambda: plain(logits, labels),
    "dense": lambda: dense(features, head, labels),
}
for name, loss in LOSSES.items():
    calls = [call for graph in graphs_of(loss) for call in calls_on_gpu(*graph)]
    print(json.dumps({"name": name, "calls": calls}))
