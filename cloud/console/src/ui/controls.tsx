// Thin wrappers of the kit: one look, and one place to change the kit.

import {
  ActionIcon,
  Autocomplete,
  Button as KitButton,
  Modal,
  NativeSelect,
  PasswordInput,
  SegmentedControl,
  Textarea,
  TextInput,
  Tooltip,
} from "@mantine/core";
import type { ReactNode } from "react";

/** A button. tone "danger" for what ends or takes back; "quiet" for all but the page's main action. */
export function Button(p: { children: ReactNode; onClick?: () => void; type?: "button" | "submit"; tone?: "main" | "quiet" | "danger"; disabled?: boolean; busy?: boolean; why?: string }) {
  const tone = p.tone ?? "quiet";
  const button = (
    <KitButton
      size="compact-sm"
      type={p.type ?? "button"}
      variant={tone === "quiet" ? "default" : "filled"}
      color={tone === "danger" ? "red" : undefined}
      onClick={p.onClick}
      loading={p.busy}
      data-disabled={p.disabled || undefined}
      aria-disabled={p.disabled || undefined}
      disabled={p.disabled && !p.why}
    >
      {p.children}
    </KitButton>
  );
  return p.why ? <Tip text={p.why}>{button}</Tip> : button;
}

/** A button that shows a sign only; label is its name. */
export function IconButton(p: { label: string; children: ReactNode; onClick: () => void }) {
  return (
    <Tip text={p.label}>
      <ActionIcon variant="subtle" color="gray" aria-label={p.label} onClick={p.onClick}>
        {p.children}
      </ActionIcon>
    </Tip>
  );
}

/** Shows text when its child is pointed at or focused. The child must be one element that takes a ref. */
function Tip(p: { text: ReactNode; children: ReactNode }) {
  return (
    <Tooltip label={p.text} openDelay={250} multiline maw={360} events={{ hover: true, focus: true, touch: true }} withArrow>
      {p.children}
    </Tooltip>
  );
}

export function TextField(p: { type?: "datetime-local" | "date"; label: string; value: string; onChange: (v: string) => void; placeholder?: string; autoComplete?: string; autoFocus?: boolean; error?: string; hideLabel?: boolean; width?: number }) {
  return (
    <TextInput
      size="xs"
      type={p.type}
      w={p.width}
      label={p.hideLabel ? undefined : p.label}
      aria-label={p.hideLabel ? p.label : undefined}
      value={p.value}
      onChange={(e) => p.onChange(e.currentTarget.value)}
      placeholder={p.placeholder}
      autoComplete={p.autoComplete ?? "off"}
      data-autofocus={p.autoFocus || undefined}
      autoFocus={p.autoFocus}
      error={p.error}
      spellCheck={false}
    />
  );
}

export function PasswordField(p: { label: string; value: string; onChange: (v: string) => void; error?: string }) {
  return <PasswordInput size="xs" label={p.label} value={p.value} onChange={(e) => p.onChange(e.currentTarget.value)} autoComplete="current-password" error={p.error} />;
}

/** A text field that offers suggestions. */
export function SuggestField(p: { label: string; value: string; onChange: (v: string) => void; suggestions: string[]; placeholder?: string; width?: number }) {
  return (
    <Autocomplete
      size="xs"
      w={p.width}
      aria-label={p.label}
      placeholder={p.placeholder}
      value={p.value}
      onChange={p.onChange}
      data={p.suggestions}
      filter={({ options }) => options}
      maxDropdownHeight={320}
      spellCheck={false}
      autoComplete="off"
    />
  );
}

/** A choice of one of many. */
export function SelectField(p: { label: string; value: string; onChange: (v: string) => void; options: { value: string; label: string }[]; width?: number; hideLabel?: boolean }) {
  return <NativeSelect size="xs" w={p.width} label={p.hideLabel ? undefined : p.label} aria-label={p.hideLabel ? p.label : undefined} value={p.value} onChange={(e) => p.onChange(e.currentTarget.value)} data={p.options} />;
}

export function TextArea(p: { label: string; value: string; onChange: (v: string) => void; placeholder?: string; rows?: number; maxLength?: number }) {
  return <Textarea size="xs" label={p.label} value={p.value} onChange={(e) => p.onChange(e.currentTarget.value)} placeholder={p.placeholder} rows={p.rows ?? 3} maxLength={p.maxLength} data-autofocus />;
}

/** A text to be edited as it is written, in a font of equal widths. */
export function CodeArea(p: { label: string; value: string; onChange: (v: string) => void; readOnly?: boolean; rows?: number }) {
  return <Textarea size="xs" aria-label={p.label} value={p.value} onChange={(e) => p.onChange(e.currentTarget.value)} readOnly={p.readOnly} rows={p.rows ?? 24} resize="vertical" spellCheck={false} autoComplete="off" styles={{ input: { font: "12px/1.55 var(--mono)", tabSize: 2 } }} />;
}

/** A choice between few things that are all shown. */
export function Segmented<T extends string>(p: { label: string; value: T; onChange: (v: T) => void; options: { value: T; label: string }[] }) {
  return <SegmentedControl size="xs" aria-label={p.label} value={p.value} onChange={(v) => p.onChange(v as T)} data={p.options} />;
}

/**
 * A dialog that takes the focus until it is closed. The kit's scroll lock stays
 * off: it writes a style tag without the page's nonce.
 */
export function Dialog(p: { title: string; open: boolean; onClose: () => void; children: ReactNode }) {
  return (
    <Modal opened={p.open} onClose={p.onClose} title={p.title} size={480} centered lockScroll={false} transitionProps={{ duration: 100 }} closeButtonProps={{ "aria-label": "Close" }} styles={{ title: { fontWeight: 600, fontSize: 15 } }}>
      {p.children}
    </Modal>
  );
}
