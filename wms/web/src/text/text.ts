/** The language of the page, its texts, numbers and times. */
import { useSyncExternalStore } from "react";
import { TEXTS, type Key } from "./dictionary";

export type Language = "pt-BR" | "en";
const STORE = "wms.language";
const listeners = new Set<() => void>();
let language: Language = chosen();
document.documentElement.lang = language;

function chosen(): Language {
  const kept = localStorage.getItem(STORE);
  if (kept === "pt-BR" || kept === "en") return kept;
  return navigator.language.toLowerCase().startsWith("pt") ? "pt-BR" : "en";
}

export function setLanguage(next: Language): void {
  language = next;
  localStorage.setItem(STORE, next);
  document.documentElement.lang = next;
  listeners.forEach((listener) => listener());
}

export function useLanguage(): Language {
  return useSyncExternalStore(
    (listener) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    () => language,
  );
}

export function t(key: Key, values: Record<string, string | number> = {}): string {
  const text: string = TEXTS[key][language === "pt-BR" ? 0 : 1];
  return text.replace(/\{(\w+)\}/g, (whole, name: string) => {
    const value = values[name];
    return value === undefined ? whole : typeof value === "number" ? number(value) : value;
  });
}

/** A text whose key is made of data, or `otherwise` when there is none. */
export function textOf(key: string, otherwise: string): string {
  return key in TEXTS ? t(key as Key) : otherwise;
}

const locale = (): string => (language === "pt-BR" ? "pt-BR" : "en-GB");

export function number(value: number): string {
  return value.toLocaleString(locale());
}

/** A decimal of the API ("1234.50") without a currency: the API names none. */
export function money(value: string): string {
  return Number(value).toLocaleString(locale(), { minimumFractionDigits: 2, maximumFractionDigits: 2 });
}

export function dateTime(value: string): string {
  return new Date(value).toLocaleString(locale(), { dateStyle: "short", timeStyle: "short" });
}

export function hour(value: string): string {
  return new Date(value).toLocaleTimeString(locale(), { hour: "2-digit", minute: "2-digit" });
}

/** How long ago, in words: "now", "5 seconds ago", "3 min. ago". */
export function ago(then: number, now: number): string {
  const words = new Intl.RelativeTimeFormat(locale(), { numeric: "auto", style: "short" });
  const seconds = Math.max(0, Math.round((now - then) / 1000));
  if (seconds < 60) return words.format(-seconds, "second");
  if (seconds < 3600) return words.format(-Math.round(seconds / 60), "minute");
  return words.format(-Math.round(seconds / 3600), "hour");
}
