"use strict";
// Sorts and filters the boards, and shows another metric. Without it, the page shows AUROC in the order of the near mean.
for (const board of document.querySelectorAll(".board")) {
  const table = board.querySelector("table[data-board]");
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const metric = board.querySelector("[data-metric]");
  const filter = board.querySelector("[data-filter]");
  const count = board.querySelector("[data-count]");
  const ends = board.querySelector("[data-ends]");

  const shown = (cell) => (cell.querySelector("span") || cell).textContent.trim();
  const lower = () => metric.selectedOptions[0].hasAttribute("data-lower");

  function showMetric() {
    for (const cell of body.querySelectorAll("[data-values]")) {
      const [value, interval] = JSON.parse(cell.dataset.values)[metric.value] ?? ["–", ""];
      cell.querySelector("span").textContent = value;
      const small = cell.querySelector("small");
      if (small) small.textContent = ends.checked ? ` ${interval}` : "";
      cell.classList.toggle("unjudged", metric.value !== "auroc"); // which row may be best is judged by AUROC
    }
  }

  function showRows() {
    const wanted = filter.value.trim().toLowerCase().split(/\s+/).filter(Boolean);
    let left = 0;
    for (const row of body.rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !wanted.every((word) => text.includes(word));
      left += row.hidden ? 0 : 1;
    }
    count.textContent = wanted.length ? `${left} of ${body.rows.length} rows` : `${body.rows.length} rows`;
  }

  function sortBy(place, direction) {
    const number = heads[place].hasAttribute("data-number");
    const key = (row) => {
      const text = shown(row.cells[place]);
      return number ? Number.parseFloat(text) : text.toLowerCase();
    };
    const sign = direction === "ascending" ? 1 : -1;
    const rows = [...body.rows].map((row) => [key(row), row]);
    rows.sort(([a], [b]) => {
      if (number) { // rows without a number come last, whatever the direction
        if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
        return sign * (a - b);
      }
      return sign * a.localeCompare(b);
    });
    body.append(...rows.map(([, row]) => row));
    heads.forEach((head, other) => (other === place ? head.setAttribute("aria-sort", direction) : head.removeAttribute("aria-sort")));
  }

  heads.forEach((head, place) => {
    head.querySelector("button").addEventListener("click", () => {
      const best = head.hasAttribute("data-number") && (head.hasAttribute("data-fixed") || !lower()) ? "descending" : "ascending";
      const other = best === "ascending" ? "descending" : "ascending";
      sortBy(place, head.getAttribute("aria-sort") === best ? other : best);
    });
  });
  metric.addEventListener("change", showMetric);
  ends.addEventListener("change", showMetric);
  filter.addEventListener("input", showRows);
  showRows();
}
