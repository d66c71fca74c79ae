/** The steps of one pick, and what a scan does to them. Pure. */
import type { PickTask } from "../api/types";

export type Step = "location" | "sku" | "quantity";
export interface Pick {
  step: Step;
  quantity: number;
}
export type Verdict = "rightLocation" | "rightSku" | "wrongLocation" | "wrongSku";

export function begin(task: PickTask): Pick {
  return { step: "location", quantity: task.quantity };
}

/**
 * What a scanner sends, without what scanners add: line ends, an AIM identifier such as ]C1, blanks and case.
 * Case, because a wedge types as the keyboard's Caps Lock is.
 */
export function cleaned(scanned: string): string {
  return scanned.trim().replace(/^\][A-Za-z][0-9A-Za-z]/, "").trim().toUpperCase();
}

/** GTINs of 8 to 14 digits are the same number with leading zeros (GS1 General Specifications, GTIN formats). */
export function sameBarcode(a: string, b: string): boolean {
  const digits = /^[0-9]{8,14}$/;
  return digits.test(a) && digits.test(b) && a.padStart(14, "0") === b.padStart(14, "0");
}

export function scan(pick: Pick, task: PickTask, scanned: string): { pick: Pick; verdict: Verdict } {
  const found = cleaned(scanned);
  if (pick.step === "location") {
    const right = found === task.location.toUpperCase();
    return right
      ? { pick: { ...pick, step: "sku" }, verdict: "rightLocation" }
      : { pick, verdict: "wrongLocation" };
  }
  const right = found === task.sku.toUpperCase() || (task.barcode !== null && sameBarcode(found, task.barcode));
  return right ? { pick: { ...pick, step: "quantity" }, verdict: "rightSku" } : { pick, verdict: "wrongSku" };
}

/** A quantity that the API takes: whole, 0 to the task's. */
export function within(quantity: number, task: PickTask): number {
  return Number.isFinite(quantity) ? Math.min(task.quantity, Math.max(0, Math.trunc(quantity))) : 0;
}
