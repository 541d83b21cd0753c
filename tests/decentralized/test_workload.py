"""The training job: published FLOPs, sizes, labels, and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sheaf.decentralized.workload import PRESETS, SETTINGS, Workload


@pytest.mark.parametrize(("setting", "pflop"), [
    ("L24 B1024", 23.64), ("L32 B1024", 31.52), ("L40 B1024", 39.41), ("L24 B2048", 47.28), ("L24 B4096", 94.56),
    ("GPT3-6.7B B1024", 117.12), ("GPT3-13B B1024", 225.23),
])
def test_flops_are_the_published_ones(setting, pflop):
    assert Workload.setting(setting).flops / 1e15 == pytest.approx(pflop, rel=5e-4)


def test_nine_settings_have_2_4_8_steps_and_round_trip():
    assert len(SETTINGS) == 9
    assert [Workload.setting(s).label for s in SETTINGS] == list(SETTINGS)
    assert [Workload.setting(s).steps for s in SETTINGS[:3]] == [2, 4, 8]


def test_published_throughput_is_hardware_not_model_utilisation():
    work = Workload.setting("L40 B4096")
    used = work.utilisation(53.8)
    assert work.pflops(53.8) == pytest.approx(2.93, rel=2e-3)
    assert used["hardware"] == pytest.approx(0.366, abs=1e-3)
    assert used["model"] == pytest.approx(0.75 * used["hardware"])


def test_what_crosses_the_network():
    work = Workload()
    assert work.activation_bits == 2048 * 2048 * 16 == 67_108_864
    gradient = work.gradient_bytes
    assert gradient[1] == pytest.approx(0.302e9, rel=1e-3)
    assert gradient[0] - gradient[1] == 2 * (28_996 + 2048) * 2048  # the embeddings lie on stage 0
    assert (gradient[1:] == gradient[1]).all()
    assert work.stage_parameters.sum() == pytest.approx(1.27e9, rel=0.02)


@given(st.sampled_from(sorted(PRESETS)), st.integers(1, 8))
def test_flops_are_linear_in_the_batch_and_one_quarter_is_recomputation(name, times):
    one, more = Workload.preset(name, 512), Workload.preset(name, 512 * times)
    assert more.flops == pytest.approx(times * one.flops)
    assert one.model_flops == pytest.approx(0.75 * one.flops)


def test_a_layer_twice_as_wide_costs_more_than_three_times_as_much():
    assert Workload().width == 1
    assert Workload(hidden=4096, heads=32).width == pytest.approx(4 * (1 + 1 / 12) / (1 + 1 / 6))


@pytest.mark.parametrize(("changes", "sentence"), [
    ({"layers": 25}, "25 layers do not split"), ({"batch": 1000 + 1}, "batch of 1001"), ({"stages": 0}, "stages = 0"),
    ({"batch": 1024 + 8}, "no multiple of accumulation"),
])
def test_uneven_splits_are_refused(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        Workload(**changes)


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="gpt3-xl-24"):
        Workload.preset("gpt3")
    with pytest.raises(ValueError, match="L24 B1024"):
        Workload.setting("L24")
