"""How a report looks, in light and in dark, and the little it does when touched. It reads whole without its script."""

from __future__ import annotations

STYLE = """
:root {
  color-scheme: light dark;
  --page: #ffffff; --card: #f6f7f8; --ink: #1b1f23; --muted: #5b636b; --hair: #dfe3e6;
  --accent: #b5481a; --on-accent: #ffffff; --right: #a9b2ba;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14171a; --card: #1c2024; --ink: #e8eaec; --muted: #a0a8b0; --hair: #31373d;
    --accent: #f08a56; --on-accent: #14171a; --right: #5b646c;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif;
  font-variant-numeric: tabular-nums; overflow-wrap: anywhere;
}
main { max-width: 940px; margin: 0 auto; padding: 48px 24px 96px; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 6px; letter-spacing: -0.015em; font-weight: 650; }
h2 { font-size: 1.25rem; margin: 0 0 4px; letter-spacing: -0.01em; font-weight: 650; }
h3 { font-size: .95rem; margin: 0 0 8px; font-weight: 600; }
p { margin: 0 0 12px; max-width: 68ch; }
.muted, .lead { color: var(--muted); }
.small { font-size: .875rem; }
.lead { margin-bottom: 20px; }
nav { margin: 28px 0 0; padding: 10px 0; border-block: 1px solid var(--hair); font-size: .9rem; }
nav a { display: inline-block; margin-right: 20px; padding: 2px 0; color: var(--muted); text-decoration: none; }
nav a:hover { color: var(--accent); text-decoration: underline; }
a { color: var(--accent); }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
section { margin-top: 64px; }
.notice {
  margin: 20px 0 0; padding: 12px 16px; border-left: 3px solid var(--accent); background: var(--card);
  max-width: none;
}
.headline { display: grid; grid-template-columns: repeat(3, 1fr); gap: 16px 40px; margin: 32px 0 12px; }
.headline .value { font-size: 2.9rem; line-height: 1.1; font-weight: 650; letter-spacing: -0.03em; }
.headline .value small { font-size: 1.3rem; font-weight: 500; color: var(--muted); letter-spacing: 0; }
.headline .name { font-size: .875rem; color: var(--muted); }
.headline > div:first-child .value { color: var(--accent); }
.headline svg { width: 100%; max-width: 200px; margin: 6px 0 2px; }
.two { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 32px 40px; margin: 24px 0; }
.three { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 24px 40px; margin: 24px 0; }
.matrix-and-pairs { display: flex; flex-wrap: wrap; gap: 24px 48px; align-items: flex-start; }
.matrix-and-pairs > .scroll { max-width: 100%; flex: 0 1 auto; }
.matrix-and-pairs > .pairs { flex: 1 1 250px; min-width: 0; }
.scroll { overflow-x: auto; }
.tall { max-height: 460px; overflow: auto; border-block: 1px solid var(--hair); }
.tall thead th { position: sticky; top: 0; background: var(--page); }
table { border-collapse: collapse; width: 100%; font-size: .9rem; overflow-wrap: break-word; }
th { text-align: left; font-weight: 500; color: var(--muted); font-size: .8rem; }
th, td { padding: 6px 16px 6px 0; border-bottom: 1px solid var(--hair); vertical-align: middle; }
th:last-child, td:last-child { padding-right: 0; }
.number { text-align: right; white-space: nowrap; }
.number + :not(.number) { padding-left: 12px; }
.name-cell { min-width: 9em; }
.bar-cell { width: 160px; min-width: 110px; }
.nowrap { white-space: nowrap; }
svg { display: block; }
svg.chart { width: 100%; height: auto; }
svg.interval { width: 160px; max-width: 100%; height: 16px; }
svg text { fill: var(--ink); font-size: 12px; font-family: inherit; }
svg .axis { fill: var(--muted); }
svg .end { text-anchor: end; } svg .mid { text-anchor: middle; } svg .start { text-anchor: start; }
svg .matrix .axis { fill: var(--ink); }
.grid { stroke: var(--hair); stroke-width: 1; }
.mark { stroke: var(--muted); stroke-width: 1; stroke-dasharray: 2 3; }
.diagonal { stroke: var(--muted); stroke-width: 1; stroke-dasharray: 4 4; }
.line { fill: none; stroke: var(--accent); stroke-width: 2; stroke-linejoin: round; }
.second { fill: none; stroke: var(--muted); stroke-width: 1.5; stroke-dasharray: 5 4; }
.faint { fill: none; stroke: var(--accent); stroke-width: 1; stroke-opacity: .3; }
.band { fill: var(--accent); fill-opacity: .22; }
.whisker { stroke: var(--accent); stroke-width: 1.5; stroke-opacity: .5; }
.dot { fill: var(--accent); }
.bar { fill: var(--accent); fill-opacity: .75; }
.right { fill: var(--right); } .wrong { fill: var(--accent); } .none { fill: var(--card); }
svg .count { text-anchor: middle; font-size: 11.5px; pointer-events: none; }
svg .count.on { fill: var(--on-accent); }
.key { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin: 0 .35em 0 0; }
.key.is-right { background: var(--right); } .key.is-wrong { background: var(--accent); margin-left: 1em; }
.heat { display: block; width: 100%; aspect-ratio: 1; height: auto;
  border: 1px solid var(--hair); cursor: crosshair; }
.readout { min-height: 1.6em; margin: 8px 0 20px; font-size: .9rem; }
.search { width: 100%; max-width: 320px; font: inherit; padding: 7px 10px; margin: 12px 0; color: var(--ink);
  background: var(--page); border: 1px solid var(--muted); border-radius: 6px; }
.videos { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 36px 40px; margin-top: 20px; }
.videos figure { margin: 0; min-width: 0; }
.videos img { display: block; width: 100%; height: auto; border-radius: 4px; background: var(--card); }
.videos .no-picture { padding: 24px 12px; background: var(--card); border-radius: 4px; }
.videos figcaption { font-size: .875rem; margin-top: 8px; }
.answers { list-style: none; margin: 2px 0 4px; padding: 0; }
.answers li { display: grid; grid-template-columns: 3.6em 1fr; gap: 8px; color: var(--muted); }
.answers li.is-true { color: var(--ink); font-weight: 600; }
.verdict { font-weight: 600; }
.verdict.is-wrong { color: var(--accent); }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 6px 24px; margin: 0; font-size: .9rem; }
dt { color: var(--muted); } dd { margin: 0; }
code, pre { font: .85rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
pre { margin: 8px 0 16px; padding: 12px 14px; background: var(--card); border-radius: 6px; overflow-x: auto;
  overflow-wrap: normal; }
pre.wrap { white-space: pre-wrap; overflow-wrap: anywhere; }
summary { cursor: pointer; padding: 6px 0; }
details { margin-top: 8px; }
[hidden] { display: none; }
@media (max-width: 700px) {
  main { padding: 28px 16px 64px; }
  section { margin-top: 48px; }
  .headline, .two, .three, .videos { grid-template-columns: minmax(0, 1fr); }
  .headline { gap: 20px; }
  dl { grid-template-columns: minmax(0, 1fr); gap: 0; }
  dd { margin-bottom: 10px; }
}
@media print { nav, .search, .readout { display: none; } .tall { max-height: none; } section { break-inside: avoid; } }
"""

