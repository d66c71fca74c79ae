"""`python -m tests.web.images`: wms/web/public/images from the drawings in wms/web/images, drawn by Chromium.

Run it after a drawing has changed, and commit the results: a build needs no browser. They are originals in the largest
width that is asked for; the gateway makes the smaller ones (stacks/templates/nginx.conf.j2).
"""

from __future__ import annotations

import base64
import json
from pathlib import Path

from tests.web.browser import Browser

WEB = Path(__file__).resolve().parents[2] / "wms" / "web"
DRAWINGS, TARGET = WEB / "images", WEB / "public" / "images"
SIZE = 384
TYPES = {"png": "image/png", "webp": "image/webp"}

DRAW = """
(async () => {
  const image = new Image();
  image.src = "data:image/svg+xml;base64," + %(drawing)s;
  await image.decode();
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = %(size)d;
  canvas.getContext("2d").drawImage(image, 0, 0, %(size)d, %(size)d);
  return canvas.toDataURL(%(kind)s, 0.9);
})()
"""


def main() -> None:
    """Write every drawing in both types."""
    TARGET.mkdir(parents=True, exist_ok=True)
    for old in TARGET.iterdir():
        old.unlink()
    with Browser() as browser, browser.page() as page:
        for drawing in sorted(DRAWINGS.glob("*.svg")):
            text = json.dumps(base64.b64encode(drawing.read_bytes()).decode())
            for ending, kind in TYPES.items():
                script = DRAW % {"drawing": text, "size": SIZE, "kind": json.dumps(kind)}
                head, _, data = page.run(script).partition(",")
                assert kind in head, f"Chromium cannot write {kind}"
                (TARGET / f"{drawing.stem}.{ending}").write_bytes(base64.b64decode(data))


if __name__ == "__main__":
    main()
