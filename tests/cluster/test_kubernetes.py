"""A grid through Snakemake's executor for Kubernetes, against an API server that checks and runs what it is sent."""

import importlib.util
import json
import os
import subprocess
import sys
import threading
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from tests.clones import CELL, grid_of, make_clone

pytestmark = pytest.mark.cluster
RESOURCES = {"minutes": 20, "memory_mib": 1500}
VARIANTS = {
    "here": {"method": "erm", "epochs": 2},
    "on-gpus": {"method": "erm", "epochs": 2, "device": "cuda", "processes": 4, "workers": 3},
}


class ApiServer(BaseHTTPRequestHandler):
    """The part of Kubernetes that the executor talks to, with one node that has no GPU: a pod is a process."""

    def __init__(self, home, jobs, pods, *connection):
        self.home, self.jobs, self.pods = home, jobs, pods
        super().__init__(*connection)

    def do_POST(self):
        sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/apis/batch/v1/namespaces/default/jobs":
            name, (container,) = sent["metadata"]["name"], sent["spec"]["template"]["spec"]["containers"]
            self.jobs[name] = sent
            if "nvidia.com/gpu" not in container["resources"]["requests"]:
                command = [*container["command"], *container["args"]]
                env = {"PATH": os.defpath, "HOME": str(self.home)}
                self.pods[name] = subprocess.Popen(command, cwd=self.home, env=env)
        self.answer(sent, 201)

    def do_GET(self):
        parts = self.path.split("?")[0].split("/")
        if parts[-1] != "status":
            return self.answer({"items": []})
        code = self.pods[parts[-2]].poll() if parts[-2] in self.pods else 1
        return self.answer({"status": {None: {"active": 1}, 0: {"succeeded": 1}}.get(code, {"failed": 1})})

    def do_DELETE(self):
        self.answer({"status": "Success"})

    def answer(self, content, code=200):
        body = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words):
        pass


@contextmanager
def api_server(home):
    jobs, pods = {}, {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(ApiServer, home, jobs, pods))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", jobs
    finally:
        server.shutdown()
        server.server_close()
        for pod in pods.values():
            pod.kill()
            pod.wait()


def clone_on_a_volume(volume):
    """A clone with its environment, on what stands for the volume that every pod mounts."""
    clone = make_clone(volume / "clone", VARIANTS)
    content = yaml.safe_load((clone / "experiments.yml").read_text())
    content["tiny"]["settings"]["resources"] = RESOURCES
    (clone / "experiments.yml").write_text(yaml.safe_dump(content, sort_keys=False))
    activate = clone / ".venv" / "bin" / "activate"
    activate.parent.mkdir(parents=True)
    activate.write_text(f"export PATH={Path(sys.executable).parent}:$PATH PYTHONPATH={clone}\n")
    profile = clone / "profiles" / "kubernetes" / "config.yaml"
    here = profile.read_text().replace("/mnt/mmlib", str(volume))
    profile.write_text(here + "seconds-between-status-checks: 1\n")
    return clone


def test_a_grid_runs_through_kubernetes(tmp_path, monkeypatch):
    if importlib.util.find_spec("snakemake_executor_plugin_kubernetes") is None:
        pytest.skip("snakemake-executor-plugin-kubernetes is missing: pip install '.[kubernetes]'")
    schemas = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    clone = clone_on_a_volume(tmp_path)
    with api_server(tmp_path) as (address, jobs):
        reach = {
            "clusters": [{"name": "one", "cluster": {"server": address}}],
            "contexts": [{"name": "one", "context": {"cluster": "one", "user": "one"}}],
            "users": [{"name": "one", "user": {}}],
            "current-context": "one",
        }
        (tmp_path / "kubeconfig").write_text(yaml.safe_dump(reach))
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        with grid_of(clone, "--profile", "profiles/kubernetes") as driver:
            said, _ = driver.communicate(timeout=600)
    assert driver.returncode == 1, said
    assert "tiny: 1 of 2 cells are recorded" in said
    assert (clone / "runs" / "tiny" / CELL.format("here") / "metrics.json").exists()
    assert "Failed: tiny on-gpus seed 0: it left no log" in said[said.index("Ran 1 cell in ") :]

    here, on_gpus = (next(job for job in jobs.values() if f"variant={name}" in json.dumps(job)) for name in VARIANTS)
    for job in (here, on_gpus):
        full = {"apiVersion": "batch/v1", "kind": "Job"} | job  # the address says these
        schemas.validate(full, schemas.latest_version(), strict=True)
        pod = job["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        assert pod["restartPolicy"] == "Never"
        assert container["image"] == "python:3.11"
        assert {"name": "mmlib", "mountPath": str(tmp_path)} in container["volumeMounts"]
        assert {"name": "mmlib", "persistentVolumeClaim": {"claimName": "mmlib"}} in pod["volumes"]
        for asked in (container["resources"]["requests"], container["resources"]["limits"]):
            assert asked["memory"] == "1500M"
            assert asked.get("nvidia.com/gpu") == ("4" if job is on_gpus else None)
    cpus = [job["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"] for job in (here, on_gpus)]
    assert cpus == ["1000m", "16000m"]
