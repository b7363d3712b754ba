"""That a job on a cluster gives the rows of one machine, and loses and doubles none."""

import contextlib
import importlib.util
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import embedding_faults as faults
import numpy as np
import pytest
import soundfile
from folders import TESTS

from vggish_hf import VGGishPipeline
from vggish_hf.distributed import ray_data
from vggish_hf.distributed.cluster import (
    ClusterError,
    Share,
    check_answers,
    connected,
    share_cluster,
)
from vggish_hf.outputs.folder import EmbeddingFolder

AUDIO = TESTS / "data" / "audio_cases"
NODES = 2
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),  # or Ray would leave one in the home folder
    "OMP_NUM_THREADS": "1",
}


class Cluster:
    """The processes of `ray_cluster.py`."""

    def __init__(self, folder):
        self.folder = folder
        script = TESTS / "ray_cluster.py"
        self.process = subprocess.Popen(
            [sys.executable, str(script), str(NODES)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.address = ""

    def answer(self):
        line = self.process.stdout.readline().strip()
        assert line, "the cluster has ended"
        return line

    def add_node(self):
        self.process.stdin.write("add\n")
        self.process.stdin.flush()
        assert self.answer() == "added"

    def workers(self, title):
        """The processes of this cluster that run a stage, with the node's that started each."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if (folder / "cmdline").read_text().startswith(f"ray::{title}"):
                    parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                    arguments = Path("/proc", str(parent), "cmdline").read_text()
                    if self.folder in arguments:
                        found[int(folder.name)] = parent
            except (OSError, UnicodeDecodeError):  # it has ended
                continue
        return found

    def close(self):
        workers = self.workers("")
        os.killpg(self.process.pid, signal.SIGKILL)
        for pid in workers:  # each of which has a group of its own
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.communicate()


@pytest.fixture(scope="module")
def cluster():
    """A head without a CPU and two nodes; what a test takes from it, it puts back."""
    for package in ("ray", "aiohttp"):  # not imported here, where warnings are errors
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    if sys.platform != "linux":
        pytest.skip("processes are looked up in /proc")
    with pytest.MonkeyPatch.context() as environment:
        # Not below pytest's: the path of a socket has at most 107 bytes.
        folder = tempfile.mkdtemp(prefix="ray-")
        for name, value in {**ENVIRONMENT, "RAY_TMPDIR": folder}.items():
            environment.setenv(name, value)
        cluster = Cluster(folder)
        try:
            cluster.address = cluster.answer()
            yield cluster
        finally:
            cluster.close()
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def engine(cluster):
    return {"engine": "ray", "options": {"address": cluster.address, "num_actors": 1}}


def check_same_as_one_machine(engine, audio, model, tmp_path, **options):
    # Relative to the driver's folder, which is not that of Ray's processes.
    clips = [(path.name, os.path.relpath(path, tmp_path)) for path in sorted(audio.iterdir())]
    summary = faults.run(engine, clips, tmp_path / "out", model, part_clips=4, **options)
    expected = faults.run(faults.LOCAL, clips, tmp_path / "local", model, part_clips=4, **options)
    assert summary["failed"] == expected["failed"] != {}
    assert summary["clips"] == expected["clips"] > 10
    assert summary["examples"] == expected["examples"]
    assert faults.parts(tmp_path / "out") == faults.parts(tmp_path / "local")
    faults.assert_same_rows(tmp_path / "out", tmp_path / "local")
    return clips


@pytest.mark.slow
def test_the_same_as_one_machine(engine, lively_model_folder, tmp_path):
    clips = check_same_as_one_machine(engine, AUDIO, lively_model_folder, tmp_path, batch_size=5)
    # Either resumes what the other has begun.
    summary = faults.run(faults.LOCAL, clips, tmp_path / "out", lively_model_folder)
    assert (summary["clips"], summary["skipped"]) == (0, len(clips) - len(summary["failed"]))


@pytest.mark.slow
def test_the_same_as_one_machine_quantised(engine, shared, small_model_folder, tmp_path):
    audio = shared / "data" / "audio_cases"
    check_same_as_one_machine(engine, audio, small_model_folder, tmp_path, postprocess="uint8")


@pytest.mark.slow
def test_from_the_command_line(cluster, lively_model_folder, tmp_path):
    command = [sys.executable, "-m", "vggish_hf.cli", "embed", os.path.relpath(AUDIO, tmp_path)]
    command += ["--model", str(lively_model_folder), "--part-clips", "4"]
    ray = ["--engine", "ray", "--address", cluster.address, "--actors", "1"]
    printed = []
    for out, engine in (("out/", ray), ("local/", [])):
        done = subprocess.run(
            [*command, "-o", out, *engine],
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1, done.stderr  # some cannot be read
        failed = {line for line in done.stderr.splitlines() if line.startswith("failed: ")}
        printed.append((done.stdout.replace(out, "local/"), failed))
    assert printed[0] == printed[1]
    assert "clips in local/" in printed[0][0]
    assert len(printed[0][1]) > 2
    faults.assert_same_rows(tmp_path / "out", tmp_path / "local")


@pytest.mark.slow
def test_the_command_line_is_ended(cluster, lively_model_folder, tmp_path):
    files = faults.make_files(tmp_path / "files", 6)
    held = sorted(files)[4]
    with faults.ClipServer(files, held=held) as server:
        lines = [f"{server.url if name == held else 'files'}/{name}" for name in sorted(files)]
        (tmp_path / "list.txt").write_text("\n".join(lines))
        command = [sys.executable, "-m", "vggish_hf.cli", "embed", "list.txt", "-o", "out/"]
        command += ["--model", str(lively_model_folder), "--part-clips", "2"]
        command += ["--engine", "ray", "--address", cluster.address, "--actors", "1"]
        process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        end = time.monotonic() + faults.SECONDS
        while not (server.reached.is_set() and faults.parts(tmp_path / "out")):
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.1)
        process.terminate()
        _, error = process.communicate(timeout=faults.SECONDS)
    assert process.returncode == 128 + signal.SIGTERM
    assert error.splitlines()[-1] == "vggish-hf: interrupted"
    assert faults.parts(tmp_path / "out")


@pytest.mark.slow
def test_a_changed_file_and_pooling(engine, lively_model_folder, tmp_path):
    clips = faults.make_clips(tmp_path / "files", 3)
    for pool in ("mean_std", None):
        out = tmp_path / f"out {pool}"
        first = faults.run(engine, clips, out, lively_model_folder, part_clips=2, pool=pool)
        assert (first["clips"], first["examples"]) == (3, 6)
        if pool is not None:
            local = tmp_path / "local"
            faults.run(faults.LOCAL, clips, local, lively_model_folder, part_clips=2, pool=pool)
            faults.assert_same_rows(out, local)
    soundfile.write(clips[1][1], np.random.default_rng(9).uniform(-0.5, 0.5, 48_000), 16_000)
    # Either notices what the other has noted.
    for again, expected in ((engine, 1), (faults.LOCAL, 0)):
        summary = faults.run(again, clips, out, lively_model_folder, part_clips=2)
        assert (summary["clips"], summary["skipped"]) == (expected, 3 - expected)
        assert len(faults.read_rows(out)[clips[1][0]]) == 3
    faults.assert_complete(out, clips)


@pytest.mark.slow
def test_a_long_clip_is_joined(engine, lively_model_folder, tmp_path):
    clips = faults.make_clips(tmp_path / "files", 3)
    soundfile.write(clips[1][1], np.random.default_rng(9).uniform(-0.5, 0.5, 16_000 * 20), 16_000)
    for name, own in (("out", engine), ("local", faults.LOCAL)):
        summary = faults.run(
            {**own, "block_examples": 8}, clips, tmp_path / name, lively_model_folder, batch_size=4
        )
        assert (summary["clips"], summary["failed"]) == (3, {})
    faults.assert_same_rows(tmp_path / "out", tmp_path / "local")
    assert len(faults.read_rows(tmp_path / "out")[clips[1][0]]) == 20


@pytest.mark.slow
def test_a_local_folder_named_as_a_built_in_model(engine, lively_model_folder, tmp_path):
    clips = faults.make_clips(tmp_path / "files", 1)
    shutil.copytree(lively_model_folder, tmp_path / "demo")
    for name, own in (("out", engine), ("local", faults.LOCAL)):
        job = faults.Run(own, clips, tmp_path / name, tmp_path / "demo")
        with job:
            assert job.summary()["clips"] == 1
    faults.assert_same_rows(tmp_path / "out", tmp_path / "local")
    for name in ("out", "local"):  # by the name alone it is the built-in one for both
        assert EmbeddingFolder(tmp_path / name).manifest["embedding_size"] == 128
        sha256 = EmbeddingFolder(tmp_path / name).manifest["provenance"]["weights_sha256"]
        assert sha256 == VGGishPipeline.from_pretrained("demo").weights_sha256


@pytest.mark.parametrize("name", ["mine", "mine/model.safetensors", "./mine/"])
def test_a_relative_model_is_the_same_from_every_folder(
    name, lively_model_folder, tmp_path, monkeypatch
):
    shutil.copytree(lively_model_folder, tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    found = ray_data._same_everywhere(name, VGGishPipeline.from_pretrained(name))
    assert found == str(tmp_path / Path(name))
    assert ray_data._same_everywhere("demo", VGGishPipeline.from_pretrained("demo")) == "demo"


@pytest.mark.slow
def test_one_processor_is_enough(cluster, lively_model_folder, tmp_path):
    clips = faults.make_clips(tmp_path / "files", 3)
    code = """
import json, sys
import ray
from vggish_hf.distributed import embed_to_folder
from vggish_hf.inputs import Clip
ray.init("local", num_cpus=1, log_to_driver=False, object_store_memory=100 << 20)
model, out, clips = sys.argv[1:]
print(embed_to_folder(model, [Clip(*pair) for pair in json.loads(clips)], out).clips)
"""
    arguments = [str(lively_model_folder), str(tmp_path / "out"), json.dumps(clips)]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=faults.SECONDS,
    )
    assert done.stdout.splitlines()[-1:] == ["3"], done.stderr
    faults.assert_complete(tmp_path / "out", clips)


@pytest.fixture
def listener():
    """A port that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.slow
def test_the_cluster_of_the_tests_answers(cluster):
    check_answers(cluster.address)
    check_answers(None)
    check_answers("auto")


@pytest.mark.parametrize("address", ["auto", None])
@pytest.mark.parametrize("remembered_by", ["environment", "file"])
def test_a_cluster_that_ray_remembers_and_that_has_died(
    address, remembered_by, tmp_path, monkeypatch
):
    ray = pytest.importorskip("ray")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nobody = f"127.0.0.1:{closed.getsockname()[1]}"
    monkeypatch.setattr("ray.init", lambda *_args, **_options: pytest.fail("it would wait"))
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray._private.services.find_gcs_addresses", set)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    if remembered_by == "environment":
        monkeypatch.setenv("RAY_ADDRESS", nobody)
    else:
        (tmp_path / "ray").mkdir()
        (tmp_path / "ray" / "ray_current_cluster").write_text(nobody)
    with (
        pytest.raises(ClusterError, match=f"No Ray cluster answers at '{nobody}'"),
        connected(ray, address),
    ):
        pass


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["nobody", "silent", "no such host", "no port"])
def test_an_address_where_no_cluster_answers(listener, lively_model_folder, tmp_path, kind):
    pytest.importorskip("ray")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nobody = f"127.0.0.1:{closed.getsockname()[1]}"
    address = {
        "nobody": nobody,
        "silent": listener,
        "no such host": "no-such-host.invalid:6379",
        "no port": "127.0.0.1:99999",
    }[kind]
    faults.make_files(tmp_path / "files", 1)
    command = [sys.executable, "-m", "vggish_hf.cli", "embed", "files", "-o", "out/"]
    command += ["--model", str(lively_model_folder), "--engine", "ray", "--address", address]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=faults.SECONDS
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"vggish-hf: error: No Ray cluster answers at {address!r}")


