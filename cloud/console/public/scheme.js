// Runs before the first paint, so that a dark screen does not flash white.
// An own file because the Content-Security-Policy forbids inline scripts.
(function () {
  var chosen = null;
  try {
    chosen = window.localStorage.getItem("swell-color-scheme");
  } catch {
    // Storage may be switched off; the system's choice is taken.
  }
  var dark = chosen === "dark" || (chosen !== "light" && window.matchMedia("(prefers-color-scheme: dark)").matches);
  document.documentElement.setAttribute("data-mantine-color-scheme", dark ? "dark" : "light");
})();
