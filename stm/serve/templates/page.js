"use strict";
const $ = (id) => document.getElementById(id);
const limit = $("drop").dataset;
let shown = null, turn = 0;
function say(text, bad) { $("state").textContent = text; $("state").className = bad ? "bad" : "soft"; }
function show(answer) {
  $("answers").replaceChildren(...answer.top5.map((entry) => {
    const item = document.createElement("li"), row = document.createElement("div");
    const name = document.createElement("b"), score = document.createElement("span");
    const track = document.createElement("div"), fill = document.createElement("div");
    row.className = "row"; track.className = "track"; fill.className = "fill";
    name.textContent = entry.class;
    score.textContent = (100 * entry.score).toFixed(1) + " %";
    fill.style.width = 100 * entry.score + "%";
    row.append(name, score); track.append(fill); item.append(row, track);
    return item;
  }));
  const video = answer.video, ms = answer.ms;
  const length = video.duration_s === null ? "" : video.duration_s.toFixed(1) + " s, ";
  $("facts").textContent = length + video.num_frames + (video.num_frames === 1 ? " frame, " : " frames, ") +
    video.width + " x " + video.height + ", " + video.codec + ". Decoded in " + ms.decode + " ms, scored in " + ms.network + " ms.";
}
async function send(files) {
  const mine = ++turn;
  if (!files.length) return;
  const single = files.length === 1, file = files[0];
  const name = single ? file.name : files.length + " files";
  const size = files.reduce((sum, each) => sum + each.size, 0);
  if (shown) { URL.revokeObjectURL(shown); shown = null; }
  $("result").hidden = true;
  if (size > Number(limit.maxBytes)) { say(name + " is larger than " + limit.max + ".", true); return; }
  say("Sending " + name + " ...", false);
  try {
    let body = file, headers = { "Content-Type": "application/octet-stream" };
    if (!single) {  // a form has the names of the files, which give their order
      body = new FormData();
      headers = {};
      for (const each of files) body.append("image", each, each.name);
    }
    const reply = await fetch("predict", { method: "POST", body: body, headers: headers });
    const answer = await reply.json().catch((error) => {
      if (error instanceof SyntaxError) return null;
      throw error;
    });
    if (mine !== turn) return;
    if (!reply.ok || !answer || !answer.top5) {
      // Not every reply is an answer of this server: a proxy, or the limit of a header, sends HTML.
      const status = [reply.status, reply.statusText].join(" ").trim();
      const error = answer && answer.error || { reason: "the reply is no answer but the status " + status, detail: "" };
      say(name + ": " + error.reason + (error.detail ? ": " + error.detail : ""), true);
      return;
    }
    say(name, false);
    show(answer);
    $("video").hidden = !single;
    if (single) {
      shown = URL.createObjectURL(file);
      $("video").src = shown;
    }
    $("result").hidden = false;
  } catch (error) {
    if (mine === turn) say("The server does not answer: " + error.message, true);
  }
}
// The server decodes some videos that the browser cannot play.
$("video").addEventListener("error", () => { $("video").hidden = true; });
$("file").addEventListener("change", (event) => { send([...event.target.files]); });
const drop = $("drop");
for (const name of ["dragenter", "dragover"])
  drop.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
for (const name of ["dragleave", "drop"])
  drop.addEventListener(name, (event) => { event.preventDefault(); drop.classList.remove("over"); });
drop.addEventListener("drop", (event) => { send([...event.dataTransfer.files]); });
for (const name of ["dragover", "drop"]) window.addEventListener(name, (event) => event.preventDefault());
