import { useEffect, useState, type ReactElement } from "react";
import { Link, useSearchParams } from "react-router";
import { usePages } from "../api/hooks";
import type { Sku } from "../api/types";
import { More, Read, Title } from "../parts/common";
import { Picture } from "../parts/picture";
import { t } from "../text/text";

const TYPING_MS = 250;
/** Rows that a tall screen shows at once: their pictures are not put off. */
const FIRST_ROWS = 8;

export default function Inventory(): ReactElement {
  const [asked, setAsked] = useSearchParams();
  const [text, setText] = useState(asked.get("q") ?? "");
  const abc = asked.get("abc") ?? "";

  useEffect(() => {
    const timer = setTimeout(() => {
      setAsked(
        (old) => {
          const next = new URLSearchParams(old);
          if (text.trim()) next.set("q", text.trim());
          else next.delete("q");
          return next;
        },
        { replace: true },
      );
    }, TYPING_MS);
    return () => clearTimeout(timer);
  }, [text, setAsked]);

  const query = new URLSearchParams({ limit: "50" });
  if (asked.get("q")) query.set("q", asked.get("q") ?? "");
  if (abc) query.set("abc_class", abc);
  const skus = usePages<Sku>(`/api/v1/skus?${query.toString()}`);

  return (
    <>
      <Title>{t("inventory.title")}</Title>
      <form className="filters" role="search" onSubmit={(event) => event.preventDefault()}>
        <label className="grow">
          {t("inventory.search")}
          <input type="search" value={text} maxLength={100} onChange={(event) => setText(event.target.value)} />
        </label>
        <label>
          {t("inventory.class")}
          <select
            value={abc}
            onChange={(event) =>
              setAsked((old) => {
                const next = new URLSearchParams(old);
                if (event.target.value) next.set("abc", event.target.value);
                else next.delete("abc");
                return next;
              })
            }
          >
            <option value="">{t("inventory.all")}</option>
            {["A", "B", "C"].map((each) => (
              <option key={each}>{each}</option>
            ))}
          </select>
        </label>
      </form>
      <Read of={skus} lines={9}>
        {(found) => (
          <>
            <p className="quiet" role="status" aria-live="polite">
              {found.length ? t("inventory.count", { n: found.length }) : t("inventory.none")}
            </p>
            <ul className="list">
              {found.map((sku, index) => (
                <li key={sku.sku}>
                  <Link to={`/inventory/${encodeURIComponent(sku.sku)}`}>
                    <Picture image={sku.image} size={48} first={index < FIRST_ROWS} />
                    <span className="grow">
                      <strong>{sku.name}</strong>
                      <code>{sku.sku}</code>
                    </span>
                    <span className={`abc ${sku.abc_class.toLowerCase()}`}>
                      <span className="hidden">{t("inventory.class")} </span>
                      {sku.abc_class}
                    </span>
                  </Link>
                </li>
              ))}
            </ul>
          </>
        )}
      </Read>
      <More of={skus} />
    </>
  );
}
