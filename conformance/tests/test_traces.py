"""Traces, as a collector of OpenTelemetry gets them."""

import http.server
import os
import threading

import pytest

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from command import FAILED
from dvcr import free_port
from wire import Client, eventually

NAME = "disks/ubuntu"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector:
    """Takes spans over HTTP, in the protocol's own form."""

    def __init__(self):
        self.spans, self.services = [], set()
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if (self.path, self.headers["Content-Type"]) != ("/v1/traces", "application/x-protobuf"):
                    self.send_error(404)
                    return
                collector.take(ExportTraceServiceRequest.FromString(body))
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server.server_port}"

    def take(self, request):
        for resource in request.resource_spans:
            self.services |= {a.value.string_value for a in resource.resource.attributes if a.key == "service.name"}
            for scope in resource.scope_spans:
                self.spans.extend(scope.spans)

    def of(self, trace):
        return [span for span in list(self.spans) if span.trace_id.hex() == trace]

    def requests(self, name):
        return [span for span in list(self.spans) if span.name == name and span.kind == Span.SPAN_KIND_SERVER]

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def collector():
    collector = Collector()
    yield collector
    collector.close()


def attributes(span):
    values = {}
    for attribute in span.attributes:
        kind = attribute.value.WhichOneof("value")
        values[attribute.key] = getattr(attribute.value, kind)
    return values


@pytest.mark.parametrize("storage", ["filesystem", "s3"])
def test_a_request_is_a_span_with_the_calls_of_the_store_in_it(start, collector, storage):
    server = start(storage, DVCR_TRACES_ENDPOINT=collector.url)
    client = Client(server.host)
    digest = client.push_image(NAME, "v1", os.urandom(1 << 20))
    answer = client.get(f"/v2/{NAME}/manifests/v1", traceparent=f"00-{TRACE}-{PARENT}-01")
    assert answer.status == 200 and digest
    spans = eventually(lambda: (found := collector.of(TRACE)) and any(s.parent_span_id.hex() == PARENT for s in found) and found, seconds=30)
    [request] = [span for span in spans if span.parent_span_id.hex() == PARENT]
    assert (request.name, request.kind) == ("GET manifest", Span.SPAN_KIND_SERVER)
    told = attributes(request)
    assert told["http.response.status_code"] == 200
    assert told["http.response.body.size"] == len(answer.body)
    assert told["url.path"] == f"/v2/{NAME}/manifests/v1"
    assert told["dvcr.request.id"] == answer.headers["X-Request-Id"]
    calls = [span for span in spans if span.parent_span_id == request.span_id]
    assert "get" in {span.name for span in calls}
    assert all(request.start_time_unix_nano <= span.start_time_unix_nano for span in calls)
    # What a push writes is found below the request that wrote it.
    [pushed] = eventually(lambda: collector.requests("PUT manifest"), seconds=30)
    assert "put" in {span.name for span in collector.of(pushed.trace_id.hex()) if span.parent_span_id == pushed.span_id}
    assert collector.services == {"dvcr"}


def test_a_command_and_what_its_registry_does_for_it_are_one_trace(start, collector, dvcr, images, web):
    server = start("filesystem", DVCR_TRACES_ENDPOINT=collector.url)
    source, told = web.add("/disk.img", images.disk().read_bytes()), {"DVCR_TRACES_ENDPOINT": collector.url}
    dvcr.run("import", source, f"{server.host}/{NAME}:v1", environment=told)
    # The command's own spans are there when it has ended.
    [command] = [span for span in list(collector.spans) if span.name == "dvcr import"]
    assert not command.parent_span_id and command.status.code == Status.STATUS_CODE_UNSET

    def pushed():
        return [span for span in collector.requests("PUT manifest") if span.trace_id == command.trace_id]

    [request] = eventually(pushed, seconds=30)
    assert request.parent_span_id == command.span_id
    assert command.start_time_unix_nano <= request.start_time_unix_nano
    # The source is somebody else's.
    assert web.seen and not [seen for seen in web.seen if "traceparent" in str(seen.headers).lower()]
    dvcr.run("import", source + "-not", f"{server.host}/{NAME}:v2", "--retries", "1", environment=told, code=FAILED)
    [failed] = [span for span in list(collector.spans) if span.name == "dvcr import" and span is not command]
    assert failed.status.code == Status.STATUS_CODE_ERROR
    # Nobody waits for a collector that is not there, or is none.
    for endpoint in [f"http://127.0.0.1:{free_port()}", "nonsense"]:
        dvcr.run("inspect", f"{server.host}/{NAME}:v1", environment={"DVCR_TRACES_ENDPOINT": endpoint})


def test_the_last_spans_are_sent_when_the_server_stops(start, collector):
    server = start("filesystem", DVCR_TRACES_ENDPOINT=collector.url)
    assert Client(server.host).get("/v2/nothing/manifests/x").status == 404
    server.stop()
    [request] = collector.requests("GET manifest")
    assert attributes(request)["http.response.status_code"] == 404
    assert request.status.code == Status.STATUS_CODE_UNSET


def test_secrets_in_addresses_are_not_sent(start, collector):
    server = start("filesystem", DVCR_TRACES_ENDPOINT=collector.url)
    client = Client(server.host)
    client.get("/upload/very-secret")
    client.get("/v2/?token=very-secret")
    server.stop()
    assert collector.spans
    assert not [span for span in collector.spans if "very-secret" in str(span)]


def test_as_many_traces_are_sent_as_are_wanted_and_those_that_others_have_begun(start, collector):
    server = start("filesystem", DVCR_TRACES_ENDPOINT=collector.url, DVCR_TRACES_PERCENT="0")
    client = Client(server.host)
    client.get("/v2/nothing/manifests/x")
    client.get("/v2/nothing/manifests/x", traceparent=f"00-{TRACE}-{PARENT}-01")
    server.stop()
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE}


def test_nobody_waits_for_a_collector_that_is_not_there(start):
    server = start("filesystem", DVCR_TRACES_ENDPOINT=f"http://127.0.0.1:{free_port()}")
    client = Client(server.host)
    client.push_image(NAME, "v1", os.urandom(1 << 20))
    for parent in ["", "00-xyz", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "x" * 4000]:
        assert client.get(f"/v2/{NAME}/manifests/v1", traceparent=parent).status == 200
    server.stop()
