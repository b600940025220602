"use strict";
// Everything works without this script: it adds keys, closes menus, and sorts the tables of static pages.

const dialog = document.getElementById("keys");
const search = document.querySelector('.top input[type="search"]');
const rows = () => [...document.querySelectorAll("main tbody tr, main .row")].filter((row) => row.querySelector("a[href]") && row.offsetParent);

function follow(selector) {
  const link = document.querySelector(selector);
  link?.click();
  return link !== null;
}

function walk(step) {
  const all = rows();
  if (!all.length) return false;
  const before = all.findIndex((row) => row.classList.contains("here"));
  const at = before < 0 ? (step > 0 ? 0 : all.length - 1) : Math.min(all.length - 1, Math.max(0, before + step));
  all[before]?.classList.remove("here");
  all[at].classList.add("here");
  all[at].querySelector("a[href]").focus({ preventScroll: true });
  all[at].scrollIntoView({ block: "nearest" });
  return true;
}

// Each says whether it did something: a key that did not is left to the browser, as arrows where no page is next.
const KEYS = {
  "/": () => (search ? (search.focus(), search.select(), true) : follow(".to-search")),
  j: () => walk(1),
  k: () => walk(-1),
  ArrowLeft: () => follow('main a[rel="prev"]'),
  ArrowRight: () => follow('main a[rel="next"]'),
  u: () => follow('main a[rel="up"]'),
  "?": () => (dialog.open ? dialog.close() : dialog.showModal(), true),
};

addEventListener("keydown", (event) => {
  const box = event.target.closest("input, select, textarea");
  if (event.key === "Escape") {
    document.querySelectorAll("details.pop[open]").forEach((menu) => (menu.open = false));
    box?.blur();
    return;
  }
  if (box || event.ctrlKey || event.metaKey || event.altKey || !Object.hasOwn(KEYS, event.key)) return;
  if (KEYS[event.key]()) event.preventDefault();
});

addEventListener("click", (event) => {
  for (const menu of document.querySelectorAll("details.pop[open]")) {
    if (!menu.contains(event.target)) menu.open = false;
  }
  if (event.target === dialog) dialog.close();
});

for (const hint of document.querySelectorAll("[data-keys]")) {
  hint.hidden = false;
  hint.addEventListener("click", () => KEYS["?"]());
}

// Static pages: a server sorts the others. A cell's value is its data-value, else its text.
for (const head of document.querySelectorAll("table.sortable thead th[data-sort]")) {
  const button = document.createElement("button");
  button.append(...head.childNodes);
  head.append(button);
  button.addEventListener("click", () => {
    const table = head.closest("table"), body = table.tBodies[0], column = head.cellIndex;
    const falling = head.getAttribute("aria-sort") !== "descending";
    const value = (row) => {
      const text = row.cells[column].dataset.value ?? row.cells[column].textContent;
      return text.trim() === "" || Number.isNaN(Number(text)) ? null : Number(text);
    };
    const order = (a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === null || y === null) return (x === null) - (y === null);
      return falling ? y - x : x - y;
    };
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", falling ? "descending" : "ascending");
    body.append(...[...body.rows].sort(order));
  });
}
