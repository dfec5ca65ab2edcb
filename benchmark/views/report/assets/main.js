// Controls, sections and the start.
function drawIdSets() {
  const change = (value) => {
    state.block = Number(value);
    state.order = null;
    state.hidden.clear();
    drawAll();
    document.querySelector("#id-sets input:checked, #id-sets select")?.focus();
  };
  const names = data.id_sets.map((one, at) => [String(at), one.title + (one.run && manyRuns ? ` (${one.run})` : !one.run && manyRuns ? " (all runs)" : "")]);
  byId("id-sets").dataset.print = names[state.block]?.[1] ?? "";
  if (names.length < 2) return show("id-sets", el("p", { class: "note" }, `ID set: ${names[0]?.[1] ?? "none"}`));
  show("id-sets", names.length <= 6 ? choice("id-set", "ID set", names, String(state.block), change)
    : labelled("ID set", el("select", { onchange: (event) => change(event.target.value) }, names.map(([at, text]) => option(at, text, state.block)))));
}

function select(text, id, list, key, after = () => {}) {
  return labelled(text, el("select", { id, onchange: (event) => {
    state[key] = event.target.value;
    after();
    drawResults();
    byId(id)?.focus();
  } }, list.map(([value, name]) => option(value, name, state[key]))));
}

function check(text, checked, change) {
  return el("label", {}, el("input", { type: "checkbox", checked, onchange: (event) => {
    change(event.target.checked);
    remember();
    drawTable();
  } }), el("span", {}, text));
}

function drawControls() {
  const groups = GROUPS.filter(([key]) => !key || new Set(rows().map((row) => row[key])).size > 1);
  const hasSpread = data.seeds.length > 1;
  const search = el("input", { type: "search", placeholder: "Filter", "aria-label": "Filter the rows", value: state.filter });
  search.addEventListener("input", () => {
    state.filter = search.value;
    grid.search(state.filter).draw();
  });
  const matrix = state.view !== "cells";
  show("controls",
    choice("view", "View", VIEWS, state.view, (value) => {
      state.view = value;
      state.order = null;
      drawResults();
      document.querySelector('#controls input[name="view"]:checked').focus();
    }),
    matrix ? select("Metric", "metric", data.metrics.map((metric) => [metric.id, metric.title]), "metric", () => { state.order = null; drawCompare(); }) : null,
    data.seeds.length > 1 ? select("Seeds", "seed", [["", "Mean of all"], ...data.seeds.map((seed) => [String(seed), `Seed ${seed}`])], "seed", drawCompare) : null,
    matrix && groups.length > 1 ? select("Group by", "group", groups, "group") : null,
    Object.assign(labelled("Rows", search), { className: "field search" }),
    matrix ? menu("Columns",
      el("p", {}, "OOD sets"), block().sets.map((set) => check(set.title, !state.hidden.has(set.name), (on) => (on ? state.hidden.delete(set.name) : state.hidden.add(set.name)))),
      el("p", {}, "Also show"), meanGroups().length ? check("Means", state.means, (on) => { state.means = on; }) : null,
      rows().some(costOf) ? check("What else was used", state.costs, (on) => { state.costs = on; }) : null,
      data.pairs.length ? check("° may be the best", state.best, (on) => { state.best = on; }) : null, check("95% intervals", state.interval, (on) => { state.interval = on; }),
      hasSpread ? check("Std over seeds", state.spread, (on) => { state.spread = on; }) : null) : null,
    menu("Copy", el("button", { type: "button", onclick: () => copyText(tableCsv(), "CSV") }, "As CSV"),
      matrix ? el("button", { type: "button", onclick: () => copyText(tableLatex(), "LaTeX") }, "As LaTeX") : null));
}

