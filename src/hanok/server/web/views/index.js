// The views of the console, in the order of the navigation. `needs`: the feature without which a view is absent.
export const VIEWS = [
  { name: "chat", icon: "chat" },
];
