"use strict";
// Links to the sections.
for (const [n, part] of document.querySelectorAll("main > section, main > details").entries()) {
  part.id = `part-${n}`;
  const link = document.createElement("a");
  link.href = `#${part.id}`;
  link.textContent = part.querySelector("h2").textContent;
  link.addEventListener("click", () => { if (part.tagName === "DETAILS") part.open = true; });
  document.querySelector("nav").append(link);
}

// The flame graph: a click makes a box, and those above it, as wide as the page.
for (const flame of document.querySelectorAll(".flame")) {
  const output = flame.querySelector("output");
  const boxes = [...flame.querySelectorAll("button")];
  const at = (box) => ({ x: +box.dataset.x, w: +box.dataset.w, d: +box.dataset.d });
  const show = (event) => { if (event.target.title) output.textContent = event.target.title; };
  const zoom = (to) => {
    for (const box of boxes) {
      const here = at(box), inside = here.x >= to.x - 1e-6 && here.x + here.w <= to.x + to.w + 1e-6;
      const above = here.d < to.d && here.x <= to.x + 1e-6 && here.x + here.w >= to.x + to.w - 1e-6;
      box.hidden = !above && !(inside && here.d >= to.d);
      box.style.left = above ? "0" : `${100 * (here.x - to.x) / to.w}%`;
      box.style.width = above ? "100%" : `${100 * here.w / to.w}%`;
    }
  };
  flame.addEventListener("pointerover", show);
  flame.addEventListener("focusin", show);
  flame.addEventListener("click", (event) => { if (event.target.title) zoom(at(event.target)); });
}

// Print everything, folded or not.
addEventListener("beforeprint", () => { for (const part of document.querySelectorAll("details")) part.open = true; });
