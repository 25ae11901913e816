// Reading works without this file. It shows times in the reader's zone, refreshes what changes, reads values off the
// chart, and shows a document beside its hit without a reload.
"use strict";

const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
const language = document.documentElement.lang;
const clock = new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "medium" });

function localise(root) {
  for (const one of root.querySelectorAll("time[datetime]")) {
    one.textContent = clock.format(new Date(one.dateTime));
  }
}

// Fields of a time are in UTC without this script; with it, in the reader's zone.
function localiseFields(root) {
  const pad = (number) => String(number).padStart(2, "0");
  for (const field of root.querySelectorAll("input[data-utc]")) {
    if (field.value) {
      const at = new Date(`${field.value}Z`);
      field.value = `${at.getFullYear()}-${pad(at.getMonth() + 1)}-${pad(at.getDate())}T${pad(at.getHours())}:${pad(at.getMinutes())}`;
    }
    const label = root.querySelector(`label[for="${field.id}"] [data-zone]`);
    if (label) label.textContent = zone;
    field.form.addEventListener("formdata", (event) => {
      const value = event.formData.get(field.name);
      if (value) event.formData.set(field.name, new Date(value).toISOString().slice(0, 16));
    });
  }
}

// `X-Part` leaves messages for the page that the reader opens next.
async function load(address) {
  const answer = await fetch(address, { headers: { "X-Part": "1" }, redirect: "error" });
  if (!answer.ok) throw new Error(answer.status);
  return new DOMParser().parseFromString(await answer.text(), "text/html");
}

// Parts that change are replaced by those of the same page, read again; what the reader is using stays.
async function refresh() {
  const parts = document.querySelectorAll("[data-refresh]");
  if (!parts.length || document.hidden) return;
  let fresh;
  try {
    fresh = await load(location.href);
  } catch {
    document.body.classList.add("stale");
    return;
  }
  document.body.classList.remove("stale");
  for (const part of parts) {
    const next = fresh.getElementById(part.id);
    const isUsed = part.contains(document.activeElement) || part.matches(":has([data-points]:hover)");
    if (next && !isUsed) {
      localise(next);
      part.replaceChildren(...next.childNodes);
      readChart(part);
    }
  }
}

function readChart(root) {
  for (const chart of root.querySelectorAll("svg[data-points]")) {
    const points = JSON.parse(chart.dataset.points);
    const cursor = chart.querySelector(".cursor");
    const readout = document.getElementById(chart.dataset.readout);
    const resting = readout.textContent;
    const show = (event) => {
      const box = chart.getBoundingClientRect();
      const x = ((event.clientX - box.left) / box.width) * chart.viewBox.baseVal.width;
      let best = null;
      for (const point of points) if (!best || Math.abs(point[1] - x) < Math.abs(best[1] - x)) best = point;
      if (!best) return;
      cursor.setAttribute("x1", best[1]);
      cursor.setAttribute("x2", best[1]);
      cursor.classList.add("on");
      const values = Object.entries(best[2]).map(([name, value]) => `${name} ${value.toLocaleString(language)}`);
      readout.textContent = `${clock.format(new Date(Date.now() - best[0] * 1000))}: ${values.join(", ")}`;
    };
    chart.addEventListener("pointermove", show);
    chart.addEventListener("pointerleave", () => {
      cursor.classList.remove("on");
      readout.textContent = resting;
    });
  }
}

function showBeside() {
  const beside = document.getElementById("beside");
  if (!beside) return;
  document.addEventListener("click", async (event) => {
    const link = event.target.closest("a[data-beside]");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    event.preventDefault();
    try {
      const fresh = (await load(link.href)).getElementById("beside");
      localise(fresh);
      beside.replaceChildren(...fresh.childNodes);
      history.replaceState(null, "", link.href);
    } catch {
      location.href = link.href;
      return;
    }
    for (const hit of document.querySelectorAll(".hits li")) hit.classList.toggle("shown", hit.contains(link));
    beside.focus({ preventScroll: matchMedia("(min-width: 46rem)").matches });
  });
}

localise(document);
localiseFields(document);
readChart(document);
showBeside();
setInterval(refresh, 5000);
document.addEventListener("visibilitychange", refresh);
