"use strict";
// The contents, from the sections that are there.
for (const [n, part] of document.querySelectorAll("main > section, main > details").entries()) {
  part.id = `part-${n}`;
  const link = document.createElement("a");
  link.href = `#${part.id}`;
  link.textContent = part.querySelector("h2").textContent;
  link.addEventListener("click", () => { if (part.tagName === "DETAILS") part.open = true; });
  document.querySelector("nav").append(link);
}

// The flame graph: a box that is clicked becomes as wide as the page, those above it with it.
for (const flame of document.querySelectorAll(".flame")) {
  const told = flame.querySelector("output");
  const boxes = [...flame.querySelectorAll("button")];
  const at = (box) => ({ x: +box.dataset.x, w: +box.dataset.w, d: +box.dataset.d });
  const tell = (event) => { if (event.target.title) told.textContent = event.target.title; };
  const zoom = (to) => {
    for (const box of boxes) {
      const here = at(box), inside = here.x >= to.x - 1e-6 && here.x + here.w <= to.x + to.w + 1e-6;
      const above = here.d < to.d && here.x <= to.x + 1e-6 && here.x + here.w >= to.x + to.w - 1e-6;
      box.hidden = !above && !(inside && here.d >= to.d);
      box.style.left = above ? "0" : `${100 * (here.x - to.x) / to.w}%`;
      box.style.width = above ? "100%" : `${100 * here.w / to.w}%`;
    }
  };
  flame.addEventListener("pointerover", tell);
  flame.addEventListener("focusin", tell);
  flame.addEventListener("click", (event) => { if (event.target.title) zoom(at(event.target)); });
}

// On paper, everything is open.
addEventListener("beforeprint", () => { for (const part of document.querySelectorAll("details")) part.open = true; });
