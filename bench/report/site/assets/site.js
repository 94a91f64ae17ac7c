"use strict";
// Theme, ages, filters and charts. Nothing here asks any network; without it the pages still read.

const root = document.documentElement;
const store = {
  get: () => { try { return localStorage.getItem("bench-theme"); } catch { return null; } },
  set: (value) => { try { localStorage.setItem("bench-theme", value); } catch { /* private window */ } },
};
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const applyTheme = () => { root.dataset.theme = store.get() || (dark.matches ? "dark" : "light"); };
applyTheme();
dark.addEventListener("change", () => { applyTheme(); drawCharts(); });

document.getElementById("theme").addEventListener("click", () => {
  store.set(root.dataset.theme === "dark" ? "light" : "dark");
  applyTheme();
  drawCharts();
});

// "3 h ago" beside each time.
for (const time of document.querySelectorAll("time")) {
  const seconds = (Date.now() - new Date(time.dateTime)) / 1000;
  const [size, unit] = [[86400 * 365, "y"], [86400, "d"], [3600, "h"], [60, "min"]].find(([s]) => seconds >= s) || [1, "s"];
  time.title = `${time.dateTime} (UTC)`;
  if (seconds >= 0 && time.closest(".age")) time.textContent += `, ${Math.floor(seconds / size)} ${unit} ago`;
}

// The matrix of the front page.
const filters = document.getElementById("filters");
if (filters) {
  const table = document.getElementById("matrix");
  const apply = () => {
    const want = Object.fromEntries(new FormData(filters));
    for (const cell of table.querySelectorAll("[data-image]")) cell.hidden = Boolean(want.image) && cell.dataset.image !== want.image;
    let shown = 0;
    for (const row of table.tBodies[0].rows) {
      const cells = [...row.cells].filter((c) => c.dataset.image && !c.hidden);
      const fits = (!want.text || row.dataset.text.includes(want.text.toLowerCase()))
        && (!want.kind || row.dataset.kind === want.kind)
        && (!want.verdict || cells.some((c) => c.dataset.verdict === want.verdict))
        && (!want.news || cells.some((c) => c.dataset.news));
      row.hidden = !fits;
      shown += fits;
    }
    filters.querySelector("output").textContent = `${shown} of ${table.tBodies[0].rows.length} models`;
  };
  filters.addEventListener("input", apply);
  filters.addEventListener("submit", (event) => event.preventDefault());
  apply();
}

for (const form of document.querySelectorAll("form[data-table]")) {
  const rows = [...document.getElementById(form.dataset.table).tBodies[0].rows];
  const apply = () => {
    const want = Object.fromEntries(new FormData(form));
    let shown = 0;
    for (const row of rows) {
      const fits = (!want.text || row.textContent.toLowerCase().includes(want.text.toLowerCase()))
        && (!want.verdict || row.dataset.verdict === want.verdict);
      row.hidden = !fits;
      shown += fits;
    }
    form.querySelector("output").textContent = `${shown} of ${rows.length}`;
  };
  form.addEventListener("input", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  apply();
}

// Charts: colours are names of custom properties, so that they follow the theme.
const coloured = (value, style) => {
  if (typeof value === "string") return value.startsWith("var:") ? style.getPropertyValue(value.slice(4)).trim() : value;
  if (Array.isArray(value)) return value.map((v) => coloured(v, style));
  if (value && typeof value === "object") return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, coloured(v, style)]));
  return value;
};

function drawCharts() {
  if (!window.Plotly) return;
  const style = getComputedStyle(root);
  const colour = (name) => style.getPropertyValue(name).trim();
  for (const place of document.querySelectorAll("[data-figure]")) {
    const figure = coloured(JSON.parse(document.getElementById(place.dataset.figure).textContent), style);
    const axis = { gridcolor: colour("--line"), zerolinecolor: colour("--line"), linecolor: colour("--line") };
    const layout = {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: colour("--ink"), family: "system-ui, DejaVu Sans, sans-serif", size: 12 },
      ...(place.clientWidth < 480 ? { font: { size: 9, color: colour("--ink") } } : {}),
      margin: { l: 56, r: 16, t: 10, b: 48 }, legend: { orientation: "h", y: 1.12 },
      hoverlabel: { bgcolor: colour("--surface"), font: { color: colour("--ink") } },
      ...figure.layout,
      xaxis: { ...axis, ...figure.layout.xaxis }, yaxis: { ...axis, ...figure.layout.yaxis },
    };
    Plotly.react(place, figure.data, layout, { responsive: true, displayModeBar: false });
  }
}
window.addEventListener("load", drawCharts);
