import { useElementSize } from "@mantine/hooks";
import type { RefCallback } from "react";

/** A ref for an element and its width in CSS pixels, 0 until it is measured. */
export function useWidth<T extends HTMLElement>(): [RefCallback<T | null>, number] {
  const { ref, width } = useElementSize<T>();
  return [ref, Math.floor(width)];
}
