// The table as it is shown, for a paper or a spreadsheet.
function shownRows() {
  const lines = grid ? grid.rows({ order: "applied", search: "applied" }).nodes().toArray() : [];
  return lines.map((line) => ({ ...data.rows[line.dataset.at], at: Number(line.dataset.at) }));
}

// Spreadsheets take a cell that begins with one of these for a formula.
const plainCell = (text) => (/^[=+\-@\t\r]/.test(text) ? `'${text}` : text);
const csvCell = (text) => (/[",\n\r]/.test(plainCell(text)) ? `"${plainCell(text).replaceAll('"', '""')}"` : plainCell(text));

const TEX = { "\\": "\\textbackslash{}", "{": "\\{", "}": "\\}", "$": "\\$", "&": "\\&", "#": "\\#", "_": "\\_", "%": "\\%", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}" };
const tex = (text) => text.replace(/[\\{}$&#_%~^]/g, (letter) => TEX[letter]);

function tableCsv() {
  if (state.view === "cells") return cellsCsv();
  const shown = columns();
  const lines = [["detector", "label", "also_used", ...shown.map((column) => `${column.title} ${state.metric}`)]];
  for (const row of shownRows()) lines.push([row.name, row.label, costOf(row), ...shown.map((column) => percent(column.read(row)?.mean, 4).replace("–", ""))]);
  return `${lines.map((line) => line.map(csvCell).join(",")).join("\r\n")}\r\n`;
}

function cellsCsv() {
  const lines = [["id_set", "detector", "label", "ood_set", "group", "status", ...data.metrics.map((metric) => metric.id)]];
  for (const line of grid.rows({ order: "applied", search: "applied" }).nodes().toArray()) {
    const button = line.querySelector(".open[data-set]"), found = cellAt.get(`${button.dataset.row}|${button.dataset.set}`);
    const row = data.rows[found.row], home = data.id_sets[row.block], set = home.sets[found.set];
    lines.push([home.name, row.name, row.label, set.name, set.group, found.status, ...data.metrics.map(({ id }) => percent(cellStat(found, id)?.mean, 4).replace("–", ""))]);
  }
  return `${lines.map((line) => line.map(csvCell).join(",")).join("\r\n")}\r\n`;
}

function tableLatex() {
  const shown = columns(), list = shownRows(), best = shown.map((column) => bestRows(column, rows()));
  const cells = (row) => shown.map((column, at) => {
    const value = column.read(row);
    if (!value) return "--";
    const text = percent(value.mean) + (state.spread && value.std !== null ? `\\,$\\pm$\\,${percent(value.std)}` : "");
    return best[at].has(row.at) ? `\\textbf{${text}}` : text;
  });
  return [`% ${captionText().replaceAll("%", "percent")}; needs \\usepackage{booktabs}`, `\\begin{tabular}{l${"r".repeat(shown.length)}}`, "\\toprule",
    `Detector & ${shown.map((column) => tex(column.title)).join(" & ")} \\\\`, "\\midrule",
    ...list.map((row) => `${row.latex || tex(row.name)} & ${cells(row).join(" & ")} \\\\`), "\\bottomrule", "\\end{tabular}", ""].join("\n");
}
