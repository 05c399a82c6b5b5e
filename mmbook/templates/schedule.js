// Steps between round numbers, at most about `count` of them: 1, 2 or 5 times a power of ten.
function roundStep(range, count) {
  const power = 10 ** Math.floor(Math.log10(range / count));
  return power * [1, 2, 5, 10].find((factor) => factor * power * count >= range);
}

function build(root, data) {
  const chart = root.querySelector(".chart");
  const tip = root.querySelector(".mmb-tip");
  const from = root.querySelector("select");
  const on = data.series.map((one) => one.on);
  let kind = "difference";
  let cursor = -1;
  let scale;
  let svg = chart.querySelector("svg");

  const signed = (value) => (kind === "difference" && value > 0 ? "+" : "") + value.toFixed(kind === "difference" ? 2 : 1);
  const visible = () => data.series
    .map((one) => ({ ...one, points: one[kind].filter((point) => point[0] >= Number(from.value)) }))
    .filter((one, k) => on[k] && one.points.length);

  function measure(series) {
    const points = series.flatMap((one) => one.points);
    const steps = [...new Set(points.map((point) => point[0]))].sort((a, b) => a - b);
    const values = points.flatMap((point) => point.slice(1, 4)).filter((value) => value !== null);
    if (kind === "difference") values.push(0);
    const range = Math.max(...values) - Math.min(...values) || 1;
    const step = roundStep(range, data.height / 45);
    const low = Math.min(...values) - 0.05 * range;
    const high = Math.max(...values) + 0.05 * range;
    const [width, height, left, right, top, bottom] = [chart.clientWidth, data.height, 44, 14, 22, 38];
    const [first, last] = [Math.log(steps[0]), Math.log(steps.at(-1))];
    const x = (value) => left + 18 + (last > first ? (Math.log(value) - first) / (last - first) : 0.5) * (width - left - right - 36);
    const y = (value) => top + ((high - value) / (high - low)) * (height - top - bottom);
    return { steps, step, low, high, width, height, left, right, top, bottom, x, y };
  }

  function draw() {
    const series = visible();
    chart.removeChild(svg);
    svg = document.createElementNS(SVG, "svg");
    chart.insertBefore(svg, tip);
    const what = kind === "difference" ? `Test accuracy less that of ${data.baseline}, in points` : "Test accuracy in percent";
    for (const [name, value] of Object.entries({ tabindex: 0, role: "application", height: data.height,
      "aria-label": `${what}, against training steps: the arrow keys go from length to length` })) svg.setAttribute(name, value);
    connect();
    if (!series.length) {
      scale = undefined;
      add(svg, "text", { x: chart.clientWidth / 2, y: data.height / 2, "text-anchor": "middle" }, "No method is switched on.");
      return;
    }
    scale = measure(series);
    drawAxes(what);
    series.forEach((one, k) => drawSeries(one, 4 * (k - (series.length - 1) / 2)));
    add(svg, "path", { class: "cursor" });
    drawCursor();
  }

  function drawAxes(what) {
    const { steps, step, low, high, width, height, left, right, bottom, x, y } = scale;
    add(svg, "text", { class: "quiet", x: 0, y: 11 }, kind === "difference" ? `accuracy less ${data.baseline}’s (points)` : "test accuracy (%)");
    for (let value = Math.ceil(low / step) * step; value <= high; value += step) {
      const zero = kind === "difference" && Math.abs(value) < step / 2;
      add(svg, "path", { class: zero ? "axis" : "grid", d: `M${left} ${y(value).toFixed(1)}H${width - right}` });
      const digits = step < 1 ? 1 : 0;
      const text = (kind === "difference" && !zero && value > 0 ? "+" : "") + (zero ? "0" : value.toFixed(digits));
      add(svg, "text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, text);
    }
    let end = -Infinity;
    for (const length of steps) {
      if (x(length) - end < 40) continue;
      end = x(length);
      add(svg, "text", { x: end, y: height - bottom + 17, "text-anchor": "middle" }, length.toLocaleString("en"));
    }
    add(svg, "text", { class: "quiet", x: width - right, y: height - 4, "text-anchor": "end" }, "training steps");
  }

  function drawSeries(one, shift) {
    const { x, y } = scale;
    const group = add(svg, "g", { class: "of", style: `--c:${one.colour}` });
    const at = (point, value) => `${(x(point[0]) + shift).toFixed(1)} ${y(value).toFixed(1)}`;
    const known = one.points.filter((point) => point[2] !== null);
    if (known.length > 1) {
      const edge = [...known.map((point) => at(point, point[3])), ...known.reverse().map((point) => at(point, point[2]))];
      add(group, "path", { class: "band", d: `M${edge.join("L")}Z` });
    }
    add(group, "path", { class: "line", d: `M${one.points.map((point) => at(point, point[1])).join("L")}` });
    const ends = known.map((point) => `M${at(point, point[2])}V${y(point[3]).toFixed(1)}`).join("");
    add(group, "path", { class: "line", d: ends });
    for (const point of one.points) {
      const single = point[4] < 2 ? " single" : "";
      add(group, "path", { class: `mark${single}`, d: one.mark, transform: `translate(${at(point, point[1])})` });
    }
  }

  function drawCursor(aloud = false) {
    tip.hidden = cursor < 0 || !scale;
    if (!scale) return;
    const line = svg.querySelector(".cursor");
    line.setAttribute("d", tip.hidden ? "" : `M${scale.x(cursor)} ${scale.top}V${scale.height - scale.bottom}`);
    if (tip.hidden) return;
    tip.textContent = "";
    add(tip, "strong", {}, `${cursor.toLocaleString("en")} steps`);
    const table = add(tip, "table");
    const lines = [];
    for (const one of visible()) {
      const point = one.points.find((candidate) => candidate[0] === cursor);
      if (!point) continue;
      const row = add(table, "tr", { class: "of", style: `--c:${one.colour}` });
      const mark = add(add(row, "td"), "svg", { viewBox: "-7 -7 14 14", "aria-hidden": "true" });
      add(mark, "path", { class: "mark", d: one.mark });
      const interval = point[2] === null ? "" : `[${signed(point[2])}, ${signed(point[3])}]`;
      const cells = [one.name, signed(point[1]), interval, `${point[4]} seed${point[4] === 1 ? "" : "s"}`];
      for (const cell of cells) add(row, "td", {}, cell);
      lines.push(cells.join(" "));
    }
    placeTip(tip, chart, scale.x(cursor), scale.height / 2);
    if (aloud) root.querySelector(".spoken").textContent = `${cursor} steps: ${lines.join("; ")}`;
  }

  function connect() {
    const fromPointer = (event) => {
      if (!scale) return;
      const x = event.clientX - svg.getBoundingClientRect().left;
      cursor = scale.steps.reduce((a, b) => (Math.abs(scale.x(b) - x) < Math.abs(scale.x(a) - x) ? b : a));
      drawCursor();
    };
    const leave = () => ((cursor = -1), drawCursor());
    svg.addEventListener("pointermove", fromPointer);
    svg.addEventListener("pointerdown", fromPointer);
    svg.addEventListener("pointerleave", leave);
    svg.addEventListener("blur", leave);
    svg.addEventListener("keydown", (event) => {
      if (event.key === "Escape") leave();
      if (!scale || !["ArrowLeft", "ArrowRight"].includes(event.key)) return;
      event.preventDefault();
      const now = scale.steps.indexOf(cursor);
      const next = event.key === "ArrowRight" ? now + 1 : now < 0 ? scale.steps.length - 1 : now - 1;
      cursor = scale.steps[Math.max(0, Math.min(next, scale.steps.length - 1))];
      drawCursor(true);
    });
  }

  const lengths = [...new Set(data.series.flatMap((one) => one.accuracy.map((point) => point[0])))].sort((a, b) => a - b);
  for (const length of lengths) add(from, "option", { value: length }, length.toLocaleString("en"));
  root.querySelector(".from").hidden = lengths.length < 3;
  from.addEventListener("change", draw);
  const name = `${root.dataset.mmb}-${document.querySelectorAll("[data-mmb][data-live]").length}`;
  for (const radio of root.querySelectorAll('input[type="radio"]')) {
    radio.name = name;
    radio.checked = radio.value === kind;
    radio.addEventListener("change", () => ((kind = radio.value), draw()));
  }
  for (const button of root.querySelectorAll("[data-series]")) {
    const k = Number(button.dataset.series);
    button.disabled = false;
    button.addEventListener("click", () => {
      on[k] = !on[k];
      button.setAttribute("aria-pressed", on[k]);
      draw();
    });
  }
  for (const control of root.querySelectorAll(".control")) control.hidden = false;
  new ResizeObserver(() => chart.clientWidth && chart.clientWidth !== scale?.width && draw()).observe(chart);
  draw();
}
