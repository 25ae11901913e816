"""The mapping file of `rag-outbox adopt`: an error names file, line, section and key."""

from pathlib import Path

import pytest

from operations.adopt.errors import MappingError
from operations.adopt.mapping import load

pytestmark = pytest.mark.unit

GOOD = """\
[documents]
table = "files"
default_source_type = "text"

[documents.columns]
doc_id = "id"
title = "name"

[chunks]
table = "pieces"

[chunks.columns]
doc_id = "file_id"
order = "seq"
vector_id = "vec"
content = "body"

[milvus]
collection = "kb"
vector = "embedding"
model = "m"
"""
FILES = '\n[files]\nbucket = "old"\n'


def read(path: Path, text: str, collection: str | None = None) -> str:
    """The error of a mapping file, without its path."""
    file = path / "adopt.toml"
    file.write_text(text)
    with pytest.raises(MappingError) as caught:
        load(file, collection)
    return str(caught.value).removeprefix(str(file)).removeprefix(", ").removeprefix(": ")


def test_good_mapping_is_read(tmp_path: Path) -> None:
    (tmp_path / "adopt.toml").write_text(GOOD)
    assert load(tmp_path / "adopt.toml").milvus.collection == "kb"
    assert load(tmp_path / "adopt.toml", "other").milvus.collection == "other"


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("[documents]", "[documents", "not TOML: Expected ']' at the end of a table declaration"),
        ('table = "files"', 'tabel = "files"', "line 2: [documents] tabel: unknown key; did you mean table?"),
        ("[milvus]", "[milvuss]", "line 18: milvuss: unknown key; did you mean milvus?"),
        (
            'title = "name"',
            'titel = "name"',
            "line 7: [documents.columns] titel: unknown key; did you mean title?",
        ),
        ('title = "name"\n', "", "line 5: [documents.columns]: needs title"),
        ('order = "seq"', "order = 3", "line 14: [chunks.columns] order: Expected `str`, got `int`"),
        ('table = "files"\n', "", "line 1: [documents]: needs exactly one of table, query and jsonl"),
        (
            'table = "pieces"',
            'table = "pieces"\nquery = "SELECT 1"',
            "line 11: [chunks] query: needs exactly one of table, query and jsonl",
        ),
        (
            'default_source_type = "text"',
            'default_source_type = "txt"',
            "line 3: [documents] default_source_type: must be one of pdf, word, image, webpage, table, text, is 'txt'",
        ),
        (
            "[chunks]\n",
            '[documents.source_types]\nPDF = "PDF"\n\n[chunks]\n',
            "line 10: [documents.source_types] PDF: must be one of pdf, word, image, webpage, table, text, is 'PDF'",
        ),
        (
            'default_source_type = "text"\n',
            "",
            "line 1: [documents]: needs default_source_type, or source_type in [documents.columns]",
        ),
        (
            'content = "body"\n',
            "",
            "line 12: [chunks.columns] content: give either this column or [milvus] content: the text of a chunk",
        ),
        ('collection = "kb"\n', "", "line 18: [milvus]: needs collection, here or as the option --milvus"),
        (
            'model = "m"\n',
            'model = "m"\nuri = "http://root:secret@old:19530"\n',
            "line 22: [milvus] uri: must be http(s)://host:port, without a password: use token_env",
        ),
        (
            'title = "name"',
            'title = "name"\nfile = "key"',
            "line 8: [documents.columns] file: needs the section [files], which says where the files are",
        ),
        ('model = "m"\n', f'model = "m"\n{FILES}', "line 23: [files] key: names {file}: give the column in "),
        (
            'model = "m"\n',
            f'model = "m"\n{FILES}key = "{{name}}"\n',
            "line 25: [files] key: must be a template with {file} or {doc_id}",
        ),
        (
            'model = "m"\n',
            f'model = "m"\n{FILES}key = "{{doc_id}}"\nobject_store = "https://old:9000"\n',
            "line 26: [files] object_store: a server needs access_key_env and secret_key_env",
        ),
    ],
)
def test_wrong_key_is_named_with_its_line(old: str, new: str, error: str, tmp_path: Path) -> None:
    assert old in GOOD
    assert read(tmp_path, GOOD.replace(old, new)).startswith(error)


def test_secret_in_the_address_of_milvus_is_not_repeated(tmp_path: Path) -> None:
    assert "secret" not in read(tmp_path, GOOD + 'uri = "http://root:secret@old:19530"\n')
