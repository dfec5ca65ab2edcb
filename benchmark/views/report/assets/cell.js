// One cell: its numbers, its curves with a threshold to move, and how it was made.
let openedFrom = null;

function openCell(rowAt, setAt) {
  const row = { ...data.rows[rowAt], at: Number(rowAt) }, home = data.id_sets[row.block], set = home.sets[setAt];
  const found = cellAt.get(`${rowAt}|${setAt}`);
  const head = el("div", { class: "sheet-head" },
    el("div", {}, el("h2", { id: "cell-title" }, row.name), el("p", {}, `${home.title} against ${set.title}${set.group ? ` (${set.group})` : ""}`), subtitle(row) ? el("p", {}, subtitle(row)) : null),
    el("div", { class: "steps" }, stepButton("↑", "Previous detector", row, setAt, -1), stepButton("↓", "Next detector", row, setAt, 1),
      closeButton()));
  const body = el("div", { class: "sheet" },
    found.reason ? el("p", { class: "warning" }, found.reason) : null,
    found.warnings.map((at) => el("p", { class: "warning" }, data.texts[at])),
    found.notes.map((at) => el("p", { class: "note" }, data.texts[at])),
    found.seen ? el("p", { class: "warning" }, "† Its recipe trained on outliers like this OOD set.") : null,
    curvesOf(found), numbersOf(found), classesOf(found), aboutRow(row, found), el("p", { class: "after" }, compareButton(row)));
  openSheet(head, body);
}

// A detector: what it is, what it was given, and the chosen metric on every OOD set.
function openRow(rowAt) {
  const row = { ...data.rows[rowAt], at: Number(rowAt) }, home = data.id_sets[row.block];
  const means = home.groups.map((group) => [MEANS[group] || `${group} mean`, meanStat(row, group)]);
  const sets = home.sets.map((set, at) => [set.title, cellStat(cell(row, at)), at]);
  const line = ([title, value, at]) => el("tr", {}, el("th", { scope: "row" }, at === undefined ? el("b", {}, title) : title), el("td", {}, value ? percent(value.mean) : "–"),
    el("td", {}, value?.low != null ? `${percent(value.low)} – ${percent(value.high)}` : "–"), el("td", {}, at === undefined ? "" : rankText(row, at)));
  openSheet(el("div", { class: "sheet-head" }, el("div", {}, el("h2", { id: "cell-title" }, row.name), el("p", {}, `${KINDS[row.kind] || row.kind}, on ${home.title}`)),
    el("div", { class: "steps" }, closeButton())),
  el("div", { class: "sheet" }, factsOf(row), el("h3", {}, metricTitle()), el("table", { class: "numbers" },
    el("thead", {}, el("tr", {}, ["OOD set", "Value", "95% interval", "Rank"].map((text) => el("th", { scope: "col" }, text)))), el("tbody", {}, [...means, ...sets].map(line))),
  el("p", { class: "after" }, compareButton(row))));
}

function rankText(row, set) {
  const read = (one) => cellStat(cell(one, set))?.mean, list = rowsOf[row.block];
  const rank = rankIn(list, read, row.at);
  return rank === null ? "–" : `${rank} of ${list.filter((one) => one.kind !== "sanity" && read(one) !== undefined).length}`;
}

const closeButton = () => el("button", { type: "button", "aria-label": "Close", onclick: () => byId("cell").close() }, "✕");
const compareButton = (row) => el("button", { type: "button", onclick: () => {
  openedFrom = null;
  byId("cell").close();
  compareWith(row.at);
} }, "Compare with another detector");

function openSheet(head, body) {
  const dialog = byId("cell");
  hideTip();
  show(dialog, head, body);
  if (!dialog.open) {
    openedFrom = document.activeElement;
    dialog.showModal();
  }
  dialog.scrollTop = 0;
}

function stepButton(sign, text, row, setAt, by) {
  const order = grid ? grid.rows({ order: "applied", search: "applied" }).nodes().toArray().map((line) => Number(line.dataset.at)) : [];
  const list = state.view === "cells" ? rowsOf[row.block].map(({ at }) => at) : order;
  const next = list[list.indexOf(row.at) + by];
  return el("button", { type: "button", "aria-label": text, title: text, disabled: next === undefined || !list.includes(row.at), onclick: () => {
    openCell(next, setAt);
    byId("cell").querySelector(`[aria-label="${text}"]`).focus();
  } }, sign);
}

function closedCell() {
  const button = openedFrom;
  openedFrom = null;
  if (button?.isConnected) button.focus();
}

