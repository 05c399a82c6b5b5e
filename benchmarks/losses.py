"""What the losses cost: `python benchmarks/losses.py [--device cuda]` prints ratios and writes them to build/bench.

The baseline is the fastest vectorised embedding-space formula we know: embeddings are mixed, all positions in one
`torch.bmm`, then classified; `F.cross_entropy` takes the soft targets; weights are those of
`torch.distributions.Dirichlet`. Because a faster source of weights is ours too, each loss is also timed with
our weights in both (`*_same_weights`). Both contenders run in turn in this process, forward and backward, weights drawn
inside. That is done in rounds, some seconds apart, for a machine that is not ours alone changes its speed from one
minute to the next, and more so where two threads wait for each other often: a round's ratio is that of the medians, a
row's the median of the rounds', and the least and largest of them stand beside it.

Memory is the peak of the resident set (on CUDA: of allocated memory) above its level before the call, in a fresh
process each, after a small call has loaded kernels and started threads: unlike a profiler of torch's allocator it
also sees NumPy and the BLAS's own buffers.
Streaming ratios are taken with glibc told to hand freed blocks of 64 KiB and more back at once, so that the peak is of
live memory; every other figure has glibc's defaults, which keep some MiB of freed blocks.

Operations, forward and backward, and bytes of what grows with n, each of our arrays written and read as often as it
has to be; the floors are these at the rates of a large single-precision product and of a large copy, measured in the
same run. Compiled code is counted as it is written, every arithmetic operation as one:

    MultiMix      baseline 6 n m d - 2 n m d (Λ has no gradient) + 6 n d c + 2 n m c
                  ours     6 m d c + 4 n m c, and besides products 34 n c + 10 n m and those of the weights
                  bytes    Λ written, and read by two products; mixed logits written and read: 4 n (3 m + 2 c)
    dense         r times that, but for the weights; bytes 4 n (3 m + 2 r c)
    weights       131 n m: of a proposal 102, and a quarter more proposals than draws; 4 n m bytes
    uniformity    n² d, half of the pairs
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlib import attention_map, dense_mixed_cross_entropy, mixed_cross_entropy, sample_mixing_weights, uniformity
from mmlib.experiments.provenance import environment

M, D, C, N, R = 128, 512, 100, 1000, 16
MIB = 2**20
PAUSE = 10  # seconds between rounds


def stock_weights(n: int, m: int, device: str) -> Tensor:
    alpha = torch.rand(n, 1, device=device) * 1.5 + 0.5
    return torch.distributions.Dirichlet(alpha.expand(n, m)).sample()


def our_weights(n: int, m: int, device: str) -> Tensor:
    return sample_mixing_weights(n, m, device=device)


class Problem:
    """Embeddings, a head and labels, and both forms of both losses on them."""

    def __init__(self, device: str, n: int = N) -> None:
        torch.manual_seed(0)
        self.device, self.n = device, n
        self.head = nn.Linear(D, C, device=device)
        self.embeddings = torch.randn(M, D, device=device, requires_grad=True)
        self.features = torch.randn(M, R, D, device=device).mT.requires_grad_()  # channels last, as in training
        self.classes = torch.randint(C, (M,), device=device)
        self.attention = attention_map(self.features.detach(), self.features.detach().mean(2))

    def multimix(self) -> None:
        mixed_cross_entropy(self.head(self.embeddings), self.classes, num_mixtures=self.n).backward()

    def multimix_baseline(self, draw: Callable = stock_weights) -> None:
        weights = draw(self.n, M, self.device)
        targets = F.one_hot(self.classes, C).to(weights.dtype)
        F.cross_entropy(self.head(weights @ self.embeddings), weights @ targets).backward()

    def dense(self) -> None:
        logits = self.head(self.features.mT)
        dense_mixed_cross_entropy(logits, self.classes, self.attention, num_mixtures=self.n).backward()

    def dense_baseline(self, draw: Callable = stock_weights) -> None:
        weights = draw(self.n, M, self.device)
        targets = F.one_hot(self.classes, C).to(weights.dtype)
        attended = weights * self.attention.T.unsqueeze(1)  # (r, n, m)
        attended = attended / attended.sum(2, keepdim=True)
        logits = self.head(torch.bmm(attended, self.features.permute(2, 0, 1)))
        F.cross_entropy(logits.flatten(0, 1), (attended @ targets).flatten(0, 1)).backward()

    def multimix_same_weights(self) -> None:
        self.multimix_baseline(our_weights)

    def dense_same_weights(self) -> None:
        self.dense_baseline(our_weights)

    def weights(self) -> None:
        our_weights(self.n, M, self.device)

    def weights_baseline(self) -> None:
        stock_weights(self.n, M, self.device)


def time_interleaved(contenders: dict[str, Callable], repeats: int, device: str) -> dict[str, list[float]]:
    """Measure the seconds of every call, the contenders taking turns, after three calls each that do not count."""
    seconds = {name: [] for name in contenders}
    for turn in range(repeats + 3):
        for name, call in contenders.items():
            synchronise(device)
            start = time.perf_counter()
            call()
            synchronise(device)
            if turn >= 3:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def product_rate(device: str) -> float:
    """Operations per second of a large single-precision product."""
    a = torch.randn(2048, 2048, device=device)
    return 2 * 2048**3 / min(time_interleaved({"product": lambda: a @ a}, 15, device)["product"])


def copy_rate(device: str) -> float:
    """Bytes per second that a large copy reads and writes."""
    a, b = torch.ones(2, 2**24, device=device)
    return 8 * 2**24 / min(time_interleaved({"copy": lambda: a.copy_(b)}, 15, device)["copy"])


def breakdown(problem: Problem, repeats: int) -> dict[str, float]:
    """Milliseconds of what MultiMix consists of, by itself and with nothing between the calls."""
    numbers, weights = torch.empty(N, M, device=problem.device), our_weights(N, M, problem.device)
    logits = torch.randn(M, C, device=problem.device)

    def head() -> None:
        problem.head(problem.embeddings).backward(logits)

    contenders = {
        "normal_numbers": numbers.normal_,
        "weights": problem.weights,
        "head": head,
        "products": lambda: (weights @ logits).T @ weights,
        "whole": problem.multimix,
    }
    return {
        name: 1e3 * median(time_interleaved({name: call}, repeats, problem.device)[name])
        for name, call in contenders.items()
    }


def timings(device: str, repeats: int, rounds: int) -> dict:
    problem, product, copy = Problem(device), product_rate(device), copy_rate(device)
    drawn, mixed = 131 * N * M, 6 * M * D * C + 4 * N * M * C + 34 * N * C + 10 * N * M
    rows = {
        "multimix": (problem.multimix, problem.multimix_baseline, mixed + drawn, 4 * N * (3 * M + 2 * C)),
        "dense": (problem.dense, problem.dense_baseline, R * mixed + drawn, 4 * N * (3 * M + 2 * R * C)),
        "weights": (problem.weights, problem.weights_baseline, drawn, 4 * N * M),
    }
    for name in ("multimix", "dense"):
        rows[f"{name}_same_weights"] = rows[name][0], getattr(problem, f"{name}_same_weights"), *rows[name][2:]
    measured = {name: {"ours": [], "baseline": []} for name in rows}
    for turn in range(rounds):
        time.sleep(PAUSE if turn else 0)
        for name, (ours, baseline, *_) in rows.items():
            for side, seconds in time_interleaved({"ours": ours, "baseline": baseline}, repeats, device).items():
                measured[name][side].append(1e3 * median(seconds))
    results = {"product_gflops": product / 1e9, "copy_gbytes": copy / 1e9, "parts": breakdown(problem, repeats)}
    for name, medians in measured.items():
        ratios = [b / a for a, b in zip(medians["ours"], medians["baseline"])]
        row = {f"{side}_ms": median(of_rounds) for side, of_rounds in medians.items()}
        row |= {"ratio": median(ratios), "ratios": ratios}
        _, _, operations, size = rows[name]
        floors = {"operations_ms": 1e3 * operations / product, "bytes_ms": 1e3 * size / copy}
        floor = max(floors.values())  # arithmetic and memory can overlap
        results[name] = row | {"operations": operations, "bytes": size} | floors | {"floor_ms": floor}
    return results


def rss_bytes() -> tuple[int, int]:
    """Return the bytes of the resident set now, and the most so far."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines())
    return tuple(1024 * int(lines[name].split()[0]) for name in ("VmRSS", "VmHWM"))


