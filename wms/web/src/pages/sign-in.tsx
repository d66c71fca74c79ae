import { useState, type FormEvent, type ReactElement } from "react";
import { ApiProblem, signIn } from "../api/client";
import { LanguageChoice, Problem, Title } from "../parts/common";
import { t } from "../text/text";

export default function SignIn(): ReactElement {
  const [busy, setBusy] = useState(false);
  const [problem, setProblem] = useState<ApiProblem | null>(null);

  const submit = async (event: FormEvent<HTMLFormElement>): Promise<void> => {
    event.preventDefault();
    const form = new FormData(event.currentTarget);
    const field = (name: string): string => String(form.get(name) ?? "").trim();
    setBusy(true);
    try {
      await signIn(field("key"), field("username"), String(form.get("password") ?? ""));
    } catch (error) {
      setProblem(error instanceof ApiProblem ? error : new ApiProblem(0, "error", String(error)));
      setBusy(false);
    }
  };
  return (
    <main className="sign-in" id="main">
      <form onSubmit={(event) => void submit(event)}>
        <Title aside={<LanguageChoice />}>{t("signIn.title")}</Title>
        <label>
          {t("signIn.key")}
          <input name="key" type="password" autoComplete="off" required maxLength={256} aria-describedby="key-hint" />
          <small id="key-hint">{t("signIn.keyHint")}</small>
        </label>
        <label>
          {t("signIn.user")}
          <input name="username" autoComplete="username" autoCapitalize="none" aria-describedby="user-hint" />
          <small id="user-hint">{t("signIn.userHint")}</small>
        </label>
        <label>
          {t("signIn.password")}
          <input name="password" type="password" autoComplete="current-password" />
        </label>
        {problem && <Problem of={problem} />}
        <button type="submit" className="primary" disabled={busy}>
          {busy ? t("signIn.busy") : t("signIn.submit")}
        </button>
      </form>
    </main>
  );
}
