"""A W&B server on loopback, small enough to read: it keeps what clients send, and fails on demand.

It answers the GraphQL operations, file streams and uploads of runs, artifacts, `wandb sync`, `wandb sweep` and `wandb
agent` (0.31); an operation that it does not know gets a GraphQL error, which the client tolerates.
"""

import itertools
import json
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ENTITY = "tester"


@dataclass
class ServedRun:
    """What arrived of a run."""

    name: str
    project: str
    config: dict[str, Any] = field(default_factory=dict)
    commit: str | None = None
    display_name: str | None = None
    sweep: str | None = None
    lines: dict[str, dict[int, str]] = field(default_factory=dict)
    """Lines of the streamed files, by file and place."""
    files: dict[str, bytes] = field(default_factory=dict)
    complete: bool = False
    exit_code: int | None = None

    @property
    def history(self) -> list[dict[str, Any]]:
        rows = self.lines.get("wandb-history.jsonl", {})
        return [json.loads(rows[place]) for place in sorted(rows)]

    @property
    def summary(self) -> dict[str, Any]:
        rows = self.lines.get("wandb-summary.json", {})
        return json.loads(rows[max(rows)]) if rows else {}


@dataclass
class ServedArtifact:
    """What arrived of an artifact's version."""

    name: str
    type: str
    run: str
    aliases: list[str]
    metadata: dict[str, Any]
    manifest: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    committed: bool = False


