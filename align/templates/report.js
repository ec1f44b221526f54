"use strict";
(() => {
  const root = document.documentElement;
  const find = (id) => document.getElementById(id);

  const remember = (language) => {
    try { localStorage.setItem("language", language); } catch { /* a file may have no storage */ }
  };
  const remembered = () => {
    try { return localStorage.getItem("language"); } catch { return null; }
  };
  const speak = (language) => {
    root.dataset.lang = language;
    root.lang = language;
  };
  speak(remembered() ?? (navigator.language.startsWith("zh") ? "zh" : "en"));
  find("language").addEventListener("click", () => {
    speak(root.dataset.lang === "en" ? "zh" : "en");
    remember(root.dataset.lang);
  });

  // A link to a rung that is folded unfolds it.
  const unfoldTarget = () => {
    const target = find(decodeURIComponent(location.hash.slice(1)));
    if (target instanceof HTMLDetailsElement) target.open = true;
  };
  addEventListener("hashchange", unfoldTarget);
  unfoldTarget();

  const tree = find("tree");
  if (!tree) return;
  const items = [...tree.querySelectorAll("li")];
  const folds = [...tree.querySelectorAll("details")];
  const search = find("search"), onlyBad = find("only-bad"), matches = find("matches");
  const differs = new Set(["own", "inherited"]);
  let before = null; // what was open before the search

  const show = () => {
    const wanted = search.value.trim().toLowerCase();
    const active = wanted !== "" || onlyBad.checked;
    if (active) before ??= folds.map((fold) => fold.open);
    let count = 0;
    for (const item of items.toReversed ? items.toReversed() : [...items].reverse()) {
      const hit = item.dataset.search.includes(wanted) && (!onlyBad.checked || differs.has(item.dataset.kind));
      const inside = [...item.querySelectorAll(":scope > details > ul > li")].some((child) => !child.hidden);
      item.hidden = active && !hit && !inside;
      item.classList.toggle("hit", hit && wanted !== "");
      if (active && inside) item.firstElementChild.open = true;
      count += hit;
    }
    if (!active && before) {
      folds.forEach((fold, i) => { fold.open = before[i]; });
      before = null;
    }
    matches.hidden = !active;
    find("count").textContent = count;
  };
  search.addEventListener("input", show);
  onlyBad.addEventListener("change", show);
  find("unfold").addEventListener("click", () => folds.forEach((fold) => { fold.open = true; }));
  find("fold").addEventListener("click", () => folds.forEach((fold) => { fold.open = false; }));

  addEventListener("keydown", (event) => {
    const typing = event.target instanceof HTMLInputElement && event.target.type === "search";
    if (event.key === "/" && !typing) {
      event.preventDefault();
      search.focus();
    } else if (event.key === "Escape" && typing) {
      search.value = "";
      show();
    }
  });
})();
