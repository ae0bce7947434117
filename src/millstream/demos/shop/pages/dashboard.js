"use strict";
const link = document.getElementById("link");
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
const names = { placed: "Placed", reserved: "Reserved", rejected: "Out of stock", mailed: "Mailed" };
const source = new EventSource("/live");
source.onmessage = (message) => {
  const figures = JSON.parse(message.data);
  link.textContent = "Live";
  link.className = "good";
  text("revenue", figures.revenue);
  bars("funnel", figures.funnel.map((row) => ({
    name: names[row.name], size: row.count, value: row.count.toLocaleString("en"), kind: row.name,
  })));
  bars("products", figures.products.map((row) => ({ name: row.name, size: row.cents, value: row.revenue })));
};
source.onerror = () => {
  link.textContent = "Not connected: trying again. The figures below are the last known.";
  link.className = "bad";
};
