import react from "@vitejs/plugin-react";
import { defineConfig } from "vitest/config";

// The hub serves the build below "/" and the REST API below "/api/v1".
// `npm run dev` serves the sources and sends API calls to SWELL_HUB.
export default defineConfig({
  plugins: [react()],
  build: {
    outDir: "dist",
    // Content-Security-Policy forbids data: scripts and inline styles, so nothing is inlined.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
  },
  server: {
    proxy: { "/api": { target: process.env.SWELL_HUB ?? "http://127.0.0.1:7440", changeOrigin: false } },
  },
  test: {
    environment: "jsdom",
    include: ["src/**/*.test.{ts,tsx}"],
  },
});
