// The search and the readout of a report. The page is complete without this script.
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
