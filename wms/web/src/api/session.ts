/**
 * Who is signed in, in this tab: sessionStorage ends with the tab and is not shared with others.
 *
 * With an API key alone it is sent with every request. With a user's name and password it only opens a session, and is
 * not kept: from then on short-lived tokens are sent, renewed before they run out.
 */
import { forget } from "../worker/page";
import type { Signed, Warehouse } from "./types";

export interface Session {
  /** Random, made at sign-in: names what the service worker keeps for it. */
  scope: string;
  name: string;
  credential: { kind: "key"; key: string } | { kind: "token"; token: string; refresh: string; until: number };
  warehouses: Warehouse[];
  warehouseId: number;
}

const STORE = "wms.session";
const listeners = new Set<() => void>();
let current: Session | null = restore();

function restore(): Session | null {
  try {
    return JSON.parse(sessionStorage.getItem(STORE) ?? "null") as Session | null;
  } catch {
    return null;
  }
}

export function session(): Session | null {
  return current;
}

export function subscribe(listener: () => void): () => void {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

export function change(next: Session | null): void {
  current = next;
  if (next) sessionStorage.setItem(STORE, JSON.stringify(next));
  else sessionStorage.removeItem(STORE);
  listeners.forEach((listener) => listener());
}

export function tokens(signed: Signed): Session["credential"] {
  return {
    kind: "token",
    token: signed.access_token,
    refresh: signed.refresh_token,
    // Renewed a minute before it ends.
    until: Date.now() + (signed.expires_in - 60) * 1000,
  };
}

/** End the session here and, for a user, at the service; what was kept of its data goes too. */
export async function signOut(): Promise<void> {
  const ended = current;
  change(null);
  if (!ended) return;
  if (ended.credential.kind === "token") {
    void fetch("/api/v1/tokens/revoke", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ refresh_token: ended.credential.refresh }),
      keepalive: true,
    }).catch(() => undefined);
  }
  await forget(ended.scope);
}
