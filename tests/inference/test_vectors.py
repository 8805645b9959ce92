"""A .npy file in the making: numpy reads it, an unfinished one goes on, a foreign one does not."""

from __future__ import annotations

import numpy as np
import pytest

from jalign.errors import UserError
from jalign.inference.vectors import VectorFile, header

ROWS = np.random.default_rng(0).standard_normal((7, 3)).astype(np.float32)
MADE_OF = {"model": "a", "layer": -1}


@pytest.mark.parametrize("num", [0, 7, 10**15])
def test_the_header_is_numpys(num, tmp_path):
    data = header(num, 3)
    assert len(data) == 128
    (tmp_path / "x").write_bytes(data)
    with (tmp_path / "x").open("rb") as file:
        assert np.lib.format.read_magic(file) == (1, 0)
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    assert (shape, fortran, dtype) == ((num, 3), False, np.dtype("<f4"))


def test_rows_come_out_as_they_went_in(tmp_path):
    with VectorFile(tmp_path / "v.npy", 3, MADE_OF) as file:
        file.append(ROWS[:4], {})
        file.append(ROWS[4:].astype(np.float64), {})
        file.finish()
    np.testing.assert_array_equal(np.load(tmp_path / "v.npy"), ROWS)
    assert [p.name for p in tmp_path.iterdir()] == ["v.npy"]


def test_an_unfinished_file_goes_on_after_the_rows_that_were_noted(tmp_path):
    path = tmp_path / "v.npy"
    with VectorFile(path, 3, MADE_OF) as file:
        file.append(ROWS[:4], {"long": 2})
    with (tmp_path / "v.npy.part").open("ab") as torn:  # killed in the middle of a row
        torn.write(b"\x01\x02\x03\x04\x05")
    assert not path.exists()
    with VectorFile(path, 3, MADE_OF) as file:
        assert (file.resumed, file.counts) == (4, {"long": 2})
        file.append(ROWS[4:], {"long": 2})
        file.finish()
    np.testing.assert_array_equal(np.load(path), ROWS)


@pytest.mark.parametrize("spoil", ["made_of", "size", "short", "note"])
def test_a_part_that_does_not_belong_here_is_begun_anew(tmp_path, spoil):
    path, part, note = (tmp_path / f"v.npy{x}" for x in ("", ".part", ".part.json"))
    with VectorFile(path, 3, MADE_OF) as file:
        file.append(ROWS[:4], {})
    if spoil == "short":
        part.write_bytes(part.read_bytes()[:-5])
    if spoil == "note":
        note.write_text('{"rows": 4')
    made_of = MADE_OF | {"layer": 3} if spoil == "made_of" else MADE_OF
    with VectorFile(path, 2 if spoil == "size" else 3, made_of) as file:
        assert file.resumed == 0
        assert part.stat().st_size == 128


def test_a_stream_is_never_gone_on_with(tmp_path):
    with VectorFile(tmp_path / "v.npy", 3, None) as file:
        file.append(ROWS[:4], {})
    assert [p.name for p in tmp_path.iterdir()] == ["v.npy.part"]
    with VectorFile(tmp_path / "v.npy", 3, None) as file:
        assert file.resumed == 0


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "v.npy.part").mkdir()
    with pytest.raises(UserError, match="cannot write .*v.npy.part: "):
        VectorFile(tmp_path / "v.npy", 3, None)
