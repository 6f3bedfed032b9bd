import js from "@eslint/js";
import hooks from "eslint-plugin-react-hooks";
import tseslint from "typescript-eslint";

// The UI kit can be changed only if it is imported in one place.
/** @type {import("eslint").Linter.RulesRecord} */
const kit = {
  "no-restricted-imports": [
    "error",
    { patterns: [{ group: ["@mantine/*"], message: "Import the wrapper from src/ui instead: the kit is used there alone." }] },
  ],
};

export default tseslint.config(
  { ignores: ["dist", "node_modules", "src/api/generated"] },
  js.configs.recommended,
  ...tseslint.configs.recommended,
  {
    files: ["src/**/*.{ts,tsx}"],
    plugins: { "react-hooks": hooks },
    rules: {
      "react-hooks/rules-of-hooks": "error",
      "react-hooks/exhaustive-deps": "error",
      ...kit,
    },
  },
  { files: ["src/ui/**"], rules: { "no-restricted-imports": "off" } },
  { files: ["e2e/**", "public/**", "*.js", "*.ts"], languageOptions: { globals: { console: "readonly", process: "readonly", URL: "readonly", Buffer: "readonly", setTimeout: "readonly", setInterval: "readonly", clearInterval: "readonly", document: "readonly", window: "readonly", fetch: "readonly", getComputedStyle: "readonly" } } },
);
