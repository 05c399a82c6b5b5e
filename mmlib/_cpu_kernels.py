"""Numba kernels for the CPU, in float32: Dirichlet sampling and the cross-entropy of mixed class labels.

Each is a single pass over numbers that stay in cache, on one thread. The sampler's random bits are a counter-based
function of (seed, row, position), and logarithm, exponential and sine are explicit polynomials that the compiler
neither fuses nor reorders, so that the weights have the same bits for every number of threads and blocks and on
processors with and without wide registers.

Keep all kernels in this file: numba's cache is invalidated per file.
"""

import contextlib
import functools
import inspect
import math
from collections.abc import Callable

import numpy as np
from numba import njit

NORMAL_PAIRS_PER_BATCH = 80  # Box-Muller pairs: 160 proposals usually suffice for a row of 128 weights
MIXTURES_PER_BLOCK = 128  # mixtures processed together: c times as many logits stay in cache
ROWS_TRANSPOSED_TOGETHER = 16  # as many numbers as a line of the cache holds
BOOST_BELOW = 0.5  # below this concentration α gamma draws are made in logarithms, from those of α + 1
MAX_SHAPE = 1e30  # at larger ones all weights are equal (or all but one zero); float32 ends not far above

# SplitMix64 (Steele, Lea & Flood, OOPSLA 2014): the step of its counter and the two multipliers that mix its bits.
SPLITMIX_GAMMA, SPLITMIX_MUL1, SPLITMIX_MUL2 = (
    np.uint64(x) for x in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)
U11, U27, U30, U31, U32 = (np.uint64(x) for x in (11, 27, 30, 31, 32))

