"""A Ray cluster of two nodes of one CPU each on this machine, run as a script and told what to do on standard input.

It prints its address. ``lose`` kills the second node (its raylet and all its workers) without grace, ``join`` adds one,
the end of the input stops everything; each is answered by a line.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil

NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
# a killed raylet refuses connections: four checks, half a second apart, find that out; a slow one has time to answer
SOON = {"health_check_period_ms": 500, "health_check_failure_threshold": 4, "health_check_timeout_ms": 5000}


class LocalCluster:
    """The script in a process of its own, as a context manager; ``address`` is the cluster's."""

    def __enter__(self) -> LocalCluster:
        environment = {**os.environ, "RAY_worker_niceness": "0", "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve())], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=environment, start_new_session=True,
        )  # fmt: skip
        self.address = self._answer()
        return self

    def __exit__(self, *problem: object) -> None:
        family = psutil.Process(self._process.pid).children(recursive=True)
        self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        kill(family)

    def tell(self, command: str) -> None:
        print(command, file=self._process.stdin, flush=True)
        self._answer()

    def _answer(self) -> str:
        for line in self._process.stdout:
            if line.startswith("cluster: "):
                return line.removeprefix("cluster: ").strip()
        raise AssertionError("the cluster ended")


def kill(processes: list[psutil.Process]) -> None:
    """Kill processes, those that are gone already excepted."""
    for process in processes:
        try:
            process.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue


def main() -> None:
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False, "_system_config": SOON})
    node = cluster.add_node(**NODE)
    print(f"cluster: {cluster.address}", flush=True)
    for line in sys.stdin:
        if line.strip() == "lose":
            raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
            kill([raylet, *raylet.children(recursive=True)])
            cluster.remove_node(node, allow_graceful=False)
        else:
            node = cluster.add_node(**NODE)
        print("cluster: done", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main()
