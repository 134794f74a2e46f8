// The views of the console, in the order of the navigation. `needs`: the feature without which a view is absent.
const view = (name, icon, needs, open) => ({ name, icon, needs, open });

export const VIEWS = [
  view("chat", "chat", null, null),
  view("compare", "pair", null, async () => (await import("/views/compare.js")).open()),
  view("dashboard", "gauge", "dashboard", async () => (await import("/views/dashboard.js")).open()),
  view("models", "cube", "models", async () => (await import("/views/models.js")).open()),
  view("reports", "page", "reports", async (path) => (await import("/views/reports.js")).open(path)),
  view("keys", "key", "keys", async () => (await import("/views/keys.js")).open()),
  view("people", "people", "people", async () => (await import("/views/people.js")).open()),
  view("reviews", "scales", "reviews", async (item) => (await import("/views/reviews.js")).open(item)),
  view("canary", "fork", "canaries", async () => (await import("/views/canary.js")).open()),
  view("policy", "shield", "policy", async () => (await import("/views/policy.js")).open()),
  view("audit", "scroll", "audit", async (entry) => (await import("/views/audit.js")).open(entry)),
  view("appeals", "hand", "appeals", async () => (await import("/views/appeals.js")).open()),
  view("usage", "bars", "usage", async () => (await import("/views/usage.js")).open()),
];
