import pytest

from segtune.sweeps import launch
from segtune.sweeps.plan import Run


@pytest.mark.parametrize(
    ("options", "is_told"),
    [
        ([{"recipe": "study", "data": "acdc"}], True),
        ([{"recipe": "study", "data": "acdc"}, {"recipe": "strong", "data": "acdc"}], False),
        ([{"recipe": "study", "data": "phantom"}], False),
        ([{"recipe": "study", "data": "acdc"}] * 2, True),
    ],
)
def test_a_sweep_of_the_studys_recipe_on_other_data_hears_once_of_the_strong_one(tmp_path, caplog, options, is_told):
    caplog.set_level("INFO", "segtune")
    config = {"seed": 0, "split": {}, "batch": {}, "figures": False}
    runs = [
        Run(f"{number:012x}", [], {**config, "number": number}, tmp_path / "runs" / str(number), "completed", one, "loss=bce")
        for number, one in enumerate(options)
    ]
    launch.launch(runs, tmp_path / "grid", ["segtune"], lambda *_: {}, on_failure="continue")
    assert caplog.text.count("recipe=strong") == int(is_told)