function curvesOf(found) {
  if (!found.curve) return found.no_curve ? el("p", { class: "note" }, found.no_curve) : null;
  const id = quantiles(found.curve.id), ood = quantiles(found.curve.ood);
  const roc = rocChart(id, ood), histogram = histogramChart(id, ood);
  const readouts = el("dl", { class: "readouts" }), cutText = el("output", {}), shareText = el("output", {});
  const cut = el("input", { type: "range", min: 0, max: 1000, value: 950, step: 1, "aria-label": "Threshold, as the share of ID images that are accepted" });
  const share = el("input", { type: "range", min: 1, max: 99, value: 50, step: 1, "aria-label": "Share of OOD images among all images" });
  const update = () => {
    const at = quantileBetween(id, cut.value / 1000), odds = share.value / 100;
    const tpr = shareUpTo(id, at), fpr = shareUpTo(ood, at);
    const accepted = (1 - odds) * tpr + odds * fpr, rejected = 1 - accepted;
    cutText.textContent = short(at);
    shareText.textContent = `${share.value}%`;
    cut.setAttribute("aria-valuetext", `score ${short(at)}: ${percent(tpr, 1)}% of ID and ${percent(fpr, 1)}% of OOD images accepted`);
    roc.move(at);
    histogram.move(at);
    show(readouts, [["TPR: ID accepted", tpr], ["FPR: OOD accepted", fpr], ["Precision: ID among accepted", accepted > 0 ? ((1 - odds) * tpr) / accepted : NaN],
      ["OOD among rejected", rejected > 1e-9 ? (odds * (1 - fpr)) / rejected : NaN]]
      .map(([text, value]) => el("div", {}, el("dt", {}, text), el("dd", {}, `${percent(value, 1)}${Number.isFinite(value) ? "%" : ""}`))));
  };
  cut.addEventListener("input", update);
  share.addEventListener("input", update);
  update();
  const several = data.seeds.length > 1 ? ` Seed ${found.curve.seed}.` : "";
  return el("div", { class: "explore" }, el("div", { class: "key" }, el("span", {}, el("i", { class: "id" }), `ID, ${data.distributions[found.curve.id].images} images`),
    el("span", {}, el("i", { class: "ood" }), `OOD, ${data.distributions[found.curve.ood].images} images.${several}`)),
    el("div", { class: "charts" }, roc.node, histogram.node),
    el("div", { class: "sliders" }, el("label", {}, el("span", {}, "Threshold on the score: ", cutText), cut), el("label", {}, el("span", {}, "OOD among all images: ", shareText), share)), readouts);
}

function quantileBetween(values, share) {
  const levels = data.levels;
  const above = levels.findIndex((level) => level >= share);
  if (above <= 0) return above ? values[values.length - 1] : values[0];
  const part = (share - levels[above - 1]) / (levels[above] - levels[above - 1]);
  const [low, high] = [values[above - 1], values[above]];
  return part >= 1 || !Number.isFinite(high - low) ? high : low + part * (high - low);
}

function numbersOf(found) {
  const seeds = found.by_seed.filter(([, , values]) => Object.keys(values).length);
  const shown = data.metrics.filter(({ id }) => id in found.stats);
  if (!shown.length) return null;
  const many = seeds.length > 1;
  return [el("h3", {}, "Metrics, %"), el("div", { class: "wide", tabindex: many ? 0 : null, role: many ? "region" : null, "aria-label": many ? "Metrics by seed" : null }, el("table", { class: "numbers" },
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Metric"), el("th", { scope: "col" }, many ? "Mean" : "Value"), el("th", { scope: "col" }, "95% interval"),
      many ? [el("th", { scope: "col" }, "Std"), seeds.map(([seed]) => el("th", { scope: "col" }, `Seed ${seed}`))] : null)),
    el("tbody", {}, shown.map((metric) => {
      const value = stat(found.stats[metric.id]);
      return el("tr", {}, el("th", { scope: "row", title: metric.help }, metric.title), el("td", {}, el("b", {}, percent(value.mean))),
        el("td", {}, value.low === null ? "–" : `${percent(value.low)} – ${percent(value.high)}`),
        many ? [el("td", {}, percent(value.std ?? NaN)), seeds.map(([, , values]) => el("td", {}, percent(values[metric.id])))] : null);
    }))))];
}

function factsOf(row) {
  const known = [["Label", row.label], ["Paper", row.paper], ["Citation key", row.cite], ["Recipe", row.recipe], ["Backbone", row.backbone], ["Settings", row.settings || "defaults"],
    ["Also used", dataOf(row).join(", ")], ["Passes per image", row.passes], ["Networks", row.networks], ["ID accuracy", row.accuracy ? `${percent(row.accuracy[0])}%` : ""], ["Run", row.run]];
  return facts(known);
}

function aboutRow(row, found) {
  const lines = (list) => list.map((at) => data.texts[at]).join("\n");
  return [el("h3", {}, "Detector"), factsOf(row),
    found.settings.length ? el("details", { class: "more" }, el("summary", {}, "All settings"), el("div", {}, el("pre", {}, lines(found.settings)))) : null,
    found.provenance.length ? el("details", { class: "more" }, el("summary", {}, "Provenance"), el("div", {}, el("pre", {}, lines(found.provenance)))) : null];
}
