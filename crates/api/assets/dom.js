// Elements from data. A page describes what it should look like as a whole; `morph` brings what is there to that, so
// that focus, scrolling and what the pointer is over stay where they are. Text is always text: nothing here parses HTML.

const SVG = "http://www.w3.org/2000/svg";
const SHAPES = new Set(["svg", "path", "rect", "circle", "line", "g", "text", "polyline", "title"]);
// Of these the person in front has the last word.
const THEIRS = { DETAILS: ["open"], DIALOG: ["open"] };
const PROPERTIES = ["value", "checked", "selected", "disabled"];

/** An element: attributes, `on` for handlers, `key` for its identity among its siblings. */
export function h(tag, props, ...children) {
  const node = SHAPES.has(tag) ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "on") listen(node, value);
    else if (name === "key") node.$key = String(value);
    else if (name === "keep") node.$keep = true;
    else if (name === "css") for (const [rule, to] of Object.entries(value)) node.style.setProperty(rule, to);
    else if (PROPERTIES.includes(name)) {
      node[name] = value;
      node.$given = true;
    }
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  append(node, children);
  return node;
}

function append(node, children) {
  for (const child of children) {
    if (child === null || child === undefined || child === false || child === "") continue;
    if (Array.isArray(child)) append(node, child);
    else node.append(child instanceof Node ? child : document.createTextNode(plain(String(child))));
  }
}

/** What turns the direction of a text around, or is not to be seen, is written out: a name must not look like another. */
export function plain(text) {
  return text.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]/g,
    (sign) => `\\u${sign.codePointAt(0).toString(16).padStart(4, "0")}`);
}

// One listener for each kind of event looks up what is to be done, so that a node can be given other handlers.
function listen(node, handlers) {
  node.$on = handlers;
  node.$heard ??= new Set();
  for (const kind of Object.keys(handlers)) {
    if (node.$heard.has(kind)) continue;
    node.$heard.add(kind);
    node.addEventListener(kind, (event) => node.$on?.[kind]?.(event));
  }
}

/** Makes the children of a node those that are given. */
export function show(node, ...children) {
  const fresh = document.createDocumentFragment();
  append(fresh, children);
  children_of(node, fresh);
}

function morph(old, fresh) {
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  // Somebody else looks after it.
  if (fresh.$keep) return;
  const theirs = THEIRS[old.tagName] ?? [];
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && !theirs.includes(name)) old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (old.getAttribute(name) !== value && !theirs.includes(name)) {
      if (name === "style") old.style.cssText = value;
      else old.setAttribute(name, value);
    }
  }
  for (const name of PROPERTIES) {
    // What was typed stays, where the page does not say what stands there.
    const isOurs = name !== "value" || fresh.$given;
    if (isOurs && name in fresh && old[name] !== fresh[name] && document.activeElement !== old) old[name] = fresh[name];
  }
  old.$key = fresh.$key;
  if (fresh.$on || old.$on) listen(old, fresh.$on ?? {});
  children_of(old, fresh);
}

function same(old, fresh) {
  return old.nodeType === fresh.nodeType && old.nodeName === fresh.nodeName && old.$key === fresh.$key;
}

function children_of(old, fresh) {
  const keyed = new Map();
  for (const child of old.childNodes) if (child.$key !== undefined) keyed.set(child.$key, child);
  let place = old.firstChild;
  for (const wanted of [...fresh.childNodes]) {
    const known = wanted.$key === undefined ? undefined : keyed.get(wanted.$key);
    if (known && known !== place && same(known, wanted)) {
      old.insertBefore(known, place);
      morph(known, wanted);
    } else if (place && same(place, wanted)) {
      const next = place.nextSibling;
      morph(place, wanted);
      place = next;
    } else {
      old.insertBefore(wanted, place);
    }
  }
  while (place) {
    const next = place.nextSibling;
    place.remove();
    place = next;
  }
}

const PATHS = {
  overview: "M2 13h12M4 13V8M8 13V3M12 13V6",
  jobs: "M2 4h12M2 8h12M2 12h8",
  tasks: "M2.5 2.5h4v4h-4zM9.5 2.5h4v4h-4zM2.5 9.5h4v4h-4zM9.5 9.5h4v4h-4z",
  failures: "M8 2.2 14.2 13H1.8zM8 6.5v3M8 11v.4",
  workers: "M3 3h10v4H3zM3 9h10v4H3zM5.5 5h.2M5.5 11h.2",
  queues: "M2 5h3v6H2zM6.5 5h3v6h-3zM11 5h3v6h-3z",
  connections: "M6 3v3M10 3v3M4 6h8v2a4 4 0 0 1-8 0zM8 12v2.5",
  rebuilds: "M13 8a5 5 0 1 1-1.6-3.7M13 2.5v2.6h-2.6",
  alerts: "M4 11V7.5a4 4 0 0 1 8 0V11l1.2 1.5H2.8zM6.8 14.5h2.4",
  coverage: "M2 8.5a6 6 0 0 1 12 0M4.8 8.5a3.2 3.2 0 0 1 6.4 0M8 8.5V14",
  sources: "M8 2v7.5M5 6.5l3 3 3-3M2.5 10v3.5h11V10",
  keys: "M5.2 14a3 3 0 1 1 0-6 3 3 0 0 1 0 6M7.4 8.8l6.1-6.1M11 5.2l2 2",
  audit: "M3 2.5h10v11H3zM5.5 5.5h5M5.5 8h5M5.5 10.5h3",
  search: "M7 2.5a4.5 4.5 0 1 1 0 9 4.5 4.5 0 0 1 0-9M10.5 10.5 14 14",
  copy: "M5.5 5.5h8v8h-8zM10.5 5.5v-3h-8v8h3",
  check: "M3 8.5 6.5 12 13 4.5",
  close: "M4 4l8 8M12 4l-8 8",
  right: "M6 3.5 10.5 8 6 12.5",
  down: "M3.5 6 8 10.5 12.5 6",
  up: "M3.5 10 8 5.5l4.5 4.5",
  out: "M6 3H3v10h3M10 5l3 3-3 3M13 8H6.5",
  filter: "M2 4h12M4.5 8h7M7 12h2",
};

/** A small picture beside a word; it says nothing by itself. */
export function icon(name) {
  return h("svg", { class: "icon", viewBox: "0 0 16 16", "aria-hidden": "true" }, h("path", { d: PATHS[name] ?? "" }));
}
