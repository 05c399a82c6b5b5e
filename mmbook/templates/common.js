const SVG = "http://www.w3.org/2000/svg";

function add(parent, name, attributes = {}, text = "") {
  const space = name === "svg" ? SVG : parent.namespaceURI;
  const child = document.createElementNS(space, name);
  for (const [key, value] of Object.entries(attributes)) child.setAttribute(key, value);
  child.textContent = text;
  return parent.appendChild(child);
}

// The same picture may stand on a page twice, and a cell may run again: every copy is brought to life once.
function bringToLife(key, build) {
  for (const root of document.querySelectorAll(`[data-mmb="${key}"]:not([data-live])`)) {
    root.dataset.live = "";
    build(root, JSON.parse(root.querySelector('script[type="application/json"]').textContent));
  }
}

// Beside a place in the picture, and never out of it.
function placeTip(tip, frame, x, y) {
  tip.hidden = false;
  const left = x + 14 + tip.offsetWidth > frame.clientWidth ? x - 14 - tip.offsetWidth : x + 14;
  tip.style.left = `${Math.max(0, Math.min(left, frame.clientWidth - tip.offsetWidth))}px`;
  tip.style.top = `${Math.max(0, y - tip.offsetHeight - 10)}px`;
}
