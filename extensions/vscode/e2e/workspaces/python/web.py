"""Answers as the sample shop's web does, in its place."""

import http.server
import json
import os
import socket
import sys


def answer_to(path):
    greeting = os.environ.get("SHOP_GREETING", "")
    try:
        with open("/etc/shop/config.yaml") as f:
            config = f.read().strip()
    except OSError as err:
        config = str(err)
    return {"copy": "python", "host": socket.gethostname(), "greeting": greeting, "config": config, "path": path}


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        a = answer_to(self.path)
        body = json.dumps(a).encode()  # the breakpoint of the tests
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(body)


first = answer_to("/")
print(f"shop python on {first['host']}: {first['greeting']}", flush=True)
if sys.argv[1:] != ["once"]:
    server = http.server.ThreadingHTTPServer(("", int(os.environ.get("PORT", "8080"))), Handler)
    print("shop python listens", flush=True)
    server.serve_forever()
