"use strict";
const products = [...document.querySelectorAll(".product")];
const chosen = document.getElementById("chosen");
function money(cents) {
  const [whole, part] = (cents / 100).toFixed(2).split(".");
  return whole.replace(/\B(?=(\d{3})+$)/g, "\u202f") + "." + part + "\u00a0€";
}
function quantity(product) {
  const value = product.querySelector("input").valueAsNumber;
  return Number.isInteger(value) && value > 0 ? value : 0;
}
function show() {
  const wanted = products.filter((product) => quantity(product) > 0);
  chosen.hidden = wanted.length === 0;
  document.getElementById("empty").hidden = wanted.length > 0;
  chosen.tBodies[0].replaceChildren(...wanted.map((product) => {
    const row = document.createElement("tr");
    const name = document.createElement("th");
    name.scope = "row";
    name.textContent = quantity(product) + " × " + product.dataset.name;
    const price = document.createElement("td");
    price.className = "number";
    price.textContent = money(quantity(product) * product.dataset.price);
    row.append(name, price);
    return row;
  }));
  document.getElementById("total").textContent = money(
    wanted.reduce((sum, product) => sum + quantity(product) * product.dataset.price, 0),
  );
  for (const product of products) product.classList.toggle("chosen", quantity(product) > 0);
}
for (const product of products) {
  const input = product.querySelector("input");
  for (const [name, by] of [["less", -1], ["more", 1]]) {
    const button = product.querySelector("." + name);
    button.hidden = false;
    button.addEventListener("click", () => {
      input.value = Math.min(Number(input.max), Math.max(0, quantity(product) + by));
      show();
    });
  }
  input.addEventListener("input", show);
}
const wrong = document.querySelector("[aria-invalid]");
if (wrong) wrong.focus();
show();
