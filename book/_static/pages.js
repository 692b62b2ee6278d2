// What every page does for its reader. Without this script all is there, but for the keyboard in what scrolls.
"use strict";

// What scrolls sideways can be reached by keyboard; the theme sees to code and outputs.
function reach() {
  for (const part of document.querySelectorAll(".bd-article :is(table, mjx-container, p, li, dd, .wide, figure)")) {
    const scrolls = part.scrollWidth > part.clientWidth + 1 && /auto|scroll/.test(getComputedStyle(part).overflowX);
    if (scrolls) part.tabIndex = 0;
    else if (part.tabIndex === 0) part.removeAttribute("tabindex");
  }
}
window.addEventListener("load", () => (window.MathJax?.startup?.promise ?? Promise.resolve()).then(reach));
window.addEventListener("resize", reach);

// The picture of a figure opens in its page, large; its link leads to the picture's file.
document.addEventListener("DOMContentLoaded", () => {
  const dialog = document.createElement("dialog");
  dialog.className = "picture";
  const frame = dialog.appendChild(document.createElement("div"));
  frame.tabIndex = 0; // so that the arrow keys move a picture that is larger than the screen
  const close = dialog.appendChild(document.createElement("button"));
  close.textContent = "Close";
  close.addEventListener("click", () => dialog.close());
  dialog.addEventListener("keydown", (event) => event.key === "Escape" && dialog.close());
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  document.body.append(dialog);

  document.addEventListener("click", (event) => {
    const link = event.target.closest("figure > a");
    if (link?.closest(".gallery")) return;
    const picture = link?.querySelector("img");
    if (!picture || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    const copy = picture.cloneNode();
    const { filter, backgroundColor } = getComputedStyle(picture); // the theme's, which may depend on the figure
    Object.assign(copy.style, { filter, backgroundColor });
    copy.removeAttribute("width");
    frame.replaceChildren(copy);
    dialog.setAttribute("aria-label", link.closest("figure").querySelector(".caption-number")?.textContent.trim() || "Picture");
    dialog.showModal();
  });
});
