// What the page shows, and how the embedded data are read. Positions refer to each other as in data.py.
const data = JSON.parse(byId("report-data").textContent);
const MEANS = { near: "Near mean", far: "Far mean", all: "Mean" };
const VIEWS = [["table", "Table"], ["heat", "Heat map"], ["cells", "All cells"]];
const GROUPS = [["", "No groups"], ["kind", "Training"], ["data", "Extra data"], ["recipe", "Recipe"], ["run", "Run"]];
const KINDS = { "post-hoc": "Post-hoc", trained: "Trained", sanity: "Sanity rows" };

const metrics = new Map(data.metrics.map((metric) => [metric.id, metric]));
const rowsOf = data.id_sets.map((_, block) => data.rows.map((row, at) => ({ ...row, at })).filter((row) => row.block === block));
const cellAt = new Map(data.cells.map((cell) => [`${cell.row}|${cell.set}`, cell]));
const manyRuns = new Set(data.rows.map((row) => row.run)).size > 1;

const state = {
  block: 0, metric: metrics.has("auroc") ? "auroc" : data.metrics[0]?.id, seed: "", view: "table", group: "", filter: "",
  spread: false, interval: false, best: false, costs: window.innerWidth >= 900, means: true, hidden: new Set(), order: null, a: -1, b: -1, by: "",
};

const block = () => data.id_sets[state.block];
const rows = () => rowsOf[state.block] || [];
const cell = (row, set) => cellAt.get(`${row.at}|${set}`);
const visibleSets = () => block().sets.map((set, at) => ({ ...set, at })).filter((set) => !state.hidden.has(set.name));
const lower = (metric) => Boolean(metrics.get(metric)?.lower_is_better);
const better = (a, b, metric) => (lower(metric) ? a < b : a > b);

const stat = (list) => list && {
  mean: list[0], std: list[1] ?? null, low: list[2] ?? null, high: list[3] ?? null, mayBeBest: list[4] ?? null, n: list[5] ?? 1,
};

// The numbers of a cell: over all seeds, or of the one that is chosen.
function cellStat(found, metric = state.metric) {
  if (!found) return null;
  if (state.seed === "") return stat(found.stats[metric]);
  const one = found.by_seed.find(([seed]) => seed === Number(state.seed));
  return one && metric in one[2] ? stat([one[2][metric]]) : null;
}

function meanStat(row, group, metric = state.metric) {
  if (state.seed === "") return stat(row.means[group]?.[metric]);
  const members = block().sets.map((set, at) => ({ ...set, at }))
    .filter((set) => !set.outlier_source && (group === "all" || set.group === group) && measured(set.at));
  const values = members.map((set) => cellStat(cell(row, set.at), metric)?.mean);
  if (!values.length || values.some((value) => value === undefined)) return null;
  return stat([values.reduce((sum, value) => sum + value, 0) / values.length]);
}

const measured = (set) => rows().some((row) => Object.keys(cell(row, set)?.stats || {}).length);
const meanGroups = () => (metrics.get(state.metric)?.means === false ? [] : block().groups);

// The columns of the table: a name, a title, and how to read a row's number.
function columns() {
  const sets = visibleSets().map((set) => ({
    id: `set:${set.name}`, title: set.title, group: set.group, source: set.outlier_source, set: set.at,
    read: (row) => cellStat(cell(row, set.at)), cell: (row) => cell(row, set.at),
  }));
  const means = state.means ? meanGroups().map((group) => ({
    id: `mean:${group}`, title: MEANS[group] || `${group} mean`, mean: true, read: (row) => meanStat(row, group), cell: () => null,
  })) : [];
  return [...means, ...sets];
}

// Rows with the best number as it is printed; none if all are equal. Cells that have seen the OOD set do not compete.
function bestRows(column, list) {
  const shown = new Map();
  for (const row of list) {
    const found = column.read(row);
    if (found && !column.cell(row)?.seen && row.kind !== "sanity") shown.set(row.at, percent(found.mean));
  }
  const values = [...new Set(shown.values())].map(Number);
  if (values.length < 2) return new Set();
  const best = lower(state.metric) ? Math.min(...values) : Math.max(...values);
  return new Set([...shown].filter(([, text]) => Number(text) === best).map(([at]) => at));
}

// A part of what is shown is in the address, so that a reload or a link shows the same.
function remember() {
  const parts = new URLSearchParams({ id: block()?.name ?? "", metric: state.metric ?? "", view: state.view });
  if (state.seed !== "") parts.set("seed", state.seed);
  if (state.group) parts.set("group", state.group);
  try {
    history.replaceState(null, "", `#${parts}`);
  } catch { /* a page inside another may not change its address */ }
}

function recall() {
  const parts = new URLSearchParams(location.hash.slice(1));
  const found = data.id_sets.findIndex((one) => one.name === parts.get("id"));
  if (found >= 0) state.block = found;
  if (metrics.has(parts.get("metric"))) state.metric = parts.get("metric");
  if (VIEWS.some(([name]) => name === parts.get("view"))) state.view = parts.get("view");
  if (data.seeds.map(String).includes(parts.get("seed"))) state.seed = parts.get("seed");
  if (GROUPS.some(([name]) => name === parts.get("group"))) state.group = parts.get("group");
}
