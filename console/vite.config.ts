import { defineConfig } from "vitest/config";

// The server of a running console, for `npx vite` during development: MILLSTREAM_CONSOLE=http://127.0.0.1:7788.
const server = process.env["MILLSTREAM_CONSOLE"] ?? "http://127.0.0.1:7788";

export default defineConfig({
  build: {
    outDir: "../src/millstream/console/static",
    emptyOutDir: true,
    target: "es2022",
    // Older browsers do not know light-dark(), and would get a copy of each colour for it.
    cssTarget: ["chrome123", "firefox120", "safari17.5"],
    // Inlined assets would be data: URLs, which the content security policy keeps out of everything but images.
    assetsInlineLimit: 0,
    rolldownOptions: { checks: { pluginTimings: false } },
    modulePreload: { polyfill: false },
    license: { fileName: "licenses.md" },
  },
  oxc: { jsx: { runtime: "automatic", importSource: "preact" } },
  worker: { format: "es" },
  server: { host: "127.0.0.1", proxy: { "/api": server } },
  test: { include: ["tests/**/*.test.{ts,tsx}"] },
});
