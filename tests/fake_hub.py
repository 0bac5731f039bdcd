"""A hub on this machine that speaks the HTTP of the Hugging Face hub, as far as we use it.

Repositories are made, files come in by commits (small ones inside, large ones by the LFS protocol),
and go out by `resolve`. The metadata of cards are checked by the rules of the hub's pages on model
cards. Who writes must have logged in.
"""

import base64
import contextlib
import hashlib
import http.server
import json
import re
import threading
import urllib.parse

import yaml

TOKEN = "hf_of_the_test"
LARGE = 4096  # bytes from which a file goes by LFS
LICENCES = {"mit", "apache-2.0", "cc-by-4.0", "openrail", "other", "unknown"}
REPOSITORY = r"(?P<kind>models|spaces)/(?P<name>[\w.-]+/[\w.-]+)"


class FakeHub(http.server.ThreadingHTTPServer):
    """`repositories` has {kind/name: {path: content}}, `asked` every method and path."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server_port}"
        self.repositories, self.large_files, self.asked = {}, {}, []


@contextlib.contextmanager
def running():
    """Gives a hub that answers until the block ends."""
    with FakeHub() as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        yield hub
        hub.shutdown()


def trouble_of_card(text, kind):
    """Returns what the hub would not take of a card's metadata, or ""."""
    found = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    if not found:
        return "no metadata"
    facts = yaml.safe_load(found[1])
    if facts.get("license") not in LICENCES:
        return '"license" must be one of the known ones'
    if kind == "space" and facts.get("sdk") not in ("static", "gradio", "docker"):
        return '"sdk" must be static, gradio or docker'
    for model in facts.get("model-index", []):
        if not isinstance(model.get("name"), str):
            return '"model-index[0].name" must be a string'
        for result in model["results"]:
            task, dataset = result.get("task", {}), result.get("dataset", {})
            if not (task.get("type") and dataset.get("type") and dataset.get("name")):
                return '"model-index[0].results" lacks a task or a dataset'
            for metric in result["metrics"]:
                if not metric.get("type") or not isinstance(metric.get("value"), int | float):
                    return '"metrics" lacks a type or a value'
    return ""


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers one request."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def route(self):
        """Answers by the first route whose pattern fits."""
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        self.server.asked.append(f"{self.command} {path}")
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        for method, pattern, answer in ROUTES:
            found = re.fullmatch(pattern, path)
            if method == self.command and found:
                return answer(self, **found.groupdict())
        return self.send(404, {"error": "no such page"})

    do_GET = do_HEAD = do_POST = do_PUT = route

    def send(self, status, content=b"", **headers):
        """Sends bytes, or anything else as JSON."""
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        headers.setdefault("Content_Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def may_write(self):
        if self.headers.get("Authorization") == f"Bearer {TOKEN}":
            return True
        self.send(401, {"error": "Invalid username or password."})
        return False

    # ---- writing ----

    def create(self):
        if not self.may_write():
            return
        asked = json.loads(self.body)
        kind = f"{asked.get('type') or 'model'}s"
        assert kind != "spaces" or asked["sdk"] == "static"
        name = f"{asked['organization']}/{asked['name']}"
        prefix = "spaces/" if kind == "spaces" else ""
        answer = {"url": f"{self.server.address}/{prefix}{name}"}
        if f"{kind}/{name}" in self.server.repositories:
            self.send(409, answer)
            return
        self.server.repositories[f"{kind}/{name}"] = {}
        self.send(200, answer)

    def validate(self):
        asked = json.loads(self.body)
        trouble = trouble_of_card(asked["content"], asked["repoType"])
        if trouble:
            self.send(400, {"errors": [{"message": trouble}], "warnings": []})
        else:
            self.send(200, {"errors": [], "warnings": []})

    def preupload(self, kind, name):
        files = []
        for file in json.loads(self.body)["files"]:
            mode = "lfs" if file["size"] >= LARGE else "regular"
            files.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False})
        self.send(200, {"files": files})

    def lfs_batch(self, name):
        objects = []
        for file in json.loads(self.body)["objects"]:
            action = {"href": f"{self.server.address}/lfs/{file['oid']}"}
            objects.append(file | {"actions": {"upload": action}})
        self.send(200, {"transfer": "basic", "objects": objects})

    def lfs_put(self, oid):
        assert hashlib.sha256(self.body).hexdigest() == oid
        self.server.large_files[oid] = self.body
        self.send(200)

    def commit(self, kind, name):
        if not self.may_write():
            return
        files = self.server.repositories[f"{kind}/{name}"]
        for line in self.body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                files[value["path"]] = self.server.large_files[value["oid"]]
        sha = sha_of(files)
        url = f"{self.server.address}/{name}/commit/{sha}"
        self.send(200, {"commitUrl": url, "commitOid": sha, "success": True})

    # ---- reading ----

    def info(self, kind, name):
        files = self.server.repositories.get(f"{kind}/{name}")
        if files is None:
            self.send(401, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
            return
        siblings = [{"rfilename": path} for path in files]
        self.send(200, {"id": name, "sha": sha_of(files), "siblings": siblings})

    def tree(self, kind, name):
        files = self.server.repositories[f"{kind}/{name}"]
        entries = []
        for path, content in files.items():
            oid = hashlib.sha1(content).hexdigest()
            entries.append({"type": "file", "path": path, "size": len(content), "oid": oid})
        self.send(200, entries)

    def resolve(self, name, path):
        files = self.server.repositories[f"models/{name}"]
        if path not in files:
            self.send(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound")
            return
        etag = hashlib.sha1(files[path]).hexdigest()
        self.send(200, files[path], ETag=f'"{etag}"', X_Repo_Commit=sha_of(files))


def sha_of(files):
    """Returns a name for the content of all files."""
    sha = hashlib.sha1()
    for path, content in sorted(files.items()):
        sha.update(path.encode() + b"\0" + content)
    return sha.hexdigest()


NAME = r"(?P<name>[\w.-]+/[\w.-]+)"
ROUTES = (
    ("POST", "/api/repos/create", Handler.create),
    ("POST", "/api/validate-yaml", Handler.validate),
    ("POST", f"/api/{REPOSITORY}/preupload/main", Handler.preupload),
    ("POST", rf"/(?:spaces/)?{NAME}\.git/info/lfs/objects/batch", Handler.lfs_batch),
    ("PUT", r"/lfs/(?P<oid>\w+)", Handler.lfs_put),
    ("POST", f"/api/{REPOSITORY}/commit/main", Handler.commit),
    ("GET", f"/api/{REPOSITORY}(?:/revision/main)?", Handler.info),
    ("GET", rf"/api/{REPOSITORY}/tree/\w+", Handler.tree),
    ("GET", rf"/{NAME}/resolve/\w+/(?P<path>.+)", Handler.resolve),
    ("HEAD", rf"/{NAME}/resolve/\w+/(?P<path>.+)", Handler.resolve),
)
