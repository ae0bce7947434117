"use strict";
const steps = document.getElementById("steps");
const words = document.getElementById("words");
const order = ["placed", "reserved", "mailed"];
const sentences = {
  placed: "We have your order and are looking for the goods.",
  reserved: "The goods are set aside for you; the confirmation is on its way.",
  mailed: "All done: the confirmation is in your inbox.",
};
function since(start, at) {
  const seconds = (Date.parse(at) - Date.parse(start)) / 1000;
  return "after " + (seconds < 10 ? seconds.toFixed(2) : Math.round(seconds)) + " s";
}
function show(data) {
  const rejected = data.state === "rejected";
  const reached = order.indexOf(data.state);
  for (const item of steps.children) {
    const step = item.dataset.step;
    item.className = rejected ? (step === "placed" ? "done" : "never") : order.indexOf(step) <= reached ? "done" : "";
    const at = data.at[step];
    if (at) item.querySelector("time").textContent = step === "placed" ? new Date(at).toLocaleTimeString() : since(data.at.placed, at);
  }
  const sentence = rejected ? "Sorry: there is not enough left of " + data.missing_sku + ". Nothing was set aside." : sentences[data.state];
  if (words.textContent !== sentence) words.textContent = sentence;
  words.className = "notice " + (rejected ? "bad" : data.state === "mailed" ? "good" : "waits");
}
async function follow() {
  try {
    const answer = await fetch(location.pathname, { headers: { accept: "application/json" } });
    if (answer.ok) {
      const data = await answer.json();
      show(data);
      if (data.state === "mailed" || data.state === "rejected") return;
    }
  } catch {
    words.textContent = "The shop does not answer right now; trying again.";
  }
  setTimeout(follow, 250);
}
follow();
