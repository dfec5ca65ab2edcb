// The matrix and the list of all cells. DataTables sorts, filters and groups; what stands in a cell is made here.
const DataTable = jQuery.fn.dataTable;
let grid = null;

// Missing numbers come last in both directions.
for (const [way, sign] of [["asc", 1], ["desc", -1]]) {
  DataTable.ext.type.order[`measured-${way}`] = (a, b) => (a === b ? 0 : a === "" ? 1 : b === "" ? -1 : sign * (a - b));
}
DataTable.ext.type.order["measured-pre"] = (text) => (text === "" ? "" : Number(text));

const MARKS = { maybe: "°", seen: "†", fewer: "‡", warned: "¶" };

function marksOf(found, value) {
  const marks = [];
  if (state.best && value?.mayBeBest && state.seed === "") marks.push(MARKS.maybe);
  if (found?.seen) marks.push(MARKS.seen);
  if (found?.status === "partial" && state.seed === "") marks.push(MARKS.fewer);
  if (found?.doubtful.includes(state.metric)) marks.push(MARKS.warned);
  return marks.join("");
}

function sideText(value) {
  const parts = [];
  if (state.spread && value.std !== null) parts.push(`± ${percent(value.std)}`);
  if (state.interval && value.low !== null) parts.push(`${percent(value.low, 1)}–${percent(value.high, 1)}`);
  return parts.length ? el("span", { class: "side" }, parts.join("  ")) : null;
}

function numberCell(row, column, best, scale) {
  const found = column.cell(row), value = column.read(row);
  const inside = value
    ? [el("span", { class: best.has(row.at) ? "best" : null }, percent(value.mean, state.view === "heat" ? 1 : 2)),
       el("span", { class: "mark" }, marksOf(found, value)), sideText(value)]
    : [el("span", { class: "none" }, found && found.status !== "ok" ? found.status : "–")];
  const share = value ? scale(value.mean) : 0;
  const attributes = { class: found ? "value" : value ? "value plain" : "plain", "data-order": value ? value.mean : "" };
  const td = el("td", attributes, found
    ? el("button", { type: "button", class: "open", tabindex: -1, "data-row": row.at, "data-set": column.set }, inside)
    : inside);
  if (column.first) td.classList.add("gap");
  if (value) td.style.setProperty("--share", share.toFixed(3));
  return td;
}

// Where a value is between the worst and the best that is shown; the worst tenth does not stretch the scale.
function heatScale(list, shown) {
  const values = shown.flatMap((column) => list.map((row) => column.read(row)?.mean)).filter(Number.isFinite);
  const ordered = values.sort((a, b) => a - b);
  if (!ordered.length) return Object.assign(() => 0, { ends: null });
  const edge = lower(state.metric) ? [0, 0.9] : [0.1, 1];
  const [low, high] = edge.map((share) => ordered[Math.round(share * (ordered.length - 1))]);
  const place = (value) => Math.min(1, Math.max(0, (value - low) / (high - low || 1)));
  return Object.assign((value) => (lower(state.metric) ? 1 - place(value) : place(value)), { ends: lower(state.metric) ? [high, low] : [low, high] });
}

// What a row had besides one network and one pass: `data` of data.py, where "ID" is what many detectors learn from.
const dataOf = (row) => row.data.split(", ").filter(Boolean).map((one) => (one === "ID" ? "ID data" : one));

function costOf(row) {
  const parts = dataOf(row);
  if (row.passes && row.passes !== "1") parts.push(`${row.passes} passes`);
  if (row.networks && row.networks !== "1") parts.push(`${row.networks} networks`);
  return parts.join(", ");
}

const isPlain = (row) => row.kind === "post-hoc" && ["", "ID data"].includes(costOf(row));

const hasCosts = () => state.costs && rows().some(costOf);

// The label where the name alone does not say which row it is: settings, recipes, and runs side by side.
const likeName = (row) => row.label.toLowerCase().replace(/[^a-z0-9]/g, "") === row.name.toLowerCase().replace(/[^a-z0-9]/g, "");

