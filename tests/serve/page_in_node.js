// Runs the page's script on a minimal document, sends a file to the server at argv[3], and prints what the page says.
"use strict";
const fs = require("fs"), vm = require("vm");
const elements = {};
function element(id) {
  return elements[id] ??= {
    dataset: { maxBytes: "1000", max: "1000 B" }, style: {}, textContent: "", className: "",
    addEventListener() {}, replaceChildren() {}, append() {},
  };
}
const context = vm.createContext({
  document: { getElementById: element, createElement: () => element(Symbol()) },
  window: { addEventListener() {} },
  URL: { createObjectURL: () => "blob:x", revokeObjectURL() {} },
  SyntaxError, FormData, fetch: (path, options) => fetch(process.argv[3] + path, options),
});
vm.runInContext(fs.readFileSync(process.argv[2], "utf8"), context);
context.files = [new File(["video"], "a.mp4")];
vm.runInContext("send(files)", context).then(() => console.log(elements.state.textContent));
