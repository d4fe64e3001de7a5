"""The page to drop a video on: one file, nothing loaded from elsewhere, light and dark."""

from __future__ import annotations

import html

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; "
    "media-src blob:; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def page(label: str, num_classes: int, max_bytes: int) -> str:
    """HTML. ``label`` names the model; the browser checks ``max_bytes`` before it sends anything."""
    values = {
        "@LABEL@": html.escape(label),
        "@CLASSES@": str(num_classes),
        "@MAX_BYTES@": str(max_bytes),
        "@MAX@": f"{max_bytes / 2**20:g} MiB",
    }
    text = _PAGE
    for key, value in values.items():
        text = text.replace(key, value)
    return text


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>stm: name the action</title>
<style>
:root { --ink: #1d2430; --soft: #5c6675; --paper: #fafbfc; --card: #fff; --line: #d5dbe3; --bar: #2f6fb5;
  --bar-soft: #a9c4e2; --bad: #a8321f; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6eaf0; --soft: #98a3b3; --paper: #12161c; --card: #1a2029; --line: #313a47; --bar: #6ba6e5;
    --bar-soft: #3b5777; --bad: #f08b78; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 44rem; margin: 0 auto; padding: 2.5rem 1.25rem; }
h1 { font-size: 1.4rem; margin: 0; }
.soft { color: var(--soft); font-size: .9rem; overflow-wrap: anywhere; }
#drop { display: block; margin: 1.25rem 0; padding: 2.5rem 1rem; text-align: center; border: 2px dashed var(--line);
  border-radius: 10px; background: var(--card); cursor: pointer; }
#drop.over, #drop:focus-within { border-color: var(--bar); }
#file { position: absolute; opacity: 0; width: 1px; height: 1px; }
[hidden] { display: none !important; }
#result { display: grid; gap: 1.25rem; grid-template-columns: minmax(0, 2fr) minmax(0, 3fr); align-items: start; }
@media (max-width: 36rem) { #result { grid-template-columns: 1fr; } }
video { width: 100%; max-height: 20rem; border-radius: 8px; background: #000; }
ol { list-style: none; margin: 0; padding: 0; }
li { margin-bottom: .6rem; }
.row { display: flex; justify-content: space-between; gap: 1rem; }
.row b { font-weight: 500; overflow-wrap: anywhere; }
.row span { font-variant-numeric: tabular-nums; }
li:first-child b { font-weight: 700; }
.track { height: 6px; border-radius: 3px; background: var(--line); overflow: hidden; }
.fill { height: 100%; background: var(--bar-soft); }
li:first-child .fill { background: var(--bar); }
.bad { color: var(--bad); }
</style>
</head>
<body>
<main>
<h1>Name the action in a video</h1>
<div class="soft">@LABEL@, @CLASSES@ classes</div>
<label id="drop">Drop a video here, or choose one<br>
<span class="soft">up to @MAX@; the images of one video, or a .zip or .tar of them, will do, too</span>
<input id="file" type="file" multiple accept="video/*,image/*,.mkv,.avi,.ts,.zip,.tar"></label>
<div id="state" role="status" aria-live="polite"></div>
<div id="result" hidden><video id="video" controls muted loop playsinline></video>
<div><ol id="answers"></ol><div id="facts" class="soft"></div></div></div>
</main>
<script>
"use strict";
const $ = (id) => document.getElementById(id);
const MAX = @MAX_BYTES@;
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
  $("facts").textContent = length + video.num_frames + " frames, " + video.width + " x " + video.height + ", " +
    video.codec + ". Decoded in " + ms.decode + " ms, scored in " + ms.network + " ms.";
}
async function send(files) {
  const mine = ++turn;
  if (!files.length) return;
  const single = files.length === 1, file = files[0];
  const name = single ? file.name : files.length + " files";
  const size = files.reduce((sum, each) => sum + each.size, 0);
  if (shown) { URL.revokeObjectURL(shown); shown = null; }
  $("result").hidden = true;
  if (size > MAX) { say(name + ": larger than @MAX@.", true); return; }
  say("Sending " + name + " ...", false);
  try {
    let body = file, headers = { "Content-Type": "application/octet-stream" };
    if (!single) {  // a form says what each file is called, and with that their order
      body = new FormData();
      headers = {};
      for (const each of files) body.append("image", each, each.name);
    }
    const reply = await fetch("predict", { method: "POST", body: body, headers: headers });
    const answer = await reply.json();
    if (mine !== turn) return;
    if (!reply.ok) {
      const error = answer.error || { reason: "status " + reply.status, detail: "" };
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
// Not every video that is decoded here can be played by the browser.
$("video").addEventListener("error", () => { $("video").hidden = true; });
$("file").addEventListener("change", (event) => { send([...event.target.files]); });
const drop = $("drop");
for (const name of ["dragenter", "dragover"])
  drop.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
for (const name of ["dragleave", "drop"])
  drop.addEventListener(name, (event) => { event.preventDefault(); drop.classList.remove("over"); });
drop.addEventListener("drop", (event) => { send([...event.dataTransfer.files]); });
for (const name of ["dragover", "drop"]) window.addEventListener(name, (event) => event.preventDefault());
</script>
</body>
</html>
"""
