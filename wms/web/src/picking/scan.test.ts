import { describe, expect, it } from "vitest";
import type { PickTask } from "../api/types";
import { begin, cleaned, sameBarcode, scan, within } from "./scan";

const TASK: PickTask = {
  id: 1, wave_id: 1, sequence: 1, order_id: 1, line_number: 1, sku: "SKU-000007", sku_name: "Correia",
  barcode: "7891000000013", location: "A-2-7", quantity: 5, picked: 0, status: "OPEN",
};

describe("a pick", () => {
  it("goes from the location to the product to the quantity", () => {
    const first = scan(begin(TASK), TASK, "a-2-7\r");
    expect(first).toEqual({ pick: { step: "sku", quantity: 5 }, verdict: "rightLocation" });
    expect(scan(first.pick, TASK, "SKU-000007").pick.step).toBe("quantity");
    expect(scan(first.pick, TASK, "]E07891000000013").verdict).toBe("rightSku");
  });
  it("stays where it is after a wrong scan", () => {
    expect(scan(begin(TASK), TASK, "A-2-8")).toEqual({ pick: begin(TASK), verdict: "wrongLocation" });
    const atShelf = { step: "sku" as const, quantity: 5 };
    expect(scan(atShelf, TASK, "A-2-7")).toEqual({ pick: atShelf, verdict: "wrongSku" });
    expect(scan(atShelf, { ...TASK, barcode: null }, "7891000000013").verdict).toBe("wrongSku");
  });
  it("knows a GTIN by its number, whatever zeros lead it, and nothing else", () => {
    expect(sameBarcode("07891000000013", "7891000000013")).toBe(true);
    expect(sameBarcode("7891000000014", "7891000000013")).toBe(false);
    expect(sameBarcode("", "")).toBe(false);
  });
  it("takes whole quantities up to the task's", () => {
    expect([NaN, -1, 0, 2.9, 5, 6].map((n) => within(n, TASK))).toEqual([0, 0, 0, 2, 5, 5]);
    expect(cleaned(" \n")).toBe("");
  });
});
