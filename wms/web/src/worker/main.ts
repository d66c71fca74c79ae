/**
 * The service worker: row F4's three strategies, and reading what was last seen when there is no network.
 *
 * What it keeps: `wms-shell-<version>` the page, `wms-assets` files with a hash in their name, `wms-images`, and
 * `wms-data-<scope>` answers of the API, one cache per sign-in. Answers say `private`: this is the browser of who asked,
 * a sign-in's cache is found only by its random scope, and signing out removes it.
 */
import {
  DATA_CACHE,
  MAX_AGE_MS,
  REASON_HEADER,
  SCOPE_HEADER,
  STORED_HEADER,
  strategyOf,
  type FromWorker,
  type Reason,
  type ToWorker,
} from "./rules";

declare const __SHELL__: { version: string; start: string[]; all: string[] };
declare const self: ServiceWorkerGlobalScope;

const SHELL = `wms-shell-${__SHELL__.version}`;
const ASSETS = "wms-assets";
const IMAGES = "wms-images";
const PAGE = "/index.html";
/** How long the network may take when there is a copy to show instead. */
const PATIENCE_MS = 3000;
const MOST_ANSWERS = 150;
const MOST_IMAGES = 300;
/** Scopes of those who signed out: an answer still on its way to them is not kept. */
const forgotten = new Set<string>();

self.addEventListener("install", (event) => {
  event.waitUntil(install());
});

self.addEventListener("activate", (event) => {
  event.waitUntil(activate());
});

self.addEventListener("message", (event) => {
  const told = event.data as ToWorker;
  const done = told.type === "forget" ? forget(told.scope) : keep(told.urls);
  event.waitUntil(done.then(() => event.ports[0]?.postMessage("done")));
});

self.addEventListener("fetch", (event) => {
  const { request } = event;
  const url = new URL(request.url);
  if (url.origin !== self.location.origin) return;
  const scope = request.headers.get(SCOPE_HEADER) ?? "";
  switch (strategyOf(url.pathname, request.method, request.mode)) {
    case "asset":
      event.respondWith(cacheFirst(request));
      break;
    case "image":
      event.respondWith(revalidated(event, IMAGES, request, ""));
      break;
    case "page":
      event.respondWith(page(request));
      break;
    case "list":
      if (scope) event.respondWith(revalidated(event, DATA_CACHE + scope, unmarked(request), scope));
      break;
    case "critical":
      if (scope) event.respondWith(networkFirst(event, DATA_CACHE + scope, unmarked(request), scope));
      break;
    case "none":
      break;
  }
});

async function install(): Promise<void> {
  const shell = await caches.open(SHELL);
  await shell.add(new Request(PAGE, { cache: "no-cache" }));
  // Only what every page needs; the chunk of a page is kept when that page is first opened.
  await keep(__SHELL__.start);
  await self.skipWaiting();
}

async function activate(): Promise<void> {
  for (const name of await caches.keys()) {
    if (name.startsWith("wms-shell-") && name !== SHELL) await caches.delete(name);
    if (name.startsWith(DATA_CACHE)) await removeOld(name);
  }
  // Files of an older build: an open page of that build that still wants one reloads itself into this build.
  const assets = await caches.open(ASSETS);
  for (const request of await assets.keys()) {
    if (!__SHELL__.all.includes(new URL(request.url).pathname)) await assets.delete(request);
  }
  await self.clients.claim();
}

/** Assets that the page loaded before this worker was there. */
async function keep(urls: string[]): Promise<void> {
  const assets = await caches.open(ASSETS);
  for (const url of urls) {
    const path = new URL(url, self.location.origin).pathname;
    if (__SHELL__.all.includes(path) && !(await assets.match(path))) await assets.add(path);
  }
}

async function forget(scope: string): Promise<void> {
  forgotten.add(scope);
  await caches.delete(DATA_CACHE + scope);
}

async function cacheFirst(request: Request): Promise<Response> {
  const assets = await caches.open(ASSETS);
  const kept = await assets.match(request, { ignoreVary: true });
  if (kept) return kept;
  const answer = await fetch(request);
  if (answer.ok) await assets.put(request, answer.clone());
  return answer;
}

