// The article is shown when its mathematics is typeset, so that no line moves while it is read; after PATIENCE in any case.
(() => {
  const PATIENCE = 4000;
  const root = document.documentElement;
  const show = () => {
    if (!root.classList.replace("typesetting", "typeset")) return;
    document.getElementById(decodeURIComponent(location.hash.slice(1)))?.scrollIntoView();
  };
  root.classList.add("typesetting");
  setTimeout(show, PATIENCE);
  document.addEventListener("DOMContentLoaded", () => {
    Promise.resolve(window.MathJax?.startup?.promise).then(show, show);
  });
})();