function subtitle(row) {
  const same = rowsOf[row.block].filter((one) => one.name === row.name).length > 1;
  const label = same || (/[[@]/.test(row.label) && !likeName(row)) ? row.label : "";
  return [label, manyRuns && !`${label} ${row.name}`.includes(row.run) ? row.run : ""].filter(Boolean).join(" · ");
}

// DataTables reads the text to search as HTML, and takes out what looks like an element.
const entities = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

// In the table, the name opens what is known of the detector; in the list of cells it is plain text.
const nameCell = (row, opens) => el("th", { scope: "row", class: "first", "data-order": row.name.toLowerCase(), "data-search": entities(`${row.name} ${row.label} ${row.run}`) },
  opens ? el("button", { type: "button", class: "open name", tabindex: -1, "data-row": row.at }, row.name) : row.name, subtitle(row) ? el("small", {}, subtitle(row)) : null);

const groupOf = (row) => (state.group === "kind" ? KINDS[row.kind] || row.kind : state.group === "data"
  ? dataOf(row).join(", ") || "Nothing" : row[state.group]) || "–";

function heading(shown) {
  const over = [];
  for (const column of shown) {
    const name = column.mean ? "Means" : column.group ? `${column.group[0].toUpperCase()}${column.group.slice(1)}-OOD sets` : "OOD sets";
    column.first = over.at(-1)?.name !== name;
    if (column.first) over.push({ name, span: 0 });
    over.at(-1).span += 1;
  }
  return el("thead", {},
    el("tr", { class: "over" }, el("th", { class: "first", "data-dt-order": "disable" }, metricTitle()),
      hasCosts() ? el("th", { "data-dt-order": "disable" }) : null,
      over.map(({ name, span }) => el("th", { class: "gap", colspan: span, scope: "colgroup", "data-dt-order": "disable" }, name)),
      el("th", { "data-dt-order": "disable" })),
    el("tr", { class: "names" }, el("th", { class: "first", scope: "col" }, "Detector"),
      hasCosts() ? el("th", { class: "left", scope: "col" }, "Also used") : null,
      shown.map((column) => el("th", { scope: "col", class: column.first ? "gap" : null, title: column.source ? "The outliers of training come from this set: left out of means." : null },
        column.source ? `${column.title} ‹source›` : column.title)),
      el("th", {}, "Group")));
}

const metricTitle = () => (metrics.has(state.metric) ? `${metrics.get(state.metric).title}, %` : "No numbers");

function matrixTable() {
  const shown = columns(), list = rows(), scale = heatScale(list, shown);
  const best = shown.map((column) => bestRows(column, list));
  const groups = [...new Set(list.map(groupOf))];
  const head = heading(shown);
  const body = el("tbody", {}, list.map((row) => el("tr", { "data-at": row.at },
    nameCell(row, true),
    hasCosts() ? el("td", { class: "text" }, costOf(row)) : null,
    shown.map((column, at) => numberCell(row, column, best[at], scale)),
    el("td", { "data-order": groups.indexOf(groupOf(row)) }, groupOf(row)))));
  const lead = 1 + Number(hasCosts()), last = lead + shown.length;
  const ids = ["name", ...(hasCosts() ? ["costs"] : []), ...shown.map((column) => column.id)];
  return {
    node: el("table", { class: state.view === "heat" ? "heat" : null }, el("caption", { class: "hidden" }, captionText()), head, body, baselines(shown)),
    ids, last, scale, numbers: shown.map((_, at) => lead + at),
  };
}

// What separates the sets without a network, below the rows: a set that brightness solves is known for what it is.
function baselines(shown) {
  const names = [...new Set(block().sets.flatMap((set) => set.baselines.map((one) => one.name)))];
  const lines = names.map((name) => shown.map((column) => (column.mean ? null : block().sets[column.set].baselines.find((one) => one.name === name))))
    .map((list, at) => [names[at], list]).filter(([, list]) => list.some((one) => one && state.metric in one.values));
  if (!lines.length || state.seed !== "") return null;
  return el("tfoot", {}, lines.map(([name, list]) => el("tr", {}, el("th", { scope: "row", class: "first" }, `Without a network: ${name}`), hasCosts() ? el("td", {}) : null,
    list.map((one, at) => el("td", { class: shown[at].first ? "gap" : null, title: one?.statistic }, one && state.metric in one.values ? percent(one.values[state.metric], state.view === "heat" ? 1 : 2) : "")), el("td", {}))));
}

const captionText = () => `${metricTitle()} on ${block().title}, ${lower(state.metric) ? "lower" : "higher"} is better`;

// The list shows the chosen metric and the field's usual ones; its copy as CSV has all.
const USUAL = ["auroc", "fpr_at_tpr95", "tnr_at_tpr95", "detection_accuracy", "aupr_in", "aupr_out"];
const listed = () => data.metrics.filter(({ id }) => id === state.metric || USUAL.includes(id));

function cellsTable() {
  const ids = ["id_set", "name", "set", "group", ...listed().map((metric) => metric.id)];
  const body = data.cells.map((found) => {
    const row = data.rows[found.row], home = data.id_sets[row.block], set = home.sets[found.set];
    return el("tr", { "data-at": found.row },
      nameCell(row),
      el("td", { class: "text" }, home.title + (home.run && manyRuns ? ` (${home.run})` : "")),
      el("td", { class: "text" }, set.title), el("td", { class: "text" }, set.group),
      listed().map(({ id }, at) => {
        const value = cellStat(found, id);
        const text = value ? percent(value.mean) : found.status === "ok" ? "–" : found.status;
        return el("td", { class: at ? "plain" : "value", "data-order": value ? value.mean : "" }, at ? text
          : el("button", { type: "button", class: "open", tabindex: -1, "data-row": found.row, "data-set": found.set }, text));
      }), el("td", {}, ""));
  });
  const head = el("thead", {}, el("tr", { class: "names" }, ["Detector", "ID set", "OOD set", "Group"].map((text, at) =>
    el("th", { scope: "col", class: at ? "left" : "first" }, text)), listed().map((metric) => el("th", { scope: "col" }, metric.title)), el("th", {}, "Group")));
  return {
    node: el("table", {}, el("caption", { class: "hidden" }, "All cells, in percent"), head, el("tbody", {}, body)),
    ids: ["name", "id_set", "set", "group", ...ids.slice(4)], last: ids.length, scale: null, numbers: listed().map((_, at) => 4 + at),
  };
}

function firstOrder(made) {
  const saved = state.order && made.ids.indexOf(state.order[0]);
  if (saved !== null && saved >= 0) return [[saved, state.order[1]]];
  const name = state.view === "cells" ? state.metric : made.ids.find((id) => id.includes(":"));
  return made.ids.includes(name) ? [[made.ids.indexOf(name), lower(state.metric) ? "asc" : "desc"]] : [[0, "asc"]];
}

function drawTable() {
  if (grid) grid.destroy(true);
  const made = state.view === "cells" ? cellsTable() : matrixTable();
  const grouped = Boolean(state.group) && state.view !== "cells";
  show("matrix", made.node);
  grid = new DataTable(made.node, {
    paging: false, info: false, autoWidth: false, layout: { topStart: null, topEnd: null, bottomStart: null, bottomEnd: null },
    order: firstOrder(made), orderFixed: grouped ? { pre: [[made.last, "asc"]] } : undefined, search: { search: state.filter },
    rowGroup: grouped ? { dataSrc: (line) => line[made.last].display, startRender: groupRow } : undefined, orderMulti: false,
    language: { zeroRecords: "No detector matches the filter.", emptyTable: "There are no results." },
    columnDefs: [
      { targets: made.numbers, type: "measured", orderSequence: lower(state.metric) ? ["asc", "desc"] : ["desc", "asc"] },
      { targets: made.last, visible: false, searchable: false }, { targets: "_all", orderSequence: ["asc", "desc"] },
    ],
  });
  grid.ids = made.ids;
  grid.on("order.dt", () => {
    const [place, way] = grid.order()[0] || [];
    const [at, direction] = Array.isArray(place) ? place : [place, way];
    if (made.ids[at]) state.order = [made.ids[at], direction];
  });
  grid.on("draw.dt", firstStop);
  firstStop();
  drawLegend(made);
}

function groupRow(found) {
  const text = groupOf(data.rows[found.nodes()[0].dataset.at]);
  return el("tr", {}, el("th", { colspan: grid ? grid.columns(":visible").count() : 99, scope: "rowgroup" }, el("span", {}, `${text} (${found.count()})`)));
}

// One stop of the Tab key for the whole table; arrows move in it.
function firstStop() {
  const buttons = [...document.querySelectorAll("#matrix .open")].sort((a, b) => Number(b.matches("[data-set]")) - Number(a.matches("[data-set]")));
  if (buttons.length && !buttons.some((button) => button.tabIndex === 0)) buttons[0].tabIndex = 0;
}

function moveInTable(event) {
  const button = event.target.closest(".open");
  const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0], Home: [0, -999], End: [0, 999] };
  if (!button || !steps[event.key]) return;
  const lines = [...document.querySelectorAll("#matrix tbody tr[data-at]")];
  const inLine = (line) => [...line.querySelectorAll(".open")];
  const line = button.closest("tr"), place = inLine(line).indexOf(button), [down, across] = steps[event.key];
  const target = lines[Math.min(lines.length - 1, Math.max(0, lines.indexOf(line) + down))];
  const found = inLine(target)[Math.min(inLine(target).length - 1, Math.max(0, place + across))];
  if (!found) return;
  event.preventDefault();
  button.tabIndex = -1;
  found.tabIndex = 0;
  found.focus();
}

