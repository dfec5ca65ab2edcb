// Pictures of the mistakes: ID images that are rejected, OOD images that are accepted, the most confident ones first.
function drawMistakes() {
  const found = data.mistakes.filter((one) => one.block === state.block);
  byId("mistakes").hidden = !data.mistakes.length;
  if (!found.length) {
    show("mistakes-controls");
    return show("mistakes-body", el("p", { class: "note" }, "There are no scores to find mistakes in on this ID set."));
  }
  const list = rows().filter((row) => found.some((one) => one.by_row.some((line) => line.row === row.at)));
  if (state.by !== "" && !list.some((row) => row.at === Number(state.by))) state.by = "";
  show("mistakes-controls", labelled("By", el("select", { id: "mistakes-by", onchange: (event) => {
    state.by = event.target.value;
    drawMistakes();
    byId("mistakes-by").focus();
  } }, option("", "the majority of detectors", state.by), list.map((row) => option(row.at, row.name === row.label ? row.name : `${row.name} (${row.label})`, state.by)))));
  const groups = found.map((one, at) => gallery(one, state.by, at < 2)).filter(Boolean);
  show("mistakes-body", el("p", { class: "note" }, `At the threshold that accepts 95% of ID test images. ${state.by === "" ? "Images that most detectors get wrong come first; the mean rank says how confidently: 100% is the image that is furthest on the wrong side." : "The most confident mistakes come first."}`), groups);
}

function gallery(one, by, open) {
  const set = one.set === null ? null : block().sets[one.set];
  const line = by === "" ? null : one.by_row.find((row) => row.row === Number(by));
  if (by !== "" && !line) return null;
  const shown = line ? line.shown : one.by_majority, wrong = line ? line.wrong : one.majority_wrong;
  const title = set ? `OOD images accepted: ${set.title}` : `ID images rejected: ${block().title}`;
  const count = line ? `${wrong} of ${one.images} images` : `${wrong} of ${one.images} images by more than half of ${plural(one.detectors, "detector")}`;
  const more = shown.length && shown.length < wrong ? `; ${shown.length} shown` : "";
  return el("details", { class: "more", open }, el("summary", {}, title, el("span", { class: "count" }, `${count}${more}`)),
    el("div", {}, one.note ? el("p", { class: "note" }, one.note) : null,
      shown.length ? el("ul", { class: "gallery" }, shown.map((mistake) => thumbnail(mistake, one, line))) : el("p", { class: "note" }, "None.")));
}

function thumbnail([at, score, votes], one, line) {
  const picture = data.pictures[at];
  const text = line ? `score ${short(score)}` : `mean rank ${percent(score, 0)}%`;
  return el("li", {}, el("figure", {}, picture.uri ? el("img", { src: picture.uri, alt: picture.label ? `${picture.name}, class ${picture.label}` : picture.name, decoding: "async", onload: (event) => event.target.classList.toggle("smooth", event.target.naturalWidth > 48 || event.target.naturalHeight > 48) }) : null,
    el("figcaption", {}, el("b", {}, picture.label || picture.name), picture.label ? `${picture.name}; ` : "", `${text}; wrong in ${votes} of ${one.detectors}`)));
}
