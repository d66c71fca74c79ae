import { describe, expect, it } from "vitest";
import { strategyOf } from "./rules";

describe("row F4: the strategy of a request", () => {
  it.each([
    ["/assets/main-abc123.js", "asset"],
    ["/images/parafuso", "image"],
    ["/api/v1/skus", "list"],
    ["/api/v1/skus/SKU-1", "list"],
    ["/api/v1/warehouses", "list"],
    ["/api/v1/warehouses/1/capacity", "list"],
    ["/api/v1/stock/SKU-1", "critical"],
    ["/api/v1/picks", "critical"],
    ["/api/v1/orders/3", "critical"],
    ["/api/v1/analytics/summary", "critical"],
    ["/api/v1/tokens", "none"],
    ["/api/v1/stocking", "none"],
    ["/sw.js", "none"],
  ])("%s: %s", (path, strategy) => {
    expect(strategyOf(path, "GET", "cors")).toBe(strategy);
  });
  it("leaves every change to the browser, and gives navigations the page", () => {
    expect(strategyOf("/api/v1/picks/1/confirm", "POST", "cors")).toBe("none");
    expect(strategyOf("/orders/7", "GET", "navigate")).toBe("page");
  });
});
