import type { ReactElement } from "react";
import { Link } from "react-router";
import { useRead, useWarehouse } from "../api/hooks";
import { ORDER_STATES, type Summary } from "../api/types";
import { Bars, HourChart } from "../parts/chart";
import { Age, Problem, Skeleton, Title } from "../parts/common";
import { number, t } from "../text/text";

const POLL_MS = 10_000;
const IN_PROGRESS = ["NEW", "ALLOCATED", "PICKING", "PICKED"] as const;

export default function Dashboard(): ReactElement {
  const warehouse = useWarehouse();
  const summary = useRead<Summary>(`/api/v1/analytics/summary?warehouse_id=${warehouse}`, POLL_MS);
  return (
    <>
      <Title aside={<Age of={summary} live />}>{t("dashboard.title")}</Title>
      {summary.data ? (
        <Figures of={summary.data} />
      ) : summary.problem ? (
        <Problem of={summary.problem} retry={summary.reload} />
      ) : (
        <Skeleton lines={10} />
      )}
    </>
  );
}

function Figures({ of }: { of: Summary }): ReactElement {
  const open = IN_PROGRESS.reduce((sum, state) => sum + (of.orders[state] ?? 0), 0);
  const hours = of.movements_per_hour;
  const quiet = hours.every((each) => each.count === 0);
  return (
    <>
      <ul className="tiles">
        <Tile text={t("dashboard.open")} value={open} to="/orders" />
        <Tile text={t("dashboard.picks")} value={of.picks_open} to="/picking" />
        <Tile text={t("dashboard.receipts")} value={of.receipts_open} />
        <Tile text={t("dashboard.lastHour")} value={hours[hours.length - 1]?.count ?? 0} to="/analytics" />
      </ul>
      <div className="columns">
        <section className="card">
          <h2>{t("dashboard.orders")}</h2>
          <Bars
            rows={ORDER_STATES.map((state) => ({
              name: t(`status.${state}`),
              value: of.orders[state] ?? 0,
              kind: state,
            }))}
          />
        </section>
        <section className="card wide">
          <h2>{t("dashboard.movements")}</h2>
          {quiet ? <p className="quiet">{t("dashboard.none")}</p> : <HourChart hours={hours} of="count" label={t("dashboard.movements")} />}
        </section>
      </div>
    </>
  );
}

function Tile({ text, value, to }: { text: string; value: number; to?: string }): ReactElement {
  const content = (
    <>
      <span className="figure">{number(value)}</span>
      <span className="quiet">{text}</span>
    </>
  );
  return <li className="card tile">{to ? <Link to={to}>{content}</Link> : content}</li>;
}
