import { useRef, useState, type ReactElement } from "react";
import { Link, useParams } from "react-router";
import { ApiProblem, newKey, post } from "../api/client";
import { useOnline, useRead, useWarehouse } from "../api/hooks";
import type { Order } from "../api/types";
import { Problem, Read, Status, Title } from "../parts/common";
import { dateTime, money, number, t } from "../text/text";

const POLL_MS = 15_000;
/** States from which each action is legal; the service has the last word. */
const ALLOCATABLE = ["NEW"];
const CANCELLABLE = ["NEW", "ALLOCATED", "PICKING", "PICKED"];

export default function OrderPage(): ReactElement {
  const id = useParams()["id"] ?? "";
  const warehouse = useWarehouse();
  const path = `/api/v1/orders/${encodeURIComponent(id)}?warehouse_id=${warehouse}&include=order_lines,customer`;
  const order = useRead<Order>(path, POLL_MS);
  return (
    <>
      <Link className="back" to="/orders">
        ← {t("orders.title")}
      </Link>
      <Title aside={order.data && <Status of={order.data.status} />}>
        {order.data ? `${t("orders.number")} ${order.data.order_number}` : t("orders.number")}
      </Title>
      <Read of={order} live lines={9}>
        {(found) => <Detail of={found} changed={order.reload} />}
      </Read>
    </>
  );
}

function Detail({ of: order, changed }: { of: Order; changed: () => void }): ReactElement {
  const online = useOnline();
  const dialog = useRef<HTMLDialogElement>(null);
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState<ApiProblem | null>(null);
  const [said, setSaid] = useState("");
  // One key for each action: pressing again after a lost answer does not do it twice.
  const keys = useRef<Record<string, string>>({});

  const act = async (action: "allocate" | "cancel"): Promise<void> => {
    const key = (keys.current[action] ??= newKey());
    setBusy(true);
    setProblem(null);
    try {
      await post(`/api/v1/orders/${order.id}/${action}`, { warehouse_id: order.warehouse_id }, key);
      setSaid(t(action === "allocate" ? "order.allocatedNow" : "order.cancelledNow"));
      changed();
    } catch (error) {
      const found = error instanceof ApiProblem ? error : new ApiProblem(0, "error", String(error));
      setProblem(found);
      // The service has refused: the next attempt is a new one.
      if (found.status) delete keys.current[action];
    } finally {
      setBusy(false);
    }
  };
  const lines = order.order_lines ?? [];
  return (
    <>
      <section className="card">
        <dl className="facts">
          <div>
            <dt>{t("orders.customer")}</dt>
            <dd>{[order.customer?.name, order.customer?.city].filter(Boolean).join(", ") || "–"}</dd>
          </div>
          <div>
            <dt>{t("orders.priority")}</dt>
            <dd>{number(order.priority)}</dd>
          </div>
          <div>
            <dt>{t("orders.value")}</dt>
            <dd>{money(order.total_value)}</dd>
          </div>
          <div>
            <dt>{t("orders.created")}</dt>
            <dd>{dateTime(order.created_at)}</dd>
          </div>
        </dl>
        <div className="actions">
          <button
            type="button"
            className="primary"
            disabled={busy || !online || !ALLOCATABLE.includes(order.status)}
            onClick={() => void act("allocate")}
          >
            {t("order.allocate")}
          </button>
          <button
            type="button"
            className="danger"
            disabled={busy || !online || !CANCELLABLE.includes(order.status)}
            onClick={() => dialog.current?.showModal()}
          >
            {t("order.cancel")}
          </button>
        </div>
        <p className="said" role="status" aria-live="polite">
          {said}
        </p>
        {problem && <Problem of={problem} />}
      </section>
      <section className="card">
        <h2>{t("order.lines")}</h2>
        <div className="scroll">
          <table>
            <thead>
              <tr>
                <th scope="col">{t("order.line")}</th>
                <th scope="col">SKU</th>
                <th scope="col" className="number">{t("order.quantity")}</th>
                <th scope="col" className="number">{t("order.allocated")}</th>
                <th scope="col" className="number">{t("order.picked")}</th>
                <th scope="col" className="number">{t("order.price")}</th>
              </tr>
            </thead>
            <tbody>
              {lines.map((line) => (
                <tr key={line.line_number}>
                  <td>{line.line_number}</td>
                  <th scope="row">
                    <Link to={`/inventory/${encodeURIComponent(line.sku)}`}>{line.sku}</Link>
                  </th>
                  <td className="number strong">{number(line.quantity)}</td>
                  <td className="number">{number(line.allocated)}</td>
                  <td className="number">{number(line.picked)}</td>
                  <td className="number">{money(line.unit_price)}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      </section>
      <dialog ref={dialog} aria-labelledby="cancel-question">
        <form method="dialog">
          <p id="cancel-question">{t("order.cancelAsk", { number: order.order_number })}</p>
          <div className="actions">
            <button type="submit">{t("order.keep")}</button>
            <button type="submit" className="danger" onClick={() => void act("cancel")}>
              {t("order.cancel")}
            </button>
          </div>
        </form>
      </dialog>
    </>
  );
}