def measure_single_call(what: str, n: int, device: str) -> tuple[int, float]:
    """Peak bytes above the level before the call, and its seconds; this process measures nothing else."""
    torch.manual_seed(0)
    if what == "uniformity":
        embeddings = torch.randn(n, D, device=device)
        small, call = lambda: uniformity(embeddings[:600]), lambda: uniformity(embeddings)
    else:
        problem, few = Problem(device, n), Problem(device, 8)
        small, call = getattr(few, what), getattr(problem, what)
    small()
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        (seconds,) = time_interleaved({"call": call}, 1, device)["call"]
        return torch.cuda.max_memory_allocated() - before, seconds
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # forget the peak so far
    before, _ = rss_bytes()
    start = time.perf_counter()
    call()
    return rss_bytes()[1] - before, time.perf_counter() - start


def measure_in_fresh_process(what: str, n: int, device: str, threads: int, **variables: str) -> dict[str, float]:
    """Run `measure_single_call` in a fresh process."""
    command = [sys.executable, __file__, "--device", device, "--threads", str(threads), "--single-call", what, str(n)]
    done = subprocess.run(command, check=True, capture_output=True, encoding="utf-8", env=os.environ | variables)
    size, seconds = done.stdout.split()
    print(f"{what:24s} n {n:>8d}{int(size) / MIB:10.1f} MiB {float(seconds):10.3f} s", flush=True)
    return {"mib": int(size) / MIB, "seconds": float(seconds)}


