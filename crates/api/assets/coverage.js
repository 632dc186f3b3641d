// What is missing in what is heard, as far as it can be proven.

import { get } from "./api.js";
import { h } from "./dom.js";
import { count, duration, time } from "./format.js";
import { refreshing } from "./page.js";
import { empty, panel, table } from "./ui.js";

const WHAT = {
  sentEvents: "Queues and waits that are unknown",
  outcomes: "Workers that receive jobs and tell no outcome",
  arguments: "Arguments that Celery cut",
  listening: "Times at which a source did not listen",
};

export default function coverage(root, app) {
  const view = ({ data }) => h("div", { class: "page", key: "coverage" },
    h("div", { class: "head" }, h("h1", {}, "Coverage"), h("p", { class: "note" }, "What is missing in what is heard. Only what can be proven is told.")),
    data.length ? Object.keys(WHAT).map((what) => kind(app, what, data.filter((one) => one.what === what)))
      : h("div", { class: "panel" }, empty("Nothing is missing", "As far as it can be proven: all that was to be heard was heard.")));
  const page = refreshing(root, { load: (signal) => get("/api/coverage", {}, signal), view, stream: { types: "worker" }, wants: () => false });
  return { ...page, changed: page.ask };
}

function kind(app, what, rows) {
  if (!rows.length) return null;
  const columns = what === "listening"
    ? [
      { name: "Source", of: (one) => one.source },
      { name: "Connection", wide: true, of: (one) => app.connectionName(one.connectionId) },
      { name: "From", of: (one) => time(one.from, { withMillis: false }) },
      { name: "To", of: (one) => (one.to ? time(one.to, { withMillis: false }) : h("span", { class: "text-bad" }, "it lasts")) },
      { name: "For", number: true, of: (one) => duration((one.to ? Date.parse(one.to) : Date.now()) - Date.parse(one.from)) },
      { name: "Why", class: "wrap", wide: true, of: (one) => one.reason },
    ]
    : [
      { name: "Worker", of: (one) => one.workerId ?? "any" },
      { name: "Connection", of: (one) => app.connectionName(one.connectionId) },
      { name: "Jobs", number: true, of: (one) => [count(one.jobs), h("span", { class: "muted" }, ` of ${count(one.of)}`)] },
    ];
  return panel(WHAT[what], { note: count(rows.length) }, h("p", {}, sentence(rows[0].message)),
    table(WHAT[what], columns, rows, {
      key: (one) => [one.connectionId, one.workerId, one.source, one.from].join(" "),
      href: (one) => (one.workerId ? app.link("/jobs", { worker: one.workerId, connectionId: one.connectionId }) : null),
    }));
}

/** With a capital at its beginning and a stop at its end. */
const sentence = (text) => `${text[0].toUpperCase()}${text.slice(1)}.`;
