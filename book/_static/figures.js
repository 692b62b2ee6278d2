// Opens the picture of a figure in its page, large. Without this script its link leads to the picture's file.
"use strict";
document.addEventListener("DOMContentLoaded", () => {
  const dialog = document.createElement("dialog");
  dialog.className = "picture";
  const frame = dialog.appendChild(document.createElement("div"));
  frame.tabIndex = 0; // so that the arrow keys move a picture that is larger than the screen
  const close = dialog.appendChild(document.createElement("button"));
  close.textContent = "Close";
  close.addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  document.body.append(dialog);

  document.addEventListener("click", (event) => {
    const link = event.target.closest("figure > a");
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
