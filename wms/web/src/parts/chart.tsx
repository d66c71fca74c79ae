import type { ReactElement } from "react";
import type { Hour } from "../api/types";
import { hour, number, t } from "../text/text";

const WIDTH = 720;
const HEIGHT = 190;
/** Of a digit of the axis, about. */
const DIGIT = 7;
/** Room for half of the last hour's name. */
const RIGHT = 10;
const BOTTOM = 24;
const TOP = 10;

/** A round number not below `value`, for the top of the axis: 1, 2, 5 or 10 times a power of ten. */
export function ceiling(value: number): number {
  if (value <= 1) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return ([1, 2, 5, 10].find((step) => step * power >= value) ?? 10) * power;
}

/** Bars per hour; the same figures as a table for those who cannot see it, or want the numbers. */
export function HourChart({ hours, of, label }: { hours: Hour[]; of: "count" | "units"; label: string }): ReactElement {
  const top = ceiling(Math.max(0, ...hours.map((each) => each[of])));
  const left = 16 + DIGIT * Math.max(3, number(top).length);
  const room = (WIDTH - left - RIGHT) / Math.max(1, hours.length);
  const y = (value: number): number => TOP + (HEIGHT - TOP - BOTTOM) * (1 - value / top);
  const every = Math.ceil(hours.length / 8);
  return (
    <figure className="chart">
      <svg viewBox={`0 0 ${WIDTH} ${HEIGHT}`} role="img" aria-label={label}>
        {[0, top / 2, top].map((value) => (
          <g key={value}>
            <line className="grid" x1={left} x2={WIDTH - RIGHT} y1={y(value)} y2={y(value)} />
            <text x={left - 8} y={y(value) + 4} textAnchor="end">
              {value === top / 2 && top % 2 ? "" : number(value)}
            </text>
          </g>
        ))}
        {hours.map((each, index) => (
          <g key={each.hour}>
            <rect
              className={index === hours.length - 1 ? "bar now" : "bar"}
              x={left + index * room + room * 0.14}
              width={room * 0.72}
              y={y(each[of])}
              height={Math.max(0, y(0) - y(each[of]))}
              rx="2"
            >
              <title>{t("chart.value", { hour: hour(each.hour), count: each.count, units: each.units })}</title>
            </rect>
            {(hours.length - 1 - index) % every === 0 && (
              <text x={left + (index + 0.5) * room} y={HEIGHT - 6} textAnchor="middle">
                {hour(each.hour)}
              </text>
            )}
          </g>
        ))}
      </svg>
      <details>
        <summary>{t("chart.table")}</summary>
        <table>
          <thead>
            <tr>
              <th scope="col">{t("chart.hour")}</th>
              <th scope="col" className="number">
                {t("chart.count")}
              </th>
              <th scope="col" className="number">
                {t("chart.units")}
              </th>
            </tr>
          </thead>
          <tbody>
            {hours.map((each) => (
              <tr key={each.hour}>
                <td>{hour(each.hour)}</td>
                <td className="number">{number(each.count)}</td>
                <td className="number">{number(each.units)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </details>
    </figure>
  );
}

/** Named amounts as bars, with their numbers. */
export function Bars({ rows }: { rows: { name: string; value: number; kind: string }[] }): ReactElement {
  const most = Math.max(1, ...rows.map((row) => row.value));
  return (
    <dl className="bars">
      {rows.map((row) => (
        <div key={row.kind}>
          <dt>{row.name}</dt>
          <dd>
            <span className={`fill ${row.kind.toLowerCase()}`} style={{ width: `${(100 * row.value) / most}%` }} />
            <span className="value">{number(row.value)}</span>
          </dd>
        </div>
      ))}
    </dl>
  );
}
