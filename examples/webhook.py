#!/usr/bin/env python3
"""An endpoint for pq-dispatch, with nothing but Python's library. See docs/handlers.md.

    export WEBHOOK_SECRET=whsec_$(openssl rand -base64 32); echo $WEBHOOK_SECRET # goes into http.secrets
    examples/webhook.py 8080

It checks the signature as Standard Webhooks say. In earnest use their library for your language, and a
server that is made for more than examples.
"""

import base64
import hashlib
import hmac
import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SECRET = base64.b64decode(os.environ["WEBHOOK_SECRET"].removeprefix("whsec_"))
TOLERANCE = 300  # seconds
MAX_BODY = 1 << 20


def signed(headers, body):
    """Is one of the signatures ours, and fresh?"""
    try:
        timestamp = int(headers["webhook-timestamp"])
        content = f"{headers['webhook-id']}.{timestamp}.".encode() + body
        given = headers["webhook-signature"].split()
    except (TypeError, ValueError, AttributeError):
        return False
    if abs(time.time() - timestamp) > TOLERANCE:
        return False
    own = b"v1," + base64.b64encode(hmac.digest(SECRET, content, hashlib.sha256))
    return any(hmac.compare_digest(own, signature.encode()) for signature in given)


def run(job_id, data):
    """The work. A job may come twice: job_id tells."""
    print(f"job {job_id}: {data!r}", file=sys.stderr)


class Endpoint(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections stay open

    def do_POST(self):
        size = int(self.headers.get("content-length", 0))
        if size > MAX_BODY:
            self.close_connection = True
            return self.answer(413, "too large")
        body = self.rfile.read(size)
        if not signed(self.headers, body):
            return self.answer(401, "bad signature")
        data = json.loads(body)
        if data == "stale":
            return self.answer(410, "nobody wants it any more")  # discards the job
        run(self.headers["pq-dispatch-job-id"], data)
        self.answer(204)

    def answer(self, status, text=""):
        body = text.encode()
        self.send_response(status)
        if status != 204:
            self.send_header("content-length", str(len(body)))
        self.end_headers()
        if status != 204:
            self.wfile.write(body)


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Endpoint)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)  # port 0 takes a free one
    server.serve_forever()
