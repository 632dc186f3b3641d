// What to do when there is nothing to see yet.

import { BASE } from "./api.js";
import { h, icon } from "./dom.js";
import { count } from "./format.js";
import { code, notice, panel } from "./ui.js";

const CELERY = `app.conf.worker_send_task_events = True   # the same as -E
app.conf.task_send_sent_event = True`;

/** For the SDK: where to send, as whom. */
export function sdk(connectionId, key) {
  return `pip install sluice-celery
export SLUICE_BASE_URL=${location.origin}${BASE}
export SLUICE_CONNECTION_ID=${connectionId}
export SLUICE_API_KEY=${key ?? "sk_live_…"}`;
}

export const SDK_CODE = `import sluice
sluice.init()`;

export function celery(name) {
  return `forebay serve --celery ${name && name !== "default" ? `${name}=` : ""}redis://localhost:6379/0`;
}

export { CELERY };

export function firstRun(app, first, health, workers) {
  const heard = workers.online + workers.busy + workers.idle;
  const listening = health.sources.filter(({ state }) => state === "connected");
  const broken = health.sources.filter(({ state }) => state === "down" || state === "refused");
  return h("div", { class: "page narrow", key: "first" },
    h("div", { class: "head" }, h("h1", {}, "Connect your first worker")),
    h("p", { class: "lead" }, "Nothing has been heard of any job yet. This page turns into the overview by itself when the first event arrives."),
    broken.map((source) => notice("bad", h("b", {}, `${source.name}: `), `${source.urlMasked} cannot be reached. ${source.reason ?? ""}`)),
    h("ol", { class: "steps", "aria-label": "How far it is" },
      step(listening.length > 0, "A broker is listened to", listening.length ? listening.map(({ urlMasked }) => urlMasked).join(", ") : "No --celery was given, or none answers. The SDK needs none."),
      step(heard > 0, "A worker is heard", heard ? `${count(heard)} online` : "Start a worker, or wait for its next heartbeat."),
      step(false, "Events of tasks come", health.sources.find(({ hint }) => hint)?.hint
        ?? (heard > 0 ? "Workers are heard, but nothing of their tasks yet. If one has run already, its worker was started without -E: restart it with -E." : "Send a task."))),
    panel("Celery", h("p", {}, "Forebay listens to the events that Celery publishes on its broker:"), code(celery(), "Copy the command"),
      h("p", {}, "Workers have to send them:"), code("celery -A yourapp worker -E", "Copy the command"),
      h("p", {}, "Or, for good, in the app’s configuration; the second line lets it be known when and to which queue a task was sent:"), code(CELERY, "Copy the settings")),
    panel("The SDK", h("p", {}, "For workers whose broker cannot be listened to. Of Celery’s prefork pool it sees little; listening sees all."),
      first.connectionId ? code(sdk(first.connectionId, first.apiKey), "Copy the commands") : null, code(SDK_CODE, "Copy the code"),
      h("p", { class: "muted" }, first.apiKey
        ? "This key is shown here until the first event arrives, and never again. It may only send."
        : "The key of this connection was given by the configuration or is not known here any more; Connections makes another.")));
}

function step(done, title, more) {
  return h("li", { class: done ? "done" : "", key: title }, h("span", { class: "mark", "aria-hidden": "true" }, done ? icon("check") : null),
    h("div", {}, h("b", {}, title), h("span", { class: "away" }, done ? " (done)" : " (not yet)"), h("p", {}, more)));
}
