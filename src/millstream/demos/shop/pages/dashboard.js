"use strict";
const link = document.getElementById("link");
const chart = document.getElementById("chart");
const names = { placed: "Placed", reserved: "Set aside", rejected: "Sold out", mailed: "Confirmed" };
function text(id, value) {
  const element = document.getElementById(id);
  if (element.textContent !== value) element.textContent = value;
}
function bars(id, rows) {
  const body = document.getElementById(id);
  const most = Math.max(1, ...rows.map((row) => row.size));
  while (body.rows.length > rows.length) body.deleteRow(-1);
  rows.forEach((row, index) => {
    let line = body.rows[index];
    if (!line) {
      line = body.insertRow();
      const name = document.createElement("th");
      name.scope = "row";
      const bar = document.createElement("div");
      bar.className = "bar";
      bar.append(document.createElement("span"));
      line.append(name);
      line.insertCell().append(bar);
      line.insertCell().className = "number";
    }
    line.cells[0].textContent = row.name;
    line.cells[1].firstChild.firstChild.style.width = (100 * row.size) / most + "%";
    line.cells[2].textContent = row.value;
    line.className = row.kind || "";
  });
}
function columns(spans, seconds) {
  const most = Math.max(1, ...spans.map((span) => span.cents));
  const width = 600 / spans.length;
  const svg = "http://www.w3.org/2000/svg";
  while (chart.children.length < spans.length) {
    const column = document.createElementNS(svg, "rect");
    column.append(document.createElementNS(svg, "title"));
    chart.append(column);
  }
  spans.forEach((span, index) => {
    const column = chart.children[index];
    const height = (118 * span.cents) / most;
    column.setAttribute("x", index * width + 1);
    column.setAttribute("width", width - 2);
    column.setAttribute("y", 120 - height);
    column.setAttribute("height", height);
    column.firstChild.textContent =
      new Date(span.at * 1000).toLocaleTimeString() + ": " + span.revenue + ", " + span.orders + " orders";
  });
  const best = spans.reduce((a, b) => (b.cents > a.cents ? b : a));
  text("chart-words", best.cents ? "Each column is " + seconds + " s; the highest is " + best.revenue + "." : "Nothing sold yet.");
}
const source = new EventSource("/live");
source.onmessage = (message) => {
  const figures = JSON.parse(message.data);
  const count = Object.fromEntries(figures.funnel.map((row) => [row.name, row.count]));
  if (link.textContent !== "Live") link.textContent = "Live";
  link.className = "good";
  text("revenue", figures.revenue);
  text("orders", count.placed.toLocaleString("en"));
  text("rate", figures.orders_per_minute.toLocaleString("en"));
  text("mails", count.mailed.toLocaleString("en"));
  bars("funnel", figures.funnel.map((row) => ({
    name: names[row.name], size: row.count, value: row.count.toLocaleString("en"), kind: row.name,
  })));
  bars("products", figures.products.map((row) => ({ name: row.name, size: row.cents, value: row.revenue })));
  document.getElementById("nothing").hidden = figures.products.length > 0;
  columns(figures.spans, figures.span_seconds);
};
source.onerror = () => {
  link.textContent = "Not connected: trying again. The figures below are the last known.";
  link.className = "bad";
};
