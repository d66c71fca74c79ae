import { type ReactElement, type ReactNode } from "react";
import { NavLink } from "react-router";
import { useOnline, useSession } from "./api/hooks";
import { change, signOut } from "./api/session";
import { LanguageChoice } from "./parts/common";
import type { Key } from "./text/dictionary";
import { t } from "./text/text";

const SECTIONS: readonly [path: string, text: Key, icon: string][] = [
  ["/", "dashboard.title", "M3 12h7V3H3zm11 9h7V3h-7zM3 21h7v-6H3z"],
  ["/inventory", "inventory.title", "M3 8l9-5 9 5v13H3zM8 21v-8h8v8M8 17h8"],
  ["/orders", "orders.title", "M6 3h12v18l-3-2-3 2-3-2-3 2zM9 8h6M9 12h6"],
  ["/picking", "picking.title", "M4 7V4h3M17 4h3v3M20 17v3h-3M7 20H4v-3M8 8v8M12 8v8M16 8v8"],
  ["/analytics", "analytics.title", "M4 20V4M4 20h16M8 16l4-5 3 3 5-7"],
];

/** What surrounds every page: sections, warehouse, language, sign-out, and whether there is a network. */
export function Shell({ children }: { children: ReactNode }): ReactElement {
  const session = useSession();
  const online = useOnline();
  if (!session) return <>{children}</>;
  return (
    <div className="shell">
      <a className="skip" href="#main">
        {t("app.skip")}
      </a>
      <header className="top">
        <span className="brand" aria-hidden="true">
          WMS
        </span>
        <label className="inline">
          <span className="quiet">{t("app.warehouse")}</span>
          <select
            value={session.warehouseId}
            onChange={(event) => change({ ...session, warehouseId: Number(event.target.value) })}
          >
            {session.warehouses.map((each) => (
              <option key={each.id} value={each.id}>
                {each.code} · {each.name}
              </option>
            ))}
          </select>
        </label>
        <span className="spread" />
        <LanguageChoice />
        <button type="button" className="plain" onClick={() => void signOut()}>
          {t("app.signOut")}
        </button>
      </header>
      <nav className="sections" aria-label={t("app.nav")}>
        {SECTIONS.map(([path, text, icon]) => (
          <NavLink key={path} to={path} end={path === "/"}>
            <svg viewBox="0 0 24 24" aria-hidden="true">
              <path d={icon} />
            </svg>
            <span>{t(text)}</span>
          </NavLink>
        ))}
      </nav>
      <main id="main" tabIndex={-1}>
        <p className="banner" role="status" hidden={online}>
          {online ? "" : t("app.offline")}
        </p>
        {children}
      </main>
    </div>
  );
}
