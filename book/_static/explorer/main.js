/* The explorer: state, controls, pictures. The arithmetic is in engine.js and svm.js. */
(function (space) {
  "use strict";
  const { engine, svm: solver, charts, presets } = space;
  const { make } = charts;
  const RULES = { GD: [0.01, 100], NGD: [0.001, 30], Polyak: [0.01, 3] };
  const KEPT = 4000; // points that a curve keeps
  const TAIL = 60; // last steps whose residual is shown one by one
  const REACH = 2.4; // half of the side of the plane that is shown
  const root = document.getElementById("token-explorer");
  if (!root) return;
  const part = (name) => root.querySelector(`[data-part="${name}"]`);

  let state, problem, svm, constants, run, timer;

  const clone = (value) => JSON.parse(JSON.stringify(value));
  const number = (value) =>
    value === null || !Number.isFinite(value) ? "–" : Math.abs(value) >= 1e4 || (value !== 0 && Math.abs(value) < 1e-3) ? value.toExponential(3) : String(+value.toPrecision(5));

  /* ---- state ---- */
  function toHash() {
    const rounded = JSON.stringify(state, (_, value) => (typeof value === "number" ? +value.toFixed(4) : value));
    return `#state=${encodeURIComponent(rounded)}`;
  }

  /** The state in the address, or null when there is none or it is not one. */
  function fromHash() {
    if (!location.hash.startsWith("#state=")) return null;
    try {
      const found = JSON.parse(decodeURIComponent(location.hash.slice(7)));
      const pair = (value) => Array.isArray(value) && value.length === 2 && value.every(Number.isFinite);
      const sound =
        found.tokens.length >= 1 && found.tokens.length <= 3 &&
        found.tokens.every((row) => row.length >= 2 && row.length <= 4 && row.every(pair)) &&
        found.queries.length === found.tokens.length && found.queries.every(pair) && pair(found.decoder) &&
        found.labels.length === found.tokens.length && found.labels.every((label) => label === 1 || label === -1) &&
        found.W0.length === 4 && found.W0.every(Number.isFinite) && found.rule in RULES && found.size > 0 &&
        found.loss in engine.losses;
      return sound ? found : null;
    } catch {
      return null;
    }
  }

  function restart() {
    problem = engine.prepare(state);
    svm = solver.tokenSVM(problem);
    constants = solver.constants(problem, svm, state.loss);
    run = { t: 0, W: [...state.W0], length: 0, steps: [], errors: [], norms: [], tail: [], stuck: false };
    note();
    part("bifurcation").dataset.fresh = "";
    drawAll();
  }

  function note() {
    if (!svm.feasible) return;
    const size = engine.norm(run.W);
    if (size > 0 && run.t > 0 && (run.steps.length < KEPT || run.t >= run.steps[run.steps.length - 1] * 1.002)) {
      run.steps.push(run.t);
      run.errors.push(solver.directionError(run.W, svm));
      run.norms.push(size);
    }
    run.tail.push([run.t, solver.residual(run.W, svm)]);
    if (run.tail.length > TAIL) run.tail.shift();
  }

  function advance(count) {
    for (let k = 0; k < count && !run.stuck; k++) {
      const { W, h } = engine.step(problem, run.W, { ...state, cap: state.rule === "Polyak" ? 10 : Infinity });
      if (!(h > 0) || !W.every(Number.isFinite) || W.every((value, j) => value === run.W[j])) {
        run.stuck = true;
        pause();
        break;
      }
      run.W = W;
      run.t += 1;
      run.length += h;
      note();
    }
    drawAll();
  }

  /* ---- the plane ---- */
  const plane = part("plane");
  const place = ([x, y]) => [200 + (x / REACH) * 190, 200 - (y / REACH) * 190];
  const unplace = (event) => {
    const box = plane.getBoundingClientRect();
    const u = ((event.clientX - box.left) / box.width) * 400;
    const v = ((event.clientY - box.top) / box.height) * 400;
    return [((u - 200) / 190) * REACH, ((200 - v) / 190) * REACH].map((value) => Math.round(100 * Math.max(-REACH, Math.min(REACH, value))) / 100);
  };

  /** An object that can be dragged, or moved with the arrow keys: `get` and `set` its place. */
  function handle(name, css, shape, get, set) {
    const node = make("g", { class: `handle ${css}`, tabindex: 0, role: "button", "aria-label": `${name}: drag it, or move it with the arrow keys` }, shape);
    node.append(make("title", {}, name));
    const move = (place) => {
      set(place);
      restart();
    };
    node.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      node.focus();
      node.setPointerCapture(event.pointerId);
      const drag = (later) => move(unplace(later));
      const drop = () => {
        node.removeEventListener("pointermove", drag);
        node.removeEventListener("pointerup", drop);
        node.removeEventListener("pointercancel", drop);
        history.replaceState(null, "", toHash());
      };
      node.addEventListener("pointermove", drag);
      node.addEventListener("pointerup", drop);
      node.addEventListener("pointercancel", drop);
    });
    node.addEventListener("keydown", (event) => {
      const step = event.shiftKey ? 0.25 : 0.05;
      const by = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, step], ArrowDown: [0, -step] }[event.key];
      if (!by) return;
      event.preventDefault();
      move(get().map((value, k) => Math.round(100 * Math.max(-REACH, Math.min(REACH, value + by[k]))) / 100));
      history.replaceState(null, "", toHash());
    });
    node.placed = () => node.setAttribute("transform", `translate(${place(get()).map((value) => value.toFixed(1)).join(" ")})`);
    return node;
  }

  let handles, arrows, rings, discs;
  function buildPlane() {
    plane.replaceChildren(
      make("line", { x1: 0, x2: 400, y1: 200, y2: 200, class: "axis" }),
      make("line", { x1: 200, x2: 200, y1: 0, y2: 400, class: "axis" }),
    );
    [handles, arrows, rings, discs] = [[], [], [], []];
    state.tokens.forEach((tokens, i) => {
      arrows.push(["target", "direction"].map((kind) => plane.appendChild(make("path", { class: `${kind} s${i}` }))));
      tokens.forEach((_, t) => {
        const ring = make("circle", { r: 15, class: "ring" });
        const disc = make("circle", { r: 6, class: `attended s${i}` });
        const shape = make("g", {}, make("circle", { r: 18, class: "grip" }), disc, ring, make("text", { y: 4, class: "letter" }, `${i + 1}${"abcd"[t]}`));
        rings.push([ring, i, t]);
        discs.push([disc, i, t]);
        handles.push(handle(`token ${i + 1}${"abcd"[t]} of sequence ${i + 1}`, "token", shape, () => state.tokens[i][t], (at) => (state.tokens[i][t] = at)));
      });
      const diamond = make("path", { d: "M0 -8L8 0L0 8L-8 0Z", class: `query s${i}` });
      handles.push(handle(`query z${i + 1} of sequence ${i + 1}`, "", make("g", {}, make("circle", { r: 14, class: "grip" }), diamond, make("text", { y: 21, class: "letter" }, `z${i + 1}`)), () => state.queries[i], (at) => (state.queries[i] = at)));
    });
    const square = make("g", {}, make("circle", { r: 14, class: "grip" }), make("rect", { x: -6, y: -6, width: 12, height: 12, class: "decoder" }), make("text", { y: 21, class: "letter" }, "u"));
    handles.push(handle("decoder u", "", square, () => state.decoder, (at) => (state.decoder = at)));
    plane.append(...handles);
  }

  function arrow(node, vector) {
    const size = engine.norm(vector);
    if (!(size > 0)) return node.setAttribute("d", "");
    const [a, b] = vector.map((value) => value / size);
    const [x, y] = [200 + 170 * a, 200 - 170 * b];
    node.setAttribute("d", `M200 200L${x} ${y}M${x} ${y}L${x - 12 * a - 6 * b} ${y + 12 * b - 6 * a}M${x} ${y}L${x - 12 * a + 6 * b} ${y + 12 * b + 6 * a}`);
  }

  function drawPlane() {
    handles.forEach((node) => node.placed());
    const logs = problem.scores.map((_, i) => engine.logAttention(problem, run.W, i));
    discs.forEach(([disc, i, t]) => disc.setAttribute("r", (3 + 14 * Math.sqrt(Math.exp(logs[i][t]))).toFixed(2)));
    rings.forEach(([ring, i, t]) => ring.classList.toggle("optimal", problem.optimal[i] === t));
    arrows.forEach(([target, direction], i) => {
      arrow(target, svm.feasible ? engine.apply(svm.W, state.queries[i]) : [0, 0]);
      arrow(direction, engine.apply(run.W, state.queries[i]));
    });
    return logs;
  }

  /* ---- charts and words ---- */
  function drawCharts() {
    const some = run.errors.filter((value) => value > 0);
    const last = Math.max(10, run.t);
    const law = constants ? run.norms.map((value) => constants.eInf / value) : [];
    const all = [...some, ...law].filter((value) => value > 0);
    const lines = [{ x: run.steps, y: run.errors, css: "found" }];
    if (constants) lines.unshift({ x: run.steps, y: law, css: "law" });
    charts.draw(part("error"), {
      lines, x: [1, last], y: [Math.min(0.1, ...all) / 1.5, Math.max(2, ...all)], logX: true, logY: true,
      xlabel: "steps t", ylabel: "direction error",
    });
    const tail = { x: run.tail.map(([t]) => t), y: run.tail.map(([, e]) => e) };
    const limit = constants ? [constants.eInf] : [];
    const low = Math.min(...tail.y, ...limit);
    const high = Math.max(...tail.y, ...limit);
    const pad = 0.15 * (high - low) + 1e-3 * (high || 1);
    const from = tail.x[0] || 0;
    const to = Math.max(from + 10, run.t);
    charts.draw(part("residual"), {
      lines: [{ x: [from, to], y: [limit[0], limit[0]], css: "law" }, { ...tail, css: "found" }],
      dots: run.tail.map(([t, e]) => ({ x: t, y: e, css: "dot" })),
      x: [from, to], y: svm.feasible ? [low - pad, high + pad] : [0, 1], xlabel: `the last ${TAIL} steps`, ylabel: "size of the residual",
    });
  }

  function words(logs) {
    const wins = logs.map((row) => row.indexOf(Math.max(...row)));
    const right = wins.filter((t, i) => t === problem.optimal[i]).length;
    const rows = [["steps", run.t], ["‖W‖", number(engine.norm(run.W))], ["path length", number(run.length)]];
    rows.push(["optimal tokens ahead", `${right} of ${wins.length}`]);
    if (svm.feasible) {
      rows.push(["direction error", number(solver.directionError(run.W, svm))], ["margin ρ", number(svm.margin)]);
      if (constants) rows.push(["e∞ (theory)", number(constants.eInf)], ["edge h*", number(constants.hStar)], ["θ* of Polyak", number(constants.thetaStar)]);
    }
    part("numbers").replaceChildren(...rows.flatMap(([name, value]) => [element("dt", name), element("dd", value)]));
    let said = "";
    if (!svm.feasible) {
      const terms = problem.constraints.map(({ i, t }, k) => [svm.certificate[k], `${number(svm.certificate[k])} V(${i + 1}${"abcd"[t]})`]);
      said = `No W separates: ${terms.filter(([p]) => p > 0).map(([, term]) => term).join(" + ")} = 0, up to ${svm.residual.toExponential(1)}.`;
    } else if (!constants) said = "Some constraint is not a support vector, or they are dependent: the direction converges, but the theorem on its constant does not apply.";
    if (run.stuck) said += " The run has ended: a step no longer moves W in floating point.";
    part("says").textContent = said;
  }
  function element(tag, text) {
    const node = document.createElement(tag);
    node.textContent = text;
    return node;
  }

  /** The last residuals for many lengths of the step, from W = 0: the fork, and where this run's step stands. */
  function drawBifurcation() {
    const panel = part("bifurcation");
    if (!panel.open) return;
    const edge = constants && (state.rule === "Polyak" ? constants.thetaStar : constants.hStar);
    const figure = part("fork");
    if (!edge || !Number.isFinite(edge) || state.rule === "GD") {
      figure.replaceChildren();
      part("forksays").textContent = "The figure needs normalized or Polyak steps, and data on which every constraint is a support vector.";
      return;
    }
    part("forksays").textContent = "";
    if (panel.dataset.fresh !== undefined) {
      delete panel.dataset.fresh;
      panel.dots = [];
      for (let k = 0; k < 90; k++) {
        const size = edge * (0.6 + (k / 89) * 0.8);
        let W = [0, 0, 0, 0];
        for (let t = 0; t < 700; t++) {
          ({ W } = engine.step(problem, W, { rule: state.rule, size, loss: state.loss, cap: 10 * svm.norm }));
          if (t >= 670) panel.dots.push({ x: size / edge, y: solver.residual(W, svm), css: "dot" });
        }
      }
    }
    const values = panel.dots.map((dot) => dot.y).filter(Number.isFinite);
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const here = state.size / edge;
    charts.draw(figure, {
      lines: [{ x: [1, 1], y: [low - 0.1, high + 0.1], css: "law" }, { x: [here, here], y: [low - 0.1, high + 0.1], css: "here" }],
      dots: panel.dots, x: [0.6, 1.4], y: [low - 0.05 - 0.1 * (high - low), high + 0.05 + 0.1 * (high - low)],
      xlabel: state.rule === "Polyak" ? "θ / θ*" : "h / h*", ylabel: "size of the residual",
    });
  }

  function drawAll() {
    words(drawPlane());
    drawCharts();
    drawBifurcation();
  }

  /* ---- controls ---- */
  function pause() {
    clearInterval(timer);
    timer = undefined;
    part("play").textContent = "Play";
    part("play").setAttribute("aria-pressed", "false");
  }
  function play() {
    timer = setInterval(() => advance(Math.round(10 ** part("speed").value)), 60);
    part("play").textContent = "Pause";
    part("play").setAttribute("aria-pressed", "true");
  }
  const slider = {
    to: (size, [low, high]) => (1000 * Math.log(size / low)) / Math.log(high / low),
    from: (value, [low, high]) => low * (high / low) ** (value / 1000),
  };
  function showControls() {
    part("rule").value = state.rule;
    part("loss").value = state.loss;
    part("size").value = slider.to(state.size, RULES[state.rule]);
    part("sizesays").textContent = number(state.size);
    part("labels").replaceChildren(
      ...state.labels.map((label, i) => {
        const button = element("button", `label of ${i + 1}: ${label > 0 ? "+1" : "−1"}`);
        button.type = "button";
        button.addEventListener("click", () => change(() => (state.labels[i] = -state.labels[i])));
        return button;
      }),
    );
  }
  function change(edit, rebuild = false) {
    edit();
    if (rebuild) buildPlane();
    showControls();
    restart();
    history.replaceState(null, "", toHash());
  }
  function load(key) {
    pause();
    const preset = presets.find((item) => item.key === key);
    state = clone(preset.state);
    part("preset").value = key;
    part("about").textContent = preset.words;
    buildPlane();
    showControls();
    restart();
  }

  part("preset").append(...presets.map(({ key, title }) => Object.assign(element("option", title), { value: key })));
  part("preset").addEventListener("change", (event) => load(event.target.value));
  part("play").addEventListener("click", () => (timer ? pause() : play()));
  part("step").addEventListener("click", () => (pause(), advance(1)));
  part("reset").addEventListener("click", () => (pause(), restart()));
  part("rule").addEventListener("change", (event) =>
    change(() => {
      state.rule = event.target.value;
      const [low, high] = RULES[state.rule];
      state.size = Math.min(high, Math.max(low, state.size));
    }),
  );
  part("loss").addEventListener("change", (event) => change(() => (state.loss = event.target.value)));
  part("size").addEventListener("input", (event) => {
    state.size = +slider.from(+event.target.value, RULES[state.rule]).toPrecision(4);
    part("sizesays").textContent = number(state.size);
    drawBifurcation();
  });
  part("bifurcation").addEventListener("toggle", drawBifurcation);
  part("link").addEventListener("click", async () => {
    history.replaceState(null, "", toHash());
    try {
      await navigator.clipboard.writeText(location.href);
      part("link").textContent = "Link copied";
    } catch {
      part("link").textContent = "The link is in the address bar";
    }
    setTimeout(() => (part("link").textContent = "Copy a link"), 2500);
  });

  const given = fromHash();
  load("global");
  if (given) {
    state = given;
    part("about").textContent = "The state that the link holds.";
    buildPlane();
    showControls();
    restart();
  }
  root.hidden = false;
})(globalThis.Explorer);