@pytest.mark.slow
def test_workers_are_killed(cluster, engine, lively_model_folder, tmp_path):
    with faults.held_job(engine, tmp_path, lively_model_folder) as (job, server, clips):
        readers, actors = cluster.workers("FlatMap"), cluster.workers("MapWorker")
        assert readers
        assert actors
        for pid in [*readers, *actors]:
            os.kill(pid, signal.SIGKILL)
        server.release()
        summary = job.summary()
    assert (summary["clips"], summary["failed"]) == (len(clips), {})
    faults.assert_complete(tmp_path / "out", clips)


@pytest.mark.slow
def test_a_node_is_killed(cluster, engine, lively_model_folder, tmp_path):
    try:
        with faults.held_job(engine, tmp_path, lively_model_folder, num_actors=2) as (
            job,
            server,
            clips,
        ):
            (node,) = set(cluster.workers("FlatMap").values())
            os.kill(node, signal.SIGKILL)
            server.release()
            summary = job.summary()
    finally:
        cluster.add_node()
    assert (summary["clips"], summary["failed"]) == (len(clips), {})
    faults.assert_complete(tmp_path / "out", clips)


@pytest.mark.slow
def test_a_try_that_finds_less_loses_no_clip(cluster, engine, lively_model_folder, tmp_path):
    files = faults.make_files(tmp_path / "files", 6)  # of two examples each
    names = sorted(files)
    clips = [(name, str(tmp_path / "files" / name)) for name in names]
    out = tmp_path / "out"
    with faults.ClipServer(files, held=names[5]) as server:
        clips[5] = (names[5], f"{server.url}/{names[5]}")
        job = faults.Run({**engine, "block_examples": 4}, clips, out, lively_model_folder)
        with job:
            # The first block is written, and not the second: the next try, without the first clip,
            # has the third in its first block.
            job.wait_until(lambda: server.reached.is_set() and faults.parts(out))
            Path(clips[0][1]).unlink()
            for pid in cluster.workers("FlatMap"):
                os.kill(pid, signal.SIGKILL)
            server.release()
            summary = job.summary()
    assert summary["clips"] == 6
    faults.assert_complete(out, clips)