class WandbServer:
    """Serves from `start` until `stop`; the port stays the same if it starts again.

    `fault` makes every answer a 500 ("error"), or one that never comes ("slow").
    """

    def __init__(self) -> None:
        self.runs: dict[str, ServedRun] = {}
        self.artifacts: dict[str, ServedArtifact] = {}
        self.sweeps: dict[str, dict[str, Any]] = {}
        self.proposals: list[dict[str, Any]] = []
        """Parameters of the runs that an agent will be told to start, one after another."""
        self.fault: str | None = None
        self.asked: list[str] = []
        """Names of the GraphQL operations so far."""
        self._ids = itertools.count()
        self._lock = threading.Lock()
        self._port = 0
        self._http: ThreadingHTTPServer | None = None
        self._stopping = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                outer._answer(self)

            do_PUT = do_GET = do_POST  # noqa: N815 - the standard library's names

            def log_message(self, *arguments: object) -> None:
                """Nothing."""

        class Http(ThreadingHTTPServer):
            daemon_threads = allow_reuse_address = True

            def handle_error(self, *arguments: object) -> None:
                """A client may hang up whenever it likes."""

        self._stopping.clear()
        self._http = Http(("127.0.0.1", self._port), Handler)
        self._port = self._http.server_address[1]
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        """Hangs up: nobody listens on the port any more, and open connections answer nothing."""
        self._stopping.set()
        if self._http is not None:
            self._http.shutdown()
            self._http.server_close()
            self._http = None

    def wait_until(self, what: Any, seconds: float = 20.0) -> None:  # noqa: ANN401 - a condition
        deadline = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < deadline, "the server waits in vain"
            time.sleep(0.02)

    # Requests.

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        if self.fault == "slow":
            self._stopping.wait()
        if self._stopping.is_set():
            request.close_connection = True
            return
        if self.fault == "error":
            return self._send(request, b"out of order", 500)
        with self._lock:
            if request.path == "/graphql":
                query = json.loads(body)
                answer: Any = self._graphql(query["query"], query.get("variables") or {})
            elif match := re.fullmatch(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", request.path):
                answer = self._file_stream(self.runs[match[1]], json.loads(body))
            elif match := re.fullmatch(r"/upload/run/([^/]+)/(.+)", request.path):
                self.runs[match[1]].files[match[2]] = body
                answer = {}
            elif match := re.fullmatch(r"/upload/artifact/([^/]+)/(.+)", request.path):
                self.artifacts[match[1]].files[match[2]] = body
                answer = {}
            elif match := re.fullmatch(r"/upload/manifest/([^/]+)", request.path):
                self.artifacts[match[1]].manifest = json.loads(body)
                answer = {}
            else:
                return self._send(request, b"not here", 404)
        self._send(request, json.dumps(answer).encode())

    def _send(self, request: BaseHTTPRequestHandler, body: bytes, status: int = 200) -> None:
        request.send_response(status)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    def _file_stream(self, run: ServedRun, sent: dict[str, Any]) -> dict[str, Any]:
        for name, chunk in (sent.get("files") or {}).items():
            lines = run.lines.setdefault(name, {})
            lines.update({chunk["offset"] + i: line for i, line in enumerate(chunk["content"])})
        if "exitcode" in sent:
            run.complete, run.exit_code = bool(sent.get("complete")), sent["exitcode"]
        return {"limits": {}}

    # GraphQL.

    def _graphql(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        found = re.search(r"(?:query|mutation)\s+(\w+)", query)
        name = found[1] if found else ""
        self.asked.append(name)
        answers = {
            "Viewer": self._viewer,
            "ServerFeaturesQuery": lambda given: {"serverInfo": {"features": []}},
            "RunResumeStatus": self._resume_status,
            "UpsertBucket": self._upsert_run,
            "CreateRunFiles": self._create_run_files,
            "CreateArtifact": self._create_artifact,
            "CreateArtifactManifest": self._manifest,
            "UpdateArtifactManifest": self._manifest,
            "CreateArtifactFiles": self._artifact_files,
            "CommitArtifact": self._commit_artifact,
            "UpsertSweep": self._upsert_sweep,
            "SweepWithRuns": self._sweep,
            "CreateAgent": lambda given: {"createAgent": {"agent": {"id": given["sweep"]}}},
            "Heartbeat": self._heartbeat,
        }
        if name not in answers:
            return {"data": None, "errors": [{"message": f"unknown operation {name}"}]}
        return {"data": answers[name](variables)}

    def _viewer(self, given: dict[str, Any]) -> dict[str, Any]:
        teams = {"edges": [{"node": {"name": ENTITY}}]}
        return {
            "viewer": {"id": "user", "entity": ENTITY, "username": ENTITY, "email": "", "flags": "{}", "teams": teams}
        }

    def _resume_status(self, given: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.get(given["name"])
        return {"model": None if run is None else {
            "id": "project", "name": run.project, "entity": {"id": "entity", "name": ENTITY},
            "bucket": {
                "id": f"bucket-{run.name}", "name": run.name, "displayName": run.display_name,
                "summaryMetrics": json.dumps(run.summary), "config": json.dumps(run.config),
                "logLineCount": 0, "eventsLineCount": 0, "eventsTail": "[]", "tags": [], "notes": None,
                "historyLineCount": len(run.history), "wandbConfig": json.dumps({"t": 1}),
                "historyTail": json.dumps([json.dumps(row) for row in run.history[-1:]]),
            },
        }}  # fmt: skip

    def _upsert_run(self, given: dict[str, Any]) -> dict[str, Any]:
        name = given.get("name") or given["id"].removeprefix("bucket-")
        inserted = name not in self.runs
        run = self.runs.setdefault(name, ServedRun(name, given.get("project") or "uncategorized"))
        run.config = json.loads(given.get("config") or "null") or run.config
        run.commit = given.get("commit") or run.commit
        run.display_name = given.get("displayName") or run.display_name
        run.sweep = given.get("sweep") or run.sweep
        return {"upsertBucket": {"inserted": inserted, "bucket": {
            "id": f"bucket-{name}", "name": name, "displayName": run.display_name, "description": None,
            "config": json.dumps(run.config), "sweepName": run.sweep, "historyLineCount": len(run.history),
            "project": {"id": "project", "name": run.project, "entity": {"id": "entity", "name": ENTITY}},
        }}}  # fmt: skip

    def _create_run_files(self, given: dict[str, Any]) -> dict[str, Any]:
        files = [{"name": name, "uploadUrl": f"{self.url}/upload/run/{given['run']}/{name}"} for name in given["files"]]
        return {"createRunFiles": {"runID": f"bucket-{given['run']}", "uploadHeaders": [], "files": files}}

    def _create_artifact(self, given: dict[str, Any]) -> dict[str, Any]:
        sent = given["input"]
        key = f"artifact{next(self._ids)}"
        self.artifacts[key] = ServedArtifact(
            sent["artifactCollectionName"], sent["artifactTypeName"], sent["runName"],
            [alias["alias"] for alias in sent.get("aliases") or []], json.loads(sent.get("metadata") or "{}"),
        )  # fmt: skip
        return {"createArtifact": {
            "artifact": {"id": key, "state": "PENDING", "artifactSequence": {"latestArtifact": None}}
        }}  # fmt: skip

    def _manifest(self, given: dict[str, Any]) -> dict[str, Any]:
        creating = "artifactID" in given
        key = given["artifactID"] if creating else given["artifactManifestID"].removeprefix("manifest-")
        file = {"id": f"file-{key}", "uploadUrl": f"{self.url}/upload/manifest/{key}", "uploadHeaders": []}
        manifest = {"artifactManifest": {"id": f"manifest-{key}", "file": file}}
        return {"createArtifactManifest" if creating else "updateArtifactManifest": manifest}

    def _artifact_files(self, given: dict[str, Any]) -> dict[str, Any]:
        nodes = []
        for file in given["input"]["artifactFiles"]:
            key, name = file["artifactID"], file["name"]
            nodes.append({"node": {
                "storagePath": f"{key}/{name}", "uploadUrl": f"{self.url}/upload/artifact/{key}/{name}",
                "uploadHeaders": [], "uploadMultipartUrls": None, "artifact": {"id": key},
            }})  # fmt: skip
        return {"createArtifactFiles": {"files": {"edges": nodes}}}

    def _commit_artifact(self, given: dict[str, Any]) -> dict[str, Any]:
        self.artifacts[given["artifactID"]].committed = True
        return {"commitArtifact": {"artifact": {"id": given["artifactID"], "digest": "digest"}}}

    def _upsert_sweep(self, given: dict[str, Any]) -> dict[str, Any]:
        name = given.get("id") or f"sweep{next(self._ids)}"
        self.sweeps.setdefault(name, {"project": given["projectName"] or "uncategorized", "config": given["config"]})
        project = {"id": "project", "name": self.sweeps[name]["project"], "entity": {"id": "entity", "name": ENTITY}}
        return {"upsertSweep": {"sweep": {"name": name, "project": project}, "configValidationWarnings": []}}

    def _sweep(self, given: dict[str, Any]) -> dict[str, Any]:
        sweep = self.sweeps[given["sweep"]]
        empty = {"method": "grid", "state": "RUNNING", "description": None, "runs": {"edges": []}}
        return {
            "project": {"sweep": {"id": given["sweep"], "name": given["sweep"], "config": sweep["config"], **empty}}
        }

    def _heartbeat(self, given: dict[str, Any]) -> dict[str, Any]:
        commands: list[dict[str, Any]] = []
        if not json.loads(given["runState"] or "{}"):
            if self.proposals:
                values = {key: {"value": value} for key, value in self.proposals.pop(0).items()}
                run = f"{given['id']}r{next(self._ids)}"
                commands = [{"type": "run", "run_id": run, "args": values, "program": "main.py"}]
            else:
                commands = [{"type": "exit"}]
        return {"agentHeartbeat": {"agent": {"id": given["id"]}, "commands": json.dumps(commands)}}
