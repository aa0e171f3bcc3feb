// Before anything is painted: the theme that was chosen, if one was.
"use strict";
(() => {
  const key = "quire-theme";
  const dark = matchMedia("(prefers-color-scheme: dark)");
  let chosen = null;
  try {
    chosen = localStorage.getItem(key);
  } catch {
    // Storage may be forbidden; the system's theme is used then.
  }
  const apply = () => {
    const theme = chosen ?? (dark.matches ? "dark" : "light");
    document.documentElement.dataset.theme = theme;
    document.dispatchEvent(new CustomEvent("quire-theme", { detail: theme }));
  };
  dark.addEventListener("change", apply);
  globalThis.quireToggleTheme = () => {
    chosen = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    try {
      localStorage.setItem(key, chosen);
    } catch {
      // Not remembered then.
    }
    apply();
  };
  apply();
})();
