"""Models, extractors and pipelines there and back: folders, the Hub, its cache."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
from dataclasses import asdict
from functools import partial
from pathlib import Path

import hub_server
import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from vggish_hf import (
    VGGishConfig,
    VGGishFeatureConfig,
    VGGishFeatureExtractor,
    VGGishModel,
    VGGishPipeline,
    VGGishPostprocessor,
)
from vggish_hf import hub as vggish_hub

SMALL = VGGishConfig(conv_channels=(4, 4, 8, 8, 8, 8), hidden_size=16, embedding_size=8)
HALF = VGGishFeatureConfig(example_hop_seconds=0.48, padding="tail")


def seeded_model(seed=0, config=SMALL):
    torch.manual_seed(seed)
    return VGGishModel(config).eval()


def read_folder(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def assert_same(model, expected):
    assert model.config == expected.config
    found, wanted = model.state_dict(), expected.state_dict()
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


def fetched(hub):
    """The files whose content was asked for."""
    return [path.split("/")[-1] for method, path in hub.requests if method == "GET"]


def run(script, *arguments, **environment):
    """Run a script in a Python of its own; returns what it prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script), *map(str, arguments)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def repository(hub, small_model_folder, request):
    """The id of a repository of the test's own, which holds `small_model`."""
    repo_id = f"org/{request.node.name.translate(str.maketrans('[]-', '...')).strip('.')}"
    hub.add(repo_id, read_folder(small_model_folder))
    hub.requests.clear()
    return repo_id


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def as_owner(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", hub.token)


class TestFolders:
    @pytest.mark.parametrize("kind", [str, Path])
    def test_model(self, kind, tmp_path):
        model = seeded_model()
        model.save_pretrained(kind(tmp_path / "a" / "b"))
        loaded = VGGishModel.from_pretrained(kind(tmp_path / "a" / "b"))
        assert_same(loaded, model)
        assert isinstance(loaded.config.conv_channels, tuple)
        examples = torch.randn(2, 96, 64)
        assert torch.equal(loaded(examples), model(examples))

    @pytest.mark.parametrize("kind", [str, Path])
    def test_extractor(self, kind, tmp_path):
        VGGishFeatureExtractor(HALF).save_pretrained(kind(tmp_path / "a" / "b"))
        loaded = VGGishFeatureExtractor.from_pretrained(kind(tmp_path / "a" / "b"))
        assert loaded.config == HALF
        assert set(read_folder(tmp_path / "a" / "b")) == {"preprocessor_config.json"}

    @pytest.mark.parametrize("kind", [str, Path])
    def test_pipeline(self, kind, tmp_path, small_model):
        pipe = VGGishPipeline(VGGishFeatureExtractor(HALF), small_model)
        pipe.save_pretrained(kind(tmp_path))
        loaded = VGGishPipeline.from_pretrained(kind(tmp_path))
        assert loaded.extractor.config == HALF
        assert_same(loaded.model, small_model)
        clip = (torch.randn(24_000), 16_000)
        outputs = [p(clip, postprocess="uint8") for p in (pipe, loaded)]
        assert torch.equal(outputs[0].embeddings, outputs[1].embeddings)
        assert outputs[1].start_seconds.tolist() == [0.0, 0.48, 0.96]

    def test_what_is_written(self, tmp_path):
        seeded_model().save_pretrained(tmp_path)
        assert set(read_folder(tmp_path)) == {"config.json", "model.safetensors", "README.md"}
        values = json.loads((tmp_path / "config.json").read_text())
        assert values == {**asdict(SMALL), "conv_channels": [4, 4, 8, 8, 8, 8]}

    def test_postprocessor_travels(self, tmp_path, generator):
        model = seeded_model()
        postprocessor = VGGishPostprocessor(
            torch.randn(8, 8, generator=generator), torch.randn(8, generator=generator)
        )
        model.postprocessor = postprocessor
        model.save_pretrained(tmp_path)
        loaded = VGGishModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
        assert loaded.config.postprocessor is True
        # Its precision decides the uint8 values, so the network's dtype does not reach it.
        assert torch.equal(loaded.postprocessor.eigenvectors, postprocessor.eigenvectors)
        assert torch.equal(loaded.postprocessor.means, postprocessor.means)
        loaded.postprocessor = None
        loaded.save_pretrained(tmp_path)
        assert VGGishModel.from_pretrained(tmp_path).postprocessor is None

    def test_a_postprocessor_of_another_size_is_not_saved(self, tmp_path):
        model = seeded_model()
        model.save_pretrained(tmp_path)
        before = read_folder(tmp_path)
        model.postprocessor = VGGishPostprocessor(torch.eye(9), torch.zeros(9))
        with pytest.raises(ValueError, match="of the embeddings' size, 8, got one of 9"):
            model.save_pretrained(tmp_path)
        assert read_folder(tmp_path) == before

    def test_where_it_was_loaded_from(self, tmp_path):
        model = seeded_model()
        model.save_pretrained(tmp_path)
        loaded = VGGishModel.from_pretrained(tmp_path)
        with torch.no_grad():
            loaded.fc2.bias += 1
        loaded.save_pretrained(tmp_path)
        again = VGGishModel.from_pretrained(tmp_path)
        assert torch.equal(again.fc2.bias, model.fc2.bias + 1)
        assert torch.equal(again.conv1.weight, model.conv1.weight)
        assert torch.equal(loaded.conv1.weight, model.conv1.weight)

    def test_training_does_not_reach_the_file(self, tmp_path, generator):
        seeded_model().save_pretrained(tmp_path)
        before = read_folder(tmp_path)
        loaded = VGGishModel.from_pretrained(tmp_path)
        assert not loaded.training
        assert all(parameter.requires_grad for parameter in loaded.parameters())
        optimizer = torch.optim.SGD(loaded.parameters(), lr=1.0)
        loaded(torch.randn(4, 96, 64, generator=generator)).square().sum().backward()
        optimizer.step()
        original = VGGishModel.from_pretrained(tmp_path)
        assert not torch.equal(loaded.conv1.weight, original.conv1.weight)
        assert read_folder(tmp_path) == before
        assert_same(original, seeded_model())

    def test_a_channels_last_model(self, tmp_path):
        seeded_model().to(memory_format=torch.channels_last).save_pretrained(tmp_path)
        assert_same(VGGishModel.from_pretrained(tmp_path), seeded_model())

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
    def test_dtype(self, dtype, tmp_path):
        seeded_model().save_pretrained(tmp_path)
        loaded = VGGishModel.from_pretrained(tmp_path, dtype=dtype)
        assert_same(loaded, seeded_model().to(dtype))
        loaded.save_pretrained(tmp_path)
        assert VGGishModel.from_pretrained(tmp_path).dtype == dtype
        assert VGGishModel.from_pretrained(tmp_path, dtype=torch.float32).dtype == torch.float32

    @pytest.mark.parametrize("device", ["cpu", torch.device("cpu"), None])
    def test_device(self, device, tmp_path):
        seeded_model().save_pretrained(tmp_path)
        loaded = VGGishModel.from_pretrained(tmp_path, device=device)
        assert {tensor.device.type for tensor in loaded.state_dict().values()} == {"cpu"}

    @pytest.mark.gpu
    def test_gpu(self, tmp_path, small_model_folder, small_model):
        loaded = VGGishModel.from_pretrained(small_model_folder, device="cuda", dtype=torch.float16)
        assert {tensor.device.type for tensor in loaded.state_dict().values()} == {"cuda"}
        loaded.save_pretrained(tmp_path)
        again = VGGishModel.from_pretrained(tmp_path)
        assert again.device.type == "cpu"
        assert torch.equal(again.fc2.weight, small_model.fc2.weight.half())

    @pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
    def test_an_incomplete_folder(self, missing, tmp_path):
        model = seeded_model()
        model.save_pretrained(tmp_path)
        torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
        (tmp_path / missing).unlink()
        with pytest.raises(FileNotFoundError, match=f"which has no {missing}"):
            VGGishModel.from_pretrained(tmp_path)

    def test_a_folder_without_the_extractor(self, tmp_path):
        seeded_model().save_pretrained(tmp_path)
        for cls in (VGGishFeatureExtractor, VGGishPipeline):
            with pytest.raises(FileNotFoundError, match=r"has no preprocessor_config\.json"):
                cls.from_pretrained(tmp_path)

    @pytest.mark.parametrize(
        "name", ["./gone", "../gone", "/gone", "~/gone", "a/b/c", Path("gone"), Path("google")]
    )
    def test_a_missing_folder(self, name, hub):
        hub.requests.clear()
        with pytest.raises(FileNotFoundError, match="there is no folder") as error:
            VGGishModel.from_pretrained(name)
        assert "'google'" in str(error.value)
        assert "'hf://org/vggish'" in str(error.value)
        assert hub.requests == []

    @pytest.mark.parametrize("cls", [VGGishModel, VGGishFeatureExtractor, VGGishPipeline])
    def test_an_unknown_option(self, cls, small_model_folder):
        with pytest.raises(TypeError, match=r"among revision, .*, got 'torch_dtype'"):
            cls.from_pretrained(small_model_folder, torch_dtype=torch.float64)

    def test_the_callers_own_options_are_listed_too(self, small_model_folder):
        with pytest.raises(TypeError, match="force_download, device, dtype, padding, example_hop"):
            VGGishPipeline.from_pretrained("demo", hop=0.5)
        with pytest.raises(TypeError, match="force_download, dtype, device, got 'hop'"):
            VGGishModel.from_pretrained(small_model_folder, hop=0.5)

    def test_a_dtype_by_its_name(self, small_model_folder):
        model = VGGishModel.from_pretrained(small_model_folder, dtype="bfloat16")
        assert model.dtype == torch.bfloat16
        for dtype in ("int8", "half", torch.int64):
            with pytest.raises(ValueError, match="one of 'float32', 'bfloat16', 'float16', 'f"):
                VGGishModel.from_pretrained(small_model_folder, dtype=dtype)

    @pytest.mark.parametrize("device", ["cuda:99", "mps", "no-such"])
    def test_a_device_that_is_not_there(self, device, small_model_folder):
        with pytest.raises(ValueError, match=f"a device of this machine, got '{device}'") as error:
            VGGishModel.from_pretrained(small_model_folder, device=device)
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
    def test_a_file_of_the_folder(self, name, small_model_folder, small_model):
        assert_same(VGGishModel.from_pretrained(small_model_folder / name), small_model)
        assert_same(VGGishModel.from_pretrained(str(small_model_folder / name)), small_model)

    def test_another_file(self, tmp_path):
        path = tmp_path / "vggish.pth"
        path.write_bytes(b"0")
        with pytest.raises(FileNotFoundError, match=r"vggish\.pth' is a file; `vggish-hf convert"):
            VGGishModel.from_pretrained(path)

    def test_a_folder_of_the_home(self, small_model_folder, small_model, monkeypatch):
        monkeypatch.setenv("HOME", str(small_model_folder.parent))
        assert_same(VGGishModel.from_pretrained(f"~/{small_model_folder.name}"), small_model)

    def test_a_classifier(self, tmp_path):
        seeded_model().save_pretrained(tmp_path)
        (tmp_path / "config.json").write_text('{"classifier_type": "VGGishClassifier"}')
        VGGishFeatureExtractor().save_pretrained(tmp_path)
        for cls in (VGGishModel, VGGishPipeline):
            with pytest.raises(ValueError, match=r"holds a classifier: .*VGGishClassifier\.from_p"):
                cls.from_pretrained(tmp_path)


class TestAddresses:
    @pytest.mark.parametrize(
        "form",
        [
            "{id}@v1",
            "hf://{id}@v1",
            "hf://models/{id}@v1",
            "https://huggingface.co/{id}/tree/v1",
            "https://huggingface.co/{id}/blob/v1/config.json",
            "https://hf.co/{id}/resolve/v1/model.safetensors?download=true",
            "{url}/{id}/tree/v1/",
        ],
        ids=range(7),
    )
    def test_with_a_revision(self, form, repository, hub, cache, tmp_path):
        seeded_model(7).save_pretrained(tmp_path)
        hub.add(repository, read_folder(tmp_path), revision="v1")
        name = form.format(id=repository, url=hub.url)
        assert_same(VGGishModel.from_pretrained(name, cache_dir=cache), seeded_model(7))
        with pytest.raises(ValueError, match="one revision"):
            VGGishModel.from_pretrained(name, revision="v2", cache_dir=cache)

    @pytest.mark.parametrize(
        "form", ["hf://{id}", "https://huggingface.co/{id}", "hf://{id}/"], ids=range(3)
    )
    def test_without_one(self, form, repository, small_model, cache, tmp_path, monkeypatch):
        # a folder of that name does not hide what is an address
        monkeypatch.chdir(tmp_path)
        seeded_model().save_pretrained(repository)
        name = form.format(id=repository)
        assert_same(VGGishModel.from_pretrained(name, cache_dir=cache), small_model)

    @pytest.mark.parametrize("revision", ["feature/x", "refs/pr/1"], ids=range(2))
    def test_revisions_with_slashes(self, revision, repository, hub, cache, tmp_path):
        seeded_model(3).save_pretrained(tmp_path)
        hub.add(repository, read_folder(tmp_path), revision=revision)
        path = revision if revision.startswith("refs") else revision.replace("/", "%2F")
        name = f"https://huggingface.co/{repository}/tree/{path}"
        assert_same(VGGishModel.from_pretrained(name, cache_dir=cache), seeded_model(3))

    @pytest.mark.parametrize(
        "name",
        [
            "https://example.com/org/vggish",
            "https://huggingface.co/vggish",
            "https://huggingface.co/datasets/org/vggish",
            "hf://vggish",
            "hf://datasets/org/vggish",
        ],
    )
    def test_of_no_model(self, name, hub):
        hub.requests.clear()
        with pytest.raises(FileNotFoundError, match="is not the address of a model on the Hub"):
            VGGishModel.from_pretrained(name)
        assert hub.requests == []

    def test_a_folder_without_a_model_hides_the_hub(self, repository, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        Path(repository).mkdir(parents=True)
        message = rf"write 'hf://{repository}' \(and '\./{repository}' for the folder\)"
        with pytest.raises(FileNotFoundError, match=message):
            VGGishModel.from_pretrained(repository)


class TestConfigs:
    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ('{"hidden": 16}', "VGGishConfig has no 'hidden'; its fields are conv_channels, "),
            ('{"embedding_activation": "tanh"}', "to be one of 'none', 'relu', got 'tanh'"),
            ("[]", r"Expected a JSON object in '.*config\.json', got list"),
            ("null", r"Expected a JSON object in '.*config\.json', got NoneType"),
            ('{"hidden_size": 16', r"Expected a JSON object in '.*config\.json': "),
            ("", r"Expected a JSON object in '.*config\.json': "),
            ("[" * 100_000, r"Expected a JSON object in '.*config\.json': "),
            (b"\xff\xfe", r"Expected a JSON object in '.*config\.json': "),
        ],
    )
    def test_model(self, content, message, small_model_folder, tmp_path):
        shutil.copytree(small_model_folder, tmp_path, dirs_exist_ok=True)
        content = content if isinstance(content, bytes) else content.encode()
        (tmp_path / "config.json").write_bytes(content)
        with pytest.raises(ValueError, match=message) as error:
            VGGishModel.from_pretrained(tmp_path)
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ('{"hop": 1}', "VGGishFeatureConfig has no 'hop'; its fields are sampling_rate, "),
            ('{"padding": "both"}', "to be one of 'none', 'short', 'tail', got 'both'"),
            (
                '{"feature_extractor_type": "ASTFeatureExtractor"}',
                "config of a VGGishFeatureExtractor in .*, got that of a 'ASTFeatureExtractor'",
            ),
            ("3", "got int"),
        ],
    )
    def test_extractor(self, content, message, tmp_path):
        (tmp_path / "preprocessor_config.json").write_text(content)
        with pytest.raises(ValueError, match=message):
            VGGishFeatureExtractor.from_pretrained(tmp_path)

    def test_a_subclass_reads_what_the_class_wrote_and_back(self, tmp_path):
        class Augmented(VGGishFeatureExtractor):
            pass

        VGGishFeatureExtractor(HALF).save_pretrained(tmp_path)
        loaded = Augmented.from_pretrained(tmp_path)
        assert isinstance(loaded, Augmented)
        loaded.save_pretrained(tmp_path)
        assert VGGishFeatureExtractor.from_pretrained(tmp_path).config == HALF

    def test_a_config_written_by_hand(self, tmp_path):
        (tmp_path / "preprocessor_config.json").write_text('{"padding": "short"}')
        loaded = VGGishFeatureExtractor.from_pretrained(tmp_path)
        assert loaded.config == VGGishFeatureConfig(padding="short")


