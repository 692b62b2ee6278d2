/* The token SVM of a problem in the plane, exactly: at most four constraints of four unknowns are active, so all sets are tried.
   Then the constants that follow from its duals. */
(function (space) {
  "use strict";
  const { dot, norm, plus } = space.engine;
  const TIGHT = 1e-9;

  /** Solve A x = b by elimination with pivots; null when A is singular to working precision. */
  function solve(A, b) {
    const n = b.length;
    const M = A.map((row, k) => [...row, b[k]]);
    const size = Math.max(...A.flat().map(Math.abs));
    for (let c = 0; c < n; c++) {
      let pivot = c;
      for (let r = c + 1; r < n; r++) if (Math.abs(M[r][c]) > Math.abs(M[pivot][c])) pivot = r;
      if (Math.abs(M[pivot][c]) <= 1e-12 * size) return null;
      [M[c], M[pivot]] = [M[pivot], M[c]];
      for (let r = 0; r < n; r++) {
        if (r === c) continue;
        const factor = M[r][c] / M[c][c];
        for (let k = c; k <= n; k++) M[r][k] -= factor * M[c][k];
      }
    }
    return M.map((row, k) => row[n] / row[k]);
  }

  function* subsets(items, most) {
    const chosen = [];
    function* extend(from) {
      if (chosen.length) yield [...chosen];
      if (chosen.length === most) return;
      for (let k = from; k < items; k++) {
        chosen.push(k);
        yield* extend(k + 1);
        chosen.pop();
      }
    }
    yield* extend(0);
  }

  /** Point of least norm of the convex hull of the unit vectors: its weights. */
  function nearest(units) {
    let best = null;
    for (const set of subsets(units.length, 5)) {
      // Minimise |sum p v|^2 over sum p = 1: the bordered system of the Gram matrix.
      const n = set.length;
      const A = set.map((k) => [...set.map((l) => dot(units[k], units[l])), 1]);
      A.push([...Array(n).fill(1), 0]);
      const found = solve(A, [...Array(n).fill(0), 1]);
      if (!found || found.slice(0, n).some((p) => p < 0)) continue;
      const point = set.reduce((sum, k, j) => plus(sum, found[j], units[k]), [0, 0, 0, 0]);
      const length = norm(point);
      if (best === null || length < best.length * (1 - 1e-12)) best = { set, weights: found.slice(0, n), length };
    }
    return best;
  }

  /** W_mm, its duals and margin; or the weights of a combination of constraints that vanishes. */
  function tokenSVM(problem) {
    const V = problem.constraints.map((constraint) => constraint.V);
    const sizes = V.map(norm);
    const zero = sizes.findIndex((size) => size === 0);
    if (zero >= 0) return { feasible: false, certificate: V.map((_, k) => (k === zero ? 1 : 0)), residual: 0 };
    const units = V.map((v, k) => v.map((value) => value / sizes[k]));
    let best = null;
    for (const set of subsets(V.length, 4)) {
      const lambda = solve(
        set.map((k) => set.map((l) => dot(units[k], units[l]))),
        set.map((k) => 1 / sizes[k]),
      );
      if (!lambda || lambda.some((value) => value < 0)) continue;
      const W = set.reduce((sum, k, j) => plus(sum, lambda[j], units[k]), [0, 0, 0, 0]);
      if (V.some((v) => dot(v, W) < 1 - TIGHT)) continue;
      if (best === null || norm(W) < best.norm * (1 - 1e-12)) {
        const duals = Array(V.length).fill(0);
        set.forEach((k, j) => (duals[k] = lambda[j] / sizes[k]));
        best = { feasible: true, W, norm: norm(W), margin: 1 / norm(W), duals };
      }
    }
    if (best) return best;
    const found = nearest(units);
    const certificate = Array(V.length).fill(0);
    found.set.forEach((k, j) => (certificate[k] = found.weights[j] / sizes[k]));
    const total = certificate.reduce((sum, p) => sum + p, 0);
    return { feasible: false, certificate: certificate.map((p) => p / total), residual: found.length };
  }

  /** Greatest eigenvalue of a symmetric matrix, by Jacobi's rotations. */
  function largestEigenvalue(matrix) {
    const A = matrix.map((row) => [...row]);
    const n = A.length;
    for (let sweep = 0; sweep < 60; sweep++) {
      for (let p = 0; p < n; p++) {
        for (let q = p + 1; q < n; q++) {
          if (A[p][q] === 0) continue;
          const phi = 0.5 * Math.atan2(2 * A[p][q], A[q][q] - A[p][p]);
          const c = Math.cos(phi);
          const s = Math.sin(phi);
          for (let k = 0; k < n; k++) [A[k][p], A[k][q]] = [c * A[k][p] - s * A[k][q], s * A[k][p] + c * A[k][q]];
          for (let k = 0; k < n; k++) [A[p][k], A[q][k]] = [c * A[p][k] - s * A[q][k], s * A[p][k] + c * A[q][k]];
        }
      }
    }
    return Math.max(...A.map((row, k) => row[k]));
  }

  /** e_inf, h* and theta* of the exact-constants and edge theorems; null where their assumptions fail (all duals positive, independent). */
  function constants(problem, svm, loss) {
    if (!svm.feasible || svm.duals.some((value) => value <= 0)) return null;
    const V = problem.constraints.map((constraint) => constraint.V);
    const rho = svm.margin;
    const logs = problem.constraints.map(({ i, t }, k) => {
      const row = problem.scores[i];
      const best = row[problem.optimal[i]];
      const logq = space.engine.losses[loss].logSlope(best) + Math.log(best - row[t]) - Math.log(problem.n);
      return logq - Math.log(svm.duals[k]);
    });
    const logAlpha = rho * rho * svm.duals.reduce((sum, value, k) => sum + value * logs[k], 0);
    const b = logs.map((value) => value - logAlpha);
    const gram = V.map((v) => V.map((w) => dot(v, w)));
    const weights = solve(gram, b);
    if (!weights) return null;
    const R = weights.reduce((sum, value, k) => plus(sum, value, V[k]), [0, 0, 0, 0]);
    const What = svm.W.map((value) => value / svm.norm);
    const projected = V.map((v) => plus(v, -dot(v, What), What));
    const H = [0, 1, 2, 3].map((r) =>
      [0, 1, 2, 3].map((c) => projected.reduce((sum, v, k) => sum + svm.duals[k] * v[r] * v[c], 0)),
    );
    const lambda = largestEigenvalue(H);
    const free = V.length > 1; // with one constraint there is no residual to move
    return { R, eInf: norm(R), alpha: Math.exp(logAlpha), hStar: free ? (2 * svm.norm) / lambda : Infinity, thetaStar: free ? 2 / lambda : Infinity };
  }

  /** ||W/||W|| - What||, by the difference of the vectors. */
  function directionError(W, svm) {
    const size = norm(W);
    if (!svm.feasible || size === 0) return NaN;
    return norm(W.map((value, k) => value / size - svm.W[k] / svm.norm));
  }

  /** Size of the part of W across W_mm. */
  function residual(W, svm) {
    const What = svm.W.map((value) => value / svm.norm);
    return norm(plus(W, -dot(W, What), What));
  }

  Object.assign(space, { svm: { tokenSVM, constants, directionError, residual, solve } });
})(globalThis.Explorer);
