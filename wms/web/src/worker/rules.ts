/** Which requests the service worker answers, and how (row F4). Pure, and shared with the page. */

export type Strategy =
  /** Cache first: a file with a hash in its name never changes. */
  | "asset"
  /** Stale while revalidate, for all who use this device: pictures. */
  | "image"
  /** Network first, else the application's page: it finds its own way from the address. */
  | "page"
  /** Stale while revalidate, per sign-in: lists that change rarely. */
  | "list"
  /** Network first, else the last answer, per sign-in: what work is decided on. */
  | "critical"
  /** Not ours: the browser does as ever. */
  | "none";

/** The page names its sign-in in this request header. The worker takes it off before anything is sent. */
export const SCOPE_HEADER = "wms-cache-scope";
/** On answers from the worker's store: when they were stored (milliseconds since 1970) and why they were used. */
export const STORED_HEADER = "wms-stored-at";
export const REASON_HEADER = "wms-stored-because";
export type Reason = "offline" | "slow" | "failing" | "checking";

export const DATA_CACHE = "wms-data-";
/** A shift and a half: older copies are neither shown nor kept. */
export const MAX_AGE_MS = 12 * 3600 * 1000;

/** What the page tells the worker, and what the worker tells its pages. */
export type ToWorker = { type: "forget"; scope: string } | { type: "keep"; urls: string[] };
export type FromWorker = { type: "fresh"; scope: string; path: string; body: string };

const LISTS = ["skus", "warehouses", "locations", "customers", "configuration"];
const CRITICAL = ["stock", "picks", "orders", "waves", "receipts", "shipments", "movements", "analytics"];

export function strategyOf(path: string, method: string, mode: string): Strategy {
  if (method !== "GET") return "none";
  if (path.startsWith("/assets/")) return "asset";
  if (path.startsWith("/images/")) return "image";
  if (path.startsWith("/api/")) {
    const resource = /^\/api\/v1\/([a-z-]+)(?:\/|$)/.exec(path)?.[1] ?? "";
    if (LISTS.includes(resource)) return "list";
    return CRITICAL.includes(resource) ? "critical" : "none";
  }
  return mode === "navigate" ? "page" : "none";
}
