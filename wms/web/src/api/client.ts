/** Requests to the API. */
import { controlled } from "../worker/page";
import { REASON_HEADER, SCOPE_HEADER, STORED_HEADER, type Reason } from "../worker/rules";
import { change, session, signOut, tokens, type Session } from "./session";
import type { Page, Signed, Warehouse } from "./types";

const DEADLINE_MS = 15_000;

/** An answer from the service worker's store: when it was stored, and why it had to do. */
export interface Copy {
  storedAt: number;
  reason: Reason;
}
export interface Answer<T> {
  data: T;
  copy: Copy | null;
}

/** An error of the API (problem+json), or no answer at all: then `status` is 0. */
export class ApiProblem extends Error {
  constructor(
    readonly status: number,
    /** The last part of the problem's type, such as insufficient-stock. */
    readonly kind: string,
    readonly detail: string,
    readonly requestId = "",
  ) {
    super(`${status} ${kind}: ${detail}`);
  }
}

/** The newest commit of this tab: reads ask for a replica that has it, so nobody misses his own change. */
let written = "";

function later(a: string, b: string): string {
  const parts = (lsn: string): [number, number] => {
    const [high = "0", low = "0"] = lsn.split("/");
    return [parseInt(high, 16), parseInt(low, 16)];
  };
  const [a1, a2] = parts(a);
  const [b1, b2] = parts(b);
  return a1 > b1 || (a1 === b1 && a2 >= b2) ? a : b;
}

export async function read<T>(path: string, signal?: AbortSignal): Promise<Answer<T>> {
  const headers: Record<string, string> = {};
  const who = session();
  if (who && controlled()) headers[SCOPE_HEADER] = who.scope;
  if (written) headers["wms-min-lsn"] = written;
  const response = await send(path, { headers, cache: "no-cache" }, signal);
  const storedAt = response.headers.get(STORED_HEADER);
  const reason = response.headers.get(REASON_HEADER) as Reason | null;
  const data = (await response.json()) as T;
  return { data, copy: storedAt && reason ? { storedAt: Number(storedAt), reason } : null };
}

/** A change. The same key sent again does it once, so a retry after a lost answer is safe. */
export async function post<T>(path: string, body: unknown, key: string): Promise<T> {
  const response = await send(path, {
    method: "POST",
    headers: { "content-type": "application/json", "idempotency-key": key },
    body: JSON.stringify(body),
  });
  const lsn = response.headers.get("wms-commit-lsn");
  if (lsn) written = written ? later(written, lsn) : lsn;
  return (await response.json()) as T;
}

export function newKey(): string {
  return crypto.randomUUID();
}

/** Check the credential, and start a session with the first warehouse. Throws ApiProblem. */
export async function signIn(key: string, username: string, password: string): Promise<void> {
  let credential: Session["credential"] = { kind: "key", key };
  if (username) {
    const answer = await plain("/api/v1/tokens", bearer(key, { username, password }));
    credential = tokens((await answer.json()) as Signed);
  }
  const token = credential.kind === "key" ? credential.key : credential.token;
  const answer = await plain("/api/v1/warehouses", bearer(token));
  const { data } = (await answer.json()) as Page<Warehouse>;
  const first = data[0];
  if (!first) throw new ApiProblem(404, "unknown-warehouse", "");
  written = "";
  change({ scope: newKey(), name: username, credential, warehouses: data, warehouseId: first.id });
}

function bearer(token: string, body?: unknown): RequestInit {
  const headers: Record<string, string> = { authorization: `Bearer ${token}` };
  if (body === undefined) return { headers };
  headers["content-type"] = "application/json";
  return { method: "POST", headers, body: JSON.stringify(body) };
}

async function send(path: string, init: RequestInit, signal?: AbortSignal): Promise<Response> {
  const who = session();
  if (!who) throw new ApiProblem(401, "unauthenticated", "");
  const authorized = { ...init, headers: { ...init.headers, authorization: `Bearer ${await token(who)}` } };
  try {
    return await plain(path, authorized, signal);
  } catch (error) {
    if (error instanceof ApiProblem && error.status === 401) await signOut();
    throw error;
  }
}

let renewal: Promise<void> | null = null;

/** What to send, renewed when it is about to run out; without a network the old one, for what is kept here. */
async function token(who: Session): Promise<string> {
  const { credential } = who;
  if (credential.kind === "key") return credential.key;
  if (Date.now() < credential.until) return credential.token;
  // A refresh token is good once: all who wait share one renewal.
  renewal ??= renew(who, credential.refresh).finally(() => (renewal = null));
  try {
    await renewal;
  } catch (error) {
    if (error instanceof ApiProblem && error.status === 401) {
      await signOut();
      throw error;
    }
  }
  const now = session()?.credential;
  return now?.kind === "token" ? now.token : credential.token;
}

async function renew(who: Session, refresh: string): Promise<void> {
  const answer = await plain("/api/v1/tokens/refresh", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ refresh_token: refresh }),
  });
  const signed = (await answer.json()) as Signed;
  if (session()?.scope === who.scope) change({ ...who, credential: tokens(signed) });
}

/** One request with a deadline; whatever is no success becomes an ApiProblem. */
async function plain(path: string, init: RequestInit, signal?: AbortSignal): Promise<Response> {
  const deadline = AbortSignal.timeout(DEADLINE_MS);
  let response: Response;
  try {
    response = await fetch(path, { ...init, signal: signal ? AbortSignal.any([signal, deadline]) : deadline });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiProblem(0, deadline.aborted ? "timeout" : "offline", "");
  }
  if (response.ok) return response;
  const problem = (await response.json().catch(() => ({}))) as Record<string, unknown>;
  const text = (name: string): string => (typeof problem[name] === "string" ? (problem[name] as string) : "");
  throw new ApiProblem(
    response.status,
    text("type").split(":").pop() || "error",
    text("detail") || text("title"),
    text("request_id") || (response.headers.get("x-request-id") ?? ""),
  );
}
