import { createTheme, MantineProvider, localStorageColorSchemeManager, useComputedColorScheme, useMantineColorScheme, type MantineColorsTuple } from "@mantine/core";
import "@mantine/core/styles.layer.css";
import type { ReactNode } from "react";

// The kit's filled controls use shade 7 (light) and 8 (dark) of this grey-blue.
const steel: MantineColorsTuple = ["#f0f3f5", "#dfe5ea", "#bfcad3", "#9caebb", "#7f95a5", "#6b8497", "#527088", "#365a7c", "#2b4c6b", "#1f3b55"];
const grey: MantineColorsTuple = ["#f6f7f8", "#eef0f2", "#e0e4e7", "#d0d5da", "#b4bcc3", "#8f99a2", "#6d7780", "#505a63", "#353d45", "#1d2329"];
const dark: MantineColorsTuple = ["#e4e7ea", "#b3bac1", "#98a1a9", "#6d7780", "#454d55", "#343b42", "#21262b", "#1a1e22", "#14171a", "#0e1012"];
const red: MantineColorsTuple = ["#fdeceb", "#f9d3d2", "#f1a5a3", "#ea7673", "#e24f4b", "#d93733", "#c9252a", "#b3191f", "#98141a", "#7d0f14"];

const theme = createTheme({
  fontFamily: '"Inter Variable", system-ui, sans-serif',
  fontFamilyMonospace: 'ui-monospace, "DejaVu Sans Mono", Menlo, monospace',
  fontSizes: { xs: "12px", sm: "13px", md: "14px", lg: "16px", xl: "20px" },
  colors: { steel, gray: grey, dark, red },
  primaryColor: "steel",
  primaryShade: { light: 7, dark: 7 },
  defaultRadius: 3,
  cursorType: "pointer",
  respectReducedMotion: true,
});

const manager = localStorageColorSchemeManager({ key: "swell-color-scheme" });
const nonce = () => document.querySelector<HTMLMetaElement>('meta[name="csp-nonce"]')?.content ?? "";

/** Gives everything below it the kit and the colour scheme. */
export function Provider({ children }: { children: ReactNode }) {
  return (
    <MantineProvider theme={theme} defaultColorScheme="auto" colorSchemeManager={manager} getStyleNonce={nonce}>
      {children}
    </MantineProvider>
  );
}

/** The scheme shown, and a function that switches to the other one. */
export function useScheme(): { scheme: "light" | "dark"; toggle: () => void } {
  const { setColorScheme } = useMantineColorScheme();
  const scheme = useComputedColorScheme("light");
  return { scheme, toggle: () => setColorScheme(scheme === "dark" ? "light" : "dark") };
}
