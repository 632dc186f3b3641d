// Logging in: by password, or once by a link that somebody with the admin token has made.

import { BASE, here, post } from "./api.js";
import { h, icon, show } from "./dom.js";
import { notice } from "./ui.js";

/** Takes the token out of the address, and logs in with it. The answer says what went wrong, if anything did. */
export async function once() {
  const token = new URLSearchParams(location.hash.slice(1)).get("once");
  if (!token || here() !== "/login") return null;
  // A token that was used is worth nothing, but it need not stay in the history either.
  history.replaceState(null, "", `${BASE}/`);
  try {
    await post("/api/session", { once: token }, { quiet: true });
    return null;
  } catch (error) {
    return error.message;
  }
}

const REFUSED = {
  "not-begun": "That took too long, or was begun in another browser: try again.",
  "not-allowed": "You are known, but may not see this: ask whoever runs Forebay to let you in.",
  provider: "The provider did not let you in, or does not answer. The server's log says more.",
};

/** Why the provider of OpenID Connect brought nobody back, if it did not. */
export function refused() {
  const code = new URLSearchParams(location.hash.slice(1)).get("refused");
  if (!code || here() !== "/login") return null;
  history.replaceState(null, "", `${BASE}/login`);
  return REFUSED[code] ?? REFUSED.provider;
}

/** Where to go on, without what stands before all paths. */
function next() {
  const path = here();
  return new URLSearchParams({ next: path === "/login" ? "/" : (path + location.search).slice(0, 300) });
}

export function login(root, { expired = false, message = null, oidc = false, done }) {
  document.title = "Log in · Forebay";
  let said = message;
  let busy = false;
  const submit = async (event) => {
    event.preventDefault();
    const field = event.target.elements.password;
    const password = field.value;
    busy = true;
    draw();
    try {
      await post("/api/session", { password }, { quiet: true });
      done();
    } catch (error) {
      busy = false;
      said = error.retryAfter ? `${error.message.replace(/ Try again.*/, "")} Try again in ${error.retryAfter} s.` : error.message;
      draw();
      field.select();
      field.focus();
    }
  };
  const draw = () => show(root, h("main", { class: "login", key: "login" },
    h("form", { on: { submit } },
      h("div", { class: "brand" }, h("span", { class: "logo", "aria-hidden": "true" }, icon("jobs")), "Forebay"),
      h("h1", {}, expired ? "Your session has ended" : "Log in"),
      expired ? h("p", { class: "muted" }, "Log in again, and you are back where you were.") : null,
      h("input", { type: "text", name: "username", autocomplete: "username", value: "admin", class: "away", tabindex: "-1", "aria-hidden": "true" }),
      h("label", { class: "field" }, h("span", {}, "Admin password"),
        h("input", { type: "password", name: "password", autocomplete: "current-password", required: true, autofocus: true, "aria-describedby": "login-said" })),
      h("div", { id: "login-said", "aria-live": "assertive" }, said ? notice("bad", said) : null),
      h("button", { type: "submit", class: "button primary", disabled: busy }, "Log in"),
      oidc ? h("a", { class: "button", href: `${BASE}/api/session/oidc?${next()}` }, "Log in with your organisation") : null,
      h("p", { class: "hint" }, "The admin password was printed at the first start, and is in credentials.json of the data directory, unless FOREBAY_ADMIN_PASSWORD gives it."))));
  draw();
  root.querySelector("input[type=password]").focus();
}
