// Published numbers beside ours, and how the runs were made.
function drawPublished() {
  const found = data.published.filter((one) => one.block === state.block);
  byId("published").hidden = !data.published.length;
  if (!found.length) return show("published-body", el("p", { class: "note" }, "No published number matches this ID set."));
  const titles = [...new Set(found.map((one) => one.title || one.reference))];
  show("published-body", titles.map((title) => publishedTable(title, found.filter((one) => (one.title || one.reference) === title))));
}

function publishedTable(title, list) {
  const reasons = [...new Set(list.flatMap((one) => one.reasons))];
  return [el("h3", {}, title), el("div", { class: "wide", tabindex: 0, role: "region", "aria-label": `Published numbers: ${title}` }, el("table", { class: "numbers" },
    el("thead", {}, el("tr", {}, ["Detector", "OOD set", "Metric", "Published", "Ours", "Difference"].map((text, at) => el("th", { scope: "col", class: at < 3 ? "left" : null }, text)))),
    el("tbody", {}, list.map((one) => el("tr", {}, el("th", { scope: "row" }, data.rows[one.row].name), el("td", { class: "left" }, one.set === null ? (one.group ? `${one.group} mean` : "ID test images") : data.id_sets[one.block].sets[one.set].title),
      el("td", { class: "left" }, one.metric_title || (metrics.get(one.metric)?.title ?? one.metric)), el("td", {}, one.std ? `${one.published} ± ${one.std}` : one.published, one.verified ? null : el("span", { class: "mark", title: "Recalled, not read in the source" }, "?")),
      el("td", {}, one.ours === null ? "–" : one.ours.toFixed(2)), el("td", {}, one.difference === null ? "–" : `${one.difference > 0 ? "+" : one.difference < 0 ? "−" : ""}${Math.abs(one.difference).toFixed(2)}`)))))),
  el("p", { class: "note" }, [...new Set(list.map((one) => one.source))].filter(Boolean).join("; "), list.some((one) => !one.verified) ? ". A question mark: recalled, not read in the source." : ""),
  reasons.length ? el("details", { class: "more" }, el("summary", {}, "How our protocol differs"), el("div", {}, bullets(reasons))) : null];
}

const titled = (name) => `${name[0].toUpperCase()}${name.slice(1).replaceAll("_", " ")}`;
const bullets = (list) => el("ul", { class: "plain" }, list.map((text) => el("li", {}, text)));
const facts = (pairs) => el("dl", { class: "facts" }, pairs.filter(([, text]) => text).map(([name, text]) => [el("dt", {}, name), el("dd", {}, text)]));

function drawRuns() {
  const parts = data.runs.map((run) => [el("h3", {}, run.name),
    facts([["Suite", run.suite_title ? `${run.suite} (${run.suite_title})` : run.suite], ["Seeds", run.seeds.join(", ")], ...Object.entries(run.machine).map(([name, text]) => [titled(name), text]), ["Passes", run.passes]]),
    run.unfinished.map((text) => el("p", { class: "warning" }, text)), run.warnings.map((text) => el("p", { class: "warning" }, text)),
    run.command ? el("pre", {}, run.command) : null,
    fold("Notes", run.notes), fold("Left out", run.skipped.map(([what, why]) => `${what}: ${why}`)), fold("Versions", Object.entries(run.versions).map(([name, version]) => `${name} ${version}`))]);
  const papers = [...new Map(data.rows.filter((row) => row.paper).map((row) => [row.name, row.paper]))];
  show("runs-body", data.notes.map((text) => el("p", { class: "note" }, text)), parts,
    papers.length ? el("details", { class: "more" }, el("summary", {}, "Papers of the detectors"), el("div", {}, facts(papers))) : null,
    el("p", { class: "note made" }, `Made by oodbench ${data.made.version}${data.made.command ? ": " : "."}`, data.made.command ? el("code", {}, data.made.command) : null));
}

function fold(title, list) {
  return list.length ? el("details", { class: "more" }, el("summary", {}, `${title} (${list.length})`), el("div", {}, bullets(list))) : null;
}
