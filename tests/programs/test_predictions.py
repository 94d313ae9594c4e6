"""What is said of a run before its chunks is what it holds, whichever way they are made."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import chunkjac as cj


def of_some_size() -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    """Return networks whose memory is not that of a few numbers, and the shapes of their inputs."""
    torch.manual_seed(0)
    convolutions = [nn.Conv2d(3, 16, 3, padding=1), nn.GELU(), nn.Conv2d(16, 16, 3, padding=1), nn.Tanh()]
    layer = nn.TransformerEncoderLayer(64, 4, 256, batch_first=True, norm_first=True)
    return {
        "convolutions": (nn.Sequential(*convolutions, nn.Conv2d(16, 1, 8, stride=8)), (1, 3, 32, 32)),
        "transformer": (layer.eval(), (1, 24, 64)),
        "products": (nn.Sequential(nn.Linear(128, 256), nn.GELU(), nn.Linear(256, 64)), (16, 128)),
    }


NETWORKS = of_some_size()


@pytest.mark.filterwarnings("ignore::chunkjac.RungWarning")
@pytest.mark.parametrize("mode", ["reverse", "forward"])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_run_of_a_plan_holds_what_it_says(name: str, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chunkjac._programs.recording._FAKE_S", 0.0)  # recorded as large ones are
    monkeypatch.setattr("chunkjac._programs.passes.fast_products._pays", lambda: False)  # timing takes 2 MiB, once
    net, shape = NETWORKS[name]
    x = torch.linspace(-1, 1, torch.Size(shape).numel()).reshape(shape)
    plan = cj.plan(lambda x: net(x).flatten()[:48], x, mode=mode, max_memory="400MiB", chunk_size=8)
    reports = [plan.run(return_report=True)[1] for _ in range(4)]
    for report in reports:
        assert report.plan.predicted_peak_bytes == pytest.approx(report.peak_bytes, rel=0.1)
    third, fourth = reports[2:]  # of the same rung: what operations allocate by themselves counts in each run
    assert third.plan.rung == fourth.plan.rung == "linear program"
    assert third.peak_bytes == pytest.approx(fourth.peak_bytes, rel=0.01)


def test_a_call_without_a_limit_says_what_it_holds_where_a_program_takes_over() -> None:
    """No line goes through a chunk by vmap and one by a program."""
    layers = [nn.Linear(256, 256) for _ in range(6)]
    net = nn.Sequential(*[part for layer in layers for part in (layer, nn.GELU())])
    x = torch.linspace(-1, 1, 256 * 256).reshape(256, 256)
    _, report = cj.jacobian(lambda x: net(x)[:2].reshape(-1), x, return_report=True)
    assert report.plan.predicted_peak_bytes == pytest.approx(report.peak_bytes, rel=0.1)
    assert report.plan.predicted_peak_bytes <= report.plan.budget_bytes
