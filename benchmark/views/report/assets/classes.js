// AUROC by class: which ID class is confused with which OOD class, as a heat map, and every class with its interval.
const CLASSES_SHOWN = 30, CONFUSED = 0.5;

function classesOf(found) {
  const numbers = found.by_class;
  if (!numbers) return null;
  const id = data.class_lists[numbers.id], ood = data.class_lists[numbers.ood];
  return [el("h3", {}, "AUROC by class, %"),
    numbers.pairs.length ? pairMap(numbers.pairs, id, ood) : numbers.lowest.length ? lowestPairs(numbers.lowest, id, ood) : null,
    ood ? classList("OOD classes against all ID images", ood, numbers.of_ood) : null,
    id ? classList("ID classes against all OOD images", id, numbers.of_id) : null,
    el("p", { class: "note" }, "Means over seeds; 95% intervals over draws of test images. The lowest of many classes is low partly by chance.")];
}

// The set with fewer classes goes across, so that it fits a narrow screen.
function pairMap(pairs, id, ood) {
  const across = ood.names.length <= id.names.length;
  const [down, over, downName, overName] = across ? [id, ood, "ID", "OOD"] : [ood, id, "OOD", "ID"];
  const value = (row, column) => (across ? pairs[row][column] : pairs[column][row]);
  const shade = (auroc) => Math.min(1, Math.max(0, (1 - auroc) / CONFUSED)).toFixed(3);
  return [el("div", { class: "wide", tabindex: 0, role: "region", "aria-label": "AUROC of pairs of classes" }, el("table", { class: "classes" },
    el("caption", {}, `${downName} classes down, ${overName} classes across`),
    el("thead", {}, el("tr", {}, el("td", {}), over.names.map((name) => el("th", { scope: "col", title: name }, el("span", {}, name))))),
    el("tbody", {}, down.names.map((name, row) => el("tr", {}, el("th", { scope: "row" }, name), over.names.map((other, column) =>
      el("td", { style: `--share: ${shade(value(row, column))}`, title: `${name} and ${other}: ${percent(value(row, column), 1)}` }, percent(value(row, column), 0))))))),
  ), el("p", { class: "note" }, "The stronger the colour, the lower: classes that are confused. 50 is chance; below it, the OOD class looks more like ID than the ID class does.")];
}

function lowestPairs(lowest, id, ood) {
  return el("div", { class: "wide", tabindex: 0, role: "region", "aria-label": "Lowest pairs of classes" }, el("table", { class: "numbers" },
    el("caption", {}, `The ${lowest.length} lowest of ${id.names.length} x ${ood.names.length} pairs`),
    el("thead", {}, el("tr", {}, ["ID class", "OOD class", "AUROC"].map((text) => el("th", { scope: "col" }, text)))),
    el("tbody", {}, lowest.map(([row, column, auroc]) => el("tr", {}, el("th", { scope: "row" }, id.names[row]), el("td", {}, ood.names[column]), el("td", {}, percent(auroc, 1)))))));
}

function classList(title, classes, numbers) {
  const order = numbers.map((one, at) => at).sort((a, b) => numbers[a][0] - numbers[b][0]);
  const shown = order.slice(0, CLASSES_SHOWN), floor = Math.min(0.9, Math.floor(10 * Math.min(...shown.map((at) => numbers[at][1]))) / 10);
  const place = (value) => `${(100 * (value - floor)) / (1 - floor)}%`;
  const bar = ([auroc, low, high]) => el("div", { class: "span", "aria-hidden": "true" }, floor < 0.5 ? el("u", { style: `left: ${place(0.5)}` }) : null,
    el("i", { style: `left: ${place(low)}; right: ${100 - parseFloat(place(high))}%` }), el("b", { style: `left: ${place(auroc)}` }));
  const count = shown.length < order.length ? `the ${shown.length} lowest of ${order.length}` : `${order.length} classes`;
  return el("details", { class: "more", open: true }, el("summary", {}, title, el("span", { class: "count" }, count)), el("div", {}, el("table", { class: "numbers by-class" },
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Class"), el("th", { scope: "col" }, "Images"), el("th", { scope: "col" }, "AUROC"), el("th", { scope: "col" }, "95% interval"),
      el("td", {}, el("div", { class: "ends", "aria-hidden": "true" }, el("span", {}, percent(floor, 0)), el("span", {}, "100"))))),
    el("tbody", {}, shown.map((at) => el("tr", {}, el("th", { scope: "row" }, classes.names[at]), el("td", {}, String(classes.images[at])), el("td", {}, el("b", {}, percent(numbers[at][0], 1))),
      el("td", {}, `${percent(numbers[at][1], 1)} – ${percent(numbers[at][2], 1)}`), el("td", {}, bar(numbers[at]))))))));
}