# All constants are float32 or int32; a float64 operand would promote the whole expression.
float32, int32 = np.float32, np.int32
ZERO, HALF, ONE, THREE, HALF_ROOT = float32(0), float32(0.5), float32(1), float32(3), float32(0.5**0.5).view(int32)
LOG2, PER_LOG2, LEAST_EXPONENT = float32(math.log(2)), float32(1 / math.log(2)), float32(-126)
TINY = np.finfo(float32).tiny
# Coefficients of the series of 2 atanh(√q) / √q, exp(x) and sin(π/2 √q) / √q, the last first.
ATANH = tuple(float32(2 / k) for k in (9, 7, 5, 3, 1))
EXP = tuple(float32(1 / math.factorial(k)) for k in range(7, -1, -1))
SINE = tuple(float32((-1) ** (k // 2) * (math.pi / 2) ** k / math.factorial(k)) for k in (11, 9, 7, 5, 3, 1))


_DISPATCHERS = []  # every function that numba compiles here


def _compiled(function: Callable) -> Callable:
    """Compile a function, and keep the machine code for the next process if there is a folder to keep it in."""
    function = inspect.unwrap(function)  # without the checks of arguments that tests put around it
    options = {"error_model": "numpy", "nogil": True}
    try:
        dispatcher = njit(cache=True, **options)(function)
    except RuntimeError:
        dispatcher = njit(**options)(function)
    _DISPATCHERS.append(dispatcher)
    return dispatcher


def _survives_broken_cache(kernel: Callable) -> Callable:
    """Compile again where the cache cannot be read, for instance because a full disk has truncated its files.

    numba raises EOFError or the like before the kernel runs, in this process and in every later one.
    """

    @functools.wraps(kernel)
    def call(*args):
        try:
            return kernel(*args)
        except Exception:
            for dispatcher in _DISPATCHERS:
                with contextlib.suppress(OSError):
                    dispatcher._cache.flush()  # an empty index replaces the broken one
            return kernel(*args)

    return call


@_compiled
def _horner(coefficients, x):
    """The polynomial of these coefficients, the highest power's first, at x."""
    total = ZERO
    for coefficient in coefficients:
        total = total * x + coefficient
    return total


@_compiled
def _log(x):
    """Natural logarithm of a normal x > 0. It is NaN for NaN and undefined for other x.

    x = 2^e f with f between √½ and √2, log f = 2 atanh((f - 1) / (f + 1)).
    """
    bits = float32(x).view(int32)
    exponent = int32(bits - HALF_ROOT) >> int32(23)
    f = int32(bits - (exponent << int32(23))).view(float32)
    s = (f - ONE) / (f + ONE)
    return float32(exponent) * LOG2 + s * _horner(ATANH, s * s) + (x - x)  # the last is not 0 but NaN of a NaN


@_compiled
def _exp(x):
    """Exponential of x ≤ 0, as 2^e exp(r); 0 where 2^e would be subnormal."""
    e = np.floor(x * PER_LOG2 + HALF)
    scale = int32((int32(e) + int32(127)) << int32(23)).view(float32)
    return ZERO if e < LEAST_EXPONENT else scale * _horner(EXP, x - e * LOG2)


@_compiled
def _sin_half_pi(x):
    """sin(π/2 x) for x between -1 and 1."""
    return x * _horner(SINE, x * x)


@_compiled
def _splitmix64(counter):
    """The 64 random bits that SplitMix64 assigns to the counter."""
    z = counter * SPLITMIX_GAMMA
    z = (z ^ (z >> U30)) * SPLITMIX_MUL1
    z = (z ^ (z >> U27)) * SPLITMIX_MUL2
    return z ^ (z >> U31)


@_compiled
def _to_unit_interval(word):
    """Map 32 random bits to a number between 0 and 1."""
    return (float32(word) + HALF) * float32(2**-32)


@_compiled
def _marsaglia_tsang(counter, shape, words, proposals, accepted):
    """Propose a batch of gamma draws by the method of Marsaglia & Tsang (ACM TOMS 2000).

    With d = `shape`, d w³ is a draw of Gamma(d + 1/3) if the proposal w is accepted. w = 1 + y with y normal of
    variance 1 / (9 d) by Box & Muller; the probability of accepting it is exp(d (3 log w + 1 - w³ + 9/2 y²)).
    """
    for t in range(2 * NORMAL_PAIRS_PER_BATCH):
        words[t] = _splitmix64(counter + np.uint64(t))
    halves = words.view(np.uint32)
    for t in range(NORMAL_PAIRS_PER_BATCH):
        radius = float32(math.sqrt(-_log(_to_unit_interval(halves[t])) / (float32(4.5) * shape)))
        turn = int32(halves[NORMAL_PAIRS_PER_BATCH + t])
        x = float32(turn >> int32(1)) * float32(2**-30)
        side = ONE - float32(turn & int32(1)) * float32(2)
        proposals[t] = ONE + radius * _sin_half_pi(x)
        proposals[NORMAL_PAIRS_PER_BATCH + t] = ONE + side * radius * _sin_half_pi(ONE - abs(x))
    for t in range(2 * NORMAL_PAIRS_PER_BATCH):
        w = proposals[t]
        y = w - ONE  # taken from the rounded w, so that rounding cancels against its logarithm
        chance = shape * (THREE * _log(w) + y * (y * (float32(1.5) - y) - THREE))
        accepted[t] = (_log(_to_unit_interval(halves[2 * NORMAL_PAIRS_PER_BATCH + t])) < chance) & (w > 0)


@_survives_broken_cache
@_compiled
def draw_dirichlet(out, seed, first, low, high):
    """Fill `out`, (n, m), with rows of Dirichlet draws, each with its own concentration from U(low, high).

    The rows are those numbered `first` and on in the infinite sequence that belongs to the 64-bit seed.
    """
    m = out.shape[1]
    words, proposals = np.empty(2 * NORMAL_PAIRS_PER_BATCH, np.uint64), np.empty(2 * NORMAL_PAIRS_PER_BATCH, np.float32)
    accepted = np.empty(2 * NORMAL_PAIRS_PER_BATCH, np.bool_)
    draws = np.empty(m + 2 * NORMAL_PAIRS_PER_BATCH, np.float32)  # room for a whole batch beyond the last one needed
    row = draws[:m]
    for k in range(len(out)):
        counter = np.uint64(seed) + (np.uint64(first + k) << U32)
        concentration = low + (high - low) * (np.float64(_splitmix64(counter) >> U11) + 0.5) * 2.0**-53
        small = concentration < BOOST_BELOW
        shape = float32(min(concentration + small - 1 / 3, MAX_SHAPE))
        counter += np.uint64(1)
        count = 0
        while count < m:
            _marsaglia_tsang(counter, shape, words, proposals, accepted)
            counter += np.uint64(2 * NORMAL_PAIRS_PER_BATCH)
            for t in range(2 * NORMAL_PAIRS_PER_BATCH):
                draws[count] = proposals[t]
                count += accepted[t]
        if small:
            _gamma_below_one(row, counter, float32(min(1 / concentration, MAX_SHAPE)))
        else:
            for j in range(m):
                row[j] *= row[j] * row[j]
        _normalise(row, out[k])


@_compiled
def _gamma_below_one(row, counter, power):
    """Turn draws of Gamma(α + 1) into draws of Gamma(α) by a factor U^(1/α), `power` being 1/α.

    It is done in logarithms, for at a small α most factors would underflow.
    """
    for j in range(len(row)):
        row[j] = THREE * _log(row[j]) + power * _log(_to_unit_interval(_splitmix64(counter + np.uint64(j)) >> U32))
    highest = row.max()
    for j in range(len(row)):
        row[j] = _exp(row[j] - highest)


@_compiled
def _normalise(row, out):
    """Write `row` divided by its sum, which is accumulated in eight parts."""
    sums = np.zeros(8, np.float32)
    for j in range(0, len(row) - 7, 8):
        for t in range(8):
            sums[t] += row[j + t]
    for j in range(len(row) // 8 * 8, len(row)):
        sums[0] += row[j]
    total = sums.sum()
    for j in range(len(row)):
        out[j] = row[j] / total


@_survives_broken_cache
@_compiled
def cross_entropy_with_grad(logits, mixing_weights, classes, label_weights, smoothing, totals, label_totals):
    """The cross-entropy of k mixtures, summed; it overwrites `logits` with its derivatives by them.

    A mixture's logits at a position are Λ (a l) / Λ a, its target is Λ (label_weights · y) / Λ a + smoothing. Its loss
    is the mean over the positions where Λ a > 0.

    Args:
        logits: Λ (a l), (c, r, k).
        mixing_weights: Λ, (k, m).
        classes: of the examples, (m, r).
        label_weights: what a label counts in its class, a included, (m, r).
        smoothing: what is added to every class, (c,).
        totals: Λ a, (r, k).
        label_totals: Λ label_weights, (r, k).

    Returns:
        The loss, and the number of mixtures that have a position.
    """
    r, k = totals.shape
    term_weights = np.zeros(k, np.float32)
    for j in range(r):
        for t in range(k):
            term_weights[t] += ONE if not totals[j, t] < TINY else ZERO  # a NaN must not get lost
    count = 0
    for t in range(k):
        count += term_weights[t] > 0
        term_weights[t] = ONE / max(term_weights[t], ONE)
    loss = 0.0
    for start in range(0, k, MIXTURES_PER_BLOCK):
        stop = min(start + MIXTURES_PER_BLOCK, k)
        columns = _transposed(mixing_weights[start:stop])
        for j in range(r):
            of_block = (totals[j, start:stop], label_totals[j, start:stop], term_weights[start:stop])
            of_position = (classes[:, j], label_weights[:, j], smoothing)
            loss += _differentiate_block(logits, columns, of_position, of_block, j, start, stop)
    return loss, count


@_compiled
def _transposed(rows):
    """Copy the transpose, a few rows at a time: of all rows at once a column would not fit into the fastest cache."""
    k, m = rows.shape
    columns = np.empty((m, k), np.float32)
    for start in range(0, k, ROWS_TRANSPOSED_TOGETHER):
        stop = min(start + ROWS_TRANSPOSED_TOGETHER, k)
        for i in range(m):
            for t in range(start, stop):
                columns[i, t] = rows[t, i]
    return columns


@_compiled
def _differentiate_block(logits, columns, of_position, of_block, j, start, stop):
    classes, label_weights, smoothing = of_position
    totals, label_totals, term_weights = of_block
    k = stop - start
    inverse, weight, scale = np.empty(k, np.float32), np.empty(k, np.float32), np.empty(k, np.float32)
    max_logit, partition = np.full(k, -np.inf, np.float32), np.zeros(k, np.float32)
    target_logit, mass = np.zeros(k, np.float32), np.empty(k, np.float32)
    smoothed = smoothing.sum()
    for t in range(k):
        valid = not totals[t] < TINY
        inverse[t] = ONE / totals[t] if valid else ZERO
        weight[t] = term_weights[t] if valid else ZERO
        mass[t] = smoothed + label_totals[t] * inverse[t]
    for y in range(len(logits)):
        row = logits[y, j, start:stop]  # a contiguous 1-D view, so that the loop vectorizes
        for t in range(k):
            max_logit[t] = max(max_logit[t], row[t])
    for i in range(len(classes)):
        row = logits[classes[i], j, start:stop]
        for t in range(k):
            fraction = label_weights[i] * columns[i, t] * inverse[t]
            target_logit[t] += fraction * ((row[t] - max_logit[t]) * inverse[t])
    for y in range(len(logits)):
        row = logits[y, j, start:stop]
        if smoothed > 0:
            for t in range(k):
                target_logit[t] += smoothing[y] * ((row[t] - max_logit[t]) * inverse[t])
        for t in range(k):
            row[t] = _exp((row[t] - max_logit[t]) * inverse[t])
            partition[t] += row[t]
    loss = 0.0
    for t in range(k):
        loss += weight[t] * (mass[t] * _log(partition[t]) - target_logit[t])
        weight[t] *= inverse[t]
        scale[t] = weight[t] * mass[t] / partition[t]
    for y in range(len(logits)):
        row = logits[y, j, start:stop]
        for t in range(k):
            row[t] *= scale[t]
        if smoothed > 0:
            for t in range(k):
                row[t] -= smoothing[y] * weight[t]
    for i in range(len(classes)):
        row = logits[classes[i], j, start:stop]
        for t in range(k):
            row[t] -= label_weights[i] * columns[i, t] * inverse[t] * weight[t]  # whose product can overflow
    return loss
