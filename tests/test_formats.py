"""Readers: every format, plain and gzip; bad files named with their line; random bytes never crash or lie."""

from __future__ import annotations

import contextlib
import datetime
import gzip
from pathlib import Path

import numpy as np
import pandas
import polars
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import sparse

from jaxrec import cli, data, embeddings
from jaxrec.data import DataError, formats, registry
from jaxrec.data.download import FetchError, download, extract

ROWS = [(10, 7, 5.0, 100), (10, 9, 3.0, 50), (30, 7, 1.0, 75)]
TEXTS = {
    "u.data": "".join(f"{u}\t{i}\t{r:.0f}\t{t}\n" for u, i, r, t in ROWS),
    "ratings.dat": "".join(f"{u}::{i}::{r:.0f}::{t}\n" for u, i, r, t in ROWS),
    "ratings.csv": "userId,movieId,rating,timestamp\n" + "".join(f"{u},{i},{r},{t}\n" for u, i, r, t in ROWS),
    "x.inter": "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    + "".join(f"{u}\t{i}\t{r}\t{t}\n" for u, i, r, t in ROWS),
    "x.tsv": "t\tITEM\tuser\tscore\n" + "".join(f"{t}\t{i}\t{u}\t{r}\n" for u, i, r, t in ROWS),
}


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("name", TEXTS)
def test_every_table_format_reads_the_same(name: str, zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / (name + ".gz" * zipped)
    content = TEXTS[name].encode()
    path.write_bytes(gzip.compress(content) if zipped else content)
    found = formats.read(path, format="tsv" if name == "x.tsv" else None)
    assert found.user_ids[found.users].tolist() == [10, 10, 30]
    assert found.item_ids[found.items].tolist() == [7, 9, 7]
    assert found.ratings is not None
    assert found.ratings.tolist() == [5, 3, 1]
    if name != "x.tsv":
        assert found.times is not None
        assert found.times.tolist() == [100, 50, 75]
    assert len(formats.read(path, threshold=3)) == 2


@pytest.mark.parametrize("end", ["", "\n", "\n\n"])
def test_a_quote_that_is_not_closed_takes_no_lines_with_it(end: str, tmp_path: Path) -> None:
    lines = ["user,item,comment", 'a,1,"two', 'lines"', 'b,2,"said ""so"""', "", "c,3,5\" pipe"]
    (tmp_path / "a.csv").write_text("\n".join(lines) + end)
    assert len(formats.read(tmp_path / "a.csv")) == 3
    (tmp_path / "a.csv").write_text("\n".join([*lines, 'd,4,"great', "e,5,", "f,6,x"]) + end)
    with pytest.raises(DataError, match=r"a\.csv:7: a quote that opens here is not closed"):
        formats.read(tmp_path / "a.csv")
    (tmp_path / "b.tsv").write_text('user\titem\na\t"1\nb\t2' + end)  # tabs know no quotes
    assert formats.read(tmp_path / "b.tsv").item_ids.tolist() == ['"1', "2"]


def test_a_threshold_keeps_the_same_pairs_of_a_file_written_again(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("user,item,rating\na,1,4.2\nb,2,4.1\nc,3,4.6\n")
    data.write(tmp_path / "again.parquet", formats.read(tmp_path / "a.csv"))
    for name in ("a.csv", "again.parquet"):
        assert formats.read(tmp_path / name, threshold=4.2).user_ids.tolist() == ["a", "c"]


def test_lines_keep_their_row_numbers(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("0 1 3\n2\n1 0\n")
    (tmp_path / "test.txt").write_text("0 4\n")
    split = registry.load(str(tmp_path)).split
    assert (split.train.num_users, split.train.num_items) == (3, 5)
    assert list(split.tests) == ["test"]
    assert "1 user lines without items" in split.notes[0]
    data.write_lines(tmp_path / "again.txt.gz", split.train)
    again = data.read_lines(tmp_path / "again.txt.gz")
    np.testing.assert_array_equal(again.users, split.train.users)
    np.testing.assert_array_equal(again.items, split.train.items)


def test_what_was_noted_of_a_file_stays_with_its_split(tmp_path: Path) -> None:
    (tmp_path / "twice.csv").write_text("user,item\n" + "".join(f"{n % 7},{n % 5}\n" for n in range(40)))
    split = registry.load(str(tmp_path / "twice.csv")).split
    assert split.notes[0] == "5 repeated pairs merged" == data.read(tmp_path / "twice.csv").notes[0]
    assert "held out" in split.notes[1]


def test_lines_that_look_like_ratings_are_noted(tmp_path: Path) -> None:
    path = tmp_path / "ratings.txt"
    triples = "0 1 5\n0 2 3\n1 1 4\n"
    for text, told in ((triples, True), ("0 1 5\n1 2 3\n", False), ("0 1 5\n0 2 3 4\n", False), ("0 1\n0 2\n", False)):
        path.write_text(text)
        notes = [note for note in data.read(path).notes if "ratings.txt: every line has three numbers" in note]
        assert len(notes) == told
    path.write_text("user item rating\n" + triples)  # as the note says
    found = data.read(path, format="csv", separator=" ")
    assert (found.items.tolist(), found.ratings.tolist()) == ([0, 1, 0], [5, 3, 4])


def test_frames_sparse_matrices_and_matrices() -> None:
    columns = {"user_id": [10, 10, 30], "item_id": ["b", "a", "b"], "rating": [5.0, 3.0, 1.0]}
    wide = polars.DataFrame(columns)
    for frame in (wide, wide.lazy(), wide.to_arrow(), pandas.DataFrame(columns), columns):
        found = data.from_frame(frame, threshold=2)
        assert found.item_ids.tolist() == ["a", "b"]
        assert found.users.tolist() == [0, 0]
    matrix = np.array([[0, 5, 0], [2, 0, 0]])
    for found in (data.from_matrix(matrix), data.from_scipy(sparse.csr_array(matrix))):
        assert (found.num_users, found.num_items, found.items.tolist()) == (2, 3, [1, 0])


DATES = ["2020-12-11T08:33:23", "2020-12-11", "2020-12-11 09:33:23.5+01:00"]
SECONDS = [1607675603.0, 1607644800.0, 1607675603.5]


def test_dates_are_read_as_seconds(tmp_path: Path) -> None:
    columns = {"user": [1, 2, 3], "item": [1, 1, 1], "date": DATES}
    (tmp_path / "x.csv").write_text("user,item,date\n" + "".join(f"{n},1,{d}\n" for n, d in enumerate(DATES)))
    polars.DataFrame(columns).write_parquet(tmp_path / "x.parquet")
    read = [data.read(tmp_path / name) for name in ("x.csv", "x.parquet")]
    frames = [polars.DataFrame(columns), pandas.DataFrame(columns), columns, polars.DataFrame(columns).to_arrow()]
    for found in (*read, *map(data.from_frame, frames)):
        assert found.times.tolist() == SECONDS
    aware = pandas.to_datetime(pandas.Series(SECONDS, dtype=float), unit="s", utc=True).dt.tz_convert("Asia/Tokyo")
    for times in (aware, polars.Series(aware.tolist()), aware.tolist()):
        assert data.from_frame(columns | {"date": times}).times.tolist() == SECONDS
    days = [datetime.date(1970, 1, 2)] * 3
    for dates in (days, polars.Series(days), pandas.Series(days)):
        assert data.from_frame(columns | {"date": dates}).times.tolist() == [86400.0] * 3


def test_frames_name_the_row_of_what_is_no_time() -> None:
    columns = {"user": [1, 2], "item": [1, 1]}
    with pytest.raises(DataError, match="the frame, row 1: wanted a finite time or an ISO 8601 date, got 'soon'"):
        data.from_frame(columns | {"time": ["2020-12-11", "soon"]})
    for missing in ([datetime.datetime(2020, 12, 11), None], np.array(["2020-12-11", "NaT"], "M8[s]")):
        with pytest.raises(DataError, match="row 1"):
            data.from_frame(columns | {"time": missing})


@pytest.mark.parametrize("name", ["x.csv", "x.tsv", "x.tsv.gz", "x.parquet"])
@pytest.mark.parametrize(
    "ids", [["b", "a", "b"], ['say "hi"', '"y"', 'say "hi"'], ["a,b", " c ", "a,b"], ["'", '"', "'"]]
)
def test_written_pairs_read_the_same(name: str, ids: list[str], tmp_path: Path) -> None:
    pairs = data.from_pairs([10, 10, 30], ids, [5.0, 3.0, 1.0], [1, 2, 3])
    data.write(tmp_path / name, pairs)
    again = data.read(tmp_path / name)
    for column in ("users", "items", "ratings", "times", "user_ids", "item_ids"):
        np.testing.assert_array_equal(getattr(again, column), getattr(pairs, column))


@pytest.mark.parametrize("odd", ["a\tb", "a\nb", "a\r"])
def test_a_tsv_refuses_ids_that_it_cannot_hold(odd: str, tmp_path: Path) -> None:
    pairs = data.from_pairs([1, 2], ["b", odd])
    with pytest.raises(DataError, match=r"x\.tsv: a \.tsv can't hold tabs and line ends, but item_id .* write \.csv"):
        data.write(tmp_path / "x.tsv", pairs)
    assert not (tmp_path / "x.tsv").exists()


def test_ids_that_are_no_numbers_are_text(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("user,item\n--5,1\n7,2\n")
    found = data.read(tmp_path / "x.csv")
    assert (found.user_ids.tolist(), found.item_ids.tolist()) == (["--5", "7"], [1, 2])


def test_carriage_returns_end_lines_and_stay_in_ids(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(b"user,item\r1,2\r3,4\r")
    assert data.read(tmp_path / "x.csv").user_ids.tolist() == [1, 3]
    pairs = data.from_pairs(["a\rb", "c"], ["x", "y"])
    data.formats.write(tmp_path / "y.csv", pairs)
    assert data.read(tmp_path / "y.csv").user_ids.tolist() == ["a\rb", "c"]


def test_columns_may_be_numbered() -> None:
    for user, item in (("0", "1"), (0, 1)):
        found = data.from_frame(pandas.DataFrame({0: [1, 2], 1: [3, 4]}), user=user, item=item)
        assert found.item_ids.tolist() == [3, 4]


def test_digits_of_other_scripts_are_text(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("user,item\n\N{FULLWIDTH DIGIT ONE},a\n1,b\n", encoding="utf-8")
    assert data.read(tmp_path / "x.csv").user_ids.tolist() == ["1", "\N{FULLWIDTH DIGIT ONE}"]
    (tmp_path / "ids.txt").write_text("\N{ARABIC-INDIC DIGIT ONE}\n1\n", encoding="utf-8")
    assert embeddings.read_ids(tmp_path / "ids.txt").tolist() == ["\N{ARABIC-INDIC DIGIT ONE}", "1"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_may_end_in_any_way(end: str, tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_bytes(f"0 1 2{end}{end}1 0{end}2 2{end}".encode())
    found = data.read(tmp_path / "x.txt")
    assert (found.users.tolist(), found.items.tolist()) == ([0, 0, 1, 2], [1, 2, 0, 2])
    (tmp_path / "x.txt").write_bytes(f"0 1{end}1 x{end}".encode())
    with pytest.raises(DataError, match=r"x\.txt:2: wanted whole numbers >= 0, got 'x'"):
        data.read(tmp_path / "x.txt")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.txt", "0 1\n1 x\n", r"x\.txt:2: wanted whole numbers >= 0, got 'x'"),
        ("x.txt", "0 1\n1 -4\n", r"x\.txt:2: .* a negative number \(-4\)"),
        ("x.txt", "0 1\n1 99999999999999999999\n", r"x\.txt:2: .*huge number"),
        ("x.txt", "0 1\n1 9999999999\n", r"x\.txt:2: wanted row numbers up to"),
        ("x.txt", "", "the file is empty"),
        ("x.txt", "0\n1\n", "got 2 users and no items"),
        ("x.csv", "user,item\n1,2\n1\n", r"x\.csv:3: wanted 2 columns \(user, item\), got 1"),
        ("x.csv", "user,thing\n1,2\n", "no column looks like the item.*convert FILE --to NEW.csv --item NAME`$"),
        ("x.csv", "user;item\n1;2\n", "or is it separated by ';'.*--separator"),
        ("x.csv", "user;rating\n1;2,5\n", r"x\.csv:2: wanted 1 columns .* got 2; or is it separated by ';'"),
        ("x.csv", "1,2,5\n1,3,4\n", "or is there no header"),
        ("x.csv", "ann,tea\nbob,cake\n", "or is there no header"),
        ("x.txt", "1 2 5 881250949\n1 3 4 881250950\n", "if every line is user item rating time"),
        ("x.csv", "user,item,rating\n1,2,nan\n", r"x\.csv:2: wanted a finite rating, got 'nan'"),
        ("x.csv", "user,item,rating\n1,2,3\n1,3,good\n", r"x\.csv:3: wanted a .* rating, got 'good'.* ratings out: r"),
        ("x.csv", "user,item,date\n1,2,3\n1,3,soon\n", r"x\.csv:3: wanted .* time or an ISO 8601 date, got 'soon'"),
        ("x.csv", "user,item,date\n1,2,2020-12-11\n1,3,7\n", r"x\.csv:3: wanted .* ISO 8601 date, got '7'"),
        ("x.csv", "user,item\n", "no interaction after the header"),
        ("x.csv", "user,item\n-1,2\n", "row 0 has -1"),
        ("x.csv", "user,item\n\n1,2\n1,\n", r"x\.csv:4: the item id is empty"),
        ("x.csv", "\ufeff", r"x\.csv: the file is empty"),
        ("x.inter", "\ufeff\n", r"x\.inter: the file is empty"),
        ("u.data", "1\t2\t3\n", r"u\.data:1: wanted 4 columns"),
        ("x.ascii", "1 2\n3\n", r"x\.ascii:2: wanted 2 columns, got 1"),
        ("x.what", "1", "no format is known"),
    ],
)
def test_bad_files_are_named_with_their_line(name: str, text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        formats.read(path)


def test_columns_and_separators_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.csv").write_text('who;what;stars;bought\n7;"a;b";5;1970-01-02\n8;c;2;1970-01-03\n')
    named = {"user": "who", "item": "what", "rating": "stars", "time": "bought", "separator": ";"}
    found = data.read(tmp_path / "x.csv", **named)  # type: ignore[arg-type]
    assert (found.user_ids.tolist(), found.item_ids.tolist()) == ([7, 8], ["a;b", "c"])
    assert (found.ratings.tolist(), found.times.tolist()) == ([5, 2], [86400, 172800])
    options = [word for name, value in named.items() for word in (f"--{name}", value)]
    assert cli.main(["data", "convert", str(tmp_path / "x.csv"), "--to", str(tmp_path / "y.csv"), *options]) == 0
    again = data.read(tmp_path / "y.csv")
    assert again.fingerprint == found.fingerprint
    np.testing.assert_array_equal(again.times, found.times)
    (tmp_path / "x.dat").write_text("1||2||3||4\n")
    assert data.read(tmp_path / "x.dat", separator="||").ratings.tolist() == [3]
    for name, separator in (("x.txt", ";"), ("x.csv", ""), ("x.csv", "\n")):
        with pytest.raises(DataError, match=r"a separator of text is for u\.data, dat, csv, tsv, inter, got"):
            data.read(tmp_path / name, separator=separator)


def test_columns_may_be_left_out(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("user,item,score,date\n1,2,good,31/12/2020\n")
    found = data.read(tmp_path / "x.csv", rating="", time="")
    assert (found.ratings, found.times) == (None, None)
    with pytest.raises(DataError, match="there is no column '' for the user"):
        data.read(tmp_path / "x.csv", user="", rating="", time="")
    (tmp_path / "pandas.csv").write_text(",user,item,rating\n0,1,2,good\n")  # with its row numbers
    assert data.read(tmp_path / "pandas.csv", rating="").ratings is None
    with pytest.raises(DataError, match="no columns to name in lines"):
        data.read(tmp_path / "pandas.csv", format="lines", user="")
    frame = {"user": [1], "item": [2], "time": ["soon"]}
    assert data.from_frame(frame, time="").times is None
    (tmp_path / "x.txt").write_text("0 1\n")
    assert len(data.read(tmp_path / "x.txt", time="")) == 1


def test_hints_suit_what_was_given(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("Nutzer;Artikel\n1;2\n")
    with pytest.raises(DataError, match=r"no column 'Nutzer'.*separated by ';'.* separator=';', or --separator ';'"):
        data.read(tmp_path / "x.csv", user="Nutzer", item="Artikel")
    with pytest.raises(DataError, match=r"no column looks like the user; name one of \['a;b'\] with user=$"):
        data.from_frame({"a;b": [1]})
    polars.DataFrame({"who": [1], "item": [2]}).write_parquet(tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"user=, or with `jaxrec data convert FILE --to NEW.csv --user NAME`$"):
        data.read(tmp_path / "x.parquet")
    (tmp_path / "x.csv").write_text("user\titem\n1\t2\n")
    with pytest.raises(DataError, match=r"--separator \$'\\t'$"):
        data.read(tmp_path / "x.csv")
    for odd in ([{"user": 1, "item": 2}], np.array([(1, 2)])):
        with pytest.raises(DataError, match=f"wanted a DataFrame, .* got a {type(odd).__name__}"):
            data.from_frame(odd)


def test_files_are_not_written_where_there_is_no_folder(tmp_path: Path) -> None:
    pairs = data.from_pairs([1], [2])
    with pytest.raises(DataError, match=r"x\.csv: .*nowhere is no folder; make it"):
        data.write(tmp_path / "nowhere" / "x.csv", pairs)


def test_converting_to_lines_tells_what_they_do_not_hold(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.csv").write_text("user,item,rating,time\nb,7,5,1\na,9,4,2\n")
    (tmp_path / "rows.csv").write_text("user,item\n0,1\n1,0\n")
    assert cli.main(["data", "convert", str(tmp_path / "x.csv"), "--to", "txt"]) == 0
    told = capsys.readouterr().out
    assert "note: lines hold row numbers alone: ids, ratings and times are left out" in told
    assert "with times" not in told
    assert (tmp_path / "x.txt").read_text() == "0 1\n1 0\n"
    assert cli.main(["data", "convert", str(tmp_path / "rows.csv"), "--to", "txt"]) == 0
    assert "note" not in capsys.readouterr().out
    assert cli.main(["data", "convert", str(tmp_path / "x.csv"), "--to", str(tmp_path / "rows.csv")]) == 1
    assert "rows.csv is there already; name another --to" in capsys.readouterr().err
    assert (tmp_path / "rows.csv").read_text() == "user,item\n0,1\n1,0\n"


@pytest.mark.parametrize("name", ["x.txt", "x.ascii"])
def test_columns_cannot_be_named_where_there_are_none(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("0 1\n1 0\n")
    with pytest.raises(DataError, match=rf"{name}: there are no columns to name in .*, got who; leave that out"):
        data.read(tmp_path / name, user="who")


def test_truncated_gzip_missing_files_and_other_encodings(tmp_path: Path) -> None:
    whole = gzip.compress(b"0 1 2 3\n" * 1000)
    (tmp_path / "x.txt.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="truncated or corrupt gzip"):
        formats.read(tmp_path / "x.txt.gz")
    with pytest.raises(DataError, match="no such file"):
        formats.read(tmp_path / "none.txt")
    (tmp_path / "x.csv").write_bytes("user,item\n\xe9,1\n".encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8"):
        formats.read(tmp_path / "x.csv")
    (tmp_path / "x.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(DataError, match="not a readable parquet"):
        formats.read(tmp_path / "x.parquet")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(content=st.binary(max_size=80) | st.text("0123456789 \n\t,:-ab", max_size=80).map(str.encode))
@pytest.mark.parametrize("name", ["x.txt", "x.csv", "u.data", "x.dat", "x.inter", "x.ascii"])
def test_any_bytes_give_interactions_or_a_data_error(name: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    found = None
    with contextlib.suppress(DataError):  # anything else fails the test
        found = formats.read(path)
    assert found is None or (len(found) > 0 and found.users.max() < found.num_users)


def zipped(path: Path, members: dict[str, bytes]) -> Path:
    import zipfile

    with zipfile.ZipFile(path, "w") as out:
        for name, content in members.items():
            out.writestr(name, content)
    return path


def sha(content: bytes) -> str:
    import hashlib

    return hashlib.sha256(content).hexdigest()


def test_extraction_takes_only_what_was_asked_for_and_refuses_what_points_outside(tmp_path: Path) -> None:
    good = zipped(tmp_path / "a.zip", {"a/u.data": b"1", "a/other": b"2"})
    extract(good, {"a/u.data": ("u.data", sha(b"1"))}, tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["u.data"]
    for name in ("../evil", "/etc/evil", "a/../../evil", "..\\evil"):
        bad = zipped(tmp_path / "b.zip", {"a/u.data": b"1", name: b"2"})
        with pytest.raises(FetchError, match="points outside"):
            extract(bad, {"a/u.data": ("u.data", sha(b"1"))}, tmp_path / "out2")
    assert not (tmp_path / "out2").exists()
    with pytest.raises(FetchError, match="has SHA-256"):
        extract(good, {"a/u.data": ("u.data", sha(b"3"))}, tmp_path / "out3")
    good.write_bytes(good.read_bytes()[:40])
    with pytest.raises(FetchError, match="truncated or another archive"):
        extract(good, {"a/u.data": ("u.data", sha(b"1"))}, tmp_path / "out4")


def test_download_falls_back_to_a_mirror_and_resumes(tmp_path: Path) -> None:
    import threading
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    content, asked = b"0123456789" * 1000, []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.path, self.headers.get("Range")))
            if self.path == "/gone":
                self.send_error(404)
                return
            start = int((self.headers.get("Range") or "bytes=0-")[6:-1])
            body = content[start:]
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[:2000] if self.path == "/torn" else body)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    base = f"http://127.0.0.1:{server.server_port}"
    try:
        path = download([f"{base}/gone", f"{base}/torn", f"{base}/good"], tmp_path, "x", sha(content))
        assert path.read_bytes() == content
        assert [p for p, _ in asked] == ["/gone", "/torn", "/good"]
        assert asked[2][1] == "bytes=2000-"
        with pytest.raises(FetchError, match="could not be fetched"):
            download([f"{base}/good"], tmp_path, "y", sha(b"something else"))
        assert not (tmp_path / "y").exists()
    finally:
        server.shutdown()
        server.server_close()


def test_unknown_names_suggest_the_nearest_one() -> None:
    with pytest.raises(DataError, match="did you mean 'ml-100k'"):
        registry.load("ml-100")


def test_a_set_that_is_nowhere_says_where_to_put_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAXREC_CACHE", str(tmp_path))
    monkeypatch.delenv("JAXREC_DATA", raising=False)
    with pytest.raises(DataError, match=r"put its files into .*gowalla-macr"):
        registry.load("gowalla-macr")


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("coat", {"train.ascii": "5 0\n0 4\n", "test.ascii": "0 4\n5 0\n"}),
        ("ml-1m", {f"fold{n}.csv": "".join(f"{u},{n},3\n" for u in range(1, 9)) for n in range(1, 6)}),
        ("ml-1m", {"ratings.dat": "".join(f"{u}::{i}::3::9\n" for u in range(8) for i in range(5))}),
        ("ml-100k", {
            "u.data": "".join(f"{u}\t{i}\t3\t9\n" for u in range(8) for i in range(1, 6)),
            "u.item": "".join(f"{i}|Caf\u00e9 {i}|\n" for i in range(1, 6)),
        }),
    ],
)  # fmt: skip
def test_registered_sets_are_read_from_plain_and_compressed_files(
    name: str, files: dict[str, str], zipped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAXREC_DATA", str(tmp_path))
    monkeypatch.setenv("JAXREC_CACHE", str(tmp_path / "cache"))
    (tmp_path / name).mkdir()
    for file, text in files.items():
        content = text.encode("latin-1")
        (tmp_path / name / (file + ".gz" * zipped)).write_bytes(gzip.compress(content) if zipped else content)
    assert registry.find(name, fetch=False) == tmp_path / name
    found = registry.load(name)
    assert found.split.train.num_items == (2 if name == "coat" else 5)
    if name == "ml-100k":
        assert found.item_names is not None
        assert found.item_names[1] == "Caf\u00e9 2"
    next((tmp_path / name).glob(next(iter(files)) + "*")).rename(tmp_path / name / "other.csv")
    with pytest.raises(DataError, match=rf"{name} holds no .*, plain or \.gz"):
        registry.load(name)


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "users", "items", "train"),
    [
        ("adressa-macr", 13_485, 744, 113_345),
        ("gowalla-macr", 29_858, 40_981, 822_465),
        ("gowalla-lightgcn", 29_858, 40_981, 810_128),
        ("ml-100k", 943, 1_682, None),
        ("ml-1m", 6_040, 3_706, None),
        ("coat", 290, 300, None),
        ("lastfm-lightgcn", 1_892, 4_489, 42_135),
    ],
)
def test_registered_sets_have_the_published_sizes(name: str, users: int, items: int, train: int | None) -> None:
    split = registry.load(name).split
    assert (split.train.num_users, split.train.num_items) == (users, items)
    assert train is None or len(split.train) == train


@pytest.mark.data
def test_the_given_unbiased_tests_are_uniform_over_items() -> None:
    for name, each in (("adressa-macr", 4), ("gowalla-macr", 5)):
        assert set(registry.load(name).split.tests["unbiased"].item_counts.tolist()) == {each}


def test_whole_numbers_with_a_point_are_the_numbers_that_frames_hold(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("user,item\n1.0,a.0\n2.0,b.0\n")
    found = formats.read(tmp_path / "x.csv")
    assert found.user_ids.tolist() == [1, 2]
    assert found.item_ids.tolist() == ["a.0", "b.0"]


def test_columns_that_could_be_meant_are_not_guessed(tmp_path: Path) -> None:
    file = tmp_path / "two.csv"
    file.write_text("user,user_id,item\na,1,x\nb,2,y\n")
    with pytest.raises(DataError, match=r"'user_id' and 'user' both look like the user; name one with user="):
        data.read(file)
    assert data.read(file, user="user").user_ids.tolist() == ["a", "b"]
    with pytest.raises(DataError, match=r"the user and the item can't both be column 'user'"):
        data.read(file, user="user", item="user")


def test_lines_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_bytes(b"\xef\xbb\xbf0 1 2\n1 0\n")
    assert len(data.read_lines(tmp_path / "train.txt")) == 3
