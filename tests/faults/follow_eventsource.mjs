// Follows paths with the npm package eventsource, as follow_httpx.py does with httpx-sse:
// node follow_eventsource.mjs http://127.0.0.1:8080 FOLDER, where the package lies in FOLDER/node_modules.
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const [base, folder] = process.argv.slice(2);
const found = createRequire(`${folder}/`).resolve("eventsource");
const { EventSource } = await import(pathToFileURL(found).href);

function tell(path, event, id = "", data = {}) {
  process.stdout.write(JSON.stringify({ path, event, id, data }) + "\n");
}

for await (const line of createInterface({ input: process.stdin })) {
  const path = line.trim();
  const source = new EventSource(base + path);
  source.onopen = () => tell(path, "open");
  for (const name of ["change", "progress", "deleted", "reset", "message"]) {
    source.addEventListener(name, (told) => tell(path, name, told.lastEventId, JSON.parse(told.data)));
  }
  source.onerror = (error) => {
    if (source.readyState === EventSource.CLOSED) tell(path, "end", "", { status: error.code ?? null });
  };
}
