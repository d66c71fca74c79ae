import type { ReactElement } from "react";
import { Link, useSearchParams } from "react-router";
import { usePages, useWarehouse } from "../api/hooks";
import { ORDER_STATES, type Order } from "../api/types";
import { More, Read, Status, Title } from "../parts/common";
import { dateTime, money, number, t } from "../text/text";

const FIELDS = "id,order_number,status,priority,total_value,created_at";

export default function Orders(): ReactElement {
  const warehouse = useWarehouse();
  const [asked, setAsked] = useSearchParams();
  const status = ORDER_STATES.find((each) => each === asked.get("status")) ?? "";
  const query = new URLSearchParams({
    warehouse_id: String(warehouse),
    limit: "50",
    include: "customer",
    fields: FIELDS,
    ...(status && { status }),
  });
  const orders = usePages<Order>(`/api/v1/orders?${query.toString()}`);
  return (
    <>
      <Title>{t("orders.title")}</Title>
      <form className="filters" onSubmit={(event) => event.preventDefault()}>
        <label>
          {t("orders.status")}
          <select
            value={status}
            onChange={(event) => setAsked(event.target.value ? { status: event.target.value } : {})}
          >
            <option value="">{t("orders.all")}</option>
            {ORDER_STATES.map((each) => (
              <option key={each} value={each}>
                {t(`status.${each}`)}
              </option>
            ))}
          </select>
        </label>
      </form>
      <Read of={orders} lines={9}>
        {(found) =>
          found.length ? (
            <div className="card scroll">
              <table className="rows">
                <thead>
                  <tr>
                    <th scope="col">{t("orders.number")}</th>
                    <th scope="col">{t("orders.status")}</th>
                    <th scope="col">{t("orders.customer")}</th>
                    <th scope="col" className="number">{t("orders.priority")}</th>
                    <th scope="col" className="number">{t("orders.value")}</th>
                    <th scope="col">{t("orders.created")}</th>
                  </tr>
                </thead>
                <tbody>
                  {found.map((order) => (
                    <tr key={order.id}>
                      <th scope="row">
                        <Link to={`/orders/${order.id}`}>{order.order_number}</Link>
                      </th>
                      <td>
                        <Status of={order.status} />
                      </td>
                      <td>{order.customer?.name ?? "–"}</td>
                      <td className="number">{number(order.priority)}</td>
                      <td className="number">{money(order.total_value)}</td>
                      <td>{dateTime(order.created_at)}</td>
                    </tr>
                  ))}
                </tbody>
              </table>
            </div>
          ) : (
            <p className="quiet">{t("orders.none")}</p>
          )
        }
      </Read>
      <More of={orders} />
    </>
  );
}
