// The triangle's corners, its mixture, and what a Dirichlet draws; the page arrives with the first state drawn.
function build(root, data) {
  const find = (selector) => root.querySelector(selector);
  const handle = find(".handle");
  const triangle = find(".triangle");
  let weights = data.weights;
  let seed = 0;

  function showMixture() {
    const percent = weights.map((weight) => Math.round(100 * weight));
    const at = [0, 1].map((axis) => weights.reduce((sum, weight, i) => sum + weight * data.corners[i][axis], 0));
    handle.setAttribute("transform", `translate(${at[0].toFixed(2)} ${at[1].toFixed(2)})`);
    root.querySelectorAll(".blend rect").forEach((pixel, k) => {
      const value = weights.reduce((sum, weight, i) => sum + weight * data.images[i][k], 0);
      pixel.setAttribute("fill", `rgb(${[0, 1, 2].map(() => Math.round((255 * value) / 16)).join(",")})`);
    });
    root.querySelectorAll(".bars .swatch").forEach((bar, i) => (bar.style.width = `${100 * weights[i]}%`));
    root.querySelectorAll(".bars .share").forEach((share, i) => (share.textContent = `${percent[i]} %`));
    const number = effectiveNumber(weights).toFixed(2);
    find(".mix .number").textContent = number;
    handle.setAttribute("aria-valuenow", number);
    const parts = percent.map((share, i) => `${share} % ${data.names[i]}`);
    handle.setAttribute("aria-valuetext", `${parts.join(", ")}: ${number} examples`);
  }

  // Barycentric coordinates of a place, moved to the nearest point of the triangle where it lies outside.
  function moveTo(x, y) {
    const [[x0, y0], [x1, y1], [x2, y2]] = data.corners;
    const area = (y1 - y2) * (x0 - x2) + (x2 - x1) * (y0 - y2);
    const a = ((y1 - y2) * (x - x2) + (x2 - x1) * (y - y2)) / area;
    const b = ((y2 - y0) * (x - x2) + (x0 - x2) * (y - y2)) / area;
    weights = nearest([a, b, 1 - a - b]);
    showMixture();
  }

  function fromPointer(event) {
    const place = new DOMPoint(event.clientX, event.clientY).matrixTransform(triangle.getScreenCTM().inverse());
    moveTo(place.x, place.y);
  }

  triangle.addEventListener("pointerdown", (event) => {
    triangle.setPointerCapture(event.pointerId);
    handle.focus({ preventScroll: true });
    fromPointer(event);
    event.preventDefault();
  });
  triangle.addEventListener("pointermove", (event) => event.buttons && fromPointer(event));
  handle.addEventListener("keydown", (event) => {
    const step = event.shiftKey ? 15 : 5;
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    if (event.key === "Home") weights = [1 / 3, 1 / 3, 1 / 3];
    else if (!(event.key in moves)) return;
    const at = [0, 1].map((axis) => weights.reduce((sum, weight, i) => sum + weight * data.corners[i][axis], 0));
    const [dx, dy] = moves[event.key] || [0, 0];
    moveTo(at[0] + dx, at[1] + dy);
    event.preventDefault();
  });

  const sliders = { m: find('[name="m"]'), alpha: find('[name="alpha"]') };

  function showDraws() {
    const m = Number(sliders.m.value);
    const alpha = 10 ** Number(sliders.alpha.value);
    const written = alpha < 0.1 ? alpha.toFixed(3) : Number(alpha.toPrecision(2)).toString();
    find(".value-m").textContent = m;
    find(".value-alpha").textContent = written;
    sliders.alpha.setAttribute("aria-valuetext", written);
    const kinds = [[m, alpha], [m, alpha / m], [2, alpha]];
    const uniform = uniforms(seed);
    kinds.forEach(([examples, concentration], kind) => {
      const draws = Array.from({ length: data.draws }, () => dirichlet(examples, concentration, uniform));
      const numbers = draws.map(effectiveNumber);
      root.querySelectorAll(".outline")[kind].setAttribute("d", outline(numbers, data.histogram));
      const row = root.querySelectorAll(".kinds .of")[kind];
      row.querySelector(".number").textContent = (numbers.reduce((a, b) => a + b, 0) / numbers.length).toFixed(1);
      const strip = row.querySelector("svg");
      strip.textContent = "";
      let x = 0;
      const typical = [...draws].sort((a, b) => effectiveNumber(a) - effectiveNumber(b))[data.draws / 2];
      for (const weight of typical.sort((a, b) => b - a)) {
        if (weight > 0.0005) add(strip, "rect", { x, y: 0, width: 100 * weight, height: 8 });
        x += 100 * weight;
      }
    });
  }

  let waiting = false;
  const later = () => {
    if (!waiting) requestAnimationFrame(() => ((waiting = false), showDraws()));
    waiting = true;
  };
  for (const slider of Object.values(sliders)) slider.addEventListener("input", later);
  find("button").addEventListener("click", () => ((seed += 1), showDraws()));
  for (const control of root.querySelectorAll(".control")) control.hidden = false;
  handle.setAttribute("tabindex", "0");
  showMixture();
  showDraws();
}

// The nearest point of the simplex: what is missing to 1 is shared among the weights that stay positive.
function nearest(weights) {
  const sorted = [...weights].sort((a, b) => b - a);
  let sum = 0;
  let shift = 0;
  sorted.forEach((weight, k) => {
    sum += weight;
    if (weight > (sum - 1) / (k + 1)) shift = (sum - 1) / (k + 1);
  });
  return weights.map((weight) => Math.max(0, weight - shift));
}

// A histogram over equal steps of the logarithm, as a path; the tallest bin of each kind fills the height.
function outline(numbers, { bins, largest, width, height }) {
  const counts = new Array(bins).fill(0);
  for (const number of numbers) {
    counts[Math.min(bins - 1, Math.max(0, Math.floor((bins * Math.log(number)) / Math.log(largest))))] += 1;
  }
  const tallest = Math.max(...counts);
  const steps = counts.map((count) => `V${(height * (1 - count / tallest)).toFixed(1)}h${(width / bins).toFixed(3)}`);
  return `M0 ${height}${steps.join("")}V${height}Z`;
}
