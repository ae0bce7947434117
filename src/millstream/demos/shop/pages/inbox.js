"use strict";
let seen = null;
async function look() {
  try {
    const answer = await fetch("/", { headers: { accept: "application/json" }, cache: "no-store" });
    const { mails } = await answer.json();
    if (seen === null) seen = mails;
    if (mails > seen) document.getElementById("news").textContent = (mails - seen) + " new. Reload to see them.";
  } catch {
    document.getElementById("news").textContent = "The inbox does not answer right now; trying again.";
  }
  setTimeout(look, 2000);
}
look();
