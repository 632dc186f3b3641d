// Read keys: for scripts, which may read all and change nothing.

import { BASE, get, path, post, remove } from "./api.js";
import { h } from "./dom.js";
import { ago, count } from "./format.js";
import { changing, forAdmins, refreshing } from "./page.js";
import { code, confirm, copy, empty, notice, panel } from "./ui.js";

export default function keys(root, app) {
  if (!app.isAdmin()) return forAdmins(root, app, "Read keys");
  // One that was just made: it is shown until the page is left, and is nowhere else.
  let made = null;
  const changes = changing(() => page);
  const create = (event) => {
    event.preventDefault();
    const form = event.target;
    changes.make(async () => {
      made = await post("/api/keys", { name: form.elements.name.value });
      form.reset();
    });
  };
  const drop = (key) => confirm(`Delete the key “${key.name}”?`, "Who reads with it is refused from that moment on. It cannot be brought back.", "Delete",
    () => changes.make(async () => {
      await remove(path("keys", key.id));
      if (made?.id === key.id) made = null;
    }));
  const view = ({ data }) => h("div", { class: "page", key: "keys" },
    h("div", { class: "head" }, h("h1", {}, "Read keys"), h("p", { class: "note" }, "For scripts: each may read all that is here, and change nothing.")),
    changes.failure ? notice("bad", changes.failure) : null,
    made ? h("div", { class: "notice good", role: "status", key: "made" }, h("p", {}, h("b", {}, `The key ${made.name}. `), "It is shown this once: keep it now."), code(made.apiKey, "Copy the key")) : null,
    h("div", { class: "grid two" },
      panel("Keys", { note: data.length ? count(data.length) : null },
        data.length ? h("ul", { class: "cards" }, data.map((key) => h("li", { key: key.id },
          h("div", { class: "grow" }, h("b", {}, key.name),
            h("p", { class: "muted" }, h("span", { class: "mono" }, key.id), copy(key.id, `Copy the id of ${key.name}`)),
            h("p", { class: "muted" }, "made ", ago(key.createdAt))),
          h("button", { type: "button", class: "button", "aria-label": `Delete ${key.name}`, on: { click: () => drop(key) } }, "Delete")))) : empty("There is no read key"),
        h("form", { class: "inline", on: { submit: create } },
          h("label", { class: "field grow" }, h("span", {}, "Another key"), h("input", { name: "name", required: true, maxlength: 255, placeholder: "nightly report", autocomplete: "off", spellcheck: "false" })),
          h("button", { type: "submit", class: "button primary", disabled: changes.busy }, "Create"))),
      panel("Reading with one", h("p", {}, "Any read of the API takes it as bearer:"), code(example(made?.apiKey), "Copy the command"),
        h("p", {}, "What there is to ask stands in ", h("a", { href: `${BASE}/api/openapi.json`, target: "_blank" }, "the description of the API"), "."),
        made ? null : h("p", { class: "muted" }, "A key is shown once, when it is made. Who has lost it makes another."))));
  const page = refreshing(root, { load: (signal) => get("/api/keys", {}, signal), view, stream: { types: "worker" }, wants: () => false });
  return { ...page, changed: page.ask };
}

function example(key) {
  return `curl -H 'Authorization: Bearer ${key ?? "rk_live_…"}' '${location.origin}${BASE}/api/jobs?state=failed'`;
}
