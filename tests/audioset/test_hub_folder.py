import json
import weakref

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub.errors import HfHubHTTPError

from vggish_hf.audioset.hub_folder import (
    FinishedShard,
    SplitWriter,
    add_to_card,
    push_config,
    unfinished_file,
)

SCHEMA = pa.schema([("x", pa.int64())], metadata={"huggingface": "features"})
CARD = """\
---
license: cc-by-4.0
configs:
- config_name: clips
  data_files: clips/*.parquet
---

# A title

A text.
"""


def table(*values):
    return pa.table({"x": pa.array(values, pa.int64())}, SCHEMA)


def make(folder, shards=1, split="train", made_from="a", schema=SCHEMA):
    return SplitWriter(folder, "numbers", split, schema, shards, {"source": made_from})


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


class TestSplitWriter:
    def test_writes(self, tmp_path):
        writer = make(tmp_path / "new", shards=2)
        assert writer.finished == {}
        expected = FinishedShard(3, {"skipped": 1})
        assert writer.write(1, [table(1, 2), table(3)], {"skipped": 1}) == expected
        assert writer.finished == {1: expected}
        assert files(tmp_path / "new") == {"numbers/train-00001-of-00002.parquet"}
        (path,) = (tmp_path / "new" / "numbers").iterdir()
        with pq.ParquetFile(path) as file:
            assert file.num_row_groups == 2
            assert file.read() == table(1, 2, 3)
            metadata = file.schema_arrow.metadata
        assert metadata[b"huggingface"] == b"features"
        assert json.loads(metadata[b"vggish_hf"]) == {"source": "a"}

    def test_an_empty_shard(self, tmp_path):
        assert make(tmp_path).write(0, []) == FinishedShard(0, {})
        assert pq.read_table(tmp_path / "numbers").schema == SCHEMA

    def test_a_later_run_finds_what_is_finished(self, tmp_path):
        make(tmp_path, 3).write(1, [table(7)], {"skipped": 2})
        assert make(tmp_path, 3).finished == {1: FinishedShard(1, {"skipped": 2})}

    def test_notes_are_read_at_the_end(self, tmp_path):
        notes = {}

        def tables():
            yield table(1)
            notes["skipped"] = 5

        assert make(tmp_path).write(0, tables(), notes).notes == {"skipped": 5}

    def test_an_error_leaves_nothing(self, tmp_path):
        def tables():
            yield table(1)
            raise ValueError("damaged")

        with pytest.raises(ValueError, match="damaged"):
            make(tmp_path).write(0, tables())
        assert files(tmp_path) == set()
        assert make(tmp_path).finished == {}

    def test_holds_no_table_but_the_latest(self, tmp_path):
        seen = []

        def tables():
            for value in range(6):
                assert [reference() for reference in seen[:-1]] == [None] * len(seen[:-1])
                made = table(value)
                seen.append(weakref.ref(made))
                yield made
                del made

        assert make(tmp_path).write(0, tables()).rows == 6

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                {"made_from": "b"},
                r"'vggish_hf': {\"source\": \"a\"} instead of {\"source\": \"b\"}",
            ),
            (
                {"schema": SCHEMA.with_metadata({"huggingface": "others" * 99})},
                r"'huggingface': features instead of othersothers\w*\.\.\.$",
            ),
            ({"shards": 3}, r"but 3 of this export, got train-00000-of-00002.parquet; delete"),
        ],
    )
    def test_shards_of_something_else_do_not_mix(self, tmp_path, change, message):
        make(tmp_path, 2).write(0, [table(1)])
        with pytest.raises(ValueError, match=message):
            make(tmp_path, **{"shards": 2, **change})
        assert make(tmp_path, 2).finished.keys() == {0}

    def test_a_file_that_is_no_parquet(self, tmp_path):
        path = tmp_path / "numbers" / "train-00000-of-00001.parquet"
        path.parent.mkdir()
        path.write_bytes(b"PAR1 and no more")
        with pytest.raises(ValueError, match=f"{path} is not a complete Parquet file: "):
            make(tmp_path)

    def test_splits_whose_names_end_alike(self, tmp_path):
        make(tmp_path, 1, "bal_train").write(0, [table(1)])
        make(tmp_path, 2, "unbal_train").write(0, [table(2)])
        assert make(tmp_path, 1, "bal_train").finished[0].rows == 1

    def test_columns_of_another_kind(self, tmp_path):
        with pytest.raises(ValueError, match="schema"):
            make(tmp_path).write(0, [pa.table({"y": [1]})])
        assert files(tmp_path) == set()


class TestUnfinishedFile:
    def test_what_a_killed_process_left_is_deleted(self, tmp_path):
        path = tmp_path / "a.parquet"
        left = tmp_path / ".a.parquet.123.unfinished"
        other = tmp_path / ".aa.parquet.123.unfinished"
        left.touch()
        other.touch()
        with unfinished_file(path) as unfinished:
            assert not path.exists()
            unfinished.write_text("whole")
        assert {entry.name for entry in tmp_path.iterdir()} == {path.name, other.name}
        assert path.read_text() == "whole"

    def test_an_error_keeps_the_old_file(self, tmp_path):
        path = tmp_path / "a"
        path.write_text("old")

        def fail():
            with unfinished_file(path) as unfinished:
                unfinished.write_text("new")
                raise KeyError

        with pytest.raises(KeyError):
            fail()
        assert files(tmp_path) == {"a"}
        assert path.read_text() == "old"


