import { useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { ask, client, type Schemas } from "../api/client";
import { Button, Dialog, Segmented, TextArea, TextField } from "../ui/controls";
import { Digest, Facts, Failure } from "./page";
import css from "./parts.module.css";

const MOST = 64 << 20; // bytes, as the hub has it

/** A name that policies can say, made of a file's or an address's last part. */
export function nameOf(source: string): string {
  const last = source.split(/[/\\?#]/).filter(Boolean).find((p) => p.toLowerCase().endsWith(".onnx")) ?? "";
  return last.replace(/\.onnx$/i, "").toLowerCase().replace(/[^a-z0-9.-]+/g, "-").replace(/^[^a-z0-9]+|-+$/g, "").slice(0, 63);
}

/** Brings an ONNX model from outside into the garden. */
export function ImportDialog({ open, onClose }: { open: boolean; onClose: () => void }) {
  return (
    <Dialog title="Bring a model" open={open} onClose={onClose}>
      {open && <Form onClose={onClose} />}
    </Dialog>
  );
}

function Form({ onClose }: { onClose: () => void }) {
  const queries = useQueryClient();
  const [by, setBy] = useState<"file" | "address">("file");
  const [file, setFile] = useState<File>();
  const [url, setUrl] = useState("");
  const [named, setNamed] = useState<string>(); // undefined: by the source
  const [reason, setReason] = useState("");
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>();
  const [made, setMade] = useState<Schemas["GardenModel"]>();
  const name = named ?? nameOf(by === "file" ? (file?.name ?? "") : url);
  const large = by === "file" && (file?.size ?? 0) > MOST;
  const ready = name !== "" && (by === "file" ? file !== undefined && !large : url.startsWith("https://")) && reason.trim() !== "";
  if (made) return <Made model={made} onClose={onClose} />;
  return (
    <form
      className={css.form}
      onSubmit={(e) => {
        e.preventDefault();
        if (!ready || busy) return;
        setBusy(true);
        setError(undefined);
        const query = { name, reason: reason.trim(), url: by === "address" ? url.trim() : undefined };
        ask(
          client.POST("/garden/import", {
            params: { query },
            // The file goes as it is; the contract has it as a string of bytes.
            ...(by === "file" && { body: file as unknown as string, bodySerializer: (b: unknown) => b as Blob, headers: { "Content-Type": "application/octet-stream" } }),
          }),
        ).then(
          (m) => {
            void queries.invalidateQueries({ queryKey: ["Model"] });
            setMade(m);
          },
          (err: unknown) => {
            setBusy(false);
            setError(err);
          },
        );
      }}
    >
      <p>An ONNX file of a network for pictures or for windows of sensor values. The hub checks it, runs it once and keeps it for policies to name. No device gets it before a night has adapted and judged it.</p>
      <Segmented label="Where it comes from" value={by} onChange={setBy} options={[{ value: "file", label: "A file" }, { value: "address", label: "An address" }]} />
      {by === "file" ? (
        <label className={css.file}>
          <span>File, at most 64 MiB</span>
          <input type="file" accept=".onnx" onChange={(e) => setFile(e.currentTarget.files?.[0])} />
        </label>
      ) : (
        <TextField label="Address" value={url} onChange={setUrl} placeholder="https://…/network.onnx" error={url !== "" && !url.startsWith("https://") ? "It has to begin with https://" : undefined} />
      )}
      {large && <Failure error={new Error("The file is larger than 64 MiB.")} />}
      <TextField label="Name that policies call it by" value={name} onChange={setNamed} />
      <TextArea label="Where it is from and under which licence, for its card and the audit log" value={reason} onChange={setReason} maxLength={500} rows={2} />
      {error !== undefined && <Failure error={error} />}
      <div className={css.formActions}>
        <Button onClick={onClose}>Leave it</Button>
        <Button type="submit" tone="main" busy={busy} disabled={!ready}>
          Check and keep it
        </Button>
      </div>
    </form>
  );
}

function Made({ model: m, onClose }: { model: Schemas["GardenModel"]; onClose: () => void }) {
  return (
    <div className={css.form} role="status">
      <p>
        <b>{m.name}</b> is in the garden.
      </p>
      <Facts
        facts={[
          ["Reads", m.input],
          ["Gives", m.outputs?.join(", ")],
          ["Digest", <Digest of={m.digest} />],
        ]}
      />
      <ul className={css.notes}>
        {m.notes.map((n) => (
          <li key={n}>{n}</li>
        ))}
      </ul>
      <div className={css.formActions}>
        <Button tone="main" onClick={onClose}>
          Done
        </Button>
      </div>
    </div>
  );
}
