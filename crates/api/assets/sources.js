// The brokers that are listened to.

import { get, path, post, remove } from "./api.js";
import { h } from "./dom.js";
import { ago, bytes, count, duration, NONE } from "./format.js";
import { changing, refreshing } from "./page.js";
import { confirm, empty, facts, notice, panel } from "./ui.js";

const KINDS = { "celery-redis": "Celery over Redis", "celery-rabbitmq": "Celery over RabbitMQ" };

export default function sources(root, app) {
  const changes = changing(() => page);
  let added = null;
  const add = (event) => {
    event.preventDefault();
    const form = event.target;
    const [name, url, connection] = ["name", "url", "connection"].map((field) => form.elements[field].value.trim());
    changes.make(async () => {
      added = null;
      added = await post("/api/sources", { name, url, ...(connection ? { connection } : {}) });
      form.reset();
      await app.reloadConnections();
    });
  };
  const drop = (source) => confirm(`Stop listening to “${source.name}”?`, `Nothing of ours is left behind at ${source.urlMasked}. Its jobs stay; what it tells from then on is not heard.`, "Remove",
    () => changes.make(async () => {
      added = null;
      await remove(path("sources", source.name));
    }));
  const view = ({ data }) => h("div", { class: "page", key: "sources" },
    h("div", { class: "head" }, h("h1", {}, "Sources"), h("p", { class: "note" }, "The brokers that are listened to.")),
    changes.failure ? notice("bad", changes.failure) : null,
    added ? h("div", { class: "notice good", role: "status", key: "added" }, h("p", {}, h("b", {}, `${added.name} `), "is a source from now on, and after a restart too.")) : null,
    data.length ? h("div", { class: "grid two" }, data.map((source) => one(app, source, drop)))
      : h("div", { class: "panel" }, empty("No broker is listened to", app.isAdmin() ? "Add one below, or start the server with --celery. The SDK needs none." : "An admin adds one, or starts the server with --celery.")),
    app.isAdmin() ? panel("Another broker",
      h("form", { class: "fields", on: { submit: add } },
        field("Name", { name: "name", required: true, maxlength: 63, placeholder: "billing", pattern: "[A-Za-z0-9][A-Za-z0-9._\\-]*", title: "Letters, digits, '.', '_' and '-', the first a letter or digit" }),
        field("Broker, as Celery’s broker_url says it", { name: "url", required: true, placeholder: "redis://:password@host:6379/0", class: "mono" }, "broker"),
        field("Connection", { name: "connection", maxlength: 255, placeholder: "of the same name", list: "connections" }),
        h("datalist", { id: "connections" }, app.connections().map(({ name }) => h("option", { value: name, key: name }))),
        h("button", { type: "submit", class: "button primary", disabled: changes.busy }, "Listen")),
      h("p", { class: "muted" }, "Its password is kept in the server’s data directory, which only its user can read, and is never shown again. A connection that is not there is made.")) : null);
  const page = refreshing(root, { load: (signal) => get("/api/sources", {}, signal), view, stream: { types: "worker" }, wants: () => false, every: 3000 });
  return { ...page, changed: page.ask };
}

function field(label, props, kind = "") {
  return h("label", { class: `field ${kind}` }, h("span", {}, label), h("input", { autocomplete: "off", spellcheck: "false", ...props }));
}

function one(app, source, drop) {
  const { spool } = source;
  const isOurs = source.origin === "api";
  return panel(source.name, {
    key: source.name, note: h("span", { class: `word ${source.state}` }, source.state),
    side: app.isAdmin() && isOurs ? h("button", { type: "button", class: "button", "aria-label": `Remove ${source.name}`, on: { click: () => drop(source) } }, "Remove") : null,
  },
    source.reason ? notice("warn", source.reason) : null,
    source.hint ? notice("warn", source.hint) : null,
    facts([
      ["Broker", h("span", { class: "mono" }, source.urlMasked)],
      ["Kind", KINDS[source.kind] ?? source.kind],
      ["Connection", app.connectionName(source.connectionId)],
      ["Declared", isOurs ? "here" : "by the configuration: remove it there"],
      [source.state === "connected" ? "Heard since" : "Not heard since", ago(source.since)],
      ["Last event", source.lastEventAt ? ago(source.lastEventAt) : NONE],
      ["Events", `${count(source.events)}, ${count(source.workerEvents)} of them about workers`],
      ["Unreadable", source.decodeErrors ? [count(source.decodeErrors), source.lastDecodeError ? h("span", { class: "muted" }, `the last: ${source.lastDecodeError}`) : null] : null],
      ["Dropped", source.dropped ? h("span", { class: "text-bad" }, `${count(source.dropped)} messages`) : null],
      ["Not heard for", source.missedSeconds >= 1 ? `${duration(source.missedSeconds * 1000)} since the start` : null],
      ["Waits on disk", spool?.events ? `${count(spool.events)} events, ${bytes(spool.bytes)}` : null],
      ["Dropped from disk", spool && spool.droppedTaskEvents + spool.droppedWorkerEvents ? h("span", { class: "text-bad" }, `${count(spool.droppedTaskEvents)} events of tasks, ${count(spool.droppedWorkerEvents)} of workers`) : null],
    ]));
}
