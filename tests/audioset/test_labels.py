import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from folders import SHARED

from vggish_hf.audioset.labels import AudioSetClass, AudioSetLabels, Ontology

AUDIOSET = SHARED / "data" / "audioset"
needs_shared = pytest.mark.skipif(
    not AUDIOSET.is_dir(), reason="needs AudioSet's own files in ../shared/data/audioset"
)

LABELS = AudioSetLabels()
WHALE = AudioSetClass(136, "/m/032n05", "Whale vocalization")


@needs_shared
def test_bundled_table_is_audiosets():
    with open(AUDIOSET / "class_labels_indices.csv", newline="") as file:
        rows = [(int(r["index"]), r["mid"], r["display_name"]) for r in csv.DictReader(file)]
    assert [(c.index, c.mid, c.name) for c in LABELS.classes] == rows
    assert len(LABELS) == len(rows) == 527


@pytest.mark.parametrize(
    "key", [136, np.int64(136), torch.tensor(136), WHALE.mid, WHALE.name, WHALE]
)
def test_find(key):
    assert LABELS.find(key) == WHALE


def test_every_class_is_found_each_way():
    for found in LABELS.classes:
        assert LABELS.find(found.index) is LABELS.find(found.mid) is LABELS.find(found.name)


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("Whale vocalisation", r"got 'Whale vocalisation'; did you mean 'Whale vocalization'\?"),
        ("SPEECH", r"did you mean 'Speech'"),
        ("qqq", r"the mid or the name of a class, got 'qqq'$"),
        (527, "the index of a class, 0 to 526, got 527"),
        (-1, "the index of a class, 0 to 526, got -1"),
        (AudioSetClass(0, "/m/other", "Other"), "got '/m/other'"),
    ],
)
def test_find_nothing(key, reason):
    with pytest.raises(ValueError, match=reason):
        LABELS.find(key)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64, torch.bool])
def test_encode(dtype):
    target = LABELS.encode(["Speech", "/m/032n05", 526, WHALE], dtype)
    assert target.shape == (527,)
    assert target.dtype == dtype
    assert target.nonzero().flatten().tolist() == [0, 136, 526]
    assert target.to(torch.int64).max() == 1


def test_encode_batch():
    target = LABELS.encode_batch([["Speech"], [], [WHALE, 0]])
    assert target.dtype == torch.float32
    assert target.nonzero().tolist() == [[0, 0], [2, 0], [2, 136]]
    assert LABELS.encode_batch([]).shape == (0, 527)
    assert torch.equal(LABELS.encode([]), torch.zeros(527))


def test_encode_one_label_outside_of_a_list():
    with pytest.raises(ValueError, match="a list of labels per clip, got 'Speech'"):
        LABELS.encode("Speech")
    with pytest.raises(ValueError, match="a list of labels per clip, got 'Speech'"):
        LABELS.encode_batch(["Speech"])


def test_decode():
    indices = [5, 0, 136]
    for dtype in (torch.float32, torch.int64, torch.bool):
        decoded = LABELS.decode(LABELS.encode(indices, dtype))
        assert [found.index for found in decoded] == sorted(indices)
    scores = torch.linspace(0, 1, 527)
    assert [found.index for found in LABELS.decode(scores, threshold=1.0)] == [526]
    assert LABELS.decode(scores, threshold=1.1) == []


@pytest.mark.parametrize("shape", [(1, 527), (526,), ()])
def test_decode_of_another_shape(shape):
    with pytest.raises(ValueError, match=r"`scores` of shape \(527,\), got .*; decode a batch row"):
        LABELS.decode(torch.zeros(shape))


def test_table_of_ones_own(tmp_path):
    path = tmp_path / "classes.csv"
    path.write_text('index,mid,display_name\r\n0,/x/a,"One, two"\r\n1,/x/b,Três\r\n', "utf-8")
    labels = AudioSetLabels(path)
    assert len(labels) == 2
    assert labels.find("One, two").mid == "/x/a"
    assert labels.encode(["Três"]).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", r"columns index, mid and display_name, got \[\]"),
        ("mid,name\n/x/a,One\n", r"columns index, mid and display_name, got \['mid', 'name'\]"),
        ("index,mid,display_name\n1,/x/a,One\n", "index 0, a mid and a name in line 2 of"),
        ("index,mid,display_name\n0,/x/a,One\n\n", r"index 1, .* in line 3 .* got \[\]"),
        ("index,mid,display_name\n0,/x/a,One,1\n", "index 0, a mid and a name"),
        (
            "index,mid,display_name\n0,/x/a,One\n1,/x/b,One\n",
            ", got 'One' again",
        ),
    ],
)
def test_table_laid_out_otherwise(text, reason, tmp_path):
    path = tmp_path / "classes.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=reason):
        AudioSetLabels(path)


