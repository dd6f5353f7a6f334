import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melfed.common.data.tables.text_files import TextFile
from melfed.common.errors import DataError
from tests.common.lesions import read_rows, write

LINES = [["image", "target", "source"], ["a", "1", "Zürich, Süd"], ["b", "0", 'the "old" one']]


def as_text(separator: str, ending: str = "\n") -> str:
    def cell(text: str) -> str:
        return '"' + text.replace('"', '""') + '"' if any(sign in text for sign in (separator, '"')) else text

    return ending.join(separator.join(cell(text) for text in line) for line in LINES) + ending


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-16-le", "cp1252", "utf-32"])
def test_tables_of_every_program(tmp_path, separator, ending, encoding):
    path = tmp_path / "t.csv"
    path.write_bytes(as_text(separator, ending).encode(encoding))
    records = read_rows([path])[1]
    assert [(r.image, r.target, r.source) for r in records] == [("a", 1, "Zürich, Süd"), ("b", 0, 'the "old" one')]


@pytest.mark.parametrize("first", ["sep=;", '"sep=;"', "SEP=;", "\n\nsep=;"])
def test_the_line_that_names_the_separator(tmp_path, first):
    path = tmp_path / "t.csv"
    path.write_text(f"{first}\n{as_text(';')}", encoding="utf-8")
    assert len(read_rows([path])[1]) == 2


def test_one_line_in_another_encoding_changes_no_other(tmp_path):
    path = tmp_path / "t.csv"
    lines = [b"image,target,source", "a,0,Zürich".encode(), "b,0,Zürich".encode("cp1252"), "c,0,Łódź".encode()]
    path.write_bytes(b"\n".join(lines))
    assert [record.source for record in read_rows([path])[1]] == ["Zürich", "Zürich", "Łódź"]


def test_places_are_those_of_a_text_editor(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('sep=,\n\nimage,target,site\na,0,"two\nlines"\n\nb,2,x\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"t.csv, line 7: target is '2'"):
        read_rows([path])


def test_too_many_cells_are_named_and_trailing_separators_are_none(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("image,target\na,0,,\nb,1,\n", encoding="utf-8")
    assert len(read_rows([path])[1]) == 2
    path.write_text("image,target\na,0\nb,1,x,y\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"t.csv, line 3: 4 cells below 2 columns"):
        read_rows([path])


def test_stray_quotes_are_letters(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('image,target,source\na,0,5" scar\nb,1,x\n', encoding="utf-8")
    assert [record.source for record in read_rows([path])[1]] == ['5" scar', "x"]


CELLS = st.text(st.characters(exclude_characters='\r\n",\0', exclude_categories=["Cs"]), min_size=1, max_size=6)


@settings(deadline=None, max_examples=60)
@given(cells=st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=6))
def test_both_ways_of_reading_give_the_same(tmp_path_factory, cells):
    path = tmp_path_factory.mktemp("t") / "t.csv"
    path.write_text("".join(f"{a},{b}\n" for a, b in [("one", "two"), *cells]), encoding="utf-8", newline="")
    file = TextFile.open(path)
    fast, _ = file.columns([0, 1])
    exact, _ = file._exact(file._body, [0, 1])
    assert [list(column) for column in fast] == exact == [[a for a, _ in cells], [b for _, b in cells]]


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        TextFile.open(tmp_path)


@pytest.mark.parametrize(
    ("lines", "line"),
    [
        (['a.jpg,0,"5 mm', "b.jpg,1,x", "c.jpg,0,y"], 4),  # to the end of the file
        (['a.jpg,0,"5 mm', "b.jpg,1,x", 'c.jpg,0,"6 mm', "d.jpg,1,z"], 4),  # to the next stray quote
    ],
)
def test_a_stray_quote_does_not_take_rows_away_in_silence(tmp_path, lines, line):
    path = write(tmp_path / "t.csv", "image,target,note", *lines)
    with pytest.raises(DataError, match=rf"t.csv, line {line}: its quotes do not end; close them"):
        read_rows([path])


def test_cells_of_several_lines_and_stray_quotes_within_a_line_are_read(tmp_path):
    path = write(
        tmp_path / "t.csv", "image,note,target", 'a.jpg,"two', 'lines, ""quoted""",0', 'b.jpg,"5" mm,1', 'c.jpg,6" x,0'
    )
    assert [(record.image, record.target) for record in read_rows([path])[1]] == [
        ("a.jpg", 0), ("b.jpg", 1), ("c.jpg", 0)
    ]  # fmt: skip
