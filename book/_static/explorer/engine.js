/* The attention problem in the plane, with the arithmetic of the package: logarithms of weights, one shared exponent.

   A problem is {tokens: [n][T][2], queries: [n][2], labels: [n], decoder: [2]}; W is a flat array [w11, w12, w21, w22].
   Scripts of these pages are plain, not modules, because a page read from disk may not load modules. */
(function (space) {
  "use strict";

  const dot = (a, b) => a.reduce((sum, value, k) => sum + value * b[k], 0);
  const norm = (a) => Math.hypot(...a);
  const plus = (a, h, b) => a.map((value, k) => value + h * b[k]);
  /** x z', flat: <outer(x, z), W> = x' W z. */
  const outer = (x, z) => [x[0] * z[0], x[0] * z[1], x[1] * z[0], x[1] * z[1]];
  const apply = (W, z) => [W[0] * z[0] + W[1] * z[1], W[2] * z[0] + W[3] * z[1]];

  /** log(-l'(m)) and log(l(m) - l(g)) for g - m = gap > 0 given by its logarithm. */
  const losses = {
    logistic: {
      logSlope: (m) => (m > 0 ? -m - Math.log1p(Math.exp(-m)) : -Math.log1p(Math.exp(m))),
      logGap(g, logDelta) {
        const logSigma = losses.logistic.logSlope(g);
        const delta = Math.exp(logDelta);
        if (delta < 1e-9) return logDelta + logSigma;
        if (delta > 700) return Math.log(delta + logSigma);
        return Math.log(Math.log1p(Math.expm1(delta) * Math.exp(logSigma)));
      },
    },
    exponential: {
      logSlope: (m) => -m,
      logGap(g, logDelta) {
        const delta = Math.exp(logDelta);
        if (delta < 1e-9) return logDelta - g;
        return -g + (delta > 30 ? delta : Math.log(Math.expm1(delta)));
      },
    },
  };

  /** Scores y u'x, optimal tokens and constraints V = (x_opt - x_t) z' of a problem. */
  function prepare(problem) {
    const scores = problem.tokens.map((tokens, i) => tokens.map((x) => problem.labels[i] * dot(problem.decoder, x)));
    const optimal = scores.map((row) => row.indexOf(Math.max(...row)));
    const constraints = [];
    problem.tokens.forEach((tokens, i) => {
      tokens.forEach((x, t) => {
        if (t === optimal[i]) return;
        const best = tokens[optimal[i]];
        constraints.push({ i, t, V: outer([best[0] - x[0], best[1] - x[1]], problem.queries[i]) });
      });
    });
    return { ...problem, scores, optimal, constraints, n: scores.length };
  }

  /** log-sum-exp over the entries whose sign is given: sum of e^l s as {log, sign}. */
  function signedSum(logs, factors) {
    let top = -Infinity;
    logs.forEach((value, k) => {
      if (factors[k] !== 0 && value > top) top = value;
    });
    if (top === -Infinity) return { log: -Infinity, sign: 0 };
    const sum = logs.reduce((total, value, k) => (factors[k] === 0 ? total : total + Math.exp(value - top) * factors[k]), 0);
    return { log: top + Math.log(Math.abs(sum)), sign: Math.sign(sum) };
  }

  /** log attention of each token of sequence i. */
  function logAttention(problem, W, i) {
    const target = apply(W, problem.queries[i]);
    const logits = problem.tokens[i].map((x) => dot(x, target));
    const top = Math.max(...logits);
    const all = top + Math.log(logits.reduce((sum, a) => sum + Math.exp(a - top), 0));
    return logits.map((a) => a - all);
  }

  /** Weights p of -grad L = sum p V in log scale, the gradient without its exponent, and log(L - L*). */
  function measure(problem, W, loss) {
    const logs = problem.scores.map((_, i) => logAttention(problem, W, i));
    const outputs = problem.scores.map((row, i) => {
      const best = row[problem.optimal[i]];
      const lost = signedSum(logs[i], row.map((score) => best - score)); // g_opt - m, without cancellation
      return { logDelta: lost.log, m: best - Math.exp(lost.log), best };
    });
    const weights = problem.constraints.map(({ i, t }) => {
      const row = problem.scores[i];
      const gap = signedSum(logs[i], row.map((score) => score - row[t])); // m - g_t, without cancellation
      return { log: losses[loss].logSlope(outputs[i].m) + logs[i][t] + gap.log - Math.log(problem.n), sign: gap.sign };
    });
    const exponent = Math.max(...weights.map((p) => (p.sign === 0 ? -Infinity : p.log)));
    const gradient = [0, 0, 0, 0];
    weights.forEach((p, k) => {
      if (p.sign === 0) return;
      const size = p.sign * Math.exp(p.log - exponent);
      problem.constraints[k].V.forEach((value, j) => (gradient[j] += size * value));
    });
    const gaps = outputs.map(({ logDelta, best }) => losses[loss].logGap(best, logDelta) - Math.log(problem.n));
    const top = Math.max(...gaps);
    const logGap = top + Math.log(gaps.reduce((sum, value) => sum + Math.exp(value - top), 0));
    return { logs, weights, exponent, gradient, logGap };
  }

  /** Effective length of the next step: how far W moves; `cap` is Polyak's. */
  function stepLength(rule, size, found, cap = Infinity) {
    const length = norm(found.gradient);
    if (rule === "NGD") return size;
    if (rule === "GD") return size * Math.exp(found.exponent + Math.log(length));
    return Math.min(size * Math.exp(found.logGap - found.exponent - Math.log(length)), cap);
  }

  /** One step from W: the next W, the effective length, and what was measured at W. */
  function step(problem, W, { rule, size, loss, cap }) {
    const found = measure(problem, W, loss);
    const length = norm(found.gradient);
    if (!(length > 0)) return { W, h: 0, found };
    const h = stepLength(rule, size, found, cap);
    return { W: plus(W, h / length, found.gradient), h, found };
  }

  space.engine = { dot, norm, plus, outer, apply, losses, prepare, logAttention, measure, stepLength, step };
})((globalThis.Explorer = globalThis.Explorer || {}));
