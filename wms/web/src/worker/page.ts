/** The page's side of the service worker. */
import { DATA_CACHE, type FromWorker, type ToWorker } from "./rules";

type Listener = (message: FromWorker) => void;
const listeners = new Set<Listener>();

/** Register the worker once the page has loaded: it must not compete with the first paint. */
export function startWorker(): void {
  if (!("serviceWorker" in navigator) || !import.meta.env.PROD) return;
  navigator.serviceWorker.addEventListener("message", (event) => {
    listeners.forEach((listener) => listener(event.data as FromWorker));
  });
  const register = async (): Promise<void> => {
    try {
      await navigator.serviceWorker.register("/sw.js", { updateViaCache: "none" });
      await navigator.serviceWorker.ready;
      const loaded = performance.getEntriesByType("resource").map((entry) => entry.name);
      await tell({ type: "keep", urls: loaded.filter((url) => url.startsWith(`${location.origin}/assets/`)) });
    } catch (error) {
      // The application works without: only nothing is readable offline.
      console.warn("no service worker:", error);
    }
  };
  if (document.readyState === "complete") void register();
  else window.addEventListener("load", () => void register(), { once: true });
}

/** Whether requests go through the worker, so that the mark of the sign-in stays on this device. */
export function controlled(): boolean {
  return "serviceWorker" in navigator && navigator.serviceWorker.controller !== null;
}

export function onFresh(listener: Listener): () => void {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

/** Remove what was kept for a sign-in: by the worker, which also knows what is on its way, and by hand. */
export async function forget(scope: string): Promise<void> {
  if (controlled()) await tell({ type: "forget", scope });
  if ("caches" in window) await caches.delete(DATA_CACHE + scope);
}

async function tell(message: ToWorker): Promise<void> {
  const worker = (await navigator.serviceWorker.ready).active;
  if (!worker) return;
  await new Promise<void>((resolve) => {
    const channel = new MessageChannel();
    const late = setTimeout(resolve, 2000);
    channel.port1.onmessage = () => {
      clearTimeout(late);
      resolve();
    };
    worker.postMessage(message, [channel.port2]);
  });
}
