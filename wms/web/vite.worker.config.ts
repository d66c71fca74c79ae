import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { defineConfig } from "vite";

interface Chunk {
  file: string;
  css?: string[];
  isEntry?: boolean;
  imports?: string[];
}

/** What the service worker must know of the application: it is built after it, into the same folder. */
function shell(): { version: string; start: string[]; all: string[] } {
  const text = readFileSync("dist/.vite/manifest.json", "utf8");
  const manifest = JSON.parse(text) as Record<string, Chunk>;
  const start = new Set<string>();
  const visit = (name: string): void => {
    const chunk = manifest[name];
    if (chunk === undefined || start.has(`/${chunk.file}`)) return;
    start.add(`/${chunk.file}`);
    chunk.css?.forEach((file) => start.add(`/${file}`));
    chunk.imports?.forEach(visit);
  };
  for (const [name, chunk] of Object.entries(manifest)) if (chunk.isEntry) visit(name);
  const all = Object.values(manifest).flatMap((chunk) => [chunk.file, ...(chunk.css ?? [])]);
  const version = createHash("sha256").update(text).update(readFileSync("dist/index.html"));
  return { version: version.digest("hex").slice(0, 12), start: [...start], all: all.map((file) => `/${file}`) };
}

export default defineConfig({
  publicDir: false,
  define: { __SHELL__: JSON.stringify(shell()) },
  build: {
    target: "es2022",
    emptyOutDir: false,
    reportCompressedSize: false,
    // One classic script without a hash in its name: its address is its identity for the browser.
    lib: { entry: "src/worker/main.ts", formats: ["iife"], name: "worker", fileName: () => "sw.js" },
  },
});