SCRIPT = """
"use strict";
const search = document.getElementById("search");
if (search) {
  const rows = Array.from(document.querySelectorAll("#classes tbody tr"));
  const found = document.getElementById("found");
  search.addEventListener("input", () => {
    const wanted = search.value.trim().toLowerCase();
    let count = 0;
    for (const row of rows) {
      row.hidden = !row.textContent.toLowerCase().includes(wanted);
      count += row.hidden ? 0 : 1;
    }
    found.textContent = wanted ? count + " of " + rows.length : "";
  });
}
const heat = document.getElementById("heat");
if (heat) {
  const matrix = JSON.parse(document.getElementById("matrix").textContent);
  const readout = document.getElementById("readout");
  const told = readout.textContent;
  heat.addEventListener("pointermove", (event) => {
    const box = heat.getBoundingClientRect();
    const last = matrix.classes.length - 1;
    const place = (at, length) => Math.min(last, Math.max(0, Math.floor(at / length * (last + 1))));
    const row = place(event.clientY - box.top, box.height);
    const column = place(event.clientX - box.left, box.width);
    const cell = (matrix.cells[row] || []).find((one) => one[0] === column);
    const count = cell ? cell[1] : 0;
    readout.textContent = row === column
      ? matrix.classes[row] + ": " + count + " right"
      : matrix.classes[row] + " taken for " + matrix.classes[column] + ": " + count;
  });
  heat.addEventListener("pointerleave", () => { readout.textContent = told; });
}
"""
