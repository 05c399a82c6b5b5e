// What a test asks of a page as it is shown now: run in the page, returns lists of offenders in words.

(() => {
  const name = (element) => {
    const words = element.textContent.trim().replace(/\s+/g, " ").slice(0, 40);
    return `${element.tagName.toLowerCase()}${element.id ? "#" + element.id : ""}.${[...element.classList].join(".")} "${words}"`;
  };

  const visible = (element) => {
    const style = getComputedStyle(element);
    return style.visibility !== "hidden" && style.display !== "none" && style.position !== "fixed";
  };

  // The outermost elements that begin or end outside `column`. What scrolls within itself may hold anything.
  const runOut = (element, column, found) => {
    for (const child of element.children) {
      const box = child.getBoundingClientRect();
      if (!box.width || !box.height || !visible(child)) continue;
      const style = getComputedStyle(child);
      const overflow = style.display === "inline" ? "visible" : style.overflowX; // of an inline box it means nothing
      if (box.right > column.right + 1 || box.left < column.left - 1) found.push(name(child));
      else if (overflow === "hidden" || overflow === "clip") {
        if (child.scrollWidth > child.clientWidth + 1 && child.clientWidth > 1) found.push(`cut off: ${name(child)}`);
      } else if (overflow === "visible") runOut(child, column, found);
    }
    return found;
  };

  const columns = [".bd-article", ".bd-sidebar-primary", ".bd-sidebar-secondary", ".prev-next-footer"];

  window.overflow = () => {
    const found = [];
    const root = document.documentElement;
    if (root.scrollWidth > root.clientWidth) found.push(`the page scrolls sideways: ${root.scrollWidth} in ${root.clientWidth}`);
    for (const column of document.querySelectorAll(columns)) {
      const box = column.getBoundingClientRect();
      const on_screen = box.width && visible(column) && box.right > 0 && box.left < innerWidth;
      if (on_screen) runOut(column, { left: box.left, right: Math.min(box.right, innerWidth) }, found);
    }
    return found;
  };

  window.notTypeset = async () => {
    const equations = [...document.querySelectorAll(".math")];
    if (equations.length) await MathJax.startup.promise;
    const bad = equations.filter((e) => !e.querySelector("mjx-container") || e.querySelector("mjx-merror"));
    return bad.map(name);
  };

  window.badImages = async () => {
    const found = [];
    for (const image of document.querySelectorAll("main img")) {
      image.loading = "eager";
      const file = image.getAttribute("src").split("/").pop();
      await image.decode().catch(() => found.push(`${file} does not load`));
      if (!(image.getAttribute("width") > 0 && image.getAttribute("height") > 0) && !image.style.width) found.push(`${file} has no size`);
      const text = image.alt.trim();
      if (!text || /\.(png|svg|jpe?g)$/i.test(text)) {
        const heading = image.closest("section")?.querySelector("h1, h2, h3")?.textContent.replace("#", "").trim();
        found.push(`${file}, under "${heading}", has no alternative text`);
      }
    }
    return found;
  };

  // In the dark only colours differ.
  window.axeFaults = async (rules) => {
    const options = { resultTypes: ["violations"], selectors: false, preload: false };
    if (rules) options.runOnly = { type: "rule", values: rules };
    const { violations } = await axe.run(document, options);
    return violations
      .filter((fault) => ["serious", "critical"].includes(fault.impact))
      .flatMap((fault) => fault.nodes.map((node) => `${fault.impact}, ${fault.id}: ${node.html.slice(0, 120)}`));
  };
})();
