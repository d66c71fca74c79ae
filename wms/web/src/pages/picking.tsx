import { useEffect, useRef, useState, type FormEvent, type ReactElement } from "react";
import { ApiProblem, newKey, post } from "../api/client";
import { useOnline, useRead, useWarehouse } from "../api/hooks";
import type { ConfirmedPick, Page, PickTask } from "../api/types";
import { Age, Problem, Skeleton, Title, Unbroken } from "../parts/common";
import { begin, cleaned, scan, within, type Pick } from "../picking/scan";
import { number, t } from "../text/text";

const POLL_MS = 15_000;

export default function Picking(): ReactElement {
  const warehouse = useWarehouse();
  const picks = useRead<Page<PickTask>>(`/api/v1/picks?warehouse_id=${warehouse}&status=OPEN&limit=200`, POLL_MS);
  // What was confirmed here and may still stand in a list that was read before.
  const [done, setDone] = useState<ReadonlySet<number>>(new Set());
  const [chosen, setChosen] = useState<number | null>(null);
  const [said, setSaid] = useState("");

  const open = (picks.data?.data ?? []).filter((task) => !done.has(task.id));
  const index = Math.max(0, open.findIndex((task) => task.id === chosen));
  const task = open[index];

  const confirmed = (result: ConfirmedPick): void => {
    setDone((old) => new Set(old).add(result.id));
    setSaid(t("picking.done", { n: result.picked, sku: task?.sku ?? "" }));
    setChosen(open[index + 1]?.id ?? null);
    picks.reload();
  };
  return (
    <div className="picker">
      <Title aside={<Age of={picks} />}>{t("picking.title")}</Title>
      <p className="said" role="status" aria-live="polite">
        {said}
      </p>
      {task ? (
        <Task
          key={task.id}
          task={task}
          place={t("picking.task", { n: index + 1, total: open.length })}
          confirmed={confirmed}
          skip={open.length > 1 ? () => setChosen(open[(index + 1) % open.length]?.id ?? null) : null}
        />
      ) : picks.data ? (
        <p className="card empty">{t("picking.allDone")}</p>
      ) : picks.problem ? (
        <Problem of={picks.problem} retry={picks.reload} />
      ) : (
        <Skeleton lines={8} />
      )}
    </div>
  );
}

interface TaskProps {
  task: PickTask;
  place: string;
  confirmed: (result: ConfirmedPick) => void;
  skip: (() => void) | null;
}