// The first things a reader asks: which is best, and which is best without extras?
function drawHighlights() {
  const list = rows().filter((row) => row.kind !== "sanity");
  const bestOf = (group, some) => some.map((row) => ({ row, value: meanStat(row, group) })).filter(({ value }) => value)
    .reduce((best, one) => (!best || better(one.value.mean, best.value.mean, state.metric) ? one : best), null);
  const plain = list.filter((row) => isPlain(row));
  const found = meanGroups().map((group) => [`Best ${MEANS[group]?.toLowerCase() ?? group}`, bestOf(group, list)]);
  if (meanGroups().length && plain.length && plain.length < list.length) {
    const best = new Map(meanGroups().map((group, at) => [group, found[at][1]?.row.at]));
    found.push(...meanGroups().slice(0, 2).map((group) => [`Best ${MEANS[group]?.toLowerCase() ?? group}, post-hoc without extras`, bestOf(group, plain), group])
      .filter(([, one, group]) => one && one.row.at !== best.get(group)));
  }
  show("highlights", found.filter(([, one]) => one).map(([what, { row, value }]) => el("div", {}, el("div", { class: "what" }, what),
    el("div", { class: "number" }, percent(value.mean, 1), el("small", {}, ` % ${metrics.get(state.metric).title}`)), el("div", { class: "who" }, row.name))));
}

function drawResults() {
  remember();
  drawControls();
  drawHighlights();
  drawTable();
}

function drawAll() {
  if (!data.id_sets.length) {
    for (const id of ["compare", "mistakes", "published"]) byId(id).hidden = true;
    return show("matrix", el("p", { class: "note" }, "The run has no cells yet."));
  }
  drawIdSets();
  drawResults();
  drawCompare();
  drawMistakes();
  drawPublished();
}

function drawHeader() {
  const measured = data.id_sets.filter((one) => !one.over), sets = new Set(measured.flatMap((one) => one.sets.map((set) => set.name)));
  const parts = [plural(new Set(data.rows.map((row) => row.label)).size, "detector"), plural(new Set(measured.map((one) => one.name)).size, "ID set"), plural(sets.size, "OOD set"),
    data.seeds.length > 1 ? `${data.seeds.length} seeds` : `seed ${data.seeds[0] ?? 0}`, data.runs.length > 1 ? `${data.runs.length} runs` : "", `oodbench ${data.made.version}`];
  show("meta", parts.filter(Boolean).join("  ·  "));
  const sections = [...document.querySelectorAll("main > section:not([hidden])")];
  const links = sections.map((section) => el("a", { href: `#${section.id}`, onclick: (event) => {
    event.preventDefault();  // the address holds what is shown
    section.scrollIntoView();
    section.tabIndex = -1;
    section.focus({ preventScroll: true });
  } }, section.querySelector("h2").textContent));
  show("sections", links);
  const mark = () => {
    const at = sections.findLastIndex((section) => section.getBoundingClientRect().top < 140);
    links.forEach((link, place) => (place === Math.max(0, at) ? link.setAttribute("aria-current", "true") : link.removeAttribute("aria-current")));
  };
  addEventListener("scroll", mark, { passive: true });
  mark();
}

function theme(name) {
  document.documentElement.dataset.theme = name;
  byId("theme").textContent = name === "dark" ? "Light" : "Dark";
}

function startTheme() {
  const system = matchMedia("(prefers-color-scheme: dark)");
  let saved = null;
  try {
    saved = localStorage.getItem("oodbench-theme");
  } catch { /* storage may be closed to files */ }
  theme(saved || (system.matches ? "dark" : "light"));
  system.addEventListener("change", () => saved || theme(system.matches ? "dark" : "light"));
  byId("theme").addEventListener("click", () => {
    saved = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    theme(saved);
    try {
      localStorage.setItem("oodbench-theme", saved);
    } catch { /* as above: the choice then lasts as long as the page */ }
  });
}

function start() {
  startTheme();
  recall();
  drawRuns();
  drawAll();
  drawHeader();
  const table = byId("matrix");
  table.addEventListener("click", (event) => {
    const button = event.target.closest(".open");
    if (button) (button.dataset.set ? openCell : openRow)(button.dataset.row, button.dataset.set);
  });
  table.addEventListener("keydown", moveInTable);
  for (const name of ["pointerover", "focusin"]) table.addEventListener(name, showTip);
  for (const name of ["pointerleave", "focusout", "scroll"]) table.addEventListener(name, hideTip);
  byId("cell").addEventListener("close", closedCell);
  byId("cell").addEventListener("click", (event) => event.target === byId("cell") && byId("cell").close());
  byId("print").addEventListener("click", () => print());
}

start();
