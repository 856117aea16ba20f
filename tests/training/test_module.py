from functools import partial

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from layouts.slices import slice_of
from segtune import losses, nets, regularizers
from segtune.data.slices import SliceSet
from segtune.data.splits import Split
from segtune.data.tensors import SliceData
from segtune.runs import layout
from segtune.training.module import Segmenter

ADAM = partial(torch.optim.Adam, lr=1e-2)


def blobs(n):
    """Bright discs on noise, easy to segment."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:32, :32]
    discs = [(rows - rng.uniform(10, 22)) ** 2 + (columns - rng.uniform(10, 22)) ** 2 < 36 for _ in range(n)]
    return SliceSet(slice_of(8.0 * disc + rng.normal(size=(32, 32)), frame=i) for i, disc in enumerate(discs))


def fit(module, slices, *, epochs, batch_size=4, seed=0):
    split = Split(train=np.arange(len(slices)), val=np.arange(len(slices)))
    data = SliceData(slices, split, size=32, normalize="zscore", batch_size=batch_size, seed=seed)
    trainer = pl.Trainer(max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False,
                         enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0)  # fmt: skip
    trainer.fit(module, datamodule=data)
    return module


def segmenter(loss=losses.bce_dice, seed=0, **kwargs):
    torch.manual_seed(seed)
    net = nets.UNet(width=4)
    if kwargs.get("penalty"):
        kwargs["regularized_parameters"] = nets.kernels(net)
    return Segmenter(net, loss, ADAM, seed=seed, **kwargs)


@pytest.mark.parametrize("loss", [losses.bce, losses.focal, losses.bce_dice, losses.bce_logdice])
def test_overfits_one_batch(loss):
    module = fit(segmenter(loss), blobs(4), epochs=60)
    assert module.row["val_dice"] > 0.9


def test_the_row_has_the_columns_of_history_csv():
    row = fit(segmenter(), blobs(4), epochs=2).row
    assert set(row) == set(layout.HISTORY_COLUMNS)
    assert row["epoch"] == 2
    assert row["val_soft_dice"] == pytest.approx(1 - row["val_dice_loss"], abs=1e-7)
    assert row["val_data_loss"] == pytest.approx(row["val_bce"] + row["val_dice_loss"], abs=1e-6)


def test_lambda_0_equals_no_penalty_exactly():
    plain = fit(segmenter(), blobs(4), epochs=2)
    zero = fit(segmenter(penalty=regularizers.l2, penalty_weight=0.0), blobs(4), epochs=2)
    assert all(torch.equal(a, b) for a, b in zip(plain.net.parameters(), zero.net.parameters(), strict=True))
    assert zero.row["val_loss"] == zero.row["val_data_loss"]


def test_loss_is_data_loss_plus_lambda_times_penalty():
    module = fit(segmenter(penalty=regularizers.l2, penalty_weight=1e-3), blobs(4), epochs=1)
    row = module.row
    assert row["train_loss"] == pytest.approx(row["train_data_loss"] + 1e-3 * row["train_penalty"], rel=1e-6)
    final = regularizers.l2(nets.kernels(module.net)).item()
    assert row["val_loss"] == pytest.approx(row["val_data_loss"] + 1e-3 * final, rel=1e-6)


def test_a_penalty_shrinks_the_weights():
    plain = fit(segmenter(), blobs(4), epochs=5)
    shrunk = fit(segmenter(penalty=regularizers.l2, penalty_weight=1.0), blobs(4), epochs=5)
    assert regularizers.l2(nets.kernels(shrunk.net)) < 0.7 * regularizers.l2(nets.kernels(plain.net))


def test_training_values_are_means_over_images_not_over_batches():
    module = segmenter()
    means = module.train_means
    mask = torch.ones(3, 1, 2, 2, dtype=torch.bool)
    means.add(torch.ones(3, 1, 2, 2), mask, loss=torch.tensor(1.0))
    means.add(-torch.ones(1, 1, 2, 2), mask[:1], loss=torch.tensor(5.0))
    assert means.take() == {"loss": 2.0, "dice": 0.75}


def test_accepts_a_loss_that_is_a_module_and_a_network_that_is_none_of_ours():
    class SquaredError(nn.Module):
        def forward(self, logits, target):
            return (torch.sigmoid(logits) - target).square().mean()

    module = fit(Segmenter(nn.Conv2d(1, 1, 3, padding=1), SquaredError(), ADAM), blobs(4), epochs=2)
    assert 0 < module.row["train_loss"] < 1


def test_the_same_seed_gives_the_same_weights_to_the_bit():
    first, second = (fit(segmenter(), blobs(6), epochs=2) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.net.parameters(), second.net.parameters(), strict=True))
    other = fit(segmenter(seed=1), blobs(6), epochs=2, seed=1)
    assert not torch.equal(first.net.head.weight, other.net.head.weight)


def test_dropout_derives_from_seed_and_epoch_whatever_ran_before():
    first = segmenter()
    second = segmenter()
    torch.rand(1000)
    fit(first, blobs(4), epochs=1)
    torch.rand(7)
    fit(second, blobs(4), epochs=1)
    assert torch.equal(first.net.head.weight, second.net.head.weight)
