// What pages ask for. A key begins with the kind that the event stream names,
// so that one event finds the queries it makes stale (see stale below).

import { keepPreviousData, queryOptions } from "@tanstack/react-query";
import { ask, client, type Schemas } from "./client";

/** Pages up to `most` items of a list by following its cursors. */
async function all<T>(page: (cursor: string | undefined) => Promise<{ items: T[]; nextCursor?: string }>, most: number): Promise<T[]> {
  const items: T[] = [];
  let cursor: string | undefined;
  do {
    const got = await page(cursor);
    items.push(...got.items);
    cursor = got.nextCursor || undefined;
  } while (cursor && items.length < most);
  return items;
}

const PAGE = 2000;
const MOST_DEVICES = 50_000;

export const session = () => queryOptions({ queryKey: ["Session"], queryFn: () => ask(client.GET("/session")), retry: false, staleTime: 60_000 });
export const version = () => queryOptions({ queryKey: ["Version"], queryFn: () => ask(client.GET("/version")), staleTime: Infinity });
export const overview = () => queryOptions({ queryKey: ["Overview"], queryFn: () => ask(client.GET("/overview")), refetchInterval: 15_000 });

export const devices = (selector: string) =>
  queryOptions({
    queryKey: ["Device", "", selector],
    placeholderData: keepPreviousData,
    queryFn: ({ signal }) => all((cursor) => ask(client.GET("/devices", { signal, params: { query: { selector: selector || undefined, cursor, limit: PAGE } } })), MOST_DEVICES),
  });
export const device = (site: string, node: string) =>
  queryOptions({ queryKey: ["Device", `${site}/${node}`], queryFn: () => ask(client.GET("/devices/{site}/{node}", { params: { path: { site, node } } })), refetchInterval: 15_000 });
export const deviceSignals = (site: string, node: string) =>
  queryOptions({
    queryKey: ["Signals", `${site}/${node}`],
    queryFn: () => ask(client.GET("/devices/{site}/{node}/signals", { params: { path: { site, node } } })),
    refetchInterval: 5_000,
  });
export const deviceTimeline = (site: string, node: string) =>
  queryOptions({
    queryKey: ["Device", `${site}/${node}`, "timeline"],
    queryFn: () => ask(client.GET("/devices/{site}/{node}/timeline", { params: { path: { site, node }, query: { limit: 100 } } })),
  });
/** From and to in milliseconds. */
export const series = (node: string, signal: string, from: number, to: number, maxPoints: number) =>
  queryOptions({
    queryKey: ["Series", node, signal, from, to, maxPoints],
    placeholderData: (before: Schemas["Series"] | undefined, query) => (query?.queryKey[1] === node && query.queryKey[2] === signal ? before : undefined),
    staleTime: Infinity,
    queryFn: ({ signal: abort }) =>
      ask(client.GET("/series", { signal: abort, params: { query: { node, signal, from: new Date(from).toISOString(), to: new Date(to).toISOString(), maxPoints } } })),
  });

export const rollouts = () => queryOptions({ queryKey: ["Rollout", "", "list"], queryFn: () => all((cursor) => ask(client.GET("/rollouts", { params: { query: { cursor, limit: 500 } } })), 5000) });
export const rollout = (name: string) =>
  queryOptions({ queryKey: ["Rollout", name], queryFn: () => ask(client.GET("/rollouts/{name}", { params: { path: { name } } })), refetchInterval: 15_000 });
export const rolloutDevices = (name: string) =>
  queryOptions({
    queryKey: ["RolloutDevice", name],
    queryFn: () => all((cursor) => ask(client.GET("/rollouts/{name}/devices", { params: { path: { name }, query: { cursor, limit: PAGE } } })), MOST_DEVICES),
  });
/** One decision with its evidence; it never changes. */
export const rolloutDecision = (name: string, id: string) =>
  queryOptions({
    queryKey: ["Decision", name, id],
    staleTime: Infinity,
    queryFn: () => ask(client.GET("/rollouts/{name}/decisions/{id}", { params: { path: { name, id } } })),
  });
/** What a rollout would do now: of a stored policy by its name, or of one that is being written. */
export const rolloutPreview = (release: string, policy: string | Schemas["RolloutPolicySpec"]) =>
  queryOptions({
    queryKey: ["Preview", release, policy],
    enabled: release !== "" && policy !== "",
    retry: false,
    refetchInterval: 15_000,
    queryFn: () => ask(client.POST("/rollouts/preview", { body: typeof policy === "string" ? { release, policy } : { release, policySpec: policy } })),
  });
export const rolloutPolicies = () =>
  queryOptions({ queryKey: ["RolloutPolicy", "", "list"], queryFn: () => all((cursor) => ask(client.GET("/rollout-policies", { params: { query: { cursor, limit: 500 } } })), 5000) });