class TestCard:
    def test_a_new_card(self, tmp_path):
        add_to_card(tmp_path, "numbers", ["a", "b"], "## Numbers\n")
        assert (tmp_path / "README.md").read_text() == (
            "---\nconfigs:\n- config_name: numbers\n  data_files:\n"
            "  - split: a\n    path: numbers/a-*.parquet\n"
            "  - split: b\n    path: numbers/b-*.parquet\n"
            "---\n## Numbers\n"
        )

    def test_another_split_and_another_configuration(self, tmp_path):
        add_to_card(tmp_path, "numbers", ["a"], "## Numbers")
        add_to_card(tmp_path, "letters", ["a"], "## Letters")
        add_to_card(tmp_path, "numbers", ["b", "a"], "## Numbers")
        text = (tmp_path / "README.md").read_text()
        assert text.count("config_name") == 2
        assert text.count("split: ") == 3
        assert text.endswith("---\n## Numbers\n\n## Letters\n")
        before = text
        add_to_card(tmp_path, "numbers", ["a", "b"], "## Numbers")
        assert (tmp_path / "README.md").read_text() == before

    def test_what_somebody_wrote_stays(self, tmp_path):
        path = tmp_path / "README.md"
        path.write_text(CARD)
        add_to_card(tmp_path, "numbers", ["a"], "About.")
        head, front, body = path.read_text().split("---\n")
        assert (head, body) == ("", "# A title\n\nA text.\n\nAbout.\n")
        assert front.startswith(CARD.split("---\n")[1])
        assert front.endswith(
            "- config_name: numbers\n  data_files:\n  - split: a\n    path: numbers/a-*.parquet\n"
        )

    def test_a_card_without_front_matter(self, tmp_path):
        (tmp_path / "README.md").write_text("# A title\n")
        add_to_card(tmp_path, "numbers", ["a"])
        assert (tmp_path / "README.md").read_text().endswith("---\n# A title\n")

    def test_another_layout_of_the_same_configuration(self, tmp_path):
        (tmp_path / "README.md").write_text(CARD)
        with pytest.raises(ValueError, match="`split` and `path` in the `data_files` of 'clips'"):
            add_to_card(tmp_path, "clips", ["a"])
        assert (tmp_path / "README.md").read_text() == CARD


# The client's own upload by LFS passes its file to httpx in a deprecated way.
@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
class TestPush:
    @pytest.fixture
    def folder(self, tmp_path):
        for split in ("a", "b"):
            make(tmp_path, 1, split).write(0, [table(1)])
        add_to_card(tmp_path, "numbers", ["a", "b"], "About.")
        (tmp_path / "private.txt").write_text("not to be uploaded")
        return tmp_path

    @pytest.fixture(autouse=True)
    def parquet_goes_by_lfs(self, hub, monkeypatch):
        monkeypatch.setattr(hub, "lfs", (".parquet",))

    @staticmethod
    def contents(folder):
        names = files(folder) - {"private.txt"}
        return {name: (folder / name).read_bytes() for name in names}

    def test_a_new_repository(self, hub, folder):
        url = push_config(folder, "numbers", "org/new-numbers", private=True, token=hub.token)
        assert url.startswith(f"{hub.url}/datasets/org/new-numbers/commit/")
        assert hub.repositories["dataset", "org/new-numbers"].private
        assert hub.files("org/new-numbers", repo_type="dataset") == self.contents(folder)

    def test_what_a_repository_has_stays(self, hub, folder):
        card = CARD.replace("clips/*.parquet", "clips/*.parquet  # a comment")
        before = {
            "README.md": card.encode(),
            "clips/a-00000-of-00001.parquet": b"clips",
            "numbers/a-00000-of-00002.parquet": b"old",
            "numbers/a-00001-of-00002.parquet": b"old",
            "numbers/c-00000-of-00001.parquet": b"another split",
        }
        hub.add("org/old-numbers", before, repo_type="dataset")
        push_config(folder, "numbers", "org/old-numbers", token=hub.token)
        found = hub.files("org/old-numbers", repo_type="dataset")
        expected = self.contents(folder)
        for name in ("clips/a-00000-of-00001.parquet", "numbers/c-00000-of-00001.parquet"):
            expected[name] = before[name]
        text = found.pop("README.md").decode()
        del expected["README.md"]
        assert found == expected
        assert "About." not in text
        assert text.endswith("\n# A title\n\nA text.\n")
        assert "license: cc-by-4.0\n" in text
        assert text.count("config_name: ") == 2
        push_config(folder, "numbers", "org/old-numbers", token=hub.token)
        assert hub.files("org/old-numbers", repo_type="dataset")["README.md"].decode() == text

    def test_a_branch(self, hub, folder):
        hub.add("org/branch-numbers", {"a": b"1"}, repo_type="dataset")
        push_config(folder, "numbers", "org/branch-numbers", revision="dev", token=hub.token)
        assert hub.files("org/branch-numbers", repo_type="dataset") == {"a": b"1"}
        found = hub.files("org/branch-numbers", "dev", repo_type="dataset")
        assert found == {"a": b"1", **self.contents(folder)}

    def test_an_unfinished_export(self, hub, tmp_path):
        make(tmp_path, 1, "a").write(0, [table(1)])
        with pytest.raises(ValueError, match=r"README.md to list 'numbers'; finish the export"):
            push_config(tmp_path, "numbers", "org/no-numbers", token=hub.token)
        assert ("dataset", "org/no-numbers") not in hub.repositories

    def test_without_a_token(self, folder):
        with pytest.raises(HfHubHTTPError, match="401"):
            push_config(folder, "numbers", "org/no-numbers")
