// Before the first paint, so that a chosen theme does not flash: "light", "dark", or nothing for the system's.
"use strict";
try {
  const chosen = localStorage.getItem("sglcore.theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch {
  // no storage: the system's theme
}