@pytest.mark.slow
def test_the_folder_is_gone(cluster, engine, lively_model_folder, tmp_path):
    with faults.held_job(engine, tmp_path, lively_model_folder) as (job, server, _):
        shutil.rmtree(tmp_path / "out")
        killed = cluster.workers("MapWorker")
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        # Another is started. Its block comes when it has had the time to look for the folder.
        job.wait_until(lambda: cluster.workers("MapWorker").keys() - killed)
        time.sleep(5)
        server.release()
        error = job.error()
    assert "ClusterError: The Ray job failed; parts already written are complete." in error
    assert "Expected a folder that all machines share" in error


@pytest.mark.slow
def test_the_driver_is_killed(engine, lively_model_folder, tmp_path):
    faults.check_killed_and_repeated(engine, tmp_path, lively_model_folder, signal.SIGKILL)


@pytest.mark.slow
def test_poison(engine, lively_model_folder, tmp_path):
    faults.check_poison(engine, tmp_path, lively_model_folder)


@pytest.mark.slow
def test_full_disk(engine, lively_model_folder, tmp_path):
    faults.check_full_disk(engine, tmp_path, lively_model_folder)


@pytest.mark.slow
def test_slow_store(engine, lively_model_folder, tmp_path):
    del engine["options"]["num_actors"]
    faults.check_slow_store(engine, tmp_path, lively_model_folder)


