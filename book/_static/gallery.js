// Filter of the gallery by chapter. Without this script all figures are shown.
"use strict";
document.addEventListener("DOMContentLoaded", () => {
  const gallery = document.querySelector(".gallery");
  if (!gallery) return;
  const chapters = [...gallery.querySelectorAll("[data-chapter]")];
  const label = document.createElement("label");
  const select = document.createElement("select");
  const count = document.createElement("output");
  for (const word of ["all", ...chapters.map((chapter) => chapter.dataset.chapter)])
    select.add(new Option(word, word === "all" ? "" : word));
  function update() {
    for (const chapter of chapters) chapter.hidden = Boolean(select.value) && chapter.dataset.chapter !== select.value;
    count.textContent = `${gallery.querySelectorAll("[data-chapter]:not([hidden]) figure").length} figures`;
  }
  select.addEventListener("input", update);
  label.append("chapter ", select);
  const form = document.createElement("form");
  form.className = "claims-filter";
  form.append(label, count);
  gallery.before(form);
  update();
});
