// Row F2: fails the build when it outgrows its budgets, and prints what it is made of. Sizes are gzip level 6, which is
// what a server sends at least (the gateway compresses with brotli where the browser takes it).
import { readFileSync } from "node:fs";
import { gzipSync } from "node:zlib";

const DIST = process.argv[2] ?? "dist";
const KB = 1000;
const BUDGETS = { "initial JS": 150 * KB, "all CSS": 50 * KB, "critical path": 200 * KB };

const manifest = JSON.parse(readFileSync(`${DIST}/.vite/manifest.json`, "utf8"));
const sizes = new Map();
function size(file) {
  if (!sizes.has(file)) {
    const raw = readFileSync(`${DIST}/${file}`);
    sizes.set(file, { raw: raw.length, gzip: gzipSync(raw, { level: 6 }).length });
  }
  return sizes.get(file);
}

/** The files that a chunk needs before it runs: itself, what it imports, and their CSS. */
function closure(name, files = new Set()) {
  const chunk = manifest[name];
  if (files.has(chunk.file)) return files;
  files.add(chunk.file);
  for (const css of chunk.css ?? []) files.add(css);
  for (const imported of chunk.imports ?? []) closure(imported, files);
  return files;
}

const entry = Object.keys(manifest).find((name) => manifest[name].isEntry);
if (!entry) throw new Error(`${DIST}: the manifest names no entry`);
const initial = closure(entry);
const routes = Object.keys(manifest).filter((name) => manifest[name].isDynamicEntry);
const sum = (files) => [...files].reduce((total, file) => total + size(file).gzip, 0);
const html = size("index.html").gzip;

const rows = [];
for (const file of initial) rows.push(["start", file]);
for (const name of routes) for (const file of closure(name)) if (!initial.has(file)) rows.push([name, file]);
rows.push(["worker", "sw.js"], ["page", "index.html"]);
const print = (cells) => console.log(`${cells[0].padEnd(28)}${cells[1].padEnd(40)}${cells[2].padStart(10)}${cells[3].padStart(10)}`);
const kb = (bytes) => (bytes / KB).toFixed(1);
print(["part", "file", "KB", "gzip KB"]);
const seen = new Set();
for (const [part, file] of rows) {
  print([part, file + (seen.has(file) ? " (again)" : ""), kb(size(file).raw), kb(size(file).gzip)]);
  seen.add(file);
}

const css = new Set(Object.values(manifest).flatMap((chunk) => [...(chunk.css ?? []), ...(chunk.file.endsWith(".css") ? [chunk.file] : [])]));
const heaviest = routes
  .map((name) => ({ name, bytes: html + sum(new Set([...initial, ...closure(name)])) }))
  .sort((a, b) => b.bytes - a.bytes)[0] ?? { name: entry, bytes: html + sum(initial) };
const found = {
  "initial JS": sum([...initial].filter((file) => file.endsWith(".js"))),
  "all CSS": sum(css),
  "critical path": heaviest.bytes,
};
console.log();
let over = 0;
for (const [name, limit] of Object.entries(BUDGETS)) {
  const fits = found[name] < limit;
  over += fits ? 0 : 1;
  const note = name === "critical path" ? ` (page, start, and the heaviest route: ${heaviest.name})` : "";
  console.log(`${fits ? "ok  " : "OVER"} ${name}: ${kb(found[name])} of ${kb(limit)} KB gzip${note}`);
}
if (over) {
  console.error(`${over} of ${Object.keys(BUDGETS).length} budgets exceeded: see the table above for what grew`);
  process.exit(1);
}
