"""Small demonstrations in the paper's format, made without a browser, for tests of what reads them."""

import io
import json
from pathlib import Path
from typing import Any

from PIL import Image


def picture(shade: int = 200) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 6), (shade, shade, 255)).save(out, "PNG")
    return out.getvalue()


def element(tag: str = "input", **fields: Any) -> dict[str, Any]:
    base = {"x": 10, "y": 20, "width": 100, "height": 20, "text": "", "role": None, "type": None, "label": None}
    return base | {"tag": tag, "xpath": f"/html[1]/body[1]/{tag}[1]"} | fields


def state(position: int, **fields: Any) -> dict[str, Any]:
    k = position // 2
    data = {
        "id": position, "step": (position + 1) // 2, "timestamp": f"2024-01-01T10:00:{position % 60:02}",
        "secs_from_start": float(position), "url": f"http://apps.invalid/page/{k}", "tab": f"Page {k}",
        "json_state": json.dumps([element("a", text=f"link {k}")]), "html": None, "screenshot_base64": None,
        "path_to_screenshot": f"/somewhere/else/screenshots/{k}.png",
    }  # fmt: skip
    return {"type": "state", "data": data | fields}


def action(position: int, kind: str = "mouseup", **fields: Any) -> dict[str, Any]:
    data: dict[str, Any] = {"type": kind, "id": position, "step": (position + 1) // 2, "secs_from_start": float(position)}
    if kind == "mouseup":
        hit = {"x": 1.0, "y": 2.0, "element": element("button", text=f"button {position}", placeholder=None, value=None)}
        data |= {"x": 1.0, "y": 2.0, "is_right_click": False, "pressed": False, "element_attributes": hit}
    return {"type": "action", "data": data | fields}


def raw_trace(states: int = 3, **webarena: Any) -> dict[str, Any]:
    items = [action(i) if i % 2 else state(i) for i in range(2 * states - 1)]
    task = {"task_id": 7, "intent": "Pay the invoice", "sites": ["payables"], "start_url": "http://apps.invalid/"}
    return {"trace": items, "webarena": task | webarena}


def write_demo(parent: Path, name: str = "7 @ 2024-01-01-10-00-00", states: int = 3, **webarena: Any) -> Path:
    """A sound demonstration folder; returns it."""
    folder = parent / name
    (folder / "screenshots").mkdir(parents=True)
    task_id = int(name.split(" @ ")[0])
    (folder / f"{name}.json").write_text(json.dumps(raw_trace(states, **{"task_id": task_id} | webarena)))
    (folder / f"SOP - {name}.txt").write_text("Pay an invoice\n1. Open the invoice.\n2. Pay it.\n")
    for k in range(states):
        (folder / "screenshots" / f"{k}.png").write_bytes(picture(10 * k))
    return folder
