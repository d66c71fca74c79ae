"""`python -m tests.web.images`: wms/web/public/images from the drawings in wms/web/images, drawn by Chromium.

Run it after a drawing has changed, and commit the results: a build needs no browser.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path

from tests.web.browser import Browser

WEB = Path(__file__).resolve().parents[2] / "wms" / "web"
DRAWINGS, TARGET = WEB / "images", WEB / "public" / "images"
SIZES = (96, 192)
TYPES = {"png": "image/png", "webp": "image/webp"}

DRAW = """
(async () => {
  const image = new Image();
  image.src = "data:image/svg+xml;base64," + %(drawing)s;
  await image.decode();
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = %(size)d;
  canvas.getContext("2d").drawImage(image, 0, 0, %(size)d, %(size)d);
  return canvas.toDataURL(%(kind)s, 0.82);
})()
"""


def main() -> None:
    """Write every drawing in both types and sizes."""
    TARGET.mkdir(parents=True, exist_ok=True)
    with Browser() as browser, browser.page() as page:
        for drawing in sorted(DRAWINGS.glob("*.svg")):
            text = json.dumps(base64.b64encode(drawing.read_bytes()).decode())
            for size in SIZES:
                for ending, kind in TYPES.items():
                    script = DRAW % {"drawing": text, "size": size, "kind": json.dumps(kind)}
                    head, _, data = page.run(script).partition(",")
                    assert kind in head, f"Chromium cannot write {kind}"
                    (TARGET / f"{drawing.stem}-{size}.{ending}").write_bytes(base64.b64decode(data))


if __name__ == "__main__":
    main()