function Task({ task, place, confirmed, skip }: TaskProps): ReactElement {
  const online = useOnline();
  // A task belongs to the warehouse in which it was listed.
  const warehouse = useRef(useWarehouse()).current;
  const [pick, setPick] = useState<Pick>(begin(task));
  const [wrong, setWrong] = useState("");
  const [right, setRight] = useState("");
  const [asking, setAsking] = useState(false);
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState<ApiProblem | null>(null);
  const field = useRef<HTMLInputElement>(null);
  const attempt = useRef({ quantity: -1, key: "" });
  // A scan that fell into the quantity: the Enter at its end must not confirm.
  const misread = useRef(false);
  const missing = task.quantity - pick.quantity;

  // A scanner types into whatever has the focus.
  useEffect(() => field.current?.focus(), [pick.step]);

  const scanned = (event: FormEvent<HTMLFormElement>): void => {
    event.preventDefault();
    const input = field.current;
    if (!input || !cleaned(input.value)) return;
    const found = cleaned(input.value);
    const { pick: next, verdict } = scan(pick, task, input.value);
    input.value = "";
    setPick(next);
    if (verdict === "wrongLocation" || verdict === "wrongSku") {
      const wanted = verdict === "wrongLocation" ? task.location : task.sku;
      setWrong(t(`picking.${verdict}`, { found, wanted }));
      setRight("");
      navigator.vibrate?.([120, 60, 120]);
    } else {
      setWrong("");
      setRight(t(`picking.${verdict}`));
    }
  };
  const confirm = async (): Promise<void> => {
    // The same quantity again is the same request: a retry after a lost answer picks once.
    if (attempt.current.quantity !== pick.quantity) attempt.current = { quantity: pick.quantity, key: newKey() };
    setBusy(true);
    setProblem(null);
    try {
      const path = `/api/v1/picks/${task.id}/confirm`;
      const body = { warehouse_id: warehouse, quantity: pick.quantity };
      confirmed(await post<ConfirmedPick>(path, body, attempt.current.key));
    } catch (error) {
      setProblem(error instanceof ApiProblem ? error : new ApiProblem(0, "error", String(error)));
      setBusy(false);
    }
  };
  const count = (event: FormEvent<HTMLFormElement>): void => {
    event.preventDefault();
    if (busy || !online) return;
    if (misread.current) {
      misread.current = false;
      setWrong(t("picking.wrongQuantity", { total: task.quantity }));
      setRight("");
      return;
    }
    if (missing > 0) setAsking(true);
    else void confirm();
  };
  const typed = (quantity: number): void => {
    misread.current = quantity > task.quantity;
    if (!misread.current) change(quantity);
  };
  const change = (quantity: number): void => {
    misread.current = false;
    setPick({ ...pick, quantity: within(quantity, task) });
    setAsking(false);
  };
  const steps = ["location", "sku", "quantity"] as const;
  return (
    <article className="card task">
      <p className="quiet">
        {place} · {t("picking.wave", { n: String(task.wave_id) })}
      </p>
      <ol className="steps" aria-hidden="true">
        {steps.map((step) => (
          <li key={step} className={steps.indexOf(step) <= steps.indexOf(pick.step) ? "reached" : ""} />
        ))}
      </ol>
      <dl className="order">
        <div className={pick.step === "location" ? "now" : "was"}>
          <dt>{t("picking.go")}</dt>
          <dd className="huge">{task.location}</dd>
        </div>
        <div className={pick.step === "location" ? "" : "now"}>
          <dt>{t("picking.take")}</dt>
          <dd>
            <strong className="huge">{number(task.quantity)} ×</strong> {task.sku_name}
            <code>
              {task.sku}
              {task.barcode && ` · ${task.barcode}`}
            </code>
          </dd>
        </div>
      </dl>
      <p className="verdict wrong" role="alert">
        <Unbroken text={wrong} />
      </p>
      <p className="verdict right" role="status" aria-live="polite">
        {right}
      </p>
      {pick.step === "quantity" ? (
        <form onSubmit={count}>
          <div className="count">
            <button type="button" aria-label={t("picking.less")} onClick={() => change(pick.quantity - 1)}>
              −
            </button>
            <label>
              <span>{t("picking.quantity")}</span>
              <input
                ref={field}
                type="number"
                inputMode="numeric"
                min={0}
                max={task.quantity}
                value={pick.quantity}
                onChange={(event) => typed(event.target.valueAsNumber)}
                onFocus={(event) => event.target.select()}
              />
            </label>
            <button type="button" aria-label={t("picking.plus")} onClick={() => change(pick.quantity + 1)}>
              +
            </button>
          </div>
          {asking ? (
            <div className="asking" role="alertdialog" aria-labelledby="short-question">
              <p id="short-question">{t("picking.shortAsk", { n: missing })}</p>
              <button type="button" className="danger big" disabled={busy || !online} onClick={() => void confirm()}>
                {t("picking.shortYes", { n: pick.quantity })}
              </button>
              {/* A stray scan ends in Enter: it must land where it does no harm. */}
              <button type="button" className="big" autoFocus onClick={() => setAsking(false)}>
                {t("picking.recount")}
              </button>
            </div>
          ) : (
            <button type="submit" className={missing ? "big warn" : "big primary"} disabled={busy || !online}>
              {missing
                ? t("picking.short", { n: pick.quantity, total: task.quantity })
                : t("picking.confirm", { n: pick.quantity })}
            </button>
          )}
        </form>
      ) : (
        <form onSubmit={scanned}>
          <label className="scan">
            {t(pick.step === "location" ? "picking.scanLocation" : "picking.scanSku")}
            <input
              ref={field}
              name="scan"
              autoComplete="off"
              autoCapitalize="characters"
              autoCorrect="off"
              spellCheck={false}
              enterKeyHint="next"
              maxLength={80}
            />
          </label>
        </form>
      )}
      {!online && <p className="problem">{t("picking.offline")}</p>}
      {problem && <Problem of={problem} />}
      <div className="actions">
        {skip && (
          <button type="button" onClick={skip}>
            {t("picking.skip")}
          </button>
        )}
        {pick.step !== "location" && (
          <button
            type="button"
            onClick={() => {
              setPick(begin(task));
              setRight("");
              setWrong("");
              setAsking(false);
            }}
          >
            {t("picking.restart")}
          </button>
        )}
      </div>
    </article>
  );
}
