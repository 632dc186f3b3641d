// What every page is made of.

import { BASE } from "./api.js";
import { h, icon, plain, show } from "./dom.js";
import { ago, count, duration, NONE } from "./format.js";

export const STATES = ["queued", "scheduled", "active", "retrying", "completed", "failed", "cancelled", "unknown"];
export const ENDED = new Set(["completed", "failed", "cancelled"]);

const MEANING = {
  queued: "Waits for a worker.",
  scheduled: "Waits for its time.",
  active: "A worker runs it.",
  retrying: "Failed, and is tried again.",
  completed: "Ended well.",
  failed: "Ended with an error.",
  cancelled: "Was revoked or given up.",
  unknown: "Nothing is known of its state.",
};

/** The state of a job, in words and colour. */
export function badge(state, text = state) {
  return h("span", { class: `badge ${state}`, title: MEANING[state] }, h("span", { class: "dot" }), text);
}

export function tag(text, kind = "", title) {
  return h("span", { class: `tag ${kind}`, title }, text);
}

/** A button that copies a text. `name` says what it is, for those who do not see it. */
export function copy(text, name = "Copy") {
  return h("button", {
    class: "quiet copy", type: "button", title: name, "aria-label": name,
    on: {
      click: async (event) => {
        event.preventDefault();
        event.stopPropagation();
        const button = event.currentTarget;
        const good = await put(text);
        announce(good ? "Copied" : "The browser does not let the page copy: select the text instead.");
        button.classList.add(good ? "done" : "failed");
        setTimeout(() => button.classList.remove("done", "failed"), 1500);
      },
    },
  }, icon("copy"), icon("check"));
}

async function put(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Over plain HTTP from another machine there is no clipboard but this.
    const area = h("textarea", { class: "away", "aria-hidden": "true" });
    area.value = text;
    document.body.append(area);
    area.select();
    const good = document.execCommand("copy");
    area.remove();
    return good;
  }
}

/** Says something to those who do not see it, and in a corner to those who do. */
export function announce(text) {
  const place = document.getElementById("said");
  if (!place) return;
  place.textContent = text;
  place.classList.add("shown");
  clearTimeout(announce.timer);
  announce.timer = setTimeout(() => place.classList.remove("shown"), 2200);
}

/** A command or a piece of code, with a button to copy it. */
export function code(text, name = "Copy") {
  return h("div", { class: "code" }, h("pre", { tabindex: "0" }, text), copy(text, name));
}

export function panel(title, ...content) {
  const options = content[0]?.constructor === Object ? content.shift() : {};
  return h("section", { class: `panel ${options.class ?? ""}`, key: options.key ?? title },
    h("header", {}, h("h2", {}, title), options.note && h("span", { class: "note" }, options.note), options.side),
    content);
}

/** A number with what it is. */
export function figure(label, value, { note, href, kind = "", title } = {}) {
  const inside = [h("span", { class: "label" }, label), h("span", { class: "value" }, value), note && h("span", { class: "note" }, note)];
  return href
    ? h("a", { class: `figure ${kind}`, href, title, key: label }, inside)
    : h("div", { class: `figure ${kind}`, title, key: label }, inside);
}

/** Names with values. */
export function facts(rows) {
  return h("dl", { class: "facts" }, rows.filter(([, value]) => value !== null && value !== undefined && value !== NONE)
    .map(([name, value]) => h("div", { key: name }, h("dt", {}, name), h("dd", {}, value))));
}

export function empty(title, ...more) {
  return h("div", { class: "empty" }, h("p", { class: "title" }, title), more.map((it) => h("p", {}, it)));
}

export function notice(kind, ...content) {
  return h("div", { class: `notice ${kind}`, role: kind === "bad" ? "alert" : "status" }, content);
}

/**
 * A table. Columns: `{ name, of, number, sort, width, wide }`; `sort` is what the API calls it, `wide` means that small
 * screens go without.
 */
export function table(label, columns, rows, { key, href, order, sorted, quiet } = {}) {
  const head = columns.map((column) => {
    const props = { class: classes(column), scope: "col" };
    if (!column.sort || !sorted) return h("th", props, column.name);
    const isIt = order?.by === column.sort;
    const descending = isIt && order.way === "desc";
    const next = isIt && descending === !!column.number ? flip(order.way) : column.number ? "desc" : "asc";
    return h("th", { ...props, "aria-sort": isIt ? (descending ? "descending" : "ascending") : "none" },
      h("button", { type: "button", class: "sort", on: { click: () => sorted(column.sort, isIt ? flip(order.way) : next) } },
        column.name, isIt ? icon(descending ? "down" : "up") : null));
  });
  const body = rows.map((row) => h("tr", { key: key?.(row) },
    columns.map((column, index) => {
      const value = column.of(row);
      const cell = index === 0 && href?.(row) ? h("a", { href: href(row), class: "main" }, value) : value;
      return h(index === 0 ? "th" : "td", { class: classes(column), scope: index === 0 ? "row" : undefined }, cell ?? NONE);
    })));
  return h("div", { class: "table", tabindex: "0", role: "region", "aria-label": label },
    h("table", { class: quiet ? "quiet" : "" }, h("caption", { class: "away" }, label), h("thead", {}, h("tr", {}, head)), h("tbody", {}, body)));
}

