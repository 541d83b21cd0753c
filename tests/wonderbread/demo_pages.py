"""A tiny site of two pages on loopback, and a second origin that must never be reached."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FORM = """<!doctype html><title>Invoices</title><style>body{{height:3000px}}</style>
<h1>New invoice</h1><p>Fill in the form.</p>
<form action="/done">
<label for=v>Vendor:</label> <input id=v name=v value="old vendor">
<label for=s>Status:</label> <select id=s name=s><option>Draft</option><option>Ready to pay</option></select>
<label for=n>Notes:</label> <textarea id=n name=n></textarea>
<input type=checkbox id=u name=u> <label for=u>Urgent</label>
<input type=submit value="Save"> <button type=button aria-label="Show help">?</button>
</form><a href="/done">All invoices</a> <a href="/away">Partner site</a>
<img src="{other}/pixel.png" width=20 height=20 alt="tracker">
<span style="display:none">never seen</span><a href="#" style="position:absolute;top:2500px">far below</a>"""
DONE = "<!doctype html><title>Saved</title><h1>The invoice was saved</h1><a href='/'>Back</a>"


@contextmanager
def serve(other: str = "") -> Iterator[tuple[str, list[str]]]:
    """Yields ``(origin, requested paths)``; ``/away`` redirects to ``other``."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            if self.path == "/away":
                self.send_response(302)
                self.send_header("Location", f"{other}/landed")
                self.end_headers()
                return
            body = (DONE if self.path.startswith("/done") else FORM.format(other=other)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()