@pytest.mark.slow
def test_a_cluster_that_is_too_small(engine, lively_model_folder, tmp_path):
    clips = faults.make_clips(tmp_path / "files", 1)
    out = tmp_path / "out"
    with faults.Run(engine, clips, out, lively_model_folder, num_actors=4) as job:
        assert "at least 5 CPUs for 4 actors of 1 CPUs and 0 GPUs" in job.error()


@pytest.mark.parametrize(
    ("have", "asked", "expected"),
    [
        ({"CPU": 8.0}, (None, 1.0, None), Share(4, 1.0, 0.0)),
        ({"CPU": 8.0}, (None, 2.0, None), Share(2, 2.0, 0.0)),
        ({"CPU": 2.0}, (None, 1.0, None), Share(1, 1.0, 0.0)),
        ({"CPU": 32.0, "GPU": 8.0}, (None, 1.0, None), Share(8, 1.0, 1.0)),
        ({"CPU": 8.0, "GPU": 8.0}, (None, 1.0, None), Share(7, 1.0, 1.0)),
        ({"CPU": 32.0, "GPU": 2.0}, (None, 1.0, 0.5), Share(4, 1.0, 0.5)),
        ({"CPU": 32.0, "GPU": 2.0}, (3, 1.0, 0.0), Share(3, 1.0, 0.0)),
        ({"CPU": 1.0}, (None, 1.0, None), Share(1, 0.5, 0.0, 0.25, 0.25)),
        ({"CPU": 1.0, "GPU": 1.0}, (1, 1.0, None), Share(1, 0.5, 1.0, 0.25, 0.25)),
    ],
)
def test_how_a_cluster_is_shared(have, asked, expected):
    share = share_cluster(have, *asked)
    assert share == expected
    assert share.num_actors * share.cpus_per_actor + share.cpus_per_reader <= have["CPU"]


