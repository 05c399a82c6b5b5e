// Marsaglia's xorshift: uniform numbers in (0, 1), the same for the same seed.
function uniforms(seed) {
  let state = (Math.imul(seed + 1, 0x9e3779b1) ^ 0x5bd1e995) >>> 0 || 1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return ((state >>> 0) + 0.5) / 4294967296;
  };
}

function normal(uniform) {
  return Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
}

// The logarithm of a gamma variate after Marsaglia and Tsang. Below 1 a variate of alpha + 1 times U^(1/alpha) is one
// of alpha; in logarithms, since the product itself is often too small for a number.
function logGamma(alpha, uniform) {
  if (alpha < 1) return logGamma(alpha + 1, uniform) + Math.log(uniform()) / alpha;
  const d = alpha - 1 / 3;
  const c = 1 / Math.sqrt(9 * d);
  for (;;) {
    const x = normal(uniform);
    const v = (1 + c * x) ** 3;
    if (v > 0 && Math.log(uniform()) < x * x / 2 + d - d * v + d * Math.log(v)) return Math.log(d * v);
  }
}

// One point of the simplex of m examples: gamma variates over their sum.
function dirichlet(m, alpha, uniform) {
  const logs = Array.from({ length: m }, () => logGamma(alpha, uniform));
  const largest = Math.max(...logs);
  const parts = logs.map((log) => Math.exp(log - largest));
  const sum = parts.reduce((total, part) => total + part, 0);
  return parts.map((part) => part / sum);
}

// How many equal weights would be as concentrated: 1 for one example alone, m for a plain mean.
function effectiveNumber(weights) {
  return 1 / weights.reduce((total, weight) => total + weight * weight, 0);
}
