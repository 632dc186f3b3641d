// One box for everything: any id of a job, the name of a task, a page.

import { get, path } from "./api.js";
import { h, icon, show } from "./dom.js";
import { ago } from "./format.js";
import { throttled } from "./live.js";
import { pages } from "./nav.js";
import { badge, jobPath } from "./ui.js";

let dialog = null;

/** The job that has this id: the framework's, else our own, which is only asked for where it can be one. */
async function job_of(id) {
  const named = id.length <= 512 ? (await get("/api/jobs", { externalId: id, limit: 1 })).data[0] : null;
  return named ?? (/^[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}$/i.test(id) ? get(path("jobs", id)) : null);
}

export function openSearch(app) {
  if (dialog) return;
  let text = "";
  let found = { job: null, tasks: [], asked: "" };
  let place = 0;
  const options = () => {
    const wanted = text.trim().toLowerCase();
    return [
      ...(found.job ? [{ key: "job", href: jobPath(found.job.id), inside: [badge(found.job.state), h("b", { class: "cut" }, found.job.name), h("span", { class: "muted mono cut" }, found.job.externalId), h("span", { class: "muted" }, ago(found.job.createdAt))] }] : []),
      ...found.tasks.map((task) => ({ key: `task ${task.name} ${task.connectionId}`, href: app.link("/task", { name: task.name }), inside: [icon("tasks"), h("span", { class: "grow cut" }, task.name), h("span", { class: "muted" }, "task")] })),
      ...(wanted ? [{ key: "jobs", href: app.link("/jobs", { search: text.trim() }), inside: [icon("jobs"), h("span", { class: "grow cut" }, `Jobs whose task name contains “${text.trim()}”`)] },
        { key: "errors", href: app.link("/jobs", { errorContains: text.trim().slice(0, 256) }), inside: [icon("failures"), h("span", { class: "grow cut" }, `Jobs whose error contains “${text.trim()}”`)] }] : []),
      ...pages(app.isAdmin()).filter(({ name }) => name.toLowerCase().includes(wanted)).map((page) => ({ key: page.path, href: app.link(page.path), inside: [icon(page.icon), h("span", { class: "grow" }, page.name), h("span", { class: "muted" }, "page")] })),
    ];
  };
  const draw = () => {
    const all = options();
    place = Math.min(place, Math.max(0, all.length - 1));
    show(list, all.map((option, index) => h("li", { id: `found-${index}`, role: "option", "aria-selected": index === place ? "true" : "false", key: option.key,
      on: { click: () => choose(option), pointermove: () => { if (place !== index) { place = index; draw(); } } } }, option.inside)));
    input.setAttribute("aria-activedescendant", all.length ? `found-${place}` : "");
  };
  const choose = (option) => {
    dialog.close();
    app.go(option.href);
  };
  const look = async () => {
    const asked = text.trim();
    if (!asked) {
      found = { job: null, tasks: [], asked };
      return draw();
    }
    const [job, tasks] = await Promise.all([
      job_of(asked).catch(() => null),
      asked.length <= 500 ? get("/api/tasks", { search: asked, limit: 6 }).catch(() => null) : null,
    ]);
    found = { job, tasks: tasks?.data ?? [], asked };
    if (text.trim() === asked) draw();
  };
  const ask = throttled(look, 120);
  // Whoever pastes an id and presses Enter at once is not sent elsewhere because the answer is still on its way.
  const enter = async () => {
    if (found.asked !== text.trim()) {
      ask.cancel();
      place = 0;
      await look();
    }
    const option = options()[place];
    if (option && dialog) choose(option);
  };
  const input = h("input", {
    type: "text", role: "combobox", "aria-expanded": "true", "aria-controls": "found", "aria-autocomplete": "list", autocomplete: "off", spellcheck: "false",
    "aria-label": "Find a job by its id, a task or a page", placeholder: "A task id of Celery, a job's id, a task name…",
    on: {
      input: () => { text = input.value; place = 0; draw(); ask(); },
      keydown: (event) => {
        const all = options().length;
        if (event.key === "ArrowDown") place = (place + 1) % all;
        else if (event.key === "ArrowUp") place = (place + all - 1) % all;
        else if (event.key === "Enter") { event.preventDefault(); enter(); return; } else return;
        event.preventDefault();
        draw();
        list.querySelector("[aria-selected=true]")?.scrollIntoView({ block: "nearest" });
      },
    },
  });
  const list = h("ul", { id: "found", role: "listbox", "aria-label": "Found" });
  dialog = h("dialog", {
    class: "search", "aria-label": "Find",
    on: { close: () => { dialog.remove(); dialog = null; }, click: (event) => event.target === dialog && dialog.close() },
  }, h("div", { class: "box" }, h("div", { class: "line" }, icon("search"), input, h("kbd", {}, "Esc")), list));
  document.body.append(dialog);
  dialog.showModal();
  draw();
}