class TestFetching:
    def test_all_three(self, repository, small_model, cache):
        assert_same(VGGishModel.from_pretrained(repository, cache_dir=cache), small_model)
        extractor = VGGishFeatureExtractor.from_pretrained(repository, cache_dir=cache)
        assert extractor.config == VGGishFeatureConfig()
        pipe = VGGishPipeline.from_pretrained(repository, cache_dir=cache)
        assert_same(pipe.model, small_model)
        assert pipe.provenance("none")["model"] == repository

    @pytest.mark.parametrize(
        ("cls", "files"),
        [
            (VGGishModel, ["config.json", "model.safetensors"]),
            (VGGishFeatureExtractor, ["preprocessor_config.json"]),
            (
                VGGishPipeline,
                ["config.json", "model.safetensors", "preprocessor_config.json"],
            ),
        ],
    )
    def test_each_file_once(self, cls, files, repository, hub, cache):
        cls.from_pretrained(repository, cache_dir=cache)
        assert sorted(fetched(hub)) == files
        hub.requests.clear()
        cls.from_pretrained(repository, cache_dir=cache)
        assert {method for method, _ in hub.requests} == {"HEAD"}  # where the branch is
        hub.requests.clear()
        cls.from_pretrained(repository, cache_dir=cache, force_download=True)
        assert sorted(fetched(hub)) == files

    def test_the_default_cache(self, repository, hub):
        VGGishModel.from_pretrained(repository)
        folder = Path(constants.HF_HUB_CACHE, f"models--{repository.replace('/', '--')}")
        assert list(folder.rglob("model.safetensors"))
        hub.requests.clear()
        VGGishModel.from_pretrained(repository)
        assert fetched(hub) == []

    def test_revisions(self, repository, hub, cache, tmp_path):
        first = hub.repositories["model", repository].branches["main"]
        models = {first: 1, "main": 2, "v1.0": 3, "feature/x": 4}
        for revision, seed in models.items():
            seeded_model(seed).save_pretrained(tmp_path / str(seed))
            if revision != first:
                hub.add(repository, read_folder(tmp_path / str(seed)), revision=revision)
        del models[first]
        load = partial(VGGishModel.from_pretrained, repository, cache_dir=cache)
        assert load(revision=first).config.embedding_size == 128
        for revision, seed in models.items():
            assert_same(load(revision=revision), seeded_model(seed))
        assert_same(load(), seeded_model(2))
        with pytest.raises(RevisionNotFoundError):
            load(revision="gone")

    def test_both_files_are_of_one_commit(self, repository, hub, cache, tmp_path, monkeypatch):
        # Somebody pushes another model while the first file is on its way.
        seeded_model().save_pretrained(tmp_path / "other")
        other = read_folder(tmp_path / "other")
        download = huggingface_hub.hf_hub_download

        def download_then_push(*args, **options):
            path = download(*args, **options)
            hub.add(repository, other)
            return path

        monkeypatch.setattr(huggingface_hub, "hf_hub_download", download_then_push)
        loaded = VGGishModel.from_pretrained(repository, cache_dir=cache)
        assert loaded.config.embedding_size == 8  # wholly the other
        loaded = VGGishModel.from_pretrained(repository, cache_dir=cache)
        assert loaded.config.embedding_size == 8

    def test_a_private_repository(self, hub, small_model_folder, small_model, cache):
        hub.add("org/secret", read_folder(small_model_folder), private=True)
        for token in (None, False):
            with pytest.raises(RepositoryNotFoundError):
                VGGishPipeline.from_pretrained("org/secret", token=token, cache_dir=cache)
        with pytest.raises(HfHubHTTPError, match="Invalid credentials"):
            VGGishModel.from_pretrained("org/secret", token="wrong", cache_dir=cache)
        pipe = VGGishPipeline.from_pretrained("org/secret", token=hub.token, cache_dir=cache)
        assert_same(pipe.model, small_model)

    def test_local_files_only(self, repository, hub, small_model, cache):
        load = partial(VGGishModel.from_pretrained, repository, cache_dir=cache)
        with pytest.raises(LocalEntryNotFoundError):
            load(local_files_only=True)
        assert hub.requests == []
        load()
        hub.requests.clear()
        assert_same(load(local_files_only=True), small_model)
        assert hub.requests == []

    def test_half_a_model_in_the_cache(self, repository, hub, cache):
        load = partial(VGGishModel.from_pretrained, repository, cache_dir=cache)
        load()
        (weights,) = cache.rglob("model.safetensors")
        weights.unlink()
        message = rf"^model\.safetensors of '{repository}' .*: local_files_only=True; load"
        with pytest.raises(LocalEntryNotFoundError, match=message):
            load(local_files_only=True)

    @pytest.mark.parametrize("status", [403, pytest.param(500, marks=pytest.mark.slow)])
    def test_a_bare_status(self, status, repository, hub, cache, monkeypatch):
        def refuse(*_):
            raise hub_server._Refusal(status, "")

        monkeypatch.setattr(hub_server._Handler, "find", refuse)
        message = f"^config.json of '{repository}' .*: {hub.url} answered with status {status}; "
        with pytest.raises(LocalEntryNotFoundError, match=message):
            VGGishModel.from_pretrained(repository, cache_dir=cache)

    @pytest.mark.slow
    def test_offline(self, repository, hub, small_model, cache):
        script = """
            import sys
            from huggingface_hub.errors import LocalEntryNotFoundError
            from vggish_hf import VGGishPipeline
            try:
                pipe = VGGishPipeline.from_pretrained(sys.argv[1], cache_dir=sys.argv[2])
                print(pipe.model.fc2.bias.double().sum().item())
            except LocalEntryNotFoundError as error:
                print(error)
            try:
                VGGishPipeline.from_pretrained("google")
            except FileNotFoundError as error:
                print(error)
        """
        nothing, google = run(script, repository, cache, HF_HUB_OFFLINE="1").splitlines()
        assert f"of '{repository}' is not in the cache" in nothing
        assert "HF_HUB_OFFLINE is set" in nothing
        assert google.startswith("Expected the model 'google' in the cache, there is no '")
        assert "convert vggish_model.ckpt --pca vggish_pca_params.npz -o DIR`" in google
        assert google.count("https://storage.googleapis.com/audioset/vggish_") == 2
        assert "`--model demo`" in google
        VGGishPipeline.from_pretrained(repository, cache_dir=cache)
        hub.requests.clear()
        found, _ = run(script, repository, cache, HF_HUB_OFFLINE="1").splitlines()
        assert float(found) == small_model.fc2.bias.double().sum().item()
        assert hub.requests == []

    def test_no_such_repository(self, cache):
        with pytest.raises(RepositoryNotFoundError):
            VGGishModel.from_pretrained("org/gone", cache_dir=cache)

    @pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
    def test_an_incomplete_repository(self, missing, hub, small_model_folder, cache):
        files = read_folder(small_model_folder) | {"pytorch_model.bin": b"never read"}
        del files[missing]
        repo_id = f"org/without-{missing}"
        hub.add(repo_id, files)
        hub.requests.clear()
        with pytest.raises(EntryNotFoundError) as error:
            VGGishModel.from_pretrained(repo_id, cache_dir=cache)
        assert error.value.__notes__ == [
            f"{repo_id!r} is not a model of vggish-hf: it has no {missing}"
        ]
        assert "pytorch_model.bin" not in fetched(hub)

    def test_a_folder_comes_before_the_hub(self, repository, hub, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        seeded_model().save_pretrained(repository)
        assert_same(VGGishModel.from_pretrained(repository), seeded_model())
        assert hub.requests == []


class TestBuiltinNames:
    def test_a_builtin_name_stands_for_its_folder(self, small_model_folder, monkeypatch):
        asked = []

        def find(local_files_only):
            asked.append(local_files_only)
            return small_model_folder

        monkeypatch.setitem(vggish_hub.BUILTIN_MODELS, "built-in", find)
        assert vggish_hub.find_folder("built-in", ["config.json"]) == small_model_folder
        vggish_hub.find_folder("built-in", [], local_files_only=True)
        assert asked == [False, True]
        with pytest.raises(FileNotFoundError, match=r"has no a\.json, b\.json"):
            vggish_hub.find_folder("built-in", ["a.json", "config.json", "b.json"])


@pytest.mark.usefixtures("as_owner")
class TestPushing:
    def test_model(self, hub, cache):
        address = seeded_model().push_to_hub("tester/model")
        assert address.startswith(f"{hub.url}/tester/model/commit/")
        assert set(hub.files("tester/model")) == {"config.json", "model.safetensors", "README.md"}
        assert_same(VGGishModel.from_pretrained("tester/model", cache_dir=cache), seeded_model())

    def test_extractor(self, hub, cache):
        VGGishFeatureExtractor(HALF).push_to_hub("tester/extractor")
        assert set(hub.files("tester/extractor")) == {"preprocessor_config.json"}
        loaded = VGGishFeatureExtractor.from_pretrained("tester/extractor", cache_dir=cache)
        assert loaded.config == HALF

    def test_pipeline_in_one_commit(self, hub, cache, small_model):
        pipe = VGGishPipeline(VGGishFeatureExtractor(HALF), small_model)
        hub.requests.clear()
        pipe.push_to_hub("tester/pipeline")
        assert sum("/commit/" in path for _, path in hub.requests) == 1
        loaded = VGGishPipeline.from_pretrained("tester/pipeline", cache_dir=cache)
        assert loaded.extractor.config == HALF
        assert_same(loaded.model, small_model)

    # The client's own upload by LFS passes its file to httpx in a deprecated way.
    @pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
    def test_weights_by_lfs(self, hub, cache, monkeypatch):
        monkeypatch.setattr(hub, "lfs", (".safetensors",))
        seeded_model(5).push_to_hub("tester/large")
        assert ("PUT", "/lfs") in hub.requests
        assert_same(VGGishModel.from_pretrained("tester/large", cache_dir=cache), seeded_model(5))

    def test_to_a_branch(self, hub, cache):
        seeded_model(1).push_to_hub("tester/branches")
        for seed in (2, 3):  # to a new branch, and to the same
            seeded_model(seed).push_to_hub("tester/branches", revision="feature/x")
        load = partial(VGGishModel.from_pretrained, "tester/branches", cache_dir=cache)
        assert_same(load(), seeded_model(1))
        assert_same(load(revision="feature/x"), seeded_model(3))

    def test_a_first_push_to_a_branch(self, hub):
        VGGishFeatureExtractor(HALF).push_to_hub("tester/unborn", revision="dev")
        assert hub.files("tester/unborn") == {}
        assert set(hub.files("tester/unborn", "dev")) == {"preprocessor_config.json"}

    def test_options(self, hub, monkeypatch):
        monkeypatch.delenv("HF_TOKEN")
        seeded_model().push_to_hub("options", private=True, commit_message="Try", token=hub.token)
        assert hub.repositories["model", "tester/options"].private
        with pytest.raises(RepositoryNotFoundError):
            VGGishModel.from_pretrained("tester/options", token=False)

    @pytest.mark.parametrize("cls", [VGGishModel, VGGishFeatureExtractor, VGGishPipeline])
    def test_an_unknown_option(self, cls, hub, small_model_folder):
        parts = cls.from_pretrained(small_model_folder)
        with pytest.raises(TypeError, match=r"among revision, .*, got 'branch'"):
            parts.push_to_hub("tester/unknown", branch="feature/x")
        assert ("model", "tester/unknown") not in hub.repositories

    def test_without_a_network(self, small_model_folder):
        script = """
            import sys
            from vggish_hf import hub
            try:
                hub.push_folder(sys.argv[1], "tester/nowhere")
            except OSError as error:
                print(error)
        """
        nowhere = "http://127.0.0.1:9"
        said = run(script, small_model_folder, HF_ENDPOINT=nowhere)
        assert said.startswith(f"{nowhere} cannot be reached, nothing was uploaded to 'tester/now")

    def test_needs_the_token(self, hub, monkeypatch):
        monkeypatch.delenv("HF_TOKEN")
        with pytest.raises(HfHubHTTPError, match="401"):
            VGGishFeatureExtractor().push_to_hub("tester/refused")

    def test_a_card_that_somebody_wrote_stays(self, hub):
        hub.add("tester/card", {"README.md": b"# Mine"})
        seeded_model().push_to_hub("tester/card")
        assert hub.files("tester/card")["README.md"] == b"# Mine"
        assert "model.safetensors" in hub.files("tester/card")

    def test_a_folder_brings_its_card_and_no_other_files(self, hub, small_model_folder, tmp_path):
        shutil.copytree(small_model_folder, tmp_path, dirs_exist_ok=True)
        (tmp_path / "README.md").write_text("# New")
        (tmp_path / "notes.txt").write_text("mine")
        (tmp_path / "optimizer.pt").write_bytes(b"0")
        hub.add("tester/folder", {"README.md": b"# Old"})
        vggish_hub.push_folder(tmp_path, "tester/folder")
        found = hub.files("tester/folder")
        assert found == read_folder(small_model_folder) | {"README.md": b"# New"}

    def test_by_saving(self, hub, tmp_path):
        folder = tmp_path / "saved"
        assert seeded_model().save_pretrained(folder) is None
        address = seeded_model().save_pretrained(folder, push_to_hub=True, repo_id="tester/both")
        assert "/tester/both/commit/" in address
        assert hub.files("tester/both") == read_folder(folder)
        seeded_model().save_pretrained(folder, push_to_hub=True, revision="dev")
        assert hub.files("tester/saved", "dev") == read_folder(folder)


@pytest.mark.slow
def test_importing_the_package_imports_no_hub(small_model_folder):
    script = """
        import sys
        import vggish_hf.hub, vggish_hf.modeling, vggish_hf.conversion
        vggish_hf.VGGishPipeline.from_pretrained(sys.argv[1])
        vggish_hf.VGGishPipeline.from_pretrained("demo")
        print([name for name in sys.modules if name.startswith(("huggingface_hub", "httpx"))])
    """
    assert run(script, small_model_folder) == "[]"


class TestCard:
    @pytest.mark.slow
    def test_needs_no_jinja(self, tmp_path):
        script = """
            import sys
            sys.modules["jinja2"] = None
            from vggish_hf import VGGishConfig, VGGishModel
            config = VGGishConfig(conv_channels=(4, 4, 8, 8, 8, 8), hidden_size=16)
            VGGishModel(config).save_pretrained(sys.argv[1])
        """
        run(script, tmp_path)
        card = (tmp_path / "README.md").read_text()
        assert card.startswith("---\nlibrary_name: vggish-hf\npipeline_tag: feature-extraction\n")
        assert "hidden_size=16" in card
        assert "VGGishModel.from_pretrained(" in card

    def test_an_existing_card_is_kept(self, tmp_path, small_model):
        (tmp_path / "README.md").write_text("# Mine")
        VGGishPipeline(VGGishFeatureExtractor(), small_model).save_pretrained(tmp_path)
        assert (tmp_path / "README.md").read_text() == "# Mine"
