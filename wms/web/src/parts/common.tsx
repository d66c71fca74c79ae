import { useEffect, useRef, useState, type ReactElement, type ReactNode } from "react";
import type { ApiProblem, Copy } from "../api/client";
import type { Pages, Reading } from "../api/hooks";
import type { OrderStatus } from "../api/types";
import { ago, setLanguage, t, textOf, useLanguage, type Language } from "../text/text";

/** The heading of a page: takes the focus when the page opens, so that a screen reader begins there. */
export function Title({ children, aside }: { children: string; aside?: ReactNode }): ReactElement {
  const heading = useRef<HTMLHeadingElement>(null);
  useEffect(() => {
    document.title = `${children} · WMS`;
  }, [children]);
  useEffect(() => {
    // Not when something in the page has asked for it (autofocus).
    if (!document.querySelector("main :focus")) heading.current?.focus({ preventScroll: true });
    window.scrollTo(0, 0);
  }, []);
  return (
    <div className="title">
      <h1 ref={heading} tabIndex={-1}>
        {children}
      </h1>
      {aside}
    </div>
  );
}

export function LanguageChoice(): ReactElement {
  const language = useLanguage();
  return (
    <select
      aria-label={t("app.language")}
      value={language}
      onChange={(event) => setLanguage(event.target.value as Language)}
    >
      <option value="pt-BR">Português</option>
      <option value="en">English</option>
    </select>
  );
}

export function Problem({ of, retry }: { of: ApiProblem; retry?: () => void }): ReactElement {
  const text = textOf(`problem.${of.kind}`, t("problem.other"));
  return (
    <div className="problem" role="alert">
      <strong>{text}</strong>
      {of.detail && <span>{of.detail}</span>}
      {of.requestId && <code className="quiet">{of.requestId}</code>}
      {retry && (
        <button type="button" onClick={retry}>
          {t("app.retry")}
        </button>
      )}
    </div>
  );
}

function useNow(everyMs: number): number {
  const [now, setNow] = useState(Date.now());
  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now()), everyMs);
    return () => clearInterval(timer);
  }, [everyMs]);
  return now;
}

/** How old what is shown is. Says nothing about what has just been read, unless it is `live`. */
export function Age({ of, live = false }: { of: Reading<unknown>; live?: boolean }): ReactElement | null {
  const now = useNow(5000);
  if (of.data === null) return null;
  const age = ago(of.readAt, Math.max(now, of.readAt));
  if (of.copy) {
    // A copy that is being checked is shown for a moment only; no need to alarm.
    const kind = of.copy.reason === "checking" ? "age" : "age stale";
    return (
      <p className={kind} role={kind === "age" ? undefined : "status"} data-copy={of.copy.reason}>
        {copyText(of.copy, age)}
      </p>
    );
  }
  if (of.problem) {
    return (
      <p className="age stale" role="status" data-copy="problem">
        {t("copy.problem", { age })}
      </p>
    );
  }
  return live ? <p className="age live">{t("copy.live", { age })}</p> : null;
}

function copyText(copy: Copy, age: string): string {
  return t(`copy.${copy.reason}`, { age });
}

/** What a reading shows: its age, then its content, or why there is none. */
export function Read<T>({
  of,
  live = false,
  lines = 6,
  children,
}: {
  of: Reading<T>;
  live?: boolean;
  /** How much room is kept while it loads. */
  lines?: number;
  children: (data: T) => ReactNode;
}): ReactElement {
  if (of.data === null) {
    return of.problem ? <Problem of={of.problem} retry={of.reload} /> : <Skeleton lines={lines} />;
  }
  return (
    <>
      <Age of={of} live={live} />
      {children(of.data)}
    </>
  );
}

export function Skeleton({ lines }: { lines: number }): ReactElement {
  return (
    <div className="skeleton" aria-busy="true" aria-label={t("app.loading")} role="status">
      {Array.from({ length: lines }, (_, index) => (
        <span key={index} />
      ))}
    </div>
  );
}

export function More({ of }: { of: Pages<unknown> }): ReactElement | null {
  if (!of.more) return of.problem && of.data ? <Problem of={of.problem} retry={of.reload} /> : null;
  return (
    <button type="button" className="more" onClick={of.more} disabled={of.loading}>
      {of.loading ? t("app.loading") : t("app.more")}
    </button>
  );
}

export function Status({ of }: { of: OrderStatus }): ReactElement {
  return <span className={`status ${of.toLowerCase()}`}>{t(`status.${of}`)}</span>;
}

/** A sentence whose codes (A-1-7, SKU-000007) stay in one line: browsers break them at their hyphens. */
export function Unbroken({ text }: { text: string }): ReactElement {
  return (
    <>
      {text.split(/(\S+-\S+)/).map((part, index) =>
        index % 2 ? (
          <span key={index} className="code">
            {part}
          </span>
        ) : (
          part
        ),
      )}
    </>
  );
}
