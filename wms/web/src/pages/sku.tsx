import type { ReactElement } from "react";
import { Link, useParams } from "react-router";
import { useRead, useWarehouse } from "../api/hooks";
import type { Balance, Sku, SkuStock } from "../api/types";
import { Read, Title } from "../parts/common";
import { Picture } from "../parts/picture";
import { dateTime, number, t } from "../text/text";

const POLL_MS = 15_000;

export default function SkuPage(): ReactElement {
  const code = useParams()["sku"] ?? "";
  const path = encodeURIComponent(code);
  const warehouse = useWarehouse();
  const sku = useRead<Sku>(`/api/v1/skus/${path}`);
  const totals = useRead<SkuStock>(`/api/v1/stock/${path}`, POLL_MS);
  const here = useRead<{ data: Balance[] }>(`/api/v1/stock?warehouse_id=${warehouse}&sku=${path}`, POLL_MS);
  return (
    <>
      <Link className="back" to="/inventory">
        ← {t("inventory.title")}
      </Link>
      <Title>{sku.data?.name ?? code}</Title>
      <section className="card head">
        <Picture image={sku.data?.image} size={96} first />
        <Read of={sku} lines={3}>
          {(found) => (
            <dl className="facts">
              <Fact name="SKU" value={found.sku} />
              <Fact name={t("inventory.class")} value={found.abc_class} />
              <Fact name={t("sku.barcode")} value={found.barcode} />
              <Fact name={t("sku.unit")} value={found.unit} />
              <Fact name={t("sku.weight")} value={found.weight_g == null ? null : `${number(found.weight_g)} g`} />
            </dl>
          )}
        </Read>
      </section>
      <div className="columns even">
        <section className="card">
          <h2>{t("sku.byLocation")}</h2>
          <Read of={here} live lines={4}>
            {({ data }) =>
              data.length ? (
                <div className="scroll" tabIndex={0} role="group" aria-label={t("sku.byLocation")}>
                  <table>
                    <thead>
                      <tr>
                        <th scope="col">{t("stock.location")}</th>
                        <th scope="col" className="number">{t("stock.onHand")}</th>
                        <th scope="col" className="number">{t("stock.reserved")}</th>
                        <th scope="col" className="number">{t("stock.available")}</th>
                        <th scope="col">{t("stock.changed")}</th>
                      </tr>
                    </thead>
                    <tbody>
                      {data.map((each) => (
                        <tr key={each.location}>
                          <th scope="row">{each.location}</th>
                          <td className="number">{number(each.on_hand)}</td>
                          <td className="number">{number(each.reserved ?? 0)}</td>
                          <td className="number strong">{number(each.available ?? each.on_hand)}</td>
                          <td>{dateTime(each.updated_at)}</td>
                        </tr>
                      ))}
                    </tbody>
                  </table>
                </div>
              ) : (
                <p className="quiet">{t("sku.noStock")}</p>
              )
            }
          </Read>
        </section>
        <section className="card">
          <h2>{t("sku.byWarehouse")}</h2>
          <Read of={totals} live lines={4}>
            {(found) => (
              <table>
                <thead>
                  <tr>
                    <th scope="col">{t("app.warehouse")}</th>
                    <th scope="col" className="number">{t("stock.locations")}</th>
                    <th scope="col" className="number">{t("stock.onHand")}</th>
                  </tr>
                </thead>
                <tbody>
                  {found.warehouses.map((each) => (
                    <tr key={each.warehouse_id}>
                      <th scope="row">{each.warehouse}</th>
                      <td className="number">{number(each.locations)}</td>
                      <td className="number strong">{number(each.on_hand)}</td>
                    </tr>
                  ))}
                </tbody>
              </table>
            )}
          </Read>
        </section>
      </div>
    </>
  );
}

function Fact({ name, value }: { name: string; value: string | null | undefined }): ReactElement | null {
  if (!value) return null;
  return (
    <div>
      <dt>{name}</dt>
      <dd>{value}</dd>
    </div>
  );
}
