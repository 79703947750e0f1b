"use strict";
const tip = document.getElementById("tip");
const show = (event, text) => {
  tip.textContent = text;
  tip.style.visibility = "visible";
  const box = tip.getBoundingClientRect();
  const x = event.clientX + 14 + box.width > innerWidth ? event.clientX - box.width - 14 : event.clientX + 14;
  const y = event.clientY + 14 + box.height > innerHeight ? event.clientY - box.height - 14 : event.clientY + 14;
  tip.style.left = `${x}px`;
  tip.style.top = `${y}px`;
};
const hide = () => { tip.style.visibility = "hidden"; };
const at = (svg, event) => new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
const grouped = (count) => count.toLocaleString("en-US").replaceAll(",", "\u202f");
const mebibytes = (bytes) => `${(bytes / 1048576).toFixed(bytes < 10485760 ? 2 : 0)} MiB`;

for (const svg of document.querySelectorAll("svg[data-samples]")) {
  const samples = JSON.parse(svg.dataset.samples);
  const [left, right, first, last] = JSON.parse(svg.dataset.axis);
  const cursor = svg.querySelector(".cursor");
  const x = (seconds) => left + (seconds - first) / (last - first) * (right - left);
  svg.addEventListener("mousemove", (event) => {
    const pointer = at(svg, event).x;
    if (!samples.length || pointer < left || pointer > right) { cursor.style.visibility = "hidden"; hide(); return; }
    const nearest = samples.reduce((a, b) => Math.abs(x(a[0]) - pointer) <= Math.abs(x(b[0]) - pointer) ? a : b);
    const [seconds, status, remaining, transferred, dirty, mbps, syncs] = nearest;
    cursor.setAttribute("transform", `translate(${x(seconds)} 0)`);
    cursor.style.visibility = "visible";
    show(event, [`t           ${seconds.toFixed(3)} s`, `status      ${status}`, `remaining   ${mebibytes(remaining)}`,
      `transferred ${mebibytes(transferred)}`, `dirty rate  ${grouped(dirty)} pages/s`, `throughput  ${grouped(mbps)} Mbit/s`,
      `dirty syncs ${syncs}`].join("\n"));
  });
  svg.addEventListener("mouseleave", () => { cursor.style.visibility = "hidden"; hide(); });
}

for (const maps of document.querySelectorAll("[data-heat]")) {
  const heat = JSON.parse(maps.dataset.heat);
  for (const svg of maps.querySelectorAll("svg")) {
    svg.addEventListener("mousemove", (event) => {
      const point = at(svg, event);
      const column = Math.floor((point.x - heat.gutter) / heat.cell);
      const row = Math.floor((point.y - 2) / heat.cell);
      const index = row * heat.columns + column;
      const names = Object.keys(heat.counts);
      if (column < 0 || column >= heat.columns || row < 0 || index >= heat.counts[names[0]].length) { hide(); return; }
      const start = index * heat.bytes;
      show(event, [`ram_addr 0x${start.toString(16)}-0x${(start + heat.bytes - 1).toString(16)}`,
        ...names.map((name) => `${name.padEnd(8)} ${grouped(heat.counts[name][index])}`)].join("\n"));
    });
    svg.addEventListener("mouseleave", hide);
  }
}

const kinds = { p: "private", s: "shared", b: "private and shared", m: "MISMATCH", "-": "unknown" };
const span = (start, end) => `0x${(start * 4096).toString(16)}-0x${(end * 4096 - 1).toString(16)}`;
for (const svg of document.querySelectorAll("svg[data-strip]")) {
  const strip = JSON.parse(svg.dataset.strip);
  const cursor = svg.querySelector(".cursor");
  const columns = Math.ceil(strip.total / strip.pages);
  svg.addEventListener("mousemove", (event) => {
    const column = Math.floor((at(svg, event).x - strip.left) / strip.scale);
    if (column < 0 || column >= columns) { cursor.style.visibility = "hidden"; hide(); return; }
    const first = column * strip.pages;
    const end = Math.min(first + strip.pages, strip.total);
    const places = strip.windows.map(([gfn, ram, pages]) => [gfn - ram, Math.max(first, ram), Math.min(end, ram + pages)])
      .filter(([, low, high]) => low < high).map(([shift, low, high]) => `gpa ${span(low + shift, high + shift)}`);
    cursor.setAttribute("transform", `translate(${strip.left + (column + 0.5) * strip.scale} 0)`);
    cursor.style.visibility = "visible";
    show(event, [...places, ...strip.rows.map(([name, row]) => `${name.padEnd(14)} ${kinds[row[column]] || "unknown"}`)].join("\n"));
  });
  svg.addEventListener("mouseleave", () => { cursor.style.visibility = "hidden"; hide(); });
}