export const rolloutPolicy = (name: string) =>
  queryOptions({ queryKey: ["RolloutPolicy", name], queryFn: () => ask(client.GET("/rollout-policies/{name}", { params: { path: { name } } })) });
export const freezes = () =>
  queryOptions({ queryKey: ["Freeze", ""], refetchInterval: 60_000, queryFn: () => all((cursor) => ask(client.GET("/freezes", { params: { query: { cursor, limit: 500 } } })), 5000) });
export const quarantine = () => queryOptions({ queryKey: ["Quarantine", ""], queryFn: () => all((cursor) => ask(client.GET("/quarantine", { params: { query: { cursor, limit: 500 } } })), 5000) });
export const rolloutDecisions = (name: string) =>
  queryOptions({
    queryKey: ["Rollout", name, "decisions"],
    queryFn: () => ask(client.GET("/rollouts/{name}/decisions", { params: { path: { name }, query: { limit: 200 } } })),
  });

export const models = () => queryOptions({ queryKey: ["Model", "", "list"], queryFn: () => all((cursor) => ask(client.GET("/models", { params: { query: { cursor, limit: 500 } } })), 5000) });
export const modelVersions = (name: string) =>
  queryOptions({
    queryKey: ["Model", name, "versions"],
    queryFn: () => all((cursor) => ask(client.GET("/models/{name}/versions", { params: { path: { name }, query: { cursor, limit: 500 } } })), 5000),
  });
export const modelVersion = (name: string, counter: number) =>
  queryOptions({ queryKey: ["Model", name, counter], queryFn: () => ask(client.GET("/models/{name}/versions/{counter}", { params: { path: { name, counter } } })) });

export const retrainPolicies = () => queryOptions({ queryKey: ["RetrainPolicy", ""], queryFn: () => ask(client.GET("/retrain-policies", { params: { query: { limit: 500 } } })) });
export const trainingRuns = () => queryOptions({ queryKey: ["TrainingRun", "", "list"], queryFn: () => ask(client.GET("/training-runs", { params: { query: { limit: 100 } } })) });
export const trainingRun = (name: string) =>
  queryOptions({ queryKey: ["TrainingRun", name], queryFn: () => ask(client.GET("/training-runs/{name}", { params: { path: { name } } })) });

export interface AuditFilter {
  actor?: string;
  action?: string;
  subject?: string;
}
export const auditEvents = (filter: AuditFilter, cursor: string | undefined) =>
  queryOptions({
    queryKey: ["AuditEvent", "", filter, cursor],
    placeholderData: keepPreviousData,
    queryFn: () => ask(client.GET("/audit/events", { params: { query: { ...filter, cursor, limit: 200 } } })),
  });
export const auditEvent = (index: number) => queryOptions({ queryKey: ["AuditEvent", String(index)], staleTime: Infinity, queryFn: () => ask(client.GET("/audit/events/{index}", { params: { path: { index } } })) });
export const auditProof = (index: number) => queryOptions({ queryKey: ["AuditProof", String(index)], retry: false, staleTime: Infinity, queryFn: () => ask(client.GET("/audit/events/{index}/proof", { params: { path: { index } } })) });

/** Whether a change of kind, name (and parent) makes the query of this key stale. */
export function stale(key: readonly unknown[], change: { kind: string; name: string; parent?: string }): boolean {
  const [kind, name] = key;
  if (kind === "Overview") return change.kind !== "AuditEvent";
  if (kind === "RolloutDevice") return (change.kind === "RolloutDevice" && (!change.parent || change.parent === name)) || (change.kind === "Rollout" && change.name === name);
  if (kind !== change.kind) return false;
  // "" stands for all of a kind on both sides: a list, or a change of many.
  return name === "" || change.name === "" || name === change.name;
}

export const trainingLogs = (name: string, step: string) =>
  queryOptions({ queryKey: ["TrainingRun", name, "logs", step], queryFn: () => ask(client.GET("/training-runs/{name}/logs", { params: { path: { name }, query: { step } } })) });
export const modelComparison = (name: string, counter: number, other: number) =>
  queryOptions({
    queryKey: ["Model", name, "compare", counter, other],
    queryFn: () => ask(client.GET("/models/{name}/versions/{counter}/compare", { params: { path: { name, counter }, query: { with: other } } })),
  });
export const modelLineage = (name: string, counter: number) =>
  queryOptions({ queryKey: ["Model", name, "lineage", counter], retry: false, queryFn: () => ask(client.GET("/models/{name}/versions/{counter}/lineage", { params: { path: { name, counter } } })) });

export const labels = (device: string) => queryOptions({ queryKey: ["Label", "", device], queryFn: () => ask(client.GET("/labels", { params: { query: { device, limit: 1000 } } })) });
/** The head of the queue as it was when asked: it must not move under the hands of who labels. */
export const frameQueue = () => queryOptions({ queryKey: ["FrameQueue"], staleTime: Infinity, queryFn: () => ask(client.GET("/frames/queue", { params: { query: { limit: 50 } } })) });
