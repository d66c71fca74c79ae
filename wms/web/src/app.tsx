import { lazy, Suspense, type ReactElement } from "react";
import { BrowserRouter, Link, Route, Routes, useLocation } from "react-router";
import { useSession } from "./api/hooks";
import { Boundary } from "./parts/boundary";
import { Title } from "./parts/common";
import { Shell } from "./shell";
import { t, useLanguage } from "./text/text";

// Row F1: each page is a chunk of its own, fetched when it is first opened.
const SignIn = lazy(() => import("./pages/sign-in"));
const Dashboard = lazy(() => import("./pages/dashboard"));
const Inventory = lazy(() => import("./pages/inventory"));
const SkuPage = lazy(() => import("./pages/sku"));
const Orders = lazy(() => import("./pages/orders"));
const OrderPage = lazy(() => import("./pages/order"));
const Picking = lazy(() => import("./pages/picking"));
const Analytics = lazy(() => import("./pages/analytics"));

function Loading(): ReactElement {
  return (
    <div className="loading" role="status">
      <span className="spinner" aria-hidden="true" />
      {t("app.loading")}
    </div>
  );
}

function NotFound(): ReactElement {
  return (
    <>
      <Title>{t("app.notFound")}</Title>
      <Link to="/">{t("app.home")}</Link>
    </>
  );
}

function Pages(): ReactElement {
  const signedIn = useSession() !== null;
  const { pathname } = useLocation();
  if (!signedIn) {
    return (
      <Boundary key="sign-in">
        <Suspense fallback={<Loading />}>
          <SignIn />
        </Suspense>
      </Boundary>
    );
  }
  return (
    <Shell>
      <Boundary key={pathname}>
        <Suspense fallback={<Loading />}>
          <Routes>
            <Route path="/" element={<Dashboard />} />
            <Route path="/inventory" element={<Inventory />} />
            <Route path="/inventory/:sku" element={<SkuPage />} />
            <Route path="/orders" element={<Orders />} />
            <Route path="/orders/:id" element={<OrderPage />} />
            <Route path="/picking" element={<Picking />} />
            <Route path="/analytics" element={<Analytics />} />
            <Route path="*" element={<NotFound />} />
          </Routes>
        </Suspense>
      </Boundary>
    </Shell>
  );
}

export function App(): ReactElement {
  // The whole tree is drawn anew in another language.
  const language = useLanguage();
  return (
    <BrowserRouter key={language}>
      <Pages />
    </BrowserRouter>
  );
}