function tipFor(button) {
  const row = data.rows[button.dataset.row], found = cellAt.get(`${button.dataset.row}|${button.dataset.set}`);
  const set = data.id_sets[row.block].sets[found.set], value = cellStat(found);
  const lines = [];
  if (value?.low !== null && value) lines.push(["95% over images", `${percent(value.low)} to ${percent(value.high)}`]);
  if (value?.std !== null && value) lines.push([`std over ${value.n} seeds`, percent(value.std)]);
  const notes = [];
  if (value?.mayBeBest) notes.push("° May be the best of this column (95% confidence).");
  if (value?.mayBeBest === false) notes.push("Not among those that may be the best of this column.");
  if (found.seen) notes.push("† Trained on outliers like this OOD set.");
  if (found.status === "partial") notes.push("‡ Over fewer seeds.");
  if (found.reason) notes.push(found.reason);
  notes.push(...found.warnings.slice(0, 2).map((at) => `¶ ${data.texts[at]}`));
  return [el("strong", {}, `${row.name}, ${set.title}`), `${metricTitle().replace(", %", "")} ${value ? percent(value.mean) : found.status}`,
    lines.length ? el("dl", {}, lines.map(([name, text]) => [el("dt", {}, name), el("dd", {}, text)])) : null, notes.map((text) => el("p", {}, text))];
}

