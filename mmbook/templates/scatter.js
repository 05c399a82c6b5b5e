function bytes(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

function build(root, data) {
  const places = data.places.map((text) => new Uint16Array(bytes(text).buffer));
  const images = bytes(data.images);
  const [rows, columns, channels] = data.shape;
  const tip = root.querySelector(".mmb-tip");
  const canvas = tip.querySelector("canvas");
  const off = new Set();
  const panels = [...root.querySelectorAll(".panel")].map((element, side) => ({
    element,
    svg: element.querySelector("svg"),
    ring: element.querySelector(".ring"),
    method: data.shown[side],
  }));
  const indices = {};
  data.labels.forEach((label, k) => (indices[label] ||= []).push(k));
  let chosen = -1;

  const at = (panel, k) => [places[panel.method][2 * k], places[panel.method][2 * k + 1]];
  const isOff = (k) => off.has(String(data.labels[k]));

  function drawPanel(panel) {
    const name = data.methods[panel.method];
    for (const path of panel.svg.querySelectorAll(".dots")) {
      const ks = indices[path.dataset.class];
      path.setAttribute("d", ks.map((k) => `M${at(panel, k).join(" ")}h0`).join(""));
    }
    panel.svg.setAttribute("aria-label", `Embeddings by ${name}: move from dot to dot with the arrow keys`);
    ring(panel);
  }

  function ring(panel) {
    panel.ring.toggleAttribute("hidden", chosen < 0);
    panel.ring.style.display = chosen < 0 ? "none" : "";
    if (chosen < 0) return;
    const [x, y] = at(panel, chosen);
    panel.ring.setAttribute("cx", x);
    panel.ring.setAttribute("cy", y);
  }

  function drawImage(k) {
    canvas.width = columns;
    canvas.height = rows;
    const pixels = new ImageData(columns, rows);
    for (let p = 0; p < rows * columns; p += 1) {
      for (let c = 0; c < 3; c += 1) {
        pixels.data[4 * p + c] = images[(k * rows * columns + p) * channels + (channels === 3 ? c : 0)];
      }
      pixels.data[4 * p + 3] = 255;
    }
    canvas.getContext("2d").putImageData(pixels, 0, 0);
  }

  function choose(k, panel, aloud) {
    chosen = k;
    panels.forEach(ring);
    tip.hidden = k < 0;
    if (k < 0) return;
    drawImage(k);
    const words = tip.querySelector(".words");
    words.textContent = "";
    const lines = [data.methods[panel.method], `class ${data.names[data.labels[k]]}`, `image ${k + 1}`];
    for (const line of lines) add(words, "div", {}, line);
    if (aloud) root.querySelector(".spoken").textContent = lines.join(", ");
    const frame = root.getBoundingClientRect();
    const place = new DOMPoint(...at(panel, k)).matrixTransform(panel.svg.getScreenCTM());
    placeTip(tip, root, place.x - frame.left, place.y - frame.top);
  }

  // The visible dot with the smallest cost, or -1.
  function best(cost) {
    let found = -1;
    let least = Infinity;
    for (let k = 0; k < data.labels.length; k += 1) {
      const of = isOff(k) ? Infinity : cost(k);
      if (of < least) [found, least] = [k, of];
    }
    return found;
  }

  function fromPointer(event, panel) {
    const place = new DOMPoint(event.clientX, event.clientY).matrixTransform(panel.svg.getScreenCTM().inverse());
    const reach = event.pointerType === "touch" ? 60 : 30;
    const k = best((other) => Math.hypot(at(panel, other)[0] - place.x, at(panel, other)[1] - place.y));
    const far = k < 0 || Math.hypot(at(panel, k)[0] - place.x, at(panel, k)[1] - place.y) > reach;
    choose(far ? -1 : k, panel, false);
  }

  function fromKey(event, panel) {
    const [dx, dy] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key] || [];
    if (event.key === "Escape") choose(-1, panel, false);
    if (dx === undefined) return;
    event.preventDefault();
    const [x, y] = chosen < 0 ? [511, 511] : at(panel, chosen);
    const next = best((k) => {
      if (k === chosen) return Infinity;
      const [along, across] = [(at(panel, k)[0] - x) * dx + (at(panel, k)[1] - y) * dy,
        Math.abs((at(panel, k)[0] - x) * dy) + Math.abs((at(panel, k)[1] - y) * dx)];
      return along > 0 ? along + 2 * across : Infinity;
    });
    if (next >= 0) choose(next, panel, true);
  }

  panels.forEach((panel, side) => {
    const title = panel.element.querySelector(".method");
    title.textContent = "";
    const menu = add(title, "select", { "aria-label": `Method of the ${side ? "right" : "left"} panel` });
    data.methods.forEach((name, k) => add(menu, "option", { value: k }, name));
    menu.value = panel.method;
    menu.addEventListener("change", () => {
      panel.method = Number(menu.value);
      choose(-1, panel, false);
      drawPanel(panel);
    });
    panel.svg.setAttribute("tabindex", "0");
    panel.svg.setAttribute("role", "application");
    panel.svg.addEventListener("pointermove", (event) => fromPointer(event, panel));
    panel.svg.addEventListener("pointerdown", (event) => fromPointer(event, panel));
    panel.svg.addEventListener("pointerleave", () => choose(-1, panel, false));
    panel.svg.addEventListener("keydown", (event) => fromKey(event, panel));
    panel.svg.addEventListener("blur", () => choose(-1, panel, false));
    drawPanel(panel);
  });

  const buttons = [...root.querySelectorAll("[data-class][aria-pressed]")];
  function filter(label, on) {
    if (on) off.delete(label);
    else off.add(label);
    for (const path of root.querySelectorAll(`.dots[data-class="${label}"]`)) path.style.display = on ? "" : "none";
    buttons.find((button) => button.dataset.class === label).setAttribute("aria-pressed", on);
  }
  for (const button of buttons) {
    button.disabled = false;
    button.addEventListener("click", () => filter(button.dataset.class, off.has(button.dataset.class)));
    button.addEventListener("dblclick", () => buttons.forEach((other) => filter(other.dataset.class, other === button)));
  }
  root.querySelector(".all").addEventListener("click", () => buttons.forEach((one) => filter(one.dataset.class, true)));
  for (const control of root.querySelectorAll(".control")) control.hidden = false;
}
