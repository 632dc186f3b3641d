// Who sends, and with which key.

import { get, patch, path, post, remove } from "./api.js";
import { h } from "./dom.js";
import { ago } from "./format.js";
import { CELERY, celery, sdk, SDK_CODE } from "./firstrun.js";
import { changing, refreshing } from "./page.js";
import { code, confirm, copy, empty, notice, panel, prompt } from "./ui.js";

// It belongs to the server's configuration, and is neither renamed nor deleted.
const DEFAULT = "default";

export default function connections(root, app) {
  // A key that was just made: it is shown until the page is left, and is nowhere else.
  let made = null;
  let chosen = null;
  const load = async (signal) => {
    const [{ data }, health] = await Promise.all([get("/api/connections", {}, signal), get("/api/health", {}, signal)]);
    return { data, health };
  };
  const changes = changing(() => page);
  const change = (work) => changes.make(async () => {
    await work();
    await app.reloadConnections();
  });
  const create = (event) => {
    event.preventDefault();
    const form = event.target;
    change(async () => {
      made = await post("/api/connections", { name: form.elements.name.value });
      chosen = made.id;
      form.reset();
    });
  };
  const rotate = (connection) => confirm(`Give “${connection.name}” another key?`, "Who sends with the key it has now is refused from that moment on.", "Make another key",
    () => change(async () => { made = await post(path("connections", connection.id) + "/rotate"); chosen = connection.id; }));
  const rename = (connection) => prompt(`Rename “${connection.name}”`, "Its id, its key and its jobs stay what they are.", { label: "Its name", value: connection.name, yes: "Rename" },
    (name) => change(async () => {
      await patch(path("connections", connection.id), { name });
      if (made?.id === connection.id) made = { ...made, name };
    }));
  const drop = (connection) => prompt(`Delete “${connection.name}”?`, "Who sends with its key is refused from that moment on. Its jobs stay. It cannot be brought back.", { label: `Type ${connection.name} to delete it`, only: connection.name, yes: "Delete" },
    () => change(async () => {
      await remove(path("connections", connection.id));
      if (made?.id === connection.id) made = null;
    }));
  const doing = (connection) => h("div", { class: "buttons" }, [
    connection.name !== DEFAULT && ["Rename", `Rename ${connection.name}`, rename],
    ["Rotate key", `Rotate key of ${connection.name}`, rotate],
    connection.name !== DEFAULT && ["Delete", `Delete ${connection.name}`, drop],
  ].filter(Boolean).map(([text, name, does]) => h("button", { type: "button", class: "button", key: text, "aria-label": name, on: { click: () => does(connection) } }, text)));
  const view = ({ data, health }) => {
    const one = data.find(({ id }) => id === chosen) ?? data[0];
    return h("div", { class: "page", key: "connections" },
      h("div", { class: "head" }, h("h1", {}, "Connections"), h("p", { class: "note" }, "Each is one sender, with jobs and a key of its own.")),
      changes.failure ? notice("bad", changes.failure) : null,
      made ? h("div", { class: "notice good", role: "status", key: "made" }, h("p", {}, h("b", {}, `The key of ${made.name}. `), "It is shown this once: keep it now."), code(made.apiKey, "Copy the key")) : null,
      h("div", { class: "grid two" },
        panel("Senders", h("ul", { class: "cards" }, data.map((connection) => h("li", { key: connection.id, class: connection.id === one?.id ? "chosen" : "" },
          h("div", { class: "grow" }, h("button", { type: "button", class: "linklike", "aria-pressed": connection.id === one?.id ? "true" : "false", on: { click: () => { chosen = connection.id; page.draw(); } } }, connection.name),
            h("p", { class: "muted" }, h("span", { class: "mono" }, connection.id), copy(connection.id, "Copy the connection's id")),
            h("p", { class: "muted" }, "made ", ago(connection.createdAt), connection.hasKey ? "" : " · has no key", source(health, connection))),
          app.isAdmin() ? doing(connection) : null))),
          app.isAdmin() ? h("form", { class: "inline", on: { submit: create } }, h("label", { class: "field grow" }, h("span", {}, "Another connection"), h("input", { name: "name", required: true, maxlength: 255, placeholder: "billing", autocomplete: "off", spellcheck: "false" })),
            h("button", { type: "submit", class: "button primary" }, "Create")) : null),
        one ? h("div", { class: "stack", key: "how" },
          panel(`Celery, for ${one.name}`, { key: "celery" }, h("p", {}, "Forebay listens to the broker; workers send events:"), code(celery(one.name), "Copy the command"), code("celery -A yourapp worker -E", "Copy the command"), code(CELERY, "Copy the settings")),
          panel(`The SDK, for ${one.name}`, { key: "sdk" }, code(sdk(one.id, made?.id === one.id ? made.apiKey : null), "Copy the commands"), code(SDK_CODE, "Copy the code"),
            made?.id === one.id ? null : h("p", { class: "muted" }, "A key is shown once, when it is made. Who has lost it rotates it."))) : empty("There is no connection")));
  };
  const page = refreshing(root, { load, view, stream: { types: "worker" }, wants: () => false });
  return { ...page, changed: page.ask };
}

function source(health, connection) {
  const found = health.sources.filter(({ connectionId }) => connectionId === connection.id);
  return found.map(({ urlMasked, state }) => ` · listens to ${urlMasked} (${state})`).join("");
}
