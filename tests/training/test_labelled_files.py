import csv
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from folders import TESTS

from vggish_hf.training.labelled_files import LabelledFile, read_folder, read_table

AUDIO = TESTS / "data" / "audio_cases"
SPEECH = AUDIO / "harritaylor__test.wav"


def put(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(SPEECH, path)


def write_csv(path, rows, columns=("path", "label")):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)
    return path


def write_parquet(table, /, **columns):
    pq.write_table(pa.table(columns), table)
    return table


def test_folder(tmp_path):
    put(tmp_path, "rain/b.WAV", "rain/deep/er/a.flac", "Dog bark/2-x.ogg", "Dog bark/1-x.mp3")
    (tmp_path / "rain" / "notes.txt").write_text("no audio")
    (tmp_path / "README.md").write_text("no class")
    put(tmp_path, ".cache/x.wav")
    files = read_folder(tmp_path)
    assert [(file.id, file.labels, file.fold) for file in files] == [
        ("Dog bark/1-x.mp3", ("Dog bark",), None),
        ("Dog bark/2-x.ogg", ("Dog bark",), None),
        ("rain/b.WAV", ("rain",), None),
        ("rain/deep/er/a.flac", ("rain",), None),
    ]
    assert all(file.path == tmp_path / file.id for file in files)


def test_esc10(shared):
    files = read_folder(shared / "data" / "esc10", r"^(\d)-")
    assert len(files) == 320
    assert {file.fold for file in files} == {"1", "2", "3", "4"}
    assert len({file.labels for file in files}) == 10
    assert files[0] == LabelledFile(
        id="001 - Dog bark/1-100032-A.ogg",
        path=shared / "data/esc10/001 - Dog bark/1-100032-A.ogg",
        labels=("001 - Dog bark",),
        fold="1",
    )


def test_folder_without_classes(tmp_path):
    put(tmp_path, "a.wav")
    with pytest.raises(ValueError, match=r"Expected a folder for each class in .* none"):
        read_folder(tmp_path)
    (tmp_path / "rain").mkdir()
    with pytest.raises(ValueError, match="rain' names none"):
        read_folder(tmp_path)


def test_fold_patterns(tmp_path):
    put(tmp_path, "rain/fold3_a.wav", "dog/fold12_b.wav")
    files = read_folder(tmp_path, r"fold(\d+)_")
    assert {file.id: file.fold for file in files} == {
        "dog/fold12_b.wav": "12",
        "rain/fold3_a.wav": "3",
    }
    with pytest.raises(ValueError, match=r"in the name of each file, got 'dog/fold12_b\.wav'"):
        read_folder(tmp_path, r"^(\d)-")
    for pattern in (r"fold\d", r"(fold)(\d)"):
        with pytest.raises(ValueError, match="Expected a fold pattern with one group"):
            read_folder(tmp_path, pattern)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_table(tmp_path, kind):
    put(tmp_path, "audio/a.wav", "audio/b.wav")
    if kind == "csv":
        rows = [["audio/b.wav", "rain", "2", "x"], ["./audio/a.wav", " dog ", "1", "y"]]
        table = write_csv(tmp_path / "t.csv", rows, ["path", "label", "fold", "note"])
    else:
        table = write_parquet(
            tmp_path / "t.parquet",
            path=["audio/b.wav", "./audio/a.wav"],
            note=["x", "y"],
            label=["rain", "dog"],
            fold=[2, 1],
        )
    files, is_multi_label = read_table(table)
    assert not is_multi_label
    assert files == [
        LabelledFile("audio/b.wav", tmp_path / "audio/b.wav", ("rain",), "2"),
        LabelledFile("audio/a.wav", tmp_path / "audio/a.wav", ("dog",), "1"),
    ]
    by_name, _ = read_table(table, r"^(\w)\.wav")  # goes before the column
    assert [file.fold for file in by_name] == ["b", "a"]


def test_table_of_several_labels(tmp_path):
    put(tmp_path, "a.wav", "b.wav")
    files, is_multi_label = read_table(
        write_csv(tmp_path / "t.csv", [["a.wav", "dog"], ["b.wav", "rain; dog;rain"]])
    )
    assert is_multi_label
    assert [file.labels for file in files] == [("dog",), ("rain", "dog")]


def test_table_of_lists(tmp_path):
    put(tmp_path, "a.wav", "b.wav")
    label = pa.array([["a;b"], []], pa.list_(pa.string()))
    table = write_parquet(tmp_path / "t.parquet", path=["a.wav", "b.wav"], label=label)
    files, is_multi_label = read_table(table)
    assert is_multi_label
    assert [file.labels for file in files] == [("a;b",), ()]


def test_table_of_a_spreadsheet(tmp_path):
    put(tmp_path, "a.wav")
    table = tmp_path / "t.csv"
    table.write_text("\ufeffpath,label\r\na.wav,dog\r\n", encoding="utf-8")
    assert read_table(table)[0][0].labels == ("dog",)


@pytest.mark.parametrize(
    ("row", "match"),
    [
        (["b.wav", ""], r"Expected a label, .* in row 2 of '.*t\.csv', got ''"),
        (["b.wav", "x;"], "Expected a label, .* got 'x;'"),
        (["b.wav"], "Expected a label, .* got None"),
        (["", "x"], "Expected a path in row 2 of .* got ''"),
        (["/etc/passwd", "x"], "inside the table's folder in row 2 .* got '/etc/passwd'"),
        (["d/../../b.wav", "x"], "inside the table's folder"),
        (["./a.wav", "x"], r"Expected each path once in .* got 'a\.wav' 2 times"),
    ],
)
def test_rows_that_are_refused(tmp_path, row, match):
    put(tmp_path, "a.wav", "b.wav")
    with pytest.raises(ValueError, match=match):
        read_table(write_csv(tmp_path / "t.csv", [["a.wav", "dog"], row]))


def test_a_file_that_is_missing(tmp_path):
    table = write_csv(tmp_path / "t.csv", [["a.wav", "dog"]])
    with pytest.raises(FileNotFoundError, match=r"file of row 1 of .* none at '.*a\.wav'"):
        read_table(table)


def test_columns_that_are_missing(tmp_path):
    put(tmp_path, "a.wav")
    with pytest.raises(ValueError, match=r"path and label .* got \['class', 'path'\]"):
        read_table(write_csv(tmp_path / "t.csv", [["a.wav", "dog"]], ["path", "class"]))
    with pytest.raises(ValueError, match=r"path and label .* got no rows"):
        read_table(write_csv(tmp_path / "t.csv", []))
    with pytest.raises(ValueError, match=r"path and label .* got \['path'\]"):
        read_table(write_parquet(tmp_path / "t.parquet", path=["a.wav"], other=["dog"]))
