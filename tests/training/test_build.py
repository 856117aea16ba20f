import functools
import os
import re
import subprocess
import sys

import pytest
import torch
from torch import nn

from conftest import TINY
from segtune.config import entry
from segtune.errors import InputError
from segtune.training import build


def test_weights_lie_in_channels_last():
    net = build.experiment(entry.compose(TINY)).module().net
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in net.parameters() if weight.dim() == 4)


def test_two_shares_of_nested_that_train_the_same_patients_do_not_pass_without_a_word(caplog):
    trained = {}
    for share in ("0.2", "0.4", "0.6", "0.8"):
        caplog.clear()
        cfg = entry.compose([*TINY, "split.by=nested", f"split={share}"])
        side = tuple(build.split(cfg, build.slices(cfg)).train)
        trained.setdefault(side, []).append(bool(caplog.messages))
    assert len(trained) == 3
    assert all(any(said) for said in trained.values() if len(said) > 1)
    caplog.clear()
    cfg = entry.compose([*TINY, "data.n_patients=16", "split.by=nested", "split=0.6"])
    build.split(cfg, build.slices(cfg))
    assert not caplog.messages


def test_fewer_images_of_each_patient_train_and_a_patient_that_has_fewer_is_named(caplog):
    whole, kept = (
        build.split(cfg, build.slices(cfg))
        for cfg in (entry.compose([*TINY, *more]) for more in ([], ["split.images_per_patient=2"]))
    )
    assert kept.val.tolist() == whole.val.tolist()
    assert {*kept.train} < {*whole.train}
    assert not caplog.messages
    cfg = entry.compose([*TINY, "split.images_per_patient=1000"])
    assert build.split(cfg, build.slices(cfg)).train.tolist() == whole.train.tolist()
    assert re.match(
        r"split.images_per_patient=1000: \d+ of \d+ training patients have fewer images \(\S+: \d+\)", caplog.messages[0]
    )


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.AdamW, functools.partial(torch.optim.SGD, momentum=0.9)])
def test_a_fused_optimiser_makes_the_same_steps(optimizer):
    def after(make):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).to(memory_format=torch.channels_last)
        steps = make(net.parameters(), lr=1e-2)
        for _ in range(5):
            steps.zero_grad()
            net(torch.randn(2, 3, 12, 12)).square().mean().backward()
            steps.step()
        return torch.cat([parameter.flatten() for parameter in net.parameters()])

    assert build.fused(optimizer) is not optimizer
    assert torch.allclose(after(build.fused(optimizer)), after(optimizer), atol=1e-6)


@pytest.mark.parametrize("chosen", [{"foreach": True}, {"fused": False}])
def test_what_was_said_of_the_optimiser_s_kernel_stands(chosen):
    optimizer = functools.partial(torch.optim.Adam, **chosen)
    assert build.fused(optimizer) is optimizer


def test_an_optimiser_without_a_fused_kernel_stays_as_it_is():
    assert build.fused(torch.optim.RMSprop) is torch.optim.RMSprop


@pytest.mark.parametrize(("settings", "expected"), [([], True), (["+trainer.gradient_clip_val=1"], False)])
def test_float16_with_clipped_gradients_takes_no_fused_optimiser_which_lightning_refuses(settings, expected):
    cfg = entry.compose([*TINY, "trainer.precision=16-mixed", *settings])
    ((optimizer,), _) = build.experiment(cfg).module().configure_optimizers()
    (group,) = optimizer.param_groups
    assert bool(group["fused"]) is expected


@pytest.mark.parametrize("setting", ["trainer.precision=transformer-engine", "trainer.accelerator=tpu"])
def test_a_part_of_lightning_that_is_not_installed_is_named_by_its_key(setting):
    with pytest.raises(InputError, match=f"{setting}.*Lightning"):
        build.experiment(entry.compose([*TINY[:-1], setting])).make_trainer([])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*script_method. is deprecated:DeprecationWarning")  # torch's own, when it compiles
def test_a_compiled_network_computes_the_same_and_its_checkpoints_have_the_same_names():
    settings = ["model.dropout=0", "data.size=64"]
    torch.manual_seed(0)
    eager = build.experiment(entry.compose([*TINY, *settings])).module().net.eval()
    torch.manual_seed(0)
    compiled = build.experiment(entry.compose([*TINY, *settings, "trainer.compile=default"])).module().net.eval()
    assert eager.state_dict().keys() == compiled.state_dict().keys()
    image = torch.randn(2, 1, 64, 64)
    with torch.inference_mode():
        assert (eager(image) - compiled(image)).abs().max() < 1e-5


@pytest.mark.filterwarnings("ignore:.*script_method. is deprecated:DeprecationWarning")
@pytest.mark.slow
def test_every_network_of_a_process_is_compiled_and_not_the_first_eight_alone(monkeypatch):
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph

    compile_with = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda net, **_: compile_with(net, backend=backend, dynamic=False))
    graphs = []
    for _ in range(10):
        compiled.clear()
        build.experiment(entry.compose([*TINY, "trainer.compile=default"])).module().net(torch.zeros(2, 1, 32, 32))
        graphs.append(len(compiled))
    assert set(graphs) == {graphs[0]}
    assert graphs[0] > 0


@pytest.mark.slow
def test_compiling_without_a_compiler_ends_in_one_sentence():
    code = (
        "import torch; from segtune.config import entry, error_messages; from segtune.training import build\n"
        f"net = build.experiment(entry.compose({[*TINY, 'trainer.compile=default']})).module().net\n"
        "try: net(torch.zeros(2, 1, 32, 32))\n"
        "except Exception as error: print(error_messages.explain(error))"
    )
    env = os.environ | {"PATH": "", "CXX": "no-such-compiler", "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1"}
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False)
    assert re.match(r"trainer\.compile: .*\bcompiler\b.*\n$", said.stdout), said.stdout + said.stderr[-3000:]


def test_a_lambda_that_is_to_be_calibrated_is_not_taken_for_none():
    experiment = build.experiment(entry.compose([*TINY, "reg=l2", "reg.lambda=auto"]))
    with pytest.raises(ValueError, match=r"reg\.lambda=auto"):
        experiment.module()
    assert experiment.module(0.5).penalty_weight == 0.5
