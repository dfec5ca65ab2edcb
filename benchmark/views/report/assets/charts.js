// Small charts: the scores of a cell as quantiles, and what a threshold does to them.
const drawn = new Map();

// The smallest score that a share of the images does not exceed, for each of `data.levels`.
function quantiles(place) {
  if (!drawn.has(place)) {
    const bytes = Uint8Array.from(atob(data.distributions[place].values), (letter) => letter.charCodeAt(0));
    drawn.set(place, new Float64Array(bytes.buffer));
  }
  return drawn.get(place);
}

// The share of images with a score of at most `cut`: between two levels, in proportion.
function shareUpTo(values, cut) {
  const levels = data.levels;
  if (cut < values[0]) return 0;
  let low = 0, high = values.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (values[middle] <= cut) low = middle;
    else high = middle - 1;
  }
  if (low === values.length - 1) return 1;
  const width = values[low + 1] - values[low];
  const part = width > 0 && Number.isFinite(width) ? (cut - values[low]) / width : 0;
  return levels[low] + part * (levels[low + 1] - levels[low]);
}

function quantile(values, share) {
  const at = data.levels.findIndex((level) => level >= share - 1e-12);
  return values[at < 0 ? values.length - 1 : at];
}

const path = (points) => points.map(([x, y], at) => `${at ? "L" : "M"}${x.toFixed(2)} ${y.toFixed(2)}`).join("");

function ticks(low, high, count = 4) {
  const step = 10 ** Math.floor(Math.log10((high - low) / count || 1));
  const size = [1, 2, 5, 10].map((factor) => factor * step).find((one) => (high - low) / one <= count + 1) || step;
  const found = [];
  for (let value = Math.ceil(low / size) * size; value <= high + size * 1e-9; value += size) found.push(Number(value.toPrecision(10)));
  return found;
}

const short = (value) => (value === 0 ? "0" : Math.abs(value) >= 1e5 || Math.abs(value) < 1e-3 ? value.toExponential(1) : String(Number(value.toPrecision(4))));

function frame(title, width, height, across, up, xTicks, yTicks, x, y) {
  const left = 42, bottom = height - 36;
  return svg("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title },
    yTicks.map(([value, text]) => [svg("line", { class: "grid", x1: left, x2: width - 8, y1: y(value), y2: y(value) }),
      svg("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, text)]),
    svg("line", { class: "axis", x1: left, x2: width - 8, y1: bottom, y2: bottom }),
    xTicks.map(([value, text]) => svg("text", { x: x(value), y: bottom + 15, "text-anchor": "middle" }, text)),
    svg("text", { x: (left + width - 8) / 2, y: height - 3, "text-anchor": "middle" }, across),
    svg("text", { x: 12, y: bottom / 2 + 4, "text-anchor": "middle", transform: `rotate(-90 12 ${bottom / 2 + 4})` }, up));
}

function rocChart(id, ood) {
  const width = 320, height = 300, x = (value) => 42 + value * (width - 50), y = (value) => height - 36 - value * (height - 46);
  const cuts = [...new Set([...id, ...ood])].sort((a, b) => a - b);
  const points = [[0, 0], ...cuts.map((cut) => [shareUpTo(ood, cut), shareUpTo(id, cut)]), [1, 1]];
  const steps = [0, 0.25, 0.5, 0.75, 1].map((value) => [value, String(100 * value)]);
  const chart = frame("ROC curve", width, height, "FPR: OOD accepted, %", "TPR: ID accepted, %", steps, steps, x, y);
  chart.append(svg("line", { class: "grid", x1: x(0), y1: y(0), x2: x(1), y2: y(1), "stroke-dasharray": "3 3" }),
    svg("path", { class: "line", d: path(points.map(([a, b]) => [x(a), y(b)])) }));
  const point = svg("circle", { class: "point", r: 5.5 });
  chart.append(point);
  return { node: chart, move: (cut) => {
    point.setAttribute("cx", x(shareUpTo(ood, cut)));
    point.setAttribute("cy", y(shareUpTo(id, cut)));
  } };
}

// Shares of images per bin; bins are even between the 0.5% and 99.5% points, so that a few outliers do not flatten the rest.
function histogramChart(id, ood) {
  const width = 320, height = 300, bins = 40;
  const low = Math.min(quantile(id, 0.005), quantile(ood, 0.005)), top = Math.max(quantile(id, 0.995), quantile(ood, 0.995));
  const high = top > low ? top : low + 1;
  const edges = Array.from({ length: bins + 1 }, (_, at) => low + (at / bins) * (high - low));
  const shares = (values) => edges.slice(1).map((edge, at) => shareUpTo(values, at === bins - 1 ? Infinity : edge) - (at ? shareUpTo(values, edges[at]) : 0));
  const both = [["id", shares(id)], ["ood", shares(ood)]], tallest = Math.max(...both.flatMap(([, list]) => list), 0.01);
  const bend = tallest > 0.35 ? Math.sqrt : (value) => value;  // where most images have one score, the others stay visible
  const x = (value) => 42 + ((Math.min(high, Math.max(low, value)) - low) / (high - low)) * (width - 50), y = (value) => height - 36 - (bend(value) / bend(tallest)) * (height - 46);
  const chart = frame("Histogram of scores", width, height, "Score (higher: more OOD)", bend === Math.sqrt ? "Images, %, on a square-root scale" : "Images, %",
    ticks(low, high).map((value) => [value, short(value)]), (bend === Math.sqrt ? [0, 0.01, 0.05, 0.2, 0.5, 1].filter((value) => value <= tallest) : ticks(0, tallest)).map((value) => [value, short(100 * value)]), x, y);
  for (const [name, list] of both) {
    const line = [[x(low), y(0)], ...list.flatMap((share, at) => [[x(edges[at]), y(share)], [x(edges[at + 1]), y(share)]]), [x(high), y(0)]];
    chart.append(svg("path", { class: `${name} area`, d: path(line) }));
  }
  const cutLine = svg("line", { class: "cut", y1: y(tallest) - 4, y2: y(0) });
  chart.append(cutLine);
  return { node: chart, move: (cut) => {
    cutLine.setAttribute("x1", x(cut));
    cutLine.setAttribute("x2", x(cut));
  } };
}

// Ranks of two detectors in every column; below the diagonal, the one across is better.
function rankChart(points, nameA, nameB) {
  const size = 320, most = Math.max(2, ...points.flatMap((point) => [point.a, point.b]));
  const x = (value) => 42 + ((value - 1) / (most - 1)) * (size - 60), y = (value) => size - 36 - ((value - 1) / (most - 1)) * (size - 56);
  const steps = [...new Set([1, ...ticks(1, most)])].filter((value) => Number.isInteger(value) && value >= 1).map((value) => [value, String(value)]);
  const chart = frame(`Ranks of ${nameA} and ${nameB}`, size, size, `Rank of ${nameA}`, `Rank of ${nameB}`, steps, steps, x, y);
  chart.append(svg("line", { class: "grid", x1: x(1), y1: y(1), x2: x(most), y2: y(most), "stroke-dasharray": "3 3" }));
  for (const point of points) {
    chart.append(svg("circle", { class: `dot ${point.group}`, cx: x(point.a), cy: y(point.b), r: 5 }, svg("title", {}, `${point.title}: ${point.a} and ${point.b}`)));
  }
  return chart;
}
