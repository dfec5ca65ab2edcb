// Elements are made here, and text enters the page as text only: nothing is ever parsed as HTML.
const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false || child === "") continue;
    node.append(child.nodeType ? child : document.createTextNode(child));
  }
  return node;
}

const el = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);
const byId = (id) => document.getElementById(id);

function show(place, ...children) {
  const node = typeof place === "string" ? byId(place) : place;
  node.replaceChildren(...children.flat(Infinity).filter((child) => child !== null && child !== "" && child !== false));
  return node;
}

const percent = (value, digits = 2) => (Number.isFinite(value) ? (100 * value).toFixed(digits) : "–");
const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;

function option(value, text, chosen) {
  return el("option", { value, selected: String(value) === String(chosen) }, text);
}

function labelled(text, control) {
  return el("label", { class: "field" }, el("span", {}, text), control);
}

// A set of radio buttons that looks like one control, for which the browser has the keyboard.
function choice(name, legend, options, chosen, onchange) {
  return el("fieldset", { class: "choice" }, el("legend", { class: "hidden" }, legend), options.map(([value, text]) =>
    el("label", {},
      el("input", { type: "radio", name, value, checked: value === chosen, onchange: () => onchange(value) }),
      el("span", {}, text))));
}

// A button that opens a small panel; Escape and a click elsewhere close it.
function menu(text, ...children) {
  const box = el("details", { class: "menu" }, el("summary", {}, text), el("div", { class: "panel" }, children));
  box.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !box.open) return;
    box.open = false;
    box.querySelector("summary").focus();
    event.stopPropagation();
  });
  return box;
}

document.addEventListener("click", (event) => {
  for (const box of document.querySelectorAll("details.menu[open]")) if (!box.contains(event.target)) box.open = false;
});

function say(text) {
  const note = byId("announce");
  note.textContent = text;
  note.classList.add("shown");
  clearTimeout(say.timer);
  say.timer = setTimeout(() => note.classList.remove("shown"), 2500);
}

async function copyText(text, what) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {  // a page that is opened from disk may not use the clipboard's interface in every browser
    const area = el("textarea", { class: "hidden" });
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  say(`${what} copied`);
}
