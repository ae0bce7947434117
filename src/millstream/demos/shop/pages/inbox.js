"use strict";
const mails = document.getElementById("mails");
function show() {
  document.getElementById("none").hidden = mails.rows.length > 0;
  for (const time of mails.querySelectorAll("time:not([datetime])")) {
    const date = new Date(time.textContent);
    if (Number.isNaN(date.getTime())) continue;
    time.dateTime = date.toISOString();
    time.textContent = date.toLocaleTimeString();
  }
}
async function look() {
  const trouble = document.getElementById("trouble");
  try {
    const answer = await fetch("/", { headers: { accept: "text/html" }, cache: "no-store" });
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    const summary = document.getElementById("summary");
    const words = fresh.getElementById("summary").textContent;
    if (summary.textContent !== words) {
      summary.textContent = words;
      // What somebody is pointing at or has tabbed to must not move away under them.
      if (!mails.matches(":hover") && !mails.contains(document.activeElement)) {
        mails.replaceChildren(...fresh.getElementById("mails").rows);
        show();
      }
    }
    trouble.hidden = true;
  } catch {
    trouble.hidden = false;
  }
  setTimeout(look, 1000);
}
show();
setTimeout(look, 1000);
