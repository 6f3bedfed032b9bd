// The one way to the hub. Paths and shapes come from protocol/openapi.yaml.

import createClient from "openapi-fetch";
import type { components, paths } from "./generated/schema";

export type Schemas = components["schemas"];

/** An RFC 9457 answer of the hub, or the fact that there was none. */
export class ApiError extends Error {
  /** HTTP status; 0 when the hub could not be reached. */
  readonly status: number;
  readonly fields: Schemas["FieldError"][];

  constructor(status: number, problem: Partial<Schemas["Problem"]> | undefined) {
    super(problem?.detail || problem?.title || (status === 0 ? "The hub cannot be reached." : `The hub answered ${status}.`));
    this.status = status;
    this.fields = problem?.fields ?? [];
  }
}

let csrf = "";

/** Sets the token that mutating calls carry. */
export function setCsrf(token: string | undefined): void {
  csrf = token ?? "";
}

const client = createClient<paths>({ baseUrl: `${window.location.origin}/api/v1` });
client.use({
  onRequest({ request }) {
    if (request.method !== "GET" && csrf !== "") request.headers.set("X-Swell-CSRF", csrf);
    return request;
  },
});

export { client };

/** The data of an answer; throws ApiError for a problem or no answer at all. */
export async function ask<T>(call: Promise<{ data?: T; error?: unknown; response: Response }>): Promise<T> {
  let answer;
  try {
    answer = await call;
  } catch (e) {
    if (e instanceof DOMException && e.name === "AbortError") throw e;
    throw new ApiError(0, undefined);
  }
  if (!answer.response.ok) throw new ApiError(answer.response.status, isProblem(answer.error) ? answer.error : undefined);
  return answer.data as T;
}

function isProblem(x: unknown): x is Schemas["Problem"] {
  return typeof x === "object" && x !== null && "title" in x;
}