def growth(device: str, threads: int) -> dict:
    """Memory and time from n = 10 to a million; the embedding-space formulas as far as their memory goes."""
    last = {"multimix": 10**6, "multimix_same_weights": 10**5, "dense": 10**6, "dense_same_weights": 10**4}
    results = {
        what: {n: measure_in_fresh_process(what, n, device, threads) for n in (10**k for k in range(1, 7)) if n <= most}
        for what, most in last.items()
    }
    # The allocator keeps freed blocks in reserve; where it returns them at once, what is left is what is alive, at
    # more time a call.
    at_once = {"MALLOC_MMAP_THRESHOLD_": "65536"}
    alive = {
        what: {n: measure_in_fresh_process(what, n, device, threads, **at_once)["mib"] for n in (10**4, 10**6)}
        for what in ("multimix", "dense")
    }
    dense, formula = results["dense"][N]["mib"], results["dense_same_weights"][N]["mib"]
    return results | {
        "dense_share": dense / formula,
        "multimix_streaming_ratio": alive["multimix"][10**6] / alive["multimix"][10**4],
        "dense_streaming_ratio": alive["dense"][10**6] / alive["dense"][10**4],
        "uniformity_50000": measure_in_fresh_process("uniformity", 50_000, device, threads),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="What the losses cost.")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=40, help="of a call in a round")
    parser.add_argument("--rounds", type=int, default=16)
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    parser.add_argument("--single-call", nargs=2, metavar=("WHAT", "N"), help="print bytes and seconds of one call")
    parser.add_argument("--skip-memory", action="store_true", help="time at n 1000 only")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.single_call:
        print(*measure_single_call(options.single_call[0], int(options.single_call[1]), options.device))
        return
    device = torch.cuda.get_device_name() if options.device == "cuda" else platform.processor() or platform.machine()
    results = {"load": os.getloadavg()[0]} | environment(options.device) | {"device": device}
    print(f"{device}, {options.threads} threads, float32, m {M}, d {D}, c {C}, n {N}, r {R}")
    results |= timings(options.device, options.repeats, options.rounds)
    print(f"{'large product':24s}{results['product_gflops']:8.1f} Gflop/s")
    print(f"{'large copy':24s}{results['copy_gbytes']:8.1f} GB/s")
    print("MultiMix by parts (ms):", ", ".join(f"{name} {value:.2f}" for name, value in results["parts"].items()))
    for name, row in results.items():
        if isinstance(row, dict) and "ratio" in row:
            floor = f", floor {row['floor_ms']:.2f} ms"
            span = f"{min(row['ratios']):.2f}x to {max(row['ratios']):.2f}x"
            print(
                f"{name:24s}{row['baseline_ms']:8.2f} ms ->{row['ours_ms']:8.2f} ms  {row['ratio']:6.2f}x"
                f"  (rounds {span}{floor})"
            )
    if not options.skip_memory:
        results["growth"] = growth(options.device, options.threads)
        for name in ("dense_share", "multimix_streaming_ratio", "dense_streaming_ratio"):
            print(f"{name:28s}{results['growth'][name]:10.3f}")
    target = options.out / f"losses-{options.device}-{options.threads}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
