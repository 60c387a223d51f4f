"use strict";
// Draws the charts, and lets tables be filtered and sorted. The data is text in the page.
(() => {
  const charts = JSON.parse(document.getElementById("charts").textContent);
  // "ast" has expressions interpreted: the page forbids code that is made from text.
  const options = { mode: "vega-lite", renderer: "svg", actions: false, ast: true };
  const drawn = charts.map(({ id, spec }) => {
    const place = document.getElementById(id);
    return vegaEmbed(place, spec, options).catch((error) => {
      place.classList.add("failed");
      place.textContent = "This chart could not be drawn; its figures are in the table below.";
      console.error(error);
    });
  });
  Promise.all(drawn).then(() => { document.documentElement.dataset.charts = "drawn"; });

  for (const input of document.querySelectorAll("input[data-table]")) {
    const rows = [...document.getElementById(input.dataset.table).tBodies[0].rows];
    const shown = input.closest("p").querySelector("output");
    input.addEventListener("input", () => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      let n = 0;
      for (const row of rows) {
        const text = row.textContent.toLowerCase();
        row.hidden = !words.every((word) => text.includes(word));
        n += row.hidden ? 0 : 1;
      }
      shown.textContent = words.length ? `${n} of ${rows.length} rows` : `${rows.length} rows`;
    });
  }

  const compare = (a, b) => {
    const x = Number(a.replaceAll(",", "")), y = Number(b.replaceAll(",", ""));
    if (a && b && !Number.isNaN(x) && !Number.isNaN(y)) return x - y;
    return a.localeCompare(b, undefined, { numeric: true });
  };
  for (const table of document.querySelectorAll("figure.table table")) {
    [...table.tHead.rows[0].cells].forEach((heading, at) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = heading.textContent;
      heading.replaceChildren(button);
      button.addEventListener("click", () => {
        const down = heading.getAttribute("aria-sort") === "ascending";
        for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
        heading.setAttribute("aria-sort", down ? "descending" : "ascending");
        const rows = [...table.tBodies[0].rows].map((row) => [row.cells[at].textContent, row]);
        rows.sort(([a], [b]) => (down ? -1 : 1) * compare(a, b));
        table.tBodies[0].append(...rows.map(([, row]) => row));
      });
    });
  }
})();
