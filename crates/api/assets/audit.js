// Who changed what.

import { get } from "./api.js";
import { h } from "./dom.js";
import { time } from "./format.js";
import { forAdmins, refreshing } from "./page.js";
import { empty, table, tag } from "./ui.js";

const LIMIT = 100;
const ACTIONS = {
  login: "logged in", "login.refused": "was not let in", logout: "logged out", "logout.all": "logged everybody out",
  "connection.create": "made a connection", "connection.rename": "renamed a connection", "connection.rotate": "gave a connection another key", "connection.delete": "deleted a connection",
  "key.create": "made a read key", "key.delete": "deleted a read key", "source.add": "added a source", "source.remove": "removed a source",
  "rebuild.begin": "began a rebuild", "rebuild.abort": "stopped a rebuild", "rebuild.promote": "let new views serve", "rebuild.discard": "discarded the former views",
  export: "exported the log", import: "imported into the log", "server.start": "started",
};
const LOGINS = { password: "by password", link: "by a one-time link", oidc: "by OpenID Connect", proxy: "by the proxy" };

export default function audit(root, app) {
  if (!app.isAdmin()) return forAdmins(root, app, "Changes");
  const load = (signal) => get("/api/audit", { limit: LIMIT, before: app.params.get("before") }, signal);
  const older = (next) => {
    const set = app.params;
    next ? set.set("before", next) : set.delete("before");
    return `${location.pathname}?${set}`;
  };
  const view = ({ data, next }) => h("div", { class: "page", key: "audit" },
    h("div", { class: "head" }, h("h1", {}, "Changes"), h("p", { class: "note" }, "Who did what, the latest first; of 400 days.")),
    data.length ? table("Changes", [
      { name: "When", of: (one) => time(one.at, { withMillis: false }) },
      { name: "Who", class: "words", of: (one) => who(one.who) },
      { name: "What", class: "words", of: (one) => h("span", { title: one.action }, ACTIONS[one.action] ?? one.action) },
      { name: "About", class: "wrap", of: (one) => about(one.about) },
      { name: "From", wide: true, of: (one) => (one.address ? h("span", { class: "mono" }, one.address) : null) },
    ], data, { key: (one) => one.sequence }) : empty(app.params.get("before") ? "Nothing older is kept" : "Nothing has been changed yet"),
    next || app.params.get("before") ? h("nav", { class: "pages", "aria-label": "Pages" },
      app.params.get("before") ? h("a", { class: "button", href: older(null) }, "The latest") : null,
      next ? h("a", { class: "button", href: older(next) }, "Older") : null) : null);
  const page = refreshing(root, { load, view, stream: { types: "worker" }, wants: () => false, every: 5000 });
  return { ...page, changed: page.ask };
}

function who({ kind, name, role, login }) {
  if (kind === "person") return [h("b", {}, name), h("span", { class: "muted wide" }, ` ${role}, ${LOGINS[login] ?? login}`)];
  if (kind === "key") return [h("span", { class: "muted" }, "the key "), h("b", {}, name)];
  return { token: "the command line", server: "the server", stranger: "somebody unknown" }[kind] ?? kind;
}

/** What it was done to, its name first, without what is null. */
function about({ name: called, ...facts }) {
  const all = Object.entries({ name: called ?? null, ...facts }).filter(([, value]) => value !== null && value !== false);
  return all.length ? all.map(([name, value]) => tag(`${name}: ${typeof value === "string" ? value : JSON.stringify(value)}`, name === "id" && called ? "wide" : "")) : null;
}
