import type { ReactElement } from "react";

const PLAIN = "caixa";
/** The drawings in /images/, by the names that SKUs give; kinds that look alike share one, all others get a box. */
const DRAWINGS: Readonly<Record<string, string>> = {
  parafuso: "parafuso",
  rolamento: "rolamento",
  correia: "correia",
  lata: "lata",
  "tinta-acrilica": "lata",
  "filtro-de-oleo": "lata",
  lampada: "lampada",
  luva: "luva",
  "luva-de-protecao": "luva",
  ferramenta: "ferramenta",
  "chave-de-fenda": "ferramenta",
  furadeira: "ferramenta",
};

/**
 * The picture of a SKU (row F3): WEBP or PNG, in the width that the screen needs, fetched when it comes near unless
 * it is in the first rows. Decorative: the name always stands beside it.
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
  const stem = (image && DRAWINGS[image]) || PLAIN;
  const sources = (type: string): string => `/images/${stem}-96.${type} 96w, /images/${stem}-192.${type} 192w`;
  return (
    <picture className={`picture p${size}`}>
      <source type="image/webp" srcSet={sources("webp")} sizes={`${size}px`} />
      <img
        src={`/images/${stem}-96.png`}
        srcSet={sources("png")}
        sizes={`${size}px`}
        width={size}
        height={size}
        alt=""
        loading={first ? "eager" : "lazy"}
        decoding="async"
      />
    </picture>
  );
}
