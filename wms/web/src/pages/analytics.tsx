import { useState, type FormEvent, type ReactElement } from "react";
import { Link } from "react-router";
import { usePages, useRead, useWarehouse } from "../api/hooks";
import type { MovementRow, Summary } from "../api/types";
import { Bars, HourChart } from "../parts/chart";
import { More, Read, Title } from "../parts/common";
import { dateTime, number, t } from "../text/text";

const POLL_MS = 60_000;
const CLASSES = ["A", "B", "C"] as const;

export default function Analytics(): ReactElement {
  const warehouse = useWarehouse();
  const [sku, setSku] = useState("");
  const summary = useRead<Summary>(`/api/v1/analytics/summary?warehouse_id=${warehouse}`, POLL_MS);
  const query = new URLSearchParams({ warehouse_id: String(warehouse), limit: "25", ...(sku && { sku }) });
  const movements = usePages<MovementRow>(`/api/v1/movements?${query.toString()}`);
  const filter = (event: FormEvent<HTMLFormElement>): void => {
    event.preventDefault();
    setSku(String(new FormData(event.currentTarget).get("sku") ?? "").trim());
  };
  return (
    <>
      <Title>{t("analytics.title")}</Title>
      <Read of={summary} lines={8}>
        {(found) => (
          <div className="columns">
            <section className="card">
              <h2>{t("analytics.abc")}</h2>
              <Bars rows={CLASSES.map((each) => ({ name: each, value: found.abc[each] ?? 0, kind: `abc-${each}` }))} />
            </section>
            <section className="card wide">
              <h2>{t("analytics.units")}</h2>
              <HourChart hours={found.movements_per_hour} of="units" label={t("analytics.units")} />
            </section>
          </div>
        )}
      </Read>
      <section className="card">
        <div className="title">
          <h2>{t("analytics.movements")}</h2>
          <form className="filters" onSubmit={filter}>
            <label>
              {t("analytics.filter")}
              <input name="sku" type="search" maxLength={64} autoCapitalize="characters" />
            </label>
          </form>
        </div>
        <Read of={movements} lines={6}>
          {(rows) =>
            rows.length ? (
              <div className="scroll">
                <table className="rows">
                  <thead>
                    <tr>
                      <th scope="col">{t("movement.at")}</th>
                      <th scope="col">{t("movement.kind")}</th>
                      <th scope="col">SKU</th>
                      <th scope="col" className="number">{t("order.quantity")}</th>
                      <th scope="col">{t("movement.from")}</th>
                      <th scope="col">{t("movement.to")}</th>
                      <th scope="col">{t("movement.reference")}</th>
                    </tr>
                  </thead>
                  <tbody>
                    {rows.map((row) => (
                      <tr key={row.id}>
                        <td>{dateTime(row.posted_at)}</td>
                        <td>{t(`movement.${row.type}`)}</td>
                        <th scope="row">
                          <Link to={`/inventory/${encodeURIComponent(row.sku)}`}>{row.sku}</Link>
                        </th>
                        <td className="number strong">{number(row.quantity)}</td>
                        <td>{row.from_location ?? "–"}</td>
                        <td>{row.to_location ?? "–"}</td>
                        <td>{row.reference ?? "–"}</td>
                      </tr>
                    ))}
                  </tbody>
                </table>
              </div>
            ) : (
              <p className="quiet">{t("analytics.none")}</p>
            )
          }
        </Read>
        <More of={movements} />
      </section>
    </>
  );
}
