"""`evolution: defaults`: each is checked against its column and ends up in the generated writer."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdp_runtime.archive import load_tables
from cdpgen.build import build
from cdpgen.errors import UsageError

PROTO = """
syntax = "proto3";
package shop.v1;
import "google/protobuf/duration.proto";
import "google/protobuf/struct.proto";
import "google/protobuf/timestamp.proto";
enum Status { OPEN = 0; PAID = 1; }
message Line { string sku = 1; uint32 count = 2; }
message Order {
  bool gift = 1;
  int32 number = 2;
  uint64 huge = 3;
  double weight = 4;
  string buyer = 5;
  bytes data = 6;
  string hash = 7;
  string total = 8;
  Status status = 9;
  Status code = 10;
  google.protobuf.Timestamp at = 11;
  google.protobuf.Duration took = 12;
  google.protobuf.Struct extra = 13;
  repeated Line lines = 14;
  map<string, Line> by = 15;
  Line first = 16;
  oneof how { string card = 17; }
}
"""
RULES = """
version: 1
tables:
  shop.v1.Order:
    columns:
      hash: {encoding: hex, size: 2}
      total: {type: "decimal(6, 2)"}
      code: {enum: int32}
      at: {unit: ms}
      took: {unit: ms}
      how: {case: true}
evolution:
  defaults:
"""


@pytest.fixture
def schemas(tmp_path: Path) -> Path:
    folder = tmp_path / "schemas"
    folder.mkdir()
    (folder / "shop.proto").write_text(PROTO)
    return folder


class TestDefaultsOf:
    @pytest.mark.parametrize(
        ("column", "written", "expected"),
        [
            ("gift", "true", True),
            ("number", "-5", -5),
            ("huge", "18446744073709551615", 2**64 - 1),
            ("weight", "1", 1.0),
            ("buyer", '"it\'s \\"me\\""', 'it\'s "me"'),
            ("data", '"00ff"', b"\0\xff"),
            ("hash", '"00ff"', b"\0\xff"),
            ("total", '"-1234.5"', "-1234.5"),
            ("status", "PAID", "PAID"),
            ("code", "1", 1),
            ("at", "2024-04-21T20:16:09.123Z", "2024-04-21T20:16:09.123000Z"),
            ("at", '"2024-04-21T22:16:09+02:00"', "2024-04-21T20:16:09Z"),
            ("at", "2024-04-21", "2024-04-21T00:00:00Z"),
            ("took", "1.5s", 1500),
            ("extra", "'{\"a\": 1}'", '{"a": 1}'),
            ("lines[].count", "1", 1),
            ("by.value.count", "1", 1),
            ("first.sku", "tea", "tea"),
        ],
    )
    def test_a_default_that_fits_is_in_the_generated_writer(
        self, schemas: Path, column: str, written: str, expected: object
    ) -> None:
        rules = f"{RULES}    shop.v1.Order.{column}: {written}\n"
        (schemas / "cdpgen.yaml").write_text(rules)
        build(schemas, schemas.parent / "generated")
        writer = load_tables(schemas.parent / "generated")["shop.v1.Order"]
        assert writer.defaults == {column: expected}
        assert type(writer.defaults[column]) is type(expected)

    @pytest.mark.parametrize(
        ("column", "written", "said"),
        [
            ("gift", "1", "is bool; write true or false"),
            (
                "number",
                "2147483648",
                "is int32; write a whole number from -2147483648 to 2147483647",
            ),
            ("number", "true", "is int32; write a whole number"),
            ("huge", "-1", "is uint64; write a whole number from 0 to 18446744073709551615"),
            ("weight", "heavy", "is double; write a number"),
            ("buyer", "5", 'is text; write it in quotes: "5"'),
            ("data", "xyz", 'is bytes; write hex digits in quotes: "00ff"'),
            ("hash", '"00"', "has 2 bytes; these are 1"),
            ("total", "1.5", 'is decimal128(6, 2); write a number in quotes: "12.50"'),
            ("total", '"1.505"', "is decimal128(6, 2), which cannot hold 1.505"),
            ("total", '"12345"', "is decimal128(6, 2), which cannot hold 12345"),
            ("status", "PAYED", 'is an enum; did you mean "PAID"?'),
            ("at", "noon", 'is a timestamp; write it as "2024-04-21T20:16:09Z"'),
            ("at", "2024-04-21T20:16:09.1234Z", "is in units of ms"),
            ("took", "90", 'is a duration in units of ms; write it as "90s"'),
            ("extra", "'{'", "is JSON; write a text that is JSON"),
            ("lines", "[]", "is a list; a default is of a column of single values"),
            ("first", "{}", "is a struct; a default is of a column of single values"),
            ("how_case", "card", "follows from the message; it has no default"),
            ("_raw", '"00"', "follows from the message; it has no default"),
            ("bayer", "x", 'is no column of shop.v1.Order; did you mean "buyer"?'),
        ],
    )
    def test_one_that_does_not_is_an_error_with_its_place(
        self, schemas: Path, column: str, written: str, said: str
    ) -> None:
        rules = f"{RULES}    shop.v1.Order.{column}: {written}\n"
        (schemas / "cdpgen.yaml").write_text(rules)
        with pytest.raises(UsageError) as error:
            build(schemas, schemas.parent / "generated")
        line = rules.count("\n")
        assert str(error.value).startswith(f"{schemas}/cdpgen.yaml:{line}:5: `")
        assert said in str(error.value)
        assert not (schemas.parent / "generated").exists()

    def test_one_of_no_table_is_an_error(self, schemas: Path) -> None:
        (schemas / "cdpgen.yaml").write_text(f"{RULES}    shop.v1.Oder.gift: true\n")
        with pytest.raises(UsageError, match=r'is of no table; did you mean "shop.v1.Order"\?'):
            build(schemas, schemas.parent / "generated")
