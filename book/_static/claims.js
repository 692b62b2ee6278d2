// Filter and order of the table of claims, kept in the address. Without this script the table is complete, in reading order.
"use strict";
document.addEventListener("DOMContentLoaded", () => {
  const table = document.querySelector("table.claims-table");
  if (!table) return;
  const groups = [...table.tBodies];
  const rows = [...table.querySelectorAll("tr[data-id]")];
  const home = new Map(rows.map((row) => [row, row.parentNode]));
  const flat = table.createTBody();
  const form = document.createElement("form");
  form.className = "claims-filter";
  form.setAttribute("aria-label", "Filter and order of the claims");

  function field(name, input) {
    const label = form.appendChild(document.createElement("label"));
    label.append(name + " ", input);
    input.name = name;
    input.addEventListener("input", update);
    return input;
  }

  function choice(name, words, first) {
    const select = document.createElement("select");
    for (const word of [first, ...words]) select.add(new Option(word, word === first ? "" : word));
    return field(name, select);
  }

  const fields = ["chapter", "source", "kind", "status", "bound"];
  const filters = fields.map((name) => choice(name, new Set(rows.map((row) => row.dataset[name])), "all"));
  const search = field("words", Object.assign(document.createElement("input"), { type: "search", size: 12 }));
  const order = choice("order", ["tightest first", "loosest first", "id", "source", "kind", "status"], "as read");
  const count = form.appendChild(document.createElement("output"));
  form.addEventListener("submit", (event) => event.preventDefault());

  function compare(by) {
    if (by === "tightest first") return (a, b) => b.dataset.used - a.dataset.used;
    if (by === "loosest first") return (a, b) => a.dataset.used - b.dataset.used;
    return (a, b) => a.dataset[by].localeCompare(b.dataset[by]);
  }

  function update() {
    const by = order.value;
    const words = search.value.toLowerCase().trim();
    let shown = 0;
    for (const row of rows) {
      row.hidden = filters.some((select, k) => select.value && row.dataset[fields[k]] !== select.value) ||
        !row.textContent.toLowerCase().includes(words);
      shown += !row.hidden;
    }
    const sorted = by ? [...rows].sort(compare(by)) : rows;
    for (const row of sorted) (by ? flat : home.get(row)).append(row);
    for (const group of groups) group.hidden = by || !group.querySelector("tr[data-id]:not([hidden])");
    count.textContent = `${shown} of ${rows.length} claims`;
    const kept = new URLSearchParams([...new FormData(form)].filter(([, value]) => value));
    history.replaceState(null, "", (kept.size ? "?" + kept : location.pathname) + location.hash);
  }

  for (const [name, value] of new URLSearchParams(location.search)) {
    const input = form.elements.namedItem(name);
    if (input) input.value = value;
  }
  table.before(form);
  update();
  // Rows that moved have lost the place to which the address points.
  if (location.hash) document.getElementById(decodeURIComponent(location.hash.slice(1)))?.scrollIntoView();
});
