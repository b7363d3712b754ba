import csv
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from folders import TESTS

from vggish_hf.training.labelled_files import (
    LabelledFile,
    TableLayout,
    read_folder,
    read_table,
)

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


def test_litter_is_no_class_and_no_clip(tmp_path):
    put(tmp_path, "dog/a.wav", "dog/._a.wav", "dog/.ipynb_checkpoints/a-checkpoint.wav")
    put(tmp_path, "rain/deep/b.wav", "rain/__MACOSX/b.wav", "__MACOSX/dog/a.wav")
    (tmp_path / "rain" / ".DS_Store").touch()
    assert [file.id for file in read_folder(tmp_path)] == ["dog/a.wav", "rain/deep/b.wav"]


def test_table_of_esc50(tmp_path):
    put(tmp_path, "ESC-50/audio/1-100032-A-0.wav")
    (tmp_path / "ESC-50/meta").mkdir()
    header = ["filename", "fold", "target", "category", "esc10", "src_file", "take"]
    row = ["1-100032-A-0.wav", "1", "0", "dog", "True", "100032", "A"]
    table = write_csv(tmp_path / "ESC-50/meta/esc50.csv", [row], header)
    audio = str(tmp_path / "ESC-50/audio")
    layout = TableLayout("filename", "category", audio_folder=audio)
    files, _ = read_table(table, layout=layout)
    path = tmp_path / "ESC-50/audio/1-100032-A-0.wav"
    assert files == [LabelledFile("1-100032-A-0.wav", path, ("dog",), "1")]
    with pytest.raises(FileNotFoundError, match="pass the folder of the paths as `audio_folder`"):
        read_table(table, layout=TableLayout("filename", "category"))
    with pytest.raises(ValueError, match="name its columns by `path_column`"):
        read_table(table)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_table_of_urbansound8k(tmp_path, kind):
    put(tmp_path, "audio/fold5/100032-3-0-0.wav", "audio/fold6/100032-3-0-0.wav")
    names = ["slice_file_name", "fold", "class"]
    rows = [["100032-3-0-0.wav", 5, "dog_bark"], ["100032-3-0-0.wav", 6, "siren"]]
    if kind == "csv":
        table = write_csv(tmp_path / "UrbanSound8K.csv", rows, names)
    else:
        columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
        table = write_parquet(tmp_path / "UrbanSound8K.parquet", **columns)
    layout = TableLayout(
        "slice_file_name", "class", audio_folder=str(tmp_path / "audio" / "fold{fold}")
    )
    files, _ = read_table(table, layout=layout)
    assert [(file.id, file.labels, file.fold) for file in files] == [
        ("fold5/100032-3-0-0.wav", ("dog_bark",), "5"),
        ("fold6/100032-3-0-0.wav", ("siren",), "6"),
    ]
    assert files[1].path == tmp_path / "audio/fold6/100032-3-0-0.wav"


def test_a_column_in_the_path_cannot_lead_elsewhere(tmp_path):
    put(tmp_path, "x.wav", "audio/fold1/x.wav")
    for fold in ("1/../..", "/../.."):
        table = write_csv(tmp_path / "t.csv", [["x.wav", "dog", fold]], ["path", "label", "fold"])
        layout = TableLayout(audio_folder=str(tmp_path / "audio" / "fold{fold}"))
        with pytest.raises(ValueError, match="inside the table's folder"):
            read_table(table, layout=layout)


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
    with pytest.raises(ValueError, match=r"Expected one sub-folder per class in .* none"):
        read_folder(tmp_path)
    (tmp_path / "rain").mkdir()
    with pytest.raises(ValueError, match=r"found none in .*rain'"):
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
    with pytest.raises(FileNotFoundError, match=r"No file at '.*a\.wav' for row 1"):
        read_table(table)


def test_columns_that_are_missing(tmp_path):
    put(tmp_path, "a.wav")
    with pytest.raises(ValueError, match=r"path and label .* got \['class', 'path'\]"):
        read_table(write_csv(tmp_path / "t.csv", [["a.wav", "dog"]], ["path", "class"]))
    with pytest.raises(ValueError, match=r"path and label .* got no rows"):
        read_table(write_csv(tmp_path / "t.csv", []))
    with pytest.raises(ValueError, match=r"path and label .* got \['other', 'path'\]"):
        read_table(write_parquet(tmp_path / "t.parquet", path=["a.wav"], other=["dog"]))
