"""A Ray cluster of several nodes on this machine, until its standard input ends.

Argument: how many nodes there are beside the head. Its files are in the folder RAY_TMPDIR, of a
short name.
Prints its address; for each line of input it starts another node, and prints "added".
"""

import sys

from ray.cluster_utils import Cluster

NODE = {"num_cpus": 2, "object_store_memory": 100 << 20}
# So that a node that is killed is missed soon.
HEALTH = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 500,
    "health_check_failure_threshold": 4,
}


def main(nodes: int) -> None:
    head = {
        "num_cpus": 0,
        "object_store_memory": 100 << 20,
        "include_dashboard": False,
        "_system_config": HEALTH,
    }
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(nodes):
        cluster.add_node(**NODE)
    cluster.wait_for_nodes()
    _say(cluster.address)
    for _ in sys.stdin:
        cluster.add_node(**NODE)
        _say("added")
    cluster.shutdown()


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]))
