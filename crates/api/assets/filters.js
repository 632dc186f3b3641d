// The filters of the list of jobs, as they stand in the address, and the fields to set them.

import { BASE, get } from "./api.js";
import { h, icon } from "./dom.js";
import { badge, select, STATES } from "./ui.js";

/** The parameters that the API takes under the same name. */
const SAME = ["state", "search", "name", "queue", "worker", "framework", "connectionId", "createdAfter", "createdBefore",
  "externalId", "errorContains", "attemptAtLeast", "tag", "lost", "stuck", "waiting", "sortBy", "sortOrder"];
const WITHIN = { "15m": 900, "1h": 3600, "6h": 21600, "24h": 86400, "7d": 604800 };
const WITHIN_NAMES = [["", "Any time"], ["15m", "Last 15 min"], ["1h", "Last hour"], ["6h", "Last 6 hours"], ["24h", "Last 24 hours"], ["7d", "Last 7 days"]];
const NAMES = {
  name: "task", queue: "queue", worker: "worker", framework: "framework", externalId: "external id", errorContains: "error contains",
  attemptAtLeast: "attempt at least", tag: "label", lost: "lost", stuck: "stuck", waiting: "waits for too long", createdAfter: "created after", createdBefore: "created before", within: "created in the last",
};

/** What to ask the API for, by what is in the address. */
export function asked(params) {
  const query = {};
  for (const name of SAME) if (params.get(name)) query[name] = params.get(name);
  const seconds = WITHIN[params.get("within")];
  if (seconds) query.createdAfter = new Date(Date.now() - seconds * 1000).toISOString();
  return query;
}

/** Stands for the list that is asked for. */
export function identity(params) {
  return [...SAME, "within"].map((name) => `${name}=${params.get(name) ?? ""}`).join("&");
}

/** What the selects offer. */
export async function known(connectionId, signal) {
  const params = { connectionId, limit: 100 };
  const [queues, workers] = await Promise.all([get("/api/queues", params, signal), get("/api/workers", params, signal)]);
  const unique = (names) => [...new Set(names)].sort();
  return { queues: unique(queues.data.map(({ name }) => name)), workers: unique(workers.data.map(({ externalId }) => externalId)) };
}

function states(app) {
  const chosen = new Set((app.params.get("state") ?? "").split(",").filter(Boolean));
  const toggle = (state) => {
    if (!chosen.delete(state)) chosen.add(state);
    app.setParams({ state: STATES.filter((one) => chosen.has(one)).join(",") });
  };
  return h("div", { class: "toggles", role: "group", "aria-label": "States" }, STATES.filter((state) => state !== "unknown").map((state) =>
    h("button", { type: "button", key: state, "aria-pressed": chosen.has(state) ? "true" : "false", on: { click: () => toggle(state) } }, badge(state))));
}

function text(app, name, label, { type = "text", placeholder, max = 256 } = {}) {
  return h("label", { class: "field", key: name }, h("span", {}, label), h("input", {
    type, value: app.params.get(name) ?? "", placeholder, maxlength: max, min: type === "number" ? 1 : undefined, spellcheck: "false", autocomplete: "off",
    on: { change: (event) => app.setParams({ [name]: event.target.value.trim() }) },
  }));
}

/** A point in time, in the viewer's zone. */
function moment(app, name, label) {
  const set = app.params.get(name);
  const date = set && !Number.isNaN(Date.parse(set)) ? new Date(Date.parse(set)) : null;
  const here = date ? new Date(date - date.getTimezoneOffset() * 60000).toISOString().slice(0, 19) : "";
  return h("label", { class: "field", key: name }, h("span", {}, label), h("input", {
    type: "datetime-local", step: 1, value: here,
    on: { change: (event) => app.setParams({ [name]: event.target.value ? new Date(event.target.value).toISOString() : null, within: null }) },
  }));
}

function choose(app, name, label, values) {
  return select(label, [["", "Any"], ...values.map((value) => (Array.isArray(value) ? value : [value, value]))], app.params.get(name) ?? "",
    (value) => app.setParams({ [name]: value }));
}

/** The bar above the list. `offered` is what `known` gave, `open` whether all fields are shown. */
export function bar(app, offered, { open, toggle }) {
  const set = Object.keys(NAMES).filter((name) => app.params.get(name));
  const chips = set.map((name) => h("span", { class: "chip", key: name }, `${NAMES[name]} `, h("b", {}, app.params.get(name)),
    h("button", { type: "button", class: "quiet", "aria-label": `Remove the filter: ${NAMES[name]}`, on: { click: () => app.setParams({ [name]: null }) } }, icon("close"))));
  let later;
  return h("div", { class: "filters", key: "filters" },
    h("div", { class: "row" },
      h("label", { class: "searchbox" }, icon("search"), h("span", { class: "away" }, "Task name contains"), h("input", {
        type: "search", id: "search", value: app.params.get("search") ?? "", placeholder: "Task name contains…", spellcheck: "false", autocomplete: "off", maxlength: 500,
        on: {
          input: (event) => {
            clearTimeout(later);
            const value = event.target.value;
            later = setTimeout(() => app.setParams({ search: value.trim() }, { replace: true }), 200);
          },
          keydown: (event) => event.key === "Escape" && event.target.blur(),
        },
      })),
      states(app),
      select("Created", WITHIN_NAMES, app.params.get("within") ?? "", (value) => app.setParams({ within: value, createdAfter: null, createdBefore: null }), { hidden: true }),
      h("button", { type: "button", class: "button", "aria-expanded": open ? "true" : "false", "aria-controls": "more-filters", on: { click: toggle } }, icon("filter"), "Filters", set.length ? h("b", {}, String(set.length)) : null)),
    h("div", { id: "more-filters", class: "more", hidden: !open },
      text(app, "name", "Task, exactly"), choose(app, "queue", "Queue", offered.queues), choose(app, "worker", "Worker", offered.workers),
      text(app, "errorContains", "Error contains"), text(app, "externalId", "External id", { max: 512 }), text(app, "tag", "Label", { placeholder: "key or key:value", max: 1024 }),
      text(app, "attemptAtLeast", "Attempt at least", { type: "number" }), choose(app, "framework", "Framework", ["celery", "bullmq", "sidekiq"]),
      choose(app, "lost", "Lost", [["true", "Only lost"], ["false", "Not lost"]]), choose(app, "stuck", "Stuck", [["true", "Only stuck"], ["false", "Not stuck"]]),
      choose(app, "waiting", "Waits for too long", [["true", "Only those"], ["false", "Only others"]]),
      moment(app, "createdAfter", "Created after"), moment(app, "createdBefore", "Created before")),
    chips.length ? h("div", { class: "chips" }, chips, h("button", { type: "button", class: "quiet", on: { click: () => app.go(`${BASE}/jobs`) } }, "Clear all")) : null);
}
