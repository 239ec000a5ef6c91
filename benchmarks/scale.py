"""One run computed in other ways: are the bytes equal, and what does Ray cost?

    python benchmarks/scale.py --images 200 --n 10000 --pairs 0 --out build/scale
    python benchmarks/scale.py --pairs-only --pairs 3 --images 8 --long 48 --n 6000 --out build/pay

The first starts a Ray cluster of three nodes on this machine (127.0.0.1, ports of its own, one core
each), certifies digits in one process, on the cluster, on the cluster with a node killed by ``kill
-9``, on the cluster with the driver killed and resumed, with plain workers, and in two merged
shards; and compares all files with those of the one process, clocks apart.

The second computes the same images with two plain workers and with two actors of two nodes, in
turns, once few and once many of them: what the longer runs take more is what an image costs, and
the rest is spent once. Processor seconds are those of the whole tree of processes (the cluster's
daemons and actors too), because wall time on a shared machine says little.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # Ray's name for: stay on the loopback
NODE = {"num_cpus": 1, "node_ip_address": "127.0.0.1", "object_store_memory": 10**8}
NODE |= {"include_log_monitor": False}


def essence(folder: Path) -> dict[str, Any]:
    """Return what a run folder holds but for its clocks."""
    found: dict[str, Any] = {
        path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix != ".png"
    }
    for name in ("certificates.tsv", "agreement.tsv"):
        if name in found:
            rows = [line.split("\t") for line in found[name].decode().splitlines()]
            at = rows[0].index("time")
            found[name] = [row[:at] + row[at + 1 :] for row in rows]
    summary = json.loads(found["summary.json"])
    summary.pop("seconds")
    summary.pop("agreement", None)
    return found | {"summary.json": summary}


def lines(folder: Path) -> int:
    """Return how many images a run has done."""
    journal = folder / "certificates.tsv"
    return journal.read_bytes().count(b"\n") - 1 if journal.exists() else 0


class Cluster:
    """Nodes of one core each."""

    def __init__(self, nodes: int) -> None:
        from ray.cluster_utils import Cluster

        head = {**NODE, "include_dashboard": False, "no_monitor": True}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.nodes = [self.add() for _ in range(nodes - 1)]

    def add(self) -> Any:
        """Start one more node."""
        return self.cluster.add_node(**NODE)

    def kill(self) -> None:
        """Kill a node that is not the head with -9, and whatever it runs."""
        node = self.nodes.pop()
        for started in node.all_processes.values():
            for one in started:
                os.kill(one.process.pid, signal.SIGKILL)

    def watch(self, process: subprocess.Popen[bytes]) -> None:
        """Look again and again at what the processes of all nodes have used, until one ends."""
        self.used: dict[int, int] = {}
        self.actors: set[int] = set()
        begun = False  # what is there at the first look has used something before
        first: dict[int, int] = {}
        running = True
        while running:
            running = process.poll() is None
            for node in [self.cluster.head_node, *self.nodes]:
                for started in node.all_processes.values():
                    for one in started:
                        for pid, ticks in tree_ticks(one.process.pid):
                            first.setdefault(pid, 0 if begun else ticks)
                            self.used[pid] = ticks - first[pid]
                            if pid not in self.actors and is_actor(pid):
                                self.actors.add(pid)
            begun = True
            time.sleep(0.1)

    def seconds(self) -> dict[str, float]:
        """Return processor seconds of actors and of all else, but for an actor's last tenth."""
        found = Counter(actors=0.0, daemons=0.0)
        for pid, ticks in self.used.items():
            kind = "actors" if pid in self.actors else "daemons"
            found[kind] += ticks / os.sysconf("SC_CLK_TCK")
        return dict(found)


def is_actor(pid: int) -> bool:
    """Whether a process is a worker of ours, and not one of Ray's own."""
    try:
        return b"_Worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def tree_ticks(pid: int) -> Iterator[tuple[int, int]]:
    """Yield the clock ticks of a process and of all under it."""
    try:
        cells = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        tasks = Path(f"/proc/{pid}/task").glob("*/children")
        children = " ".join(file.read_text() for file in tasks).split()
    except OSError:
        return
    yield pid, int(cells[11]) + int(cells[12])
    for child in children:
        yield from tree_ticks(int(child))


