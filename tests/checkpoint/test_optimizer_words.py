"""What the suffixes and words of optimizers are taken for."""

from __future__ import annotations

import pytest

from ckptkit.checkpoint.optimizer_words import (
    is_average,
    is_setting,
    is_state_word,
    known_slot,
    without_number,
)


@pytest.mark.parametrize(
    ("ending", "slot"),
    [
        ("Adam", "m"), ("Adam_1", "v"), ("Adam_2", "m_1"), ("Adam_3", "v_1"), ("Adam_5", "v_2"),
        ("Momentum", "momentum"), ("Momentum_1", "momentum_1"),
        ("RMSProp", "rms"), ("RMSProp_1", "momentum"), ("RMSProp_2", "rms_1"),
        ("adam_m", "m"), ("adam_m_1", None), ("vr", "vr"), ("vr_2", None),
        ("Adagrad_2", "accumulator_2"), ("Adam_x", None), ("kernel", None),
    ],
)  # fmt: skip
def test_a_suffix_says_which_slot_of_which_optimizer(ending: str, slot: str | None) -> None:
    assert known_slot(ending, False) == slot


def test_a_centered_rmsprop_has_three_slots() -> None:
    found = [known_slot(f"RMSProp{number}", True) for number in ("", "_1", "_2", "_3")]
    assert found == ["rms", "mg", "momentum", "rms_1"]
    assert known_slot("Adam_2", True) == "m_1"


@pytest.mark.parametrize(
    ("ending", "base"),
    [("Adam_1", "Adam"), ("Adam", "Adam"), ("adam_m", "adam_m"), ("adam_m_1", "adam_m"),
     ("w_1234567890", "w_1234567890"), ("w_123456789", "w"), ("", "")],
)  # fmt: skip
def test_a_number_at_the_end_is_left_out(ending: str, base: str) -> None:
    assert without_number(ending) == base


@pytest.mark.parametrize(
    ("word", "is_one"),
    [("EMA", True), ("ema", True), ("ema_b999900", True), ("swa_model", True), ("Average", True),
     ("moving_average", True), ("moving_mean", False), ("averagely", False)],
)  # fmt: skip
def test_words_of_averages(word: str, is_one: bool) -> None:
    assert is_average(word) is is_one


@pytest.mark.parametrize(
    ("word", "is_one"),
    [("m", True), ("v", True), ("w", False), ("Adam", True), ("adam_v_3", True), ("norm", False),
     ("variance", False), ("slot_norm", True), ("grad_norm", True), ("velocity", True),
     ("Momentum_2", True), ("_momentum_", True), ("kernel", False), ("nu", False),
     ("adam_nu", True), ("moving_variance", True)],
)  # fmt: skip
def test_words_of_slots(word: str, is_one: bool) -> None:
    assert is_state_word(word) is is_one


@pytest.mark.parametrize(
    ("name", "is_one"),
    [("beta1_power", True), ("beta2_power_1", True), ("learning_rate", True), ("loss_scale", True),
     ("my_learning_rate_2", True), ("Current_Loss_Scale", True), ("rate", False),
     ("Learning_Rate", True), ("beta3_power", False)],
)  # fmt: skip
def test_settings_of_optimizers_alone(name: str, is_one: bool) -> None:
    assert is_setting(name) is is_one
