// The hub's event stream in the browser. One tab holds the connection and hands
// events to the others (browsers allow six connections a host over HTTP/1.1);
// where Web Locks are missing, as on plain http, each tab has its own.
//
// Events only name what changed. They are gathered for a moment and then handed
// on together; after a gap in their ids the receiver is told that anything may
// have changed.

import type { Schemas } from "./client";

export type Change = Pick<Schemas["StreamEvent"], "kind" | "name" | "parent">;

export interface Listener {
  /** Changes since the last call; "all" after a gap or a reconnect. */
  changed(changes: Change[] | "all"): void;
  /** Whether the stream is up. */
  live(up: boolean): void;
}

/** Gathers events and notices gaps. Kept apart from the connection so that it can be tested. */
export class Gatherer {
  #last: number | undefined;
  #hub: string | undefined;
  #pending = new Map<string, Change>();
  #all = false;

  /** The first message after connecting: the newest id there is, and which life of the hub. */
  hello(h: { id: number; hub?: string }): void {
    if (this.#last !== undefined && (this.#last !== h.id || this.#hub !== h.hub)) this.#all = true;
    this.#last = h.id;
    this.#hub = h.hub;
  }

  change(e: { id: number } & Change): void {
    if (this.#last !== undefined && e.id <= this.#last) return; // replayed after a reconnect
    if (this.#last !== undefined && e.id !== this.#last + 1) this.#all = true;
    this.#last = e.id;
    this.#pending.set(`${e.kind}\n${e.parent ?? ""}\n${e.name}`, { kind: e.kind, name: e.name, parent: e.parent });
  }

  /** What came since the last take; undefined when nothing did. */
  take(): Change[] | "all" | undefined {
    const all = this.#all;
    const pending = [...this.#pending.values()];
    this.#all = false;
    this.#pending.clear();
    return all ? "all" : pending.length > 0 ? pending : undefined;
  }
}

const GATHER_MS = 400;
type Shared = { changed: Change[] | "all" } | { live: boolean } | { who: true };

/** Opens the stream; the result closes it. */
export function openStream(url: string, listener: Listener): () => void {
  const channel = typeof BroadcastChannel === "undefined" ? undefined : new BroadcastChannel("swell-events");
  let source: EventSource | undefined;
  let timer: ReturnType<typeof setInterval> | undefined;
  let release = () => {};
  let closed = false;
  let up = false;

  const tell = (m: Shared) => {
    if ("changed" in m) listener.changed(m.changed);
    else if ("live" in m) listener.live(m.live);
  };
  const share = (m: Shared) => {
    tell(m);
    channel?.postMessage(m);
  };
  const lead = () => {
    if (closed) return;
    const gatherer = new Gatherer();
    source = new EventSource(url);
    const setUp = (now: boolean) => {
      up = now;
      share({ live: now });
    };
    source.addEventListener("open", () => setUp(true));
    source.addEventListener("error", () => {
      setUp(false);
      // A refused connection is not tried again by the browser.
      if (source?.readyState === EventSource.CLOSED) setTimeout(() => (source?.close(), lead()), 5000);
    });
    source.addEventListener("hello", (e) => gatherer.hello(JSON.parse((e as MessageEvent<string>).data)));
    source.addEventListener("change", (e) => gatherer.change(JSON.parse((e as MessageEvent<string>).data)));
    clearInterval(timer);
    timer = setInterval(() => {
      const got = gatherer.take();
      if (got) share({ changed: got });
    }, GATHER_MS);
  };

  if (channel && "locks" in navigator) {
    channel.onmessage = (e: MessageEvent<Shared>) => {
      if ("who" in e.data) {
        if (source) channel.postMessage({ live: up });
      } else tell(e.data);
    };
    channel.postMessage({ who: true });
    // The lock is held until this tab closes; then the next tab gets it and leads.
    void navigator.locks.request("swell-events", () => {
      if (closed) return;
      lead();
      return new Promise<void>((done) => (release = done));
    });
  } else lead();

  return () => {
    closed = true;
    clearInterval(timer);
    source?.close();
    channel?.close();
    release();
  };
}