function showTip(event) {
  const button = event.target.closest?.(".open");
  if (!button?.dataset.set || byId("cell").open) return hideTip();
  const tip = show("tip", tipFor(button));
  tip.hidden = false;
  const place = button.getBoundingClientRect(), size = tip.getBoundingClientRect();
  const below = place.bottom + 6 + size.height < window.innerHeight;
  tip.style.left = `${Math.max(8, Math.min(window.innerWidth - size.width - 8, place.left + place.width / 2 - size.width / 2))}px`;
  tip.style.top = `${below ? place.bottom + 6 : Math.max(8, place.top - size.height - 6)}px`;
  button.setAttribute("aria-describedby", "tip");
}

function hideTip() {
  byId("tip").hidden = true;
}

function drawLegend(made) {
  const found = metrics.get(state.metric), shown = byId("matrix").textContent;
  const lines = [];
  if (made.scale?.ends && state.view === "heat") {
    lines.push(el("p", { class: "scale" }, percent(made.scale.ends[0], 1), el("i", { "aria-hidden": "true" }), percent(made.scale.ends[1], 1),
      " A stronger colour is better; the worst tenth shares one."));
  }
  lines.push(!found ? null : el("p", {}, el("b", {}, `${found.title}. `), found.help, ` ${lower(state.metric) ? "Lower" : "Higher"} is better. Bold: the best of a column.`));
  const meanings = [["°", "may be the best of its column, with 95% confidence"], ["†", "trained on outliers like this OOD set"],
    ["‡", "over fewer seeds"], ["¶", "with a warning: open the cell"], ["‹source›", "the outliers of training come from this set: left out of means"]];
  const used = meanings.filter(([mark]) => shown.includes(mark)).map(([mark, text]) => `${mark} ${text}`);
  if (used.length && state.view !== "cells") lines.push(el("p", {}, `${used.join("; ")}.`));
  show("legend", lines);
}
