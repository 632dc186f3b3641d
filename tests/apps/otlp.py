"""A receiver of OTLP over HTTP, as small as can be: it decodes what comes with OpenTelemetry's own messages, and writes it
down as one JSON line for each request, in the file that is named.

    otlp.py PORT FILE [CERTIFICATE KEY]

Who asks for it with the header `x-refuse: NUMBER` is told that so many of what came were refused, and what the header
`authorization` was; with `x-busy` every second request is not taken, and is to come again.
"""

import gzip
import itertools
import json
import ssl
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as traces

MESSAGES = {
    "/v1/traces": (traces.ExportTraceServiceRequest, traces.ExportTraceServiceResponse, "rejected_spans"),
    "/v1/metrics": (metrics.ExportMetricsServiceRequest, metrics.ExportMetricsServiceResponse, "rejected_data_points"),
}
port, path, *tls = sys.argv[1:]
file, lock = open(path, "a", encoding="utf-8", buffering=1), threading.Lock()
busy = itertools.cycle([True, False])


class Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("x-busy") and next(busy):
            self.send_response(503)
            self.send_header("content-length", "0")
            self.end_headers()
            return
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        asked, answered, refused = MESSAGES[self.path]
        message = asked()
        message.ParseFromString(body)
        headers = {name.lower(): value for name, value in self.headers.items()}
        line = {"path": self.path, "headers": headers, "message": MessageToDict(message)}
        with lock:
            file.write(json.dumps(line) + "\n")
        answer = answered()
        if count := self.headers.get("x-refuse"):
            setattr(answer.partial_success, refused, int(count))
            answer.partial_success.error_message = f"too many of {self.headers.get('authorization')}"
        answer = answer.SerializeToString()
        self.send_response(200)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


server = ThreadingHTTPServer(("127.0.0.1", int(port)), Receiver)
if tls:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*tls)
    server.socket = context.wrap_socket(server.socket, server_side=True)
print("listening", flush=True)
server.serve_forever()
