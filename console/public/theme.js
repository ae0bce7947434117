// Before the first paint, so that the page does not flash in the other theme.
try {
  const chosen = localStorage.getItem("millstream.theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch {
  // Without storage the system's theme it is.
}
