"use strict";
// Filters and search. Without this script every entry is visible and the controls are hidden.
(() => {
  const bar = document.querySelector(".filters");
  if (!bar) return;
  const rows = [...document.querySelectorAll("[data-row]")];
  const text = new Map(rows.map((row) => [row, row.textContent.toLowerCase().replace(/\s+/g, " ")]));
  const entries = rows.filter((row) => row.dataset.row === "entry");
  const groups = [...document.querySelectorAll("[data-group]")];
  const selects = [...bar.querySelectorAll("select")];
  const search = document.getElementById("_search");
  const found = document.getElementById("_found");

  const chosen = (row, select) => {
    if (!select.value) return true;
    const has = row.dataset[select.dataset.filter];
    return has === undefined || has.split(" ").includes(select.value);
  };
  const apply = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of rows) {
      const named = row.dataset.row === "board" || words.every((word) => text.get(row).includes(word));
      row.hidden = !(named && selects.every((select) => chosen(row, select)));
    }
    for (const group of groups) group.hidden = !group.querySelector("[data-row]:not([hidden])");
    const shown = entries.filter((row) => !row.hidden).length;
    found.textContent = shown === entries.length ? `${shown} entries` : `${shown} of ${entries.length} entries`;
  };
  // A link to an entry that a filter hides clears the filter, so that the link still leads somewhere.
  const clear = () => {
    search.value = "";
    for (const select of selects) select.value = "";
    apply();
  };
  addEventListener("hashchange", () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target && target.closest("[hidden]")) {
      clear();
      target.scrollIntoView();
    }
  });
  bar.hidden = false;
  bar.addEventListener("input", apply);
  document.getElementById("_reset").addEventListener("click", clear);
  apply();
})();
