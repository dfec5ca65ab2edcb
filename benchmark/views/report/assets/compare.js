// Two detectors side by side: differences with paired tests, and their ranks in every column.
function compareWith(at) {
  state.a = at;
  if (state.b === at) state.b = rows().find((row) => row.at !== at)?.at ?? at;
  drawCompare();
  byId("compare").scrollIntoView();
  byId("compare-b")?.focus();
}

function ranked() {
  const column = columns().find((one) => one.mean) || columns()[0];
  const found = rows().map((row) => ({ row, value: column?.read(row)?.mean })).filter(({ value }) => value !== undefined);
  return found.sort((a, b) => (lower(state.metric) ? 1 : -1) * (a.value - b.value)).map(({ row }) => row.at);
}

function drawCompare() {
  const list = rows(), here = new Set(list.map((row) => row.at)), order = ranked();
  if (list.length < 2) {
    show("compare-controls");
    return show("compare-body", el("p", { class: "note" }, "There is only one detector."));
  }
  if (!here.has(state.a)) state.a = order[0] ?? list[0].at;
  if (!here.has(state.b) || state.b === state.a) state.b = order.find((at) => at !== state.a) ?? list.find((row) => row.at !== state.a).at;
  const names = list.map((row) => [row.at, row.name + (list.filter((one) => one.name === row.name).length > 1 ? ` (${row.label})` : "")]).sort((a, b) => a[1].localeCompare(b[1]));
  const picker = (id, text, which) => labelled(text, el("select", { id, onchange: (event) => {
    state[which] = Number(event.target.value);
    drawCompare();
    byId(id).focus();
  } }, names.map(([at, name]) => option(at, name, state[which]))));
  show("compare-controls", picker("compare-a", "Detector A", "a"), picker("compare-b", "Detector B", "b"),
    el("button", { type: "button", onclick: () => { [state.a, state.b] = [state.b, state.a]; drawCompare(); } }, "Swap"));
  const a = { ...data.rows[state.a], at: state.a }, b = { ...data.rows[state.b], at: state.b };
  show("compare-body", el("div", { class: "split" }, differences(a, b), ranksOf(a, b)));
}

// The stored test of a pair in a column: first minus second, turned if the pair is stored the other way round.
function paired(a, b, set) {
  const test = data.pairs.find((one) => one.block === state.block && one.set === set);
  if (!test) return null;
  const i = test.rows.indexOf(a.at), j = test.rows.indexOf(b.at);
  if (i < 0 || j < 0) return null;
  const [first, second] = i < j ? [i, j] : [j, i], count = test.rows.length;
  const at = first * count - (first * (first + 1)) / 2 + (second - first - 1);
  return { difference: (i < j ? 1 : -1) * test.differences[at], half: test.half_widths[at], p: test.p[at], holm: test.holm[at], seeds: test.seeds };
}

const pText = (value) => (!Number.isFinite(value) ? "–" : value < 0.001 ? "< 0.001" : value.toFixed(3));
const signed = (value) => `${value > 0 ? "+" : value < 0 ? "−" : ""}${percent(Math.abs(value))}`;

function differences(a, b) {
  let wins = 0, losses = 0, open = 0;
  const lines = visibleSets().map((set) => {
    const x = cellStat(cell(a, set.at))?.mean, y = cellStat(cell(b, set.at))?.mean, test = paired(a, b, set.at);
    const sure = test && test.holm < 0.05;
    if (test) sure ? (test.difference > 0 ? wins++ : losses++) : open++;
    return el("tr", {}, el("th", { scope: "row" }, set.title, set.group ? el("span", { class: "none" }, ` ${set.group}`) : null), el("td", {}, percent(x)), el("td", {}, percent(y)),
      el("td", { class: sure ? "best" : null }, test ? signed(test.difference) : "–"), el("td", {}, test ? `± ${percent(test.half)}` : "–"), el("td", {}, test ? pText(test.p) : "–"), el("td", {}, test ? pText(test.holm) : "–"));
  });
  const verdict = verdictOn(a, b, wins, losses, open);
  return el("div", {}, el("p", {}, verdict), el("div", { class: "wide", tabindex: 0, role: "region", "aria-label": "Differences by OOD set" }, el("table", { class: "numbers" },
    el("thead", {}, el("tr", {}, ["OOD set", `A, ${metrics.get(state.metric)?.title ?? ""}`, "B", "A − B, AUROC", "95%", "p", "p, Holm"].map((text) => el("th", { scope: "col" }, text)))),
    el("tbody", {}, lines))),
  el("p", { class: "note" }, "Tests are paired: both detectors score the same images. Holm's method adjusts p for all pairs of the column. Between networks that were trained separately, with two seeds or more, seeds are a source of error besides images."));
}

function verdictOn(a, b, wins, losses, open) {
  const tested = wins + losses + open;
  if (!tested) return "There are no paired tests of these two on this ID set.";
  if (open === tested) return `By AUROC, the two cannot be told apart on any of ${plural(tested, "OOD set")} (Holm-adjusted p < 0.05 on none).`;
  const parts = [[a, wins], [b, losses]].filter(([, count]) => count).map(([row, count]) => `${row.name} is better on ${count}`);
  return `By AUROC, of ${plural(tested, "OOD set")}, ${parts.join(", ")} (Holm-adjusted p < 0.05)${open ? `; ${open} undecided` : ""}.`;
}

function rankIn(list, read, at) {
  const mine = read(list.find((row) => row.at === at));
  if (mine === undefined) return null;
  return 1 + list.filter((row) => row.kind !== "sanity" && read(row) !== undefined && better(read(row), mine, state.metric)).length;
}

// Over all ID sets, where both have a number: the rows with the same labels.
function ranksOf(a, b) {
  const points = [];
  data.id_sets.forEach((home, at) => {
    const list = rowsOf[at], one = list.find((row) => row.label === a.label && row.run === a.run), two = list.find((row) => row.label === b.label && row.run === b.run);
    if (home.over || !one || !two || home.run !== block().run) return;
    home.sets.forEach((set, place) => {
      const read = (row) => cellStat(cellAt.get(`${row.at}|${place}`))?.mean;
      const ranks = [rankIn(list, read, one.at), rankIn(list, read, two.at)];
      if (ranks.every((rank) => rank !== null)) points.push({ a: ranks[0], b: ranks[1], group: set.group, title: `${home.title}, ${set.title}` });
    });
  });
  if (!points.length) return el("p", { class: "note" }, "Their ranks cannot be compared: they share no column.");
  const ahead = points.filter((point) => point.a < point.b).length, behind = points.filter((point) => point.a > point.b).length;
  const groups = new Set(points.map((point) => point.group));
  return el("figure", { style: null, class: "ranks" }, rankChart(points, a.name, b.name),
    groups.has("far") && groups.size > 1 ? el("div", { class: "key" }, el("span", {}, el("i", { class: "id" }), "near"), el("span", {}, el("i", { class: "ood" }), "far")) : null,
    el("figcaption", { class: "note" }, `Ranks by ${metrics.get(state.metric)?.title ?? ""} on ${plural(points.length, "pair")} of sets; 1 is best. ${a.name} ranks higher on ${ahead}, ${b.name} on ${behind}.`));
}