const classes = (column) => [column.number && "number", column.wide && "wide", column.class].filter(Boolean).join(" ") || undefined;
const flip = (way) => (way === "desc" ? "asc" : "desc");

/** Pages of a list that comes in numbered pages. */
export function pages(pagination, link) {
  const { page, totalPages, total } = pagination;
  if (totalPages <= 1) return null;
  const to = (number, text) => number >= 1 && number <= totalPages
    ? h("a", { class: "button", href: link(number) }, text) : h("span", { class: "button", "aria-disabled": "true" }, text);
  return h("nav", { class: "pages", "aria-label": "Pages" },
    to(page - 1, "Previous"), h("span", {}, `Page ${page} of ${totalPages} · ${count(total)}`), to(page + 1, "Next"));
}

/** A choice of a few, as links, so that it is in the address. */
export function choice(label, options, chosen, link) {
  return h("div", { class: "choice", role: "group", "aria-label": label }, options.map(([value, text]) =>
    h("a", { href: link(value), "aria-current": value === chosen ? "true" : undefined, key: value }, text)));
}

export const RANGES = [["1h", "1 h"], ["6h", "6 h"], ["24h", "24 h"], ["7d", "7 d"]];

export function select(label, options, chosen, change, { hidden = false } = {}) {
  const known = options.some(([value]) => value === (chosen ?? ""));
  const all = known ? options : [...options, [chosen, chosen]];
  const field = h("select", { "aria-label": hidden ? label : undefined, on: { change: (event) => change(event.target.value) } },
    all.map(([value, text]) => h("option", { value, selected: value === (chosen ?? "") }, text)));
  return hidden ? field : h("label", { class: "field" }, h("span", {}, label), field);
}

export const jobPath = (id) => `${BASE}/jobs/${encodeURIComponent(id)}`;

/** A few jobs, one line each. */
export function jobLines(jobs, { by = "createdAt", error = false } = {}) {
  return h("ul", { class: "lines" }, jobs.map((job) => h("li", { key: job.id },
    badge(job.state),
    h("a", { href: jobPath(job.id), class: "grow cut" }, job.name ?? job.externalId, error && job.error ? h("span", { class: "muted" }, ` ${job.error}`) : null),
    job.durationMs !== null && job.durationMs !== undefined && h("span", { class: "muted number" }, duration(job.durationMs)),
    h("span", { class: "muted number" }, ago(job[by] ?? job.createdAt)))));
}

/** Asks before something that cannot be taken back. */
export function confirm(title, text, yes, then) {
  const dialog = h("dialog", { class: "confirm", "aria-labelledby": "confirm-title", on: { close: () => dialog.remove() } });
  show(dialog, h("form", { method: "dialog" }, h("h2", { id: "confirm-title" }, title), h("p", {}, text),
    h("div", { class: "buttons" }, h("button", { class: "button", value: "no" }, "Cancel"), h("button", { class: "button primary", value: "yes", on: { click: then } }, yes))));
  document.body.append(dialog);
  dialog.showModal();
}

/**
 * Asks for a text, `value` to begin with. With `only` it has to be that one, as it is shown or as it is: whoever types the
 * name of something means that and nothing else.
 */
export function prompt(title, text, { label, value = "", only, yes }, then) {
  const dialog = h("dialog", { class: "confirm", "aria-labelledby": "prompt-title", on: { close: () => dialog.remove() } });
  const fits = (typed) => (only === undefined ? typed.trim() !== "" && typed !== value : typed === only || typed === plain(only));
  const field = h("input", { value, required: true, maxlength: only === undefined ? 255 : undefined, autocomplete: "off", spellcheck: "false", on: { input: () => { button.disabled = !fits(field.value); } } });
  const button = h("button", { class: "button primary", disabled: true }, yes);
  show(dialog, h("form", { method: "dialog", on: { submit: () => then(field.value) } },
    h("h2", { id: "prompt-title" }, title), h("p", {}, text), h("label", { class: "field" }, h("span", {}, label), field),
    h("div", { class: "buttons" }, h("button", { class: "button", type: "button", on: { click: () => dialog.close() } }, "Cancel"), button)));
  document.body.append(dialog);
  dialog.showModal();
  field.select();
}
