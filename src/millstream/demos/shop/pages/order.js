"use strict";
const status = document.getElementById("status");
const words = document.getElementById("words");
const order = ["placed", "reserved", "mailed"];
const sentences = {
  placed: "We have your order and are looking for the goods.",
  reserved: "The goods are set aside for you.",
  mailed: "The confirmation is in your inbox.",
};
function show(state, missing) {
  const reached = order.indexOf(state);
  for (const item of status.children) {
    const position = order.indexOf(item.dataset.step);
    item.className = state === "rejected" ? (position === 0 ? "done" : "never") : position <= reached ? "done" : "";
  }
  const sentence = state === "rejected" ? "Rejected: " + missing + " is out of stock." : sentences[state];
  if (words.textContent !== sentence) words.textContent = sentence;
  words.className = state === "rejected" ? "bad" : state === "mailed" ? "good" : "";
}
async function follow() {
  try {
    const answer = await fetch(location.pathname, { headers: { accept: "application/json" } });
    if (answer.ok) {
      const data = await answer.json();
      show(data.state, data.missing_sku);
      if (data.state === "mailed" || data.state === "rejected") return;
    }
  } catch {
    words.textContent = "The shop does not answer right now; trying again.";
  }
  setTimeout(follow, 500);
}
show(status.dataset.state, status.dataset.missing);
follow();
