// Which pages there are, for those who may see them.

const PAGES = [
  { path: "/", name: "Overview", icon: "overview" },
  { path: "/jobs", name: "Jobs", icon: "jobs" },
  { path: "/tasks", name: "Tasks", icon: "tasks" },
  { path: "/failures", name: "Failures", icon: "failures" },
  { path: "/workers", name: "Workers", icon: "workers" },
  { path: "/queues", name: "Queues", icon: "queues" },
  { path: "/alerts", name: "Alerts", icon: "alerts" },
  { path: "/coverage", name: "Coverage", icon: "coverage" },
  { path: "/connections", name: "Connections", icon: "connections", isSetUp: true },
  { path: "/sources", name: "Sources", icon: "sources", isSetUp: true },
  { path: "/keys", name: "Read keys", icon: "keys", isSetUp: true, forAdmins: true },
  { path: "/audit", name: "Changes", icon: "audit", isSetUp: true, forAdmins: true },
  { path: "/rebuilds", name: "Rebuild", icon: "rebuilds", isSetUp: true },
];

/** The pages for whoever looks, those that set something up behind the others. */
export const pages = (isAdmin) => PAGES.filter(({ forAdmins }) => isAdmin || !forAdmins);

export const nameOf = (path) => PAGES.find((page) => page.path === path)?.name;

/** Pages that are of the server as a whole, whichever connection is chosen. */
export const isOfServer = (path) => path === "/alerts" || path === "/coverage" || PAGES.some((page) => page.path === path && page.isSetUp);
