"""What runs on the processor compiled, in single precision: Dirichlet draws, and the cross-entropy of mixed labels.

Each is one pass over numbers that stay in cache, on one thread: less time than a pass for each operation takes on two.
A draw's random bits are a function of a seed, its row and its place, by integer arithmetic, and logarithm, exponential
and sine are series of plain operations, which the compiler runs on many numbers at once and neither fuses nor reorders:
threads, blocks and the processor change no bit of the weights.

All is in this file, for the compiler knows by its file alone whether what it kept of a function still holds.
"""

import inspect
import math
from collections.abc import Callable

import numpy as np
from numba import njit

PAIRS = 80  # of normal numbers proposed together: one row of the usual 128 examples takes them once, mostly
BLOCK = 128  # mixtures worked on together: c times as many logits stay in cache
SMALL = 0.5  # below this concentration gamma draws are made in logarithms, from those of the next
LARGE = 1e30  # weights are equal long before, or all but one zero; single precision ends not far above

# SplitMix64 (Steele, Lea & Flood, OOPSLA 2014): the step of its counter and the mixing of its bits.
STEP, FIRST, SECOND = (np.uint64(x) for x in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
S11, S27, S30, S31, S32 = (np.uint64(x) for x in (11, 27, 30, 31, 32))

# Of one type throughout: another would widen what it meets.
float32, int32 = np.float32, np.int32
HALF, ONE, THREE, HALF_ROOT = float32(0.5), float32(1), float32(3), float32(0.5**0.5).view(int32)
LOG2, PER_LOG2, LEAST_EXPONENT = float32(math.log(2)), float32(1 / math.log(2)), float32(-126)
# Coefficients of the series of 2 atanh(√q) / √q, exp(x) and sin(π/2 √q) / √q, the last first.
ATANH = tuple(float32(2 / k) for k in (9, 7, 5, 3, 1))
EXP = tuple(float32(1 / math.factorial(k)) for k in range(7, -1, -1))
SINE = tuple(float32((-1) ** (k // 2) * (math.pi / 2) ** k / math.factorial(k)) for k in (11, 9, 7, 5, 3, 1))


def _compiled(function: Callable) -> Callable:
    """`function` as machine code, which is kept for the next process where there is a folder to keep it in."""
    function = inspect.unwrap(function)  # without the checks of arguments that tests put around it
    options = {"error_model": "numpy", "nogil": True}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:
        return njit(**options)(function)


@_compiled
def _horner(coefficients, x):
    total = float32(0)
    for coefficient in coefficients:
        total = total * x + coefficient
    return total


@_compiled
def _log(x):
    """Natural logarithm of a normal x > 0; NaN of NaN, of others any number.

    x = 2^e f with f between √½ and √2, log f = 2 atanh((f - 1) / (f + 1)).
    """
    bits = float32(x).view(int32)
    exponent = int32(bits - HALF_ROOT) >> int32(23)
    f = int32(bits - (exponent << int32(23))).view(float32)
    s = (f - ONE) / (f + ONE)
    return float32(exponent) * LOG2 + s * _horner(ATANH, s * s) + (x - x)  # the last is not 0 but NaN of a NaN


@_compiled
def _exp(x):
    """Exponential of x ≤ 0: 2^e exp(r); 0 where 2^e is no normal number."""
    e = np.floor(x * PER_LOG2 + HALF)
    scale = int32((int32(e) + int32(127)) << int32(23)).view(float32)
    return float32(0) if e < LEAST_EXPONENT else scale * _horner(EXP, x - e * LOG2)


@_compiled
def _sin_half_pi(x):
    """sin(π/2 x) for x between -1 and 1."""
    return x * _horner(SINE, x * x)


@_compiled
def _splitmix64(counter):
    """64 random bits, a function of the counter: SplitMix64."""
    z = counter * STEP
    z = (z ^ (z >> S30)) * FIRST
    z = (z ^ (z >> S27)) * SECOND
    return z ^ (z >> S31)


@_compiled
def _to_unit_interval(word):
    """The number between 0 and 1 that 32 random bits mean."""
    return (float32(word) + HALF) * float32(2**-32)


@_compiled
def _marsaglia_tsang(counter, shape, words, proposals, accepted):
    """Marsaglia & Tsang's proposals w (ACM TOMS 2000): d w³ is Gamma(d + 1/3) if accepted, `shape` being d.

    w = 1 + y with y normal of variance 1 / (9 d) by Box & Muller; the probability of accepting it is
    exp(d (3 log w + 1 - w³ + 9/2 y²)).
    """
    for t in range(2 * PAIRS):
        words[t] = _splitmix64(counter + np.uint64(t))
    halves = words.view(np.uint32)
    for t in range(PAIRS):
        radius = float32(math.sqrt(-_log(_to_unit_interval(halves[t])) / (float32(4.5) * shape)))
        turn = int32(halves[PAIRS + t])
        x = float32(turn >> int32(1)) * float32(2**-30)
        side = ONE - float32(turn & int32(1)) * float32(2)
        proposals[t] = ONE + radius * _sin_half_pi(x)
        proposals[PAIRS + t] = ONE + side * radius * _sin_half_pi(ONE - abs(x))
    for t in range(2 * PAIRS):
        w = proposals[t]
        y = w - ONE  # of the rounded w: what its logarithm cancels then cancels exactly
        chance = shape * (THREE * _log(w) + y * (y * (float32(1.5) - y) - THREE))
        accepted[t] = (_log(_to_unit_interval(halves[2 * PAIRS + t])) < chance) & (w > 0)


@_compiled
def draw_dirichlet(out, seed, first, low, high):
    """Fill `out`, (n, m), with the rows `first` and on of the Dirichlet draws that the seed, 64 bits, means.

    Every row draws its own concentration from U(low, high).
    """
    m = out.shape[1]
    words, proposals = np.empty(2 * PAIRS, np.uint64), np.empty(2 * PAIRS, np.float32)
    accepted, row = np.empty(2 * PAIRS, np.bool_), np.empty(m, np.float32)
    for k in range(len(out)):
        counter = np.uint64(seed) + (np.uint64(first + k) << S32)
        concentration = low + (high - low) * (np.float64(_splitmix64(counter) >> S11) + 0.5) * 2.0**-53
        small = concentration < SMALL
        shape = float32(min(concentration + small - 1 / 3, LARGE))
        counter += np.uint64(1)
        count = 0
        while count < m:
            _marsaglia_tsang(counter, shape, words, proposals, accepted)
            counter += np.uint64(2 * PAIRS)
            for t in range(2 * PAIRS):
                row[count] = proposals[t]
                count += accepted[t]
                if count == m:
                    break
        if small:
            _gamma_below_one(row, counter, float32(min(1 / concentration, LARGE)))
        else:
            for j in range(m):
                row[j] *= row[j] * row[j]
        _normalise(row, out[k])


@_compiled
def _gamma_below_one(row, counter, power):
    """Gamma(α + 1) becomes Gamma(α) by a factor U^(1/α), in logarithms, for at a small α most would underflow."""
    for j in range(len(row)):
        row[j] = THREE * _log(row[j]) + power * _log(_to_unit_interval(_splitmix64(counter + np.uint64(j)) >> S32))
    highest = row.max()
    for j in range(len(row)):
        row[j] = _exp(row[j] - highest)


@_compiled
def _normalise(row, out):
    """Write `row` divided by its sum, which is taken in eight parts."""
    sums = np.zeros(8, np.float32)
    for j in range(0, len(row) - 7, 8):
        for t in range(8):
            sums[t] += row[j + t]
    for j in range(len(row) // 8 * 8, len(row)):
        sums[0] += row[j]
    total = sums.sum()
    for j in range(len(row)):
        out[j] = row[j] / total


@_compiled
def cross_entropy_with_grad(logits, weights, classes, attention, inverse):
    """The cross-entropy of k mixtures, summed over them and r positions; `logits` become its derivatives by them.

    A mixture's logits are Λ (a l) · `inverse` and its labels Λ (a y) · `inverse`, with `inverse` = 1 / Λ a.

    Args:
        logits: Λ (a l), (c, r, k).
        weights: Λ, (k, m).
        classes: of the examples, (m,).
        attention: a, (m, r).
        inverse: (r, k).
    """
    loss = 0.0
    for start in range(0, len(weights), BLOCK):
        stop = min(start + BLOCK, len(weights))
        columns = np.ascontiguousarray(weights[start:stop].T)
        for j in range(logits.shape[1]):
            at = (j, start, stop)
            loss += _differentiate_block(logits, columns, classes, attention[:, j], inverse[j, start:stop], at)
    return loss


@_compiled
def _differentiate_block(logits, columns, classes, attention, inverse, at):
    j, start, stop = at
    k = stop - start
    highest, total, labelled = np.full(k, -np.inf, np.float32), np.zeros(k, np.float32), np.zeros(k, np.float32)
    for y in range(len(logits)):
        row = logits[y, j, start:stop]  # known to lie in one piece, unlike a part of the whole
        for t in range(k):
            highest[t] = max(highest[t], row[t])
    for i in range(len(classes)):
        row = logits[classes[i], j, start:stop]
        for t in range(k):
            labelled[t] += attention[i] * columns[i, t] * inverse[t] * ((row[t] - highest[t]) * inverse[t])
    for y in range(len(logits)):
        row = logits[y, j, start:stop]
        for t in range(k):
            row[t] = _exp((row[t] - highest[t]) * inverse[t])
            total[t] += row[t]
    loss = 0.0
    for t in range(k):
        loss += _log(total[t]) - labelled[t]
    share = inverse / total
    for y in range(len(logits)):
        row = logits[y, j, start:stop]
        for t in range(k):
            row[t] *= share[t]
    for i in range(len(classes)):
        row = logits[classes[i], j, start:stop]
        for t in range(k):
            row[t] -= attention[i] * columns[i, t] * inverse[t] * inverse[t]  # whose square can overflow
    return loss