# The ontology.


def write_ontology(path: Path, *entries: dict) -> Path:
    path.write_text(json.dumps(entries))
    return path


def entry(mid: str, name: str, *children: str, restrictions=()) -> dict:
    return {
        "id": mid,
        "name": name,
        "child_ids": children,
        "restrictions": restrictions,
        "description": "",
    }


def test_ontology(tmp_path):
    ontology = Ontology(
        write_ontology(
            tmp_path / "ontology.json",
            entry("/x/root", "Things", "/x/bell", "/x/bike", restrictions=["abstract"]),
            entry("/x/bell", "Bell", "/x/ring"),
            entry("/x/bike", "Bicycle", "/x/ring"),
            entry("/x/ring", "Bicycle bell", restrictions=["blacklist"]),
        )
    )
    assert list(ontology.nodes) == ["/x/root", "/x/bell", "/x/bike", "/x/ring"]
    root, ring = ontology.find("Things"), ontology.find("/x/ring")
    assert root.children == ("/x/bell", "/x/bike")
    assert root.parents == ring.children == ()
    assert root.restrictions == {"abstract"}
    assert ring.parents == ("/x/bell", "/x/bike")
    assert ring.restrictions == {"blacklist"}
    with pytest.raises(ValueError, match=r"got 'bycicle bell'; did you mean 'Bicycle bell'"):
        ontology.find("bycicle bell")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            '[{"id": "/x/a", "name": "A"}]',
            r"to be AudioSet's ontology, but KeyError\('child_ids'\)",
        ),
        ('{"id": "/x/a"}', "to be AudioSet's ontology, but TypeError"),
        (
            '[{"id": "/x/a", "name": "A", "child_ids": ["/x/b"], "restrictions": []}]',
            r"to be AudioSet's ontology, but KeyError\('/x/b'\)",
        ),
        ("", "Expecting value"),
    ],
)
def test_ontology_laid_out_otherwise(text, reason, tmp_path):
    path = tmp_path / "ontology.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=reason):
        Ontology(path)


@needs_shared
def test_audiosets_ontology():
    ontology = Ontology(AUDIOSET / "ontology.json")
    assert len(ontology.nodes) == 632
    tops = [node.name for node in ontology.nodes.values() if not node.parents]
    assert tops == [
        "Human sounds",
        "Animal",
        "Music",
        "Natural sounds",
        "Sounds of things",
        "Source-ambiguous sounds",
        "Channel, environment and background",
    ]
    parents = [ontology.find(mid).name for mid in ontology.find("Cowbell").parents]
    assert parents == ["Cattle, bovinae", "Percussion", "Bell"]
    for found in LABELS.classes:
        node = ontology.find(found.mid)
        assert node.name == found.name
        assert "abstract" not in node.restrictions


def test_descendants(tmp_path):
    """Each once, at any depth, and without the class itself even where the file goes round."""
    classes = {"a": "bc", "b": "d", "c": "de", "d": "", "e": "a"}
    entries = [entry(mid, mid.upper(), *children) for mid, children in classes.items()]
    ontology = Ontology(write_ontology(tmp_path / "ontology.json", *entries))
    assert list(ontology.descendants("a")) == ["b", "c", "d", "e"]
    assert list(ontology.descendants("C")) == ["d", "e", "a", "b"]
    assert ontology.descendants("d") == {}
    assert ontology.descendants("a")["e"] is ontology.nodes["e"]
    with pytest.raises(ValueError, match="Expected the mid or the name of a class, got 'x'"):
        ontology.descendants("x")


@needs_shared
def test_descendants_of_music():
    music = Ontology(AUDIOSET / "ontology.json").descendants("Music")
    names = {node.name for node in music.values()}
    assert {"Cowbell", "Guitar", "Jazz"} < names
    assert not {"Music", "Speech", "Dog"} & names


@pytest.mark.slow
def test_import_stays_light():
    code = (
        "import sys, vggish_hf.audioset.labels, vggish_hf.audioset.released.records\n"
        "print({'datasets', 'lightning', 'tensorflow', 'torchaudio'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("set()\n", "")
