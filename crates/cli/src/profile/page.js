"use strict";
(() => {
  const graph = document.querySelector(".flame");
  if (!graph) return;
  const WIDTH = graph.viewBox.baseVal.width, LETTER = 6.7;
  const boxes = [...graph.querySelectorAll("g")].map((g) => {
    const rect = g.querySelector("rect"), full = g.querySelector("title").textContent;
    const text = g.querySelector("text") || g.appendChild(document.createElementNS(graph.namespaceURI, "text"));
    const box = { g, rect, text, name: full.replace(/: \d+ samples, [\d.]+ %$/, ""),
      x: +rect.getAttribute("x"), y: +rect.getAttribute("y"), w: +rect.getAttribute("width") };
    text.setAttribute("y", box.y + 12.5);
    g.addEventListener("click", () => zoom(box));
    return box;
  });
  const shown = (name, letters) => letters < 3 ? "" : name.length <= letters ? name : ".." + name.slice(2 - letters);
  function zoom(to) {
    const x = to ? to.x : 0, scale = to ? WIDTH / to.w : 1;
    for (const box of boxes) {
      const isAbove = !!to && box.y < to.y && box.x <= x + 0.01 && box.x + box.w >= x + to.w - 0.01;
      const left = isAbove ? 0 : (box.x - x) * scale, width = isAbove ? WIDTH : box.w * scale;
      const isIn = isAbove || (left >= -0.5 && left + width <= WIDTH + 0.5 && (!to || box.y >= to.y));
      box.g.style.display = isIn ? "" : "none";
      box.g.classList.toggle("above", isAbove);
      box.rect.setAttribute("x", left);
      box.rect.setAttribute("width", width);
      box.text.setAttribute("x", left + 3);
      box.text.textContent = shown(box.name, Math.floor((width - 6) / LETTER));
    }
  }
  const found = document.getElementById("found");
  document.getElementById("find").addEventListener("input", (event) => {
    const word = event.target.value.trim().toLowerCase();
    let share = 0, until = -1;
    // From left to right, callers first: what lies below a hit is not counted again.
    const order = [...boxes].sort((a, b) => a.x - b.x || a.y - b.y);
    for (const box of order) {
      const isHit = word !== "" && box.name.toLowerCase().includes(word);
      box.g.classList.toggle("hit", isHit);
      if (isHit && box.x >= until - 0.001) { share += box.w; until = box.x + box.w; }
    }
    found.textContent = word === "" ? "" : (share * 100 / WIDTH).toFixed(1) + " %";
  });
  document.getElementById("whole").addEventListener("click", () => zoom(null));
})();
