import react from "@vitejs/plugin-react";
import { defineConfig } from "vite";

export default defineConfig({
  plugins: [react()],
  base: "/",
  build: {
    target: "es2022",
    assetsDir: "assets",
    // What scripts/budget.mjs and the service worker's build read.
    manifest: true,
    // Every asset is a file with a hash in its name, which any cache may keep for ever.
    assetsInlineLimit: 0,
    reportCompressedSize: false,
  },
});
