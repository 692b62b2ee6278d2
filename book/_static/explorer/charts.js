/* Small charts as SVG: a frame, ticks, lines. Colours come from the page's own style, so that light and dark both work. */
(function (space) {
  "use strict";
  const NS = "http://www.w3.org/2000/svg";

  function make(tag, attributes = {}, ...children) {
    const node = document.createElementNS(NS, tag);
    Object.entries(attributes).forEach(([name, value]) => node.setAttribute(name, value));
    node.append(...children);
    return node;
  }

  const powers = (low, high) => {
    const first = Math.ceil(Math.log10(low) - 1e-9);
    const last = Math.floor(Math.log10(high) + 1e-9);
    const every = Math.max(1, Math.ceil((last - first) / 4));
    return Array.from({ length: Math.max(0, Math.floor((last - first) / every) + 1) }, (_, k) => 10 ** (first + k * every));
  };
  const even = (low, high) => {
    const raw = (high - low) / 4;
    const unit = 10 ** Math.floor(Math.log10(raw));
    const every = [1, 2, 5, 10].map((k) => k * unit).find((value) => value >= raw);
    const ticks = [];
    for (let value = Math.ceil(low / every) * every; value <= high + 1e-12; value += every) ticks.push(+value.toPrecision(6));
    return ticks;
  };
  const label = (value) => (value !== 0 && (Math.abs(value) >= 1e4 || Math.abs(value) < 1e-2) ? value.toExponential(0) : String(+value.toPrecision(3)));

  /** Draw lines [{x, y, css}] into the SVG `target`; `box` gives the ranges, `log` whether an axis is logarithmic. */
  function draw(target, { lines, dots = [], x, y, logX = false, logY = false, xlabel, ylabel }) {
    const [w, h, left, bottom, top, right] = [420, 230, 58, 40, 10, 12];
    target.setAttribute("viewBox", `0 0 ${w} ${h}`);
    target.replaceChildren();
    const scale = (value, [low, high], log, from, to) => {
      const [a, b, v] = log ? [Math.log(low), Math.log(high), Math.log(value)] : [low, high, value];
      return from + ((v - a) / (b - a || 1)) * (to - from);
    };
    const X = (value) => scale(value, x, logX, left, w - right);
    const Y = (value) => scale(value, y, logY, h - bottom, top);
    target.append(make("rect", { x: left, y: top, width: w - left - right, height: h - bottom - top, class: "frame" }));
    (logX ? powers : even)(...x).forEach((value) => {
      target.append(make("line", { x1: X(value), x2: X(value), y1: h - bottom, y2: h - bottom + 4, class: "tick" }));
      target.append(make("text", { x: X(value), y: h - bottom + 17, class: "number middle" }, label(value)));
    });
    (logY ? powers : even)(...y).forEach((value) => {
      target.append(make("line", { x1: left - 4, x2: left, y1: Y(value), y2: Y(value), class: "tick" }));
      target.append(make("text", { x: left - 7, y: Y(value) + 4, class: "number end" }, label(value)));
    });
    target.append(make("text", { x: (left + w - right) / 2, y: h - 4, class: "name middle" }, xlabel));
    const side = make("text", { transform: `translate(12 ${(h - bottom + top) / 2}) rotate(-90)`, class: "name middle" }, ylabel);
    target.append(side);
    const inside = (px, py) => px >= left - 0.5 && px <= w - right + 0.5 && py >= top - 0.5 && py <= h - bottom + 0.5;
    lines.forEach((line) => {
      let path = "";
      let pen = "M";
      line.x.forEach((value, k) => {
        const [px, py] = [X(value), Y(line.y[k])];
        if (!Number.isFinite(px) || !Number.isFinite(py) || !inside(px, py)) return void (pen = "M");
        path += `${pen}${px.toFixed(1)} ${py.toFixed(1)}`;
        pen = "L";
      });
      target.append(make("path", { d: path || "M0 0", class: `line ${line.css}` }));
    });
    dots.forEach(({ x: u, y: v, css }) => {
      const [px, py] = [X(u), Y(v)];
      if (Number.isFinite(px) && Number.isFinite(py) && inside(px, py)) target.append(make("circle", { cx: px, cy: py, r: 1.4, class: css }));
    });
  }

  space.charts = { make, draw };
})(globalThis.Explorer);
