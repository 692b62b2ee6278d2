// Filter and order of the table of claims. Without this script the table is complete, in reading order.
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

  function choice(name, words, first) {
    const label = form.appendChild(document.createElement("label"));
    label.append(name + " ");
    const select = label.appendChild(document.createElement("select"));
    for (const word of [first, ...words]) select.add(new Option(word, word === first ? "" : word));
    select.addEventListener("change", update);
    return select;
  }

  const fields = ["chapter", "source", "kind", "status"];
  const filters = fields.map((name) => choice(name, new Set(rows.map((row) => row.dataset[name])), "all"));
  const order = choice("order", ["id", "source", "kind", "status"], "as read");
  const count = form.appendChild(document.createElement("output"));
  form.addEventListener("submit", (event) => event.preventDefault());

  function update() {
    const by = order.value;
    let shown = 0;
    for (const row of rows) {
      row.hidden = filters.some((select, k) => select.value && row.dataset[fields[k]] !== select.value);
      shown += !row.hidden;
    }
    const sorted = by ? [...rows].sort((a, b) => a.dataset[by].localeCompare(b.dataset[by])) : rows;
    for (const row of sorted) (by ? flat : home.get(row)).append(row);
    for (const group of groups) group.hidden = by || !group.querySelector("tr[data-id]:not([hidden])");
    count.textContent = `${shown} of ${rows.length} claims`;
  }

  table.before(form);
  update();
});
