"""That a folder within an archive is not taken for one."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdp_runtime.storage import StorageError, forbid_table_folder, open_storage

TABLE = "shop.v1.Sale"


def put(folder: Path, *paths: str) -> None:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()


@pytest.mark.parametrize(
    "path", [f"{TABLE}/a.parquet", f"{TABLE}/day=1/a.parquet", f"_dead_letter/{TABLE}/a.parquet"]
)
def test_an_archive_may_lie_in_a_folder_that_is_called_like_its_table(
    tmp_path: Path, path: str
) -> None:
    put(tmp_path / TABLE, path)
    forbid_table_folder(open_storage(tmp_path / TABLE), [TABLE])
    forbid_table_folder(open_storage(tmp_path / TABLE), [TABLE], [path])


@pytest.mark.parametrize("folder", ["_retry/archive", "_dead_letter/archive", f"_retry/{TABLE}"])
def test_or_below_one_that_is_called_like_those_of_letters(tmp_path: Path, folder: str) -> None:
    put(tmp_path / folder, f"{TABLE}/a.parquet")
    forbid_table_folder(open_storage(tmp_path / folder), [TABLE])


@pytest.mark.parametrize(
    ("path", "url"),
    [
        (f"{TABLE}/a.parquet", TABLE),
        (f"{TABLE}/day=1/a.parquet", TABLE),
        (f"{TABLE}/day=1/state=2/a.parquet", f"{TABLE}/day=1"),
        (f"_dead_letter/{TABLE}/a.parquet", f"_dead_letter/{TABLE}"),
        (f"_retry/{TABLE}/a.parquet", "_retry"),
    ],
)
def test_the_folder_of_a_table_is_none(tmp_path: Path, path: str, url: str) -> None:
    archive = tmp_path / TABLE
    put(archive, path)
    with pytest.raises(StorageError, match=f"give that one: {archive}$") as raised:
        forbid_table_folder(open_storage(archive / url), [TABLE])
    assert not raised.value.transient


def test_nor_is_one_where_another_was_begun_in_it(tmp_path: Path) -> None:
    put(tmp_path, f"{TABLE}/a.parquet", f"{TABLE}/{TABLE}/b.parquet")
    with pytest.raises(StorageError, match=f"give that one: {tmp_path}$"):
        forbid_table_folder(open_storage(tmp_path / TABLE), [TABLE])


def test_a_copy_of_it_is_none_whatever_it_is_called(tmp_path: Path) -> None:
    put(tmp_path, "day=1/a.parquet")
    with pytest.raises(
        StorageError, match=r"is no archive: .*/day=1/a\.parquet is in no folder of a"
    ):
        forbid_table_folder(open_storage(tmp_path), [TABLE], ["day=1/a.parquet"])
    forbid_table_folder(open_storage(tmp_path), [TABLE], ["stray.parquet", f"{TABLE}/a.parquet"])
    forbid_table_folder(open_storage(tmp_path), [TABLE], [])
