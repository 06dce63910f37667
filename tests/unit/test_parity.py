"""The rule by which an export passes or fails."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.errors import DataLoss, ParityError
from services.manifest import SAMPLES_FILE, ParityRecord
from services.parity import (
    SMALLEST_FOR_DISAGREEMENT,
    Limits,
    Tolerance,
    compare,
    compare_again,
    compare_statistics,
    merge,
    read_samples,
    tolerance_for,
    tolerance_of,
    write_samples,
)

PRICES = np.array([[1000.0], [2500.0], [3.0]], np.float32)


def test_equal_answers_are_no_distance_apart():
    record = compare("onnx", "prediction", PRICES, PRICES, tolerance_for(PRICES))
    assert (record.samples, record.max_abs, record.max_rel) == (3, 0.0, 0.0)


def test_the_absolute_tolerance_grows_with_the_largest_answer():
    assert tolerance_for(PRICES).atol == pytest.approx(2500 * 1e-5)
    assert tolerance_for(PRICES / 2500).atol == pytest.approx(1e-5)


def test_a_few_roundings_pass():
    got = np.nextafter(PRICES, np.float32(np.inf), dtype=np.float32)
    assert 0 < compare("onnx", "prediction", got, PRICES, tolerance_for(PRICES)).max_rel < 1e-6


def test_a_refusal_names_format_output_distance_tolerance_and_row():
    got = PRICES.copy()
    got[1] += 25
    with pytest.raises(ParityError) as refusal:
        compare("onnx", "prediction", got, PRICES, tolerance_for(PRICES), case="half the length")
    for part in (
        "onnx",
        "prediction",
        "half the length",
        "max abs 25",
        "max rel 0.01",
        "0.025 + 0.0001",
        "row 1",
        "2525",
    ):
        assert part in str(refusal.value)


def test_a_refusal_names_the_held_out_row_not_its_place_in_the_batch():
    got = PRICES + np.array([[0], [0], [9]], np.float32)
    with pytest.raises(ParityError, match="row 17"):
        compare("onnx", "prediction", got, PRICES, tolerance_for(PRICES), rows=np.array([4, 9, 17]))


def test_rows_that_were_sent_twice_count_once():
    rows = np.array([0, 1, 0])
    assert compare("onnx", "prediction", PRICES, PRICES, tolerance_for(PRICES), rows=rows).samples == 2


@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_must_be_so_in_both(special):
    want = np.array([1.0, special], np.float32)
    assert compare("onnx", "x", want.copy(), want, tolerance_for(want)).max_abs == 0.0
    with pytest.raises(ParityError):
        compare("onnx", "x", np.array([1.0, 2.0], np.float32), want, tolerance_for(want))
    with pytest.raises(ParityError):
        compare("onnx", "x", want, np.array([1.0, 2.0], np.float32), tolerance_for(want[:1]))


@pytest.mark.parametrize("got", [PRICES.astype(np.float64), PRICES[:2], PRICES[:, 0]])
def test_another_type_or_shape_is_refused(got):
    with pytest.raises(ParityError, match=r"Expected float32 of shape \[3, 1\]"):
        compare("onnx", "prediction", got, PRICES, tolerance_for(PRICES))


def test_half_precision_has_room_for_its_own_rounding():
    assert tolerance_for(PRICES.astype(np.float16)).rtol == tolerance_for(PRICES, "float16").rtol == 2e-2


def test_one_flag_in_a_hundred_may_flip():
    want = np.zeros(200, bool)
    got = want.copy()
    got[:2] = True
    assert compare("onnx", "is_anomaly", got, want, tolerance_for(want)).agreement == 0.99


def test_more_flips_are_refused():
    want = np.zeros(200, bool)
    got = want.copy()
    got[7:10] = True
    with pytest.raises(ParityError, match=r"at most 2 of 200 elements to differ. Received: 3; first in row 7"):
        compare("onnx", "is_anomaly", got, want, tolerance_for(want))


def test_a_handful_of_flags_must_agree_entirely():
    want = np.zeros(SMALLEST_FOR_DISAGREEMENT - 1, bool)
    got = want.copy()
    got[0] = True
    with pytest.raises(ParityError):
        compare("onnx", "is_anomaly", got, want, tolerance_for(want))


def test_integers_say_how_far_they_were_apart():
    want = np.arange(100)
    got = want.copy()
    got[3] = 10
    record = compare("onnx", "label", got, want, tolerance_for(want))
    assert (record.max_abs, record.agreement) == (7.0, 0.99)


def test_a_row_of_integers_is_one_answer_right_or_wrong():
    want = np.zeros((200, 8, 8), np.uint8)
    got = want.copy()
    got[:2] = 17
    assert compare("onnx", "image", got, want, tolerance_for(want)).agreement == 0.99
    got[5, 7, 7] = 17
    with pytest.raises(ParityError, match=r"at most 2 of 200 rows to differ. Received: 3; first in row 0: 17 instead"):
        compare("onnx", "image", got, want, tolerance_for(want))


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=30), st.floats(0, 0.5))
def test_the_rule_is_numpy_s_allclose(values, noise):
    want = np.array(values, np.float32)
    got = (want * np.float32(1 + noise)).astype(np.float32)
    tolerance = Tolerance(atol=1e-3, rtol=1e-2)
    close = np.allclose(got.astype(np.float64), want.astype(np.float64), rtol=1e-2, atol=1e-3)
    try:
        compare("onnx", "x", got, want, tolerance)
    except ParityError:
        assert not close
    else:
        assert close


def test_merging_keeps_the_worst():
    near = ParityRecord("onnx", "x", 40, 1e-7, 1e-6, 1e-5, 1e-4)
    far = ParityRecord("onnx", "x", 40, 1e-6, 1e-7, 1e-5, 1e-4, agreement=0.99)
    assert merge([near, far]) == ParityRecord("onnx", "x", 40, 1e-6, 1e-6, 1e-5, 1e-4, agreement=0.99)


def test_a_record_gives_back_the_tolerance_it_was_held_to():
    tolerance = tolerance_for(PRICES)
    assert tolerance_of(compare("onnx", "prediction", PRICES, PRICES, tolerance)) == tolerance
    flags = np.zeros(3, bool)
    assert tolerance_of(compare("onnx", "flag", flags, flags, tolerance_for(flags))) == tolerance_for(flags)


def test_samples_come_back_as_they_were_stored(tmp_path):
    inputs = {"image": np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)}
    answers = {"features": np.ones((1, 4), np.float32), "flag": np.array([True])}
    write_samples(tmp_path, inputs, answers)
    again_inputs, again_answers = read_samples(tmp_path)
    np.testing.assert_equal(again_inputs, inputs)
    np.testing.assert_equal(again_answers, answers)


def test_samples_with_pickled_objects_are_refused(tmp_path):
    (tmp_path / "assets").mkdir()
    np.savez(tmp_path / SAMPLES_FILE, allow_pickle=True, **{"inputs/x": np.array([object()])})
    with pytest.raises(DataLoss, match="hold arrays"):
        read_samples(tmp_path)


def test_samples_that_are_no_archive_are_refused(tmp_path):
    (tmp_path / "assets").mkdir()
    (tmp_path / SAMPLES_FILE).write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(DataLoss):
        read_samples(tmp_path)


class TestStatistics:
    """What an int8 model is held to: distance over all rows, and equal decisions."""

    WANT = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]], np.float32)

    def test_the_distance_is_a_share_of_the_answers_own_spread(self):
        want = np.array([[-1.0], [1.0]], np.float32)
        record = compare_statistics("onnx", "y", want + np.float32(0.05), want, Limits())
        assert record.nrmse == pytest.approx(0.05)
        assert record.max_abs == pytest.approx(0.05)

    def test_a_distance_beyond_the_limit_is_refused(self):
        want = np.array([[-1.0], [1.0]], np.float32)
        with pytest.raises(ParityError, match=r"normalised RMSE of at most 0\.1 .* Received: 0\.2"):
            compare_statistics("onnx", "y", want + np.float32(0.2), want, Limits())

    def test_decisions_count_where_the_output_is_one_of_probabilities(self):
        flipped = self.WANT.copy()
        flipped[2] = [0.48, 0.52]
        with pytest.raises(ParityError, match=r"75\.0%"):
            compare_statistics("onnx", "probabilities", flipped, self.WANT, Limits(nrmse=1.0))
        logits = self.WANT * 7
        assert compare_statistics("onnx", "logits", flipped * 7, logits, Limits(nrmse=1.0)).agreement == 1.0

    def test_equal_booleans_are_counted(self):
        want = np.array([True] * 19 + [False])
        assert compare_statistics("onnx", "is_anomaly", ~want ^ True, want, Limits()).agreement == 1.0
        with pytest.raises(ParityError):
            compare_statistics("onnx", "is_anomaly", ~want, want, Limits())

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_an_answer_that_is_not_finite_is_refused(self, value):
        got = self.WANT.copy()
        got[0, 0] = value
        with pytest.raises(ParityError, match="finite"):
            compare_statistics("onnx", "y", got, self.WANT, Limits(nrmse=9.0, agreement=0.0))

    def test_another_shape_is_refused(self):
        with pytest.raises(ParityError, match="shape"):
            compare_statistics("onnx", "y", self.WANT[:2], self.WANT, Limits())

    def test_constant_answers_are_judged_by_their_size(self):
        want = np.full((3, 1), 5.0, np.float32)
        assert compare_statistics("onnx", "y", want + np.float32(0.1), want, Limits()).nrmse == pytest.approx(0.02)

    def test_a_version_is_held_to_what_it_was_exported_by(self):
        want = np.array([[-1.0], [1.0]], np.float32)
        got = want + np.float32(0.05)
        record = compare_statistics("onnx", "y", got, want, Limits())
        assert compare_again(record, "onnx", "y", got, want) == record
        with pytest.raises(ParityError):
            compare_again(None, "onnx", "y", got, want)
