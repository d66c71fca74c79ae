import { Component, type ErrorInfo, type ReactNode } from "react";
import { t } from "../text/text";

interface Props {
  children: ReactNode;
}

/** Keeps a page that fails, or whose chunk cannot be fetched, from taking the rest with it. */
export class Boundary extends Component<Props, { error: unknown }> {
  override state: { error: unknown } = { error: null };

  static getDerivedStateFromError(error: unknown): { error: unknown } {
    return { error };
  }

  override componentDidCatch(error: Error, info: ErrorInfo): void {
    console.warn("a page failed:", error.message, info.componentStack);
  }

  override render(): ReactNode {
    const { error } = this.state;
    if (error === null) return this.props.children;
    // Browsers word it differently; all of them name the import.
    const chunk = error instanceof TypeError && /import|module|CSS/i.test(error.message);
    return (
      <section className="failed" role="alert">
        <h1>{t("error.title")}</h1>
        <p>{chunk ? t("error.chunk") : error instanceof Error ? error.message : String(error)}</p>
        <button type="button" onClick={() => location.reload()}>
          {t("error.reload")}
        </button>
      </section>
    );
  }
}
