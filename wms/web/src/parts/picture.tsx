import { useState, type ReactElement } from "react";

/** What a SKU without a picture looks like. */
const PLAIN = "caixa-de-papelao";
/** The widths that the gateway makes (stacks/engines/nginx.py). */
const WIDTHS = [48, 96, 192, 384];

/**
 * The picture of a SKU (row F3) from the edge, which makes it WEBP or PNG as the browser takes it, in the width that the
 * screen needs; fetched when it comes near unless it is in the first rows. Decorative: the name always stands beside it.
 */
export function Picture({
  image,
  size,
  first = false,
}: {
  image: string | null | undefined;
  size: 48 | 96;
  first?: boolean;
}): ReactElement {
  const [missing, setMissing] = useState<string>();
  const wanted = image && /^[a-z0-9-]+$/.test(image) ? image : PLAIN;
  const path = `/images/${wanted === missing ? PLAIN : wanted}`;
  return (
    <img
      className={`picture p${size}`}
      src={`${path}?w=96`}
      srcSet={WIDTHS.map((width) => `${path}?w=${width} ${width}w`).join(", ")}
      sizes={`${size}px`}
      width={size}
      height={size}
      alt=""
      loading={first ? "eager" : "lazy"}
      decoding="async"
      onError={() => setMissing(wanted)}
    />
  );
}
