"use strict";
document.documentElement.classList.add("script");

// Values of charts: at the pointer, and by the arrow keys.
const tip = document.getElementById("tip");
for (const chart of document.querySelectorAll("svg[tabindex]")) {
  const points = [...chart.querySelectorAll(".pt")].map((element) => {
    const title = element.querySelector("title");
    const says = title.textContent;
    title.remove();
    return { element, says, x: +element.dataset.x, y: +element.dataset.y };
  });
  if (!points.length) continue;
  let at = -1;
  const leave = () => {
    if (at >= 0) points[at].element.classList.remove("at");
    at = -1;
    tip.hidden = true;
  };
  const show = (index) => {
    if (index === at) return;
    leave();
    at = index;
    const { element, says } = points[at];
    element.classList.add("at");
    tip.textContent = says;
    tip.hidden = false;
    const box = element.getBoundingClientRect();
    const width = tip.offsetWidth;
    const left = Math.min(Math.max(8, box.x + box.width / 2 - width / 2), document.documentElement.clientWidth - width - 8);
    const above = box.y - tip.offsetHeight - 8;
    tip.style.left = `${left}px`;
    tip.style.top = `${above > 4 ? above : box.bottom + 8}px`;
  };
  chart.addEventListener("pointermove", (event) => {
    const matrix = chart.getScreenCTM();
    const near = points.reduce((best, { x, y }, index) => {
      const distance = Math.hypot(x * matrix.a + matrix.e - event.clientX, y * matrix.d + matrix.f - event.clientY);
      return distance < best.distance ? { distance, index } : best;
    }, { distance: 28, index: -1 });
    if (near.index < 0) leave();
    else show(near.index);
  });
  chart.addEventListener("pointerleave", leave);
  chart.addEventListener("blur", leave);
  chart.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") leave();
    if (!step) return;
    event.preventDefault();
    show((Math.max(at, step > 0 ? -1 : 0) + step + points.length) % points.length);
  });
}

// The images behind a cell of a matrix.
const dialog = document.getElementById("window");
document.addEventListener("click", (event) => {
  const cell = event.target.closest(".matrix a");
  const kind = cell && document.getElementById(cell.hash.slice(1));
  if (!kind) return;
  event.preventDefault();
  document.getElementById("window-title").textContent = kind.dataset.title;
  document.getElementById("window-body").replaceChildren(
    kind.querySelector("h4 span").cloneNode(true), kind.querySelector(".pictures").cloneNode(true));
  dialog.showModal();
});
dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