@pytest.mark.parametrize(
    ("have", "asked", "message"),
    [
        ({"CPU": 1.0}, (None, 4.0, None), "at least 5 CPUs for 1 actors .* let more machines join"),
        ({"CPU": 1.0}, (2, 1.0, None), "at least 3 CPUs for 2 actors"),
        ({"CPU": 4.0, "GPU": 1.0}, (2, 1.0, None), "at least 2 GPUs for 2 actors"),
        ({"CPU": 4.0, "memory": 5e8}, (None, 1.0, None), "at least 1073741824 bytes of memory"),
        ({"CPU": 4.0}, (None, 0.0, None), "`cpus_per_actor` above 0"),
        ({"CPU": 4.0}, (0, 1.0, None), "`num_actors` of at least 1"),
    ],
)
def test_actors_that_do_not_fit(have, asked, message):
    with pytest.raises(ValueError, match=message):
        share_cluster(have, *asked)


@pytest.mark.slow
def test_a_job_that_stands_still():
    if importlib.util.find_spec("ray") is None:
        pytest.skip("ray is not installed")
    code = (
        "import ray, ray.data, ray.data.exceptions\n"
        "from vggish_hf.distributed.ray_data import _rows\n"
        "class Dataset:\n"
        "    def iter_rows(self):\n"
        "        raise ray.data.exceptions.ExecutionTimeoutError('no progress')\n"
        "        yield\n"
        "list(_rows(ray, Dataset()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    last = done.stderr.splitlines()[-1]
    assert last.startswith("vggish_hf.distributed.cluster.ClusterError: The Ray job failed")
    assert last.endswith("no progress")


@pytest.mark.slow
def test_without_its_extra():
    code = (
        "import sys; sys.modules['ray'] = None\n"
        "from vggish_hf.distributed import embed_to_folder\n"
        "embed_to_folder('demo', [], 'out')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    message = "ImportError: Embedding on a cluster needs `ray`: pip install 'vggish-hf[ray]'"
    assert done.stderr.splitlines()[-1] == message


@pytest.mark.slow
def test_importing_it_imports_no_ray():
    code = "import sys, vggish_hf.distributed; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
