"""A small server on this machine that speaks like an OpenAI endpoint; a test says what it answers.

with serving("Once a hen laid an egg.") as server:
    server.script = [500, 429]
    ... server.url ... server.asked
"""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Server:
    """What the endpoint answers, and what it has been asked.

    An answer is the model's text, or a status, or None to hang up, or what a function makes of
    the request's body. A text that begins with RAW is the whole body of the response.
    """

    always: object  # the answer after the script's end
    url: str = ""
    script: list = field(default_factory=list)  # answers to the next requests
    headers: dict = field(default_factory=dict)  # of answers that are not 200
    together: threading.Barrier | None = None  # answers are sent once so many requests are waiting
    asked: list[dict] = field(default_factory=list)  # bodies of the requests
    keys: list[str | None] = field(default_factory=list)
    all_headers: list[str] = field(default_factory=list)
    times: list[float] = field(default_factory=list)


@contextmanager
def serving(always: object) -> Iterator[Server]:
    """An endpoint on a free port until the block ends."""
    served, lock = Server(always), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                served.asked.append(body)
                served.keys.append(self.headers["Authorization"])
                served.all_headers.append(str(self.headers))
                served.times.append(time.monotonic())
                answer = served.script.pop(0) if served.script else served.always
            if isinstance(answer, Callable):
                answer = answer(body)
            if served.together:
                served.together.wait(timeout=10)
            if answer is None:  # hang up
                return
            status, text = (answer, "no\nway") if isinstance(answer, int) else (200, answer)
            if self.path != "/v1/chat/completions":
                status = 404
            if status == 200 and not text.startswith("RAW "):
                text = json.dumps({"choices": [{"message": {"content": text}}]})
            self.send_response(status)
            for name, value in served.headers.items() if status != 200 else ():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text.removeprefix("RAW ").encode())

        def log_message(self, *_):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.url = f"http://127.0.0.1:{http.server_port}/v1"
    threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield served
    finally:
        http.shutdown()
        http.server_close()