def main() -> None:
    """Measure, and print a line of JSON for each way."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--pairs", type=int, default=1)
    parser.add_argument("--long", type=int, help="Images of the longer run of a pair.")
    parser.add_argument("--pairs-only", action="store_true", help="No kills and no shards.")
    parser.add_argument("--out", type=Path, default=Path("build/scale"))
    given = parser.parse_args()
    shutil.rmtree(given.out, ignore_errors=True)
    given.out.mkdir(parents=True)
    common = f"certify --sigma 0.25 --n {given.n} --batch 500 --threads 1 --tol 0 --depth 3 --quiet"
    record = (given.out / "record.jsonl").open("w")

    def command(name: str, more: str, images: int) -> list[str]:
        out = given.out / name / "run"
        asked = f"{common} --images 0:{images} {more} --out {out}"
        return [sys.executable, "-m", "deqcert", *asked.split()]

    def run(
        name: str,
        more: str,
        during: Callable[[subprocess.Popen[bytes]], None] | None,
        images: int = given.images,
    ) -> float:
        """Run to the end; return the processor seconds of the process and its children."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        process = subprocess.Popen(command(name, more, images), stdout=subprocess.DEVNULL)
        if during is not None:
            during(process)
        code = process.wait()
        assert code in (0, -9), code
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    def tell(**found: Any) -> None:
        print(json.dumps(found), flush=True)
        record.write(json.dumps(found) + "\n")
        record.flush()

    def until(done: int, name: str) -> Callable[[subprocess.Popen[bytes]], None]:
        def wait(process: subprocess.Popen[bytes]) -> None:
            while lines(given.out / name / "run") < done and process.poll() is None:
                time.sleep(0.05)

        return wait

    began = time.monotonic()
    seconds = run("one", "", None)
    whole = essence(given.out / "one" / "run")
    tell(way="one process", processor_seconds=round(seconds, 2))

    def same(name: str) -> bool:
        return essence(given.out / name / "run") == whole

    cluster = Cluster(2 if given.pairs_only else 3)
    address = f"--ray {cluster.cluster.address}"
    tell(way="cluster", wall_seconds=round(time.monotonic() - began, 1))

    def break_it() -> None:
        own = run("ray", address, cluster.watch)
        tell(
            way="ray",
            equal=same("ray"),
            driver_seconds=round(own, 2),
            **cluster.seconds(),
        )

        def kill_node(process: subprocess.Popen[bytes]) -> None:
            until(given.images // 4, "killed")(process)
            cluster.kill()
            tell(way="node killed", after_images=lines(given.out / "killed" / "run"))

        run("killed", address, kill_node)
        tell(way="ray, node killed", equal=same("killed"))

        def kill_driver(process: subprocess.Popen[bytes]) -> None:
            until(given.images // 4, "driver")(process)
            process.kill()

        run("driver", address, kill_driver)
        done = lines(given.out / "driver" / "run")
        run("driver", address, None)
        tell(way="ray, driver killed and resumed", after_images=done, equal=same("driver"))

    def cut_it() -> None:
        for part in ("1/2", "2/2"):
            run(f"shard{part[0]}", f"--shard {part}", None)
        shards = [str(given.out / f"shard{part}" / "run") for part in "12"]
        merge = [sys.executable, "-m", "deqcert", "merge", *shards, "--quiet", "--out"]
        subprocess.run(
            [*merge, str(given.out / "merged" / "run")], check=True, stdout=subprocess.DEVNULL
        )
        tell(way="two shards, merged", equal=same("merged"))

    if not given.pairs_only:
        break_it()

    def pair(number: int, images: int) -> dict[str, float]:
        """Compute some images with two workers and with two actors; return what each took."""
        plain = run(f"workers{number}-{images}", "--workers 2", cluster.watch, images)
        driver = run(f"ray{number}-{images}", address, cluster.watch, images)
        took = {"driver": driver, **cluster.seconds()}
        took = {"workers": plain, "ray": sum(took.values()), **took}
        names = (f"{kind}{number}-{images}" for kind in ("workers", "ray"))
        first, second = (essence(given.out / name / "run") for name in names)
        told = {name: round(value, 2) for name, value in took.items()}
        tell(way="pair", images=images, seconds=told, equal=first == second)
        return took

    # Two nodes are left: two actors of one core beside two workers of one thread.
    lengths = [given.images, *([] if given.long is None else [given.long])]
    found: dict[int, list[dict[str, float]]] = {length: [] for length in lengths}
    for number in range(given.pairs):
        for length in lengths:
            found[length].append(pair(number, length))
    if given.long is not None:
        short, long = lengths
        each, once = {}, {}
        for name in found[short][0]:
            low, high = (statistics.median(took[name] for took in found[at]) for at in lengths)
            each[name] = (high - low) / (long - short)
            once[name] = low - short * each[name]
        tell(
            way="pairs",
            seconds_once={name: round(value, 2) for name, value in once.items()},
            seconds_an_image={name: round(value, 4) for name, value in each.items()},
            more_once=round(once["ray"] - once["workers"], 2),
            more_an_image=round(each["ray"] / each["workers"] - 1.0, 4),
        )

    if not given.pairs_only:
        cut_it()
    cluster.cluster.shutdown()


if __name__ == "__main__":
    main()
