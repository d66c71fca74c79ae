/** Reading the API from components: what was read stays on the screen while something newer is fetched or fails. */
import { useCallback, useEffect, useRef, useState, useSyncExternalStore } from "react";
import { onFresh } from "../worker/page";
import { ApiProblem, read, type Copy } from "./client";
import { session, subscribe, type Session } from "./session";
import type { Page } from "./types";

export function useSession(): Session | null {
  return useSyncExternalStore(subscribe, session);
}

/** The chosen warehouse; only below the sign-in. */
export function useWarehouse(): number {
  return useSession()?.warehouseId ?? 0;
}

export interface Reading<T> {
  data: T | null;
  copy: Copy | null;
  problem: ApiProblem | null;
  /** When `data` came from the service, in milliseconds since 1970; 0 before. */
  readAt: number;
  loading: boolean;
  reload: () => void;
}

type State<T> = Omit<Reading<T>, "reload" | "loading"> & { path: string | null };

/** Read `path` (null: nothing), again every `pollMs` while the page is visible, and at once when it becomes so. */
export function useRead<T>(path: string | null, pollMs = 0): Reading<T> {
  const empty: State<T> = { path, data: null, copy: null, problem: null, readAt: 0 };
  const [state, setState] = useState<State<T>>(empty);
  const [loading, setLoading] = useState(path !== null);
  const [turn, setTurn] = useState(0);
  const reload = useCallback(() => setTurn((n) => n + 1), []);

  useEffect(() => {
    if (path === null) return;
    const abort = new AbortController();
    let timer = 0;
    let busy = false;
    const run = async (): Promise<void> => {
      if (busy) return;
      busy = true;
      setLoading(true);
      try {
        const answer = await read<T>(path, abort.signal);
        const readAt = answer.copy?.storedAt ?? Date.now();
        setState({ path, data: answer.data, copy: answer.copy, problem: null, readAt });
      } catch (error) {
        if (abort.signal.aborted) return;
        const problem = error instanceof ApiProblem ? error : new ApiProblem(0, "error", String(error));
        setState((old) => (old.path === path ? { ...old, problem } : { ...empty, path, problem }));
      } finally {
        busy = false;
        if (!abort.signal.aborted) setLoading(false);
      }
      if (pollMs && !abort.signal.aborted && document.visibilityState === "visible") {
        timer = window.setTimeout(() => void run(), pollMs);
      }
    };
    const seen = (): void => {
      clearTimeout(timer);
      if (document.visibilityState === "visible") void run();
    };
    const online = (): void => void run();
    if (pollMs) document.addEventListener("visibilitychange", seen);
    window.addEventListener("online", online);
    const stop = onFresh((message) => {
      if (message.path !== path || message.scope !== session()?.scope) return;
      setState({ path, data: JSON.parse(message.body) as T, copy: null, problem: null, readAt: Date.now() });
    });
    void run();
    return () => {
      abort.abort();
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", seen);
      window.removeEventListener("online", online);
      stop();
    };
    // `empty` is made anew with every render and holds nothing else.
  }, [path, pollMs, turn]);

  const shown = state.path === path ? state : empty;
  return { ...shown, loading, reload };
}

export interface Pages<T> extends Reading<T[]> {
  more: (() => void) | null;
}

/** A list by cursor: the first page is live, later ones are appended on demand. */
export function usePages<T>(path: string): Pages<T> {
  const first = useRead<Page<T>>(path);
  // What was appended belongs to one first page: when that is read anew, its cursors start from elsewhere.
  const [rest, setRest] = useState<{ first: Page<T> | null; pages: Page<T>[] }>({ first: null, pages: [] });
  const [problem, setProblem] = useState<ApiProblem | null>(null);
  const [busy, setBusy] = useState(false);
  const wanted = useRef(first.data);
  wanted.current = first.data;
  const pages = rest.first === first.data ? rest.pages : [];
  const last = pages[pages.length - 1] ?? first.data;
  const cursor = last?.pagination.has_more ? last.pagination.cursor_after : null;

  const more = async (): Promise<void> => {
    if (cursor === null || busy) return;
    setBusy(true);
    try {
      const separator = path.includes("?") ? "&" : "?";
      const answer = await read<Page<T>>(`${path}${separator}cursor_after=${encodeURIComponent(cursor)}`);
      if (wanted.current !== first.data) return;
      setRest({ first: first.data, pages: [...pages, answer.data] });
      setProblem(null);
    } catch (error) {
      setProblem(error instanceof ApiProblem ? error : new ApiProblem(0, "error", String(error)));
    } finally {
      setBusy(false);
    }
  };
  const data = first.data && [first.data, ...pages].flatMap((page) => page.data);
  return {
    ...first,
    data,
    problem: first.problem ?? problem,
    loading: first.loading || busy,
    more: cursor === null ? null : () => void more(),
  };
}

/** Whether the browser believes that it has a network. */
export function useOnline(): boolean {
  return useSyncExternalStore(
    (listener) => {
      window.addEventListener("online", listener);
      window.addEventListener("offline", listener);
      return () => {
        window.removeEventListener("online", listener);
        window.removeEventListener("offline", listener);
      };
    },
    () => navigator.onLine,
  );
}