async function page(request: Request): Promise<Response> {
  try {
    const answer = await fetch(request);
    if (answer.status < 500) return answer;
    return (await caches.match(PAGE, { cacheName: SHELL })) ?? answer;
  } catch (error) {
    const kept = await caches.match(PAGE, { cacheName: SHELL });
    if (kept) return kept;
    throw error;
  }
}

async function revalidated(event: FetchEvent, name: string, request: Request, scope: string): Promise<Response> {
  const kept = await find(name, request, "checking");
  const asked = fetch(request).then(async (answer) => {
    await put(name, request, answer, scope, kept !== undefined);
    return answer;
  });
  if (!kept) return asked;
  // Without a network the copy is all there is, and it says how old it is.
  event.waitUntil(asked.catch(() => undefined));
  return kept;
}

async function networkFirst(event: FetchEvent, name: string, request: Request, scope: string): Promise<Response> {
  const kept = await find(name, request, "offline");
  let late = false;
  const asked = fetch(request).then(async (answer) => {
    await put(name, request, answer, scope, late);
    return answer;
  });
  if (!kept) return asked;
  const waited = new Promise<"slow">((resolve) => setTimeout(() => resolve("slow"), PATIENCE_MS));
  try {
    const first = await Promise.race([asked, waited]);
    if (first === "slow") {
      late = true;
      event.waitUntil(asked.catch(() => undefined));
      return marked(kept, "slow");
    }
    return first.status >= 500 ? marked(kept, "failing") : first;
  } catch {
    return kept;
  }
}

async function find(name: string, request: Request, reason: Reason): Promise<Response | undefined> {
  // Without `has` every question would make an empty cache.
  if (!(await caches.has(name))) return undefined;
  // Vary names Authorization and the write that is waited for. Whose the answers are is in the cache's name.
  const kept = await (await caches.open(name)).match(request, { ignoreVary: true });
  if (!kept || age(kept) > MAX_AGE_MS) return undefined;
  return marked(kept, reason);
}

function marked(kept: Response, reason: Reason): Response {
  const headers = new Headers(kept.headers);
  headers.set(REASON_HEADER, reason);
  return new Response(kept.body, { status: kept.status, statusText: kept.statusText, headers });
}

function age(kept: Response): number {
  return Date.now() - Number(kept.headers.get(STORED_HEADER) ?? 0);
}

async function put(name: string, request: Request, answer: Response, scope: string, tell: boolean): Promise<void> {
  if (answer.status !== 200 || forgotten.has(scope)) return;
  const body = await answer.clone().arrayBuffer();
  const headers = new Headers(answer.headers);
  headers.set(STORED_HEADER, String(Date.now()));
  const cache = await caches.open(name);
  // Removed first, so that the oldest stand first.
  await cache.delete(request, { ignoreVary: true });
  await cache.put(request, new Response(body, { status: 200, headers }));
  if (forgotten.has(scope)) {
    await caches.delete(name);
    return;
  }
  const entries = await cache.keys();
  const most = scope ? MOST_ANSWERS : MOST_IMAGES;
  for (const entry of entries.slice(0, Math.max(0, entries.length - most))) await cache.delete(entry);
  if (tell && scope) await announce(scope, request, new TextDecoder().decode(body));
}

async function announce(scope: string, request: Request, body: string): Promise<void> {
  const { pathname, search } = new URL(request.url);
  const message: FromWorker = { type: "fresh", scope, path: pathname + search, body };
  for (const client of await self.clients.matchAll({ type: "window" })) client.postMessage(message);
}

async function removeOld(name: string): Promise<void> {
  const cache = await caches.open(name);
  const entries = await cache.keys();
  let left = entries.length;
  for (const entry of entries) {
    const kept = await cache.match(entry, { ignoreVary: true });
    if (kept && age(kept) <= MAX_AGE_MS) continue;
    await cache.delete(entry);
    left -= 1;
  }
  if (left === 0) await caches.delete(name);
}

/** The request without the page's mark, and past the browser's own cache unless that asks first. */
function unmarked(request: Request): Request {
  const headers = new Headers(request.headers);
  headers.delete(SCOPE_HEADER);
  return new Request(request, { headers, cache: "no-cache" });
}
