"""What functions are made of: statements with holes.

Holes are filled when a function is put together: ``{t}`` is the name of the result, ``{a}``, ``{b}`` and ``{c}`` are
earlier ones, ``{d}`` is a dimension of ``{a}``, ``{n}`` its size, ``{i}`` an index there and ``{j}`` a later one (or the
size), ``{s}`` a seed, ``{f}`` a number. ``T(s, ...)`` gives numbers of a seed, ``S`` is where state is held, ``run``
counts the runs of a plan.
"""

# ruff: noqa: E501 - a statement is a line

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """Hold a statement with holes.

    Attributes:
        name: What it is called where coverage is told.
        text: The statement.
        n_dims: How many dimensions ``{a}`` has: at least, and at most.
        setup: What is there before the function is called.
        change: What happens between two runs.
    """

    name: str
    text: str
    n_dims: tuple[int, int] = (0, 4)
    setup: str = ""
    change: str = ""


def _expressions(n_dims: tuple[int, int], text: str) -> list[Kind]:
    """Return a kind for each line, which is its own name."""
    lines = [line.strip() for line in text.strip().splitlines()]
    return [Kind(line, f"{{t}} = {line}", n_dims) for line in lines]


POINTWISE = _expressions(
    (0, 4),
    """
    {a}.sin()
    {a}.cos()
    {a}.tanh()
    {a}.sin().exp()
    torch.sigmoid({a})
    F.softplus({a})
    F.gelu({a})
    F.gelu({a}, approximate="tanh")
    F.silu({a})
    F.mish({a})
    F.elu({a})
    F.celu({a}, alpha=0.7)
    F.selu({a})
    F.leaky_relu({a}, 0.1)
    F.hardtanh({a})
    F.hardswish({a})
    F.softshrink({a})
    F.logsigmoid({a})
    F.softsign({a})
    torch.relu({a})
    {a}.abs()
    {a}.square()
    {a} ** 3
    {a}.abs().clamp(min=0.1) ** 2.5
    {a}.erf()
    {a}.atan()
    ({a}.square() + 1).sqrt()
    ({a}.square() + 1).rsqrt()
    ({a}.square() + 1).log()
    {a}.square().log1p()
    {a}.sin().expm1()
    {a}.tanh().mul(0.9).erfinv()
    {a}.tanh().mul(0.9).asin()
    {a}.asinh()
    {a}.sinc()
    torch.special.i0e({a})
    torch.lgamma({a}.square() + 1)
    torch.digamma({a}.square() + 1)
    torch.special.xlog1py({a}, {a}.square())
    torch.special.ndtr({a})
    {a}.clamp(-0.8, 0.9)
    {a}.clamp(min=-0.3)
    {a}.nan_to_num()
    {a}.frac()
    {a}.deg2rad()
    {f} - {a}
    {a} / ({f} + 2)
    {a} * {f} + {f}
    ({a}.square() + 0.5).reciprocal()
    {a}.to(torch.float32).sin().to({a}.dtype)
    {a}.double().cos().to({a}.dtype)
    {a}.clone()
    {a}.contiguous()
    {a} * T({s}, *{a}.shape)
    torch.complex({a}, {a}.cos()).abs()
    torch.complex({a}, {a}.cos()).exp().real
    (torch.complex({a}, {a} * 0.5) * (1 + 2j)).imag
    torch.view_as_real(torch.complex({a}, {a}.sin()).conj())
    torch.polar({a}.square() + 1, {a}).real
    torch.where({a} > {f}, {a}.sin(), {a} * 2)
    {a}.masked_fill({a} > {f}, 0.25)
    torch.heaviside({a}.detach(), {a}.new_tensor(0.5)) * {a}
    {a}.sign() * {a}
    {a}.floor() + {a}
    F.threshold({a}, 0.1, 0.2)
    torch.addcmul({a}, {a}.sin(), {a}.cos(), value=0.3)
    torch.addcdiv({a}, {a}.sin(), {a}.square() + 1, value=0.3)
    F.rrelu({a}, training=False)
    F.dropout({a}, 0.5, training=False)
    torch.stack([{a}, {a}.sin()])
    torch.as_tensor({a}).sin()
    """,
)

BINARY = _expressions(
    (0, 4),
    """
    {a} + {b}
    {a} - {b}
    {a} * {b}
    {a} / ({b}.square() + 1)
    torch.maximum({a}, {b})
    torch.minimum({a}, {b})
    torch.fmax({a}, {b})
    torch.atan2({a}, {b}.square() + 1)
    torch.hypot({a}, {b}.cos() + 2)
    torch.logaddexp({a}, {b})
    torch.where({a} > {b}, {a}, {b})
    torch.where(T({s}, *{a}.shape) > 0, {a}, {b})
    torch.lerp({a}, {b}, {f})
    torch.sub({a}, {b}, alpha=2)
    torch.addcmul({a}, {b}, {c}, value=0.5)
    torch.float_power({b}.square() + 1, {a}).to({a}.dtype)
    ({a}.square() + 1) ** {b}
    torch.special.xlogy({a}, {b}.square() + 1)
    {a} * {b}.sum()
    {a}.sum() * {b}
    {a}.reshape(-1)[:1] * {b}
    torch.outer({a}.reshape(-1)[:4], {b}.reshape(-1)[:4])
    torch.dot({a}.reshape(-1)[:3], {b}.reshape(-1)[:3]) * {c}
    torch.kron({a}.reshape(-1)[:3], {b}.reshape(-1)[:3])
    torch.cat([{a}.reshape(-1)[:6], {b}.reshape(-1)[:6]])
    torch.stack([{a}.reshape(-1)[0], {b}.reshape(-1)[-1]])
    F.smooth_l1_loss({a}, {b}, reduction="none")
    F.mse_loss({a}, {b}, reduction="none")
    F.huber_loss({a}, {b}, reduction="none", delta=0.5)
    F.cosine_similarity({a}.reshape(-1)[:3] + 3, {b}.reshape(-1)[:3] + 2, dim=0)
    torch.atleast_1d({a}) + torch.atleast_1d({b})
    torch.cdist({a}.reshape(-1, 1)[:5], {b}.reshape(-1, 1)[:4] + 9)
    torch.broadcast_tensors({a}, {b})[0] * 1.5
    {a}.expand_as({a} + {b}) + 1
    sum([{a}, {b}, {c}])
    torch.einsum("i,j->ij", {a}.reshape(-1)[:4], {b}.reshape(-1)[:3])
    """,
)

ALONG = _expressions(
    (1, 4),
    """
    {a}.sum({d})
    {a}.mean({d}, keepdim=True)
    {a}.prod({d})
    {a}.amax({d})
    {a}.amin({d}, keepdim=True)
    {a}.max({d}).values
    {a}.min({d})[0]
    {a}.logsumexp({d})
    {a}.norm(dim={d})
    torch.linalg.vector_norm({a} + 3, 3, dim={d})
    {a}.var({d}, correction=0)
    ({a}.var({d}, correction=0) + 1).sqrt()
    {a}.cumsum({d})
    {a}.cumprod({d})
    {a}.logcumsumexp({d})
    {a}.cummax({d}).values
    {a}.softmax({d})
    {a}.log_softmax({d})
    F.softmin({a}, {d})
    {a}.sort({d}).values
    {a}.sort({d}, descending=True)[0]
    {a}.topk(1, {d}).values
    {a}.topk({j}, {d}, largest=False)[0]
    {a}.median({d}).values
    {a}.kthvalue(1, {d}).values
    {a}.diff(dim={d})
    {a}.flip({d})
    {a}.roll(1, {d})
    {a}.select({d}, {i})
    {a}.narrow({d}, {i}, {j} - {i})
    {a}.unbind({d})[{i}]
    {a}.chunk(2, {d})[-1]
    {a}.tensor_split(2, {d})[0]
    {a}.split([{i}, {n} - {i}], {d})[1]
    {a}.index_select({d}, torch.tensor([{i}, 0, {i}]))
    {a}.gather({d}, {a}.detach().argsort({d}))
    torch.take_along_dim({a}, {a}.detach().argsort({d}), {d})
    {a}.movedim({d}, 0)
    {a}.transpose({d}, 0)
    {a}.unsqueeze({d})
    {a}.unfold({d}, {j} - {i}, 1)
    {a}.repeat_interleave(2, {d})
    torch.cat([{a}, {a}.sin()], {d})
    torch.stack([{a}, {a}.cos()], {d})
    torch.trapezoid({a}, dim={d})
    torch.cumulative_trapezoid({a}, dim={d})
    F.normalize({a} + 2, dim={d})
    F.glu(torch.cat([{a}, {a}.sin()], {d}), {d})
    torch.fft.rfft({a}, dim={d}).abs().square()
    torch.fft.fft({a}, dim={d}).real
    torch.fft.irfft(torch.fft.rfft({a}, dim={d}) * 1j, n={n}, dim={d})
    torch.fft.fft({a}, dim={d}).imag
    torch.fft.ifft({a} + 0j, dim={d}).real
    {a}.index_add({d}, torch.tensor([{i}, {i}]), torch.cat([{a}.narrow({d}, 0, 1)] * 2, {d}))
    {a}.index_copy({d}, torch.tensor([{i}]), {a}.narrow({d}, 0, 1).sin())
    {a}.index_fill({d}, torch.tensor([{i}]), 0.5)
    {a}.scatter({d}, {a}.detach().argsort({d}), {a}.sin())
    {a}.scatter_add({d}, {a}.detach().argsort({d}) * 0, {a})
    {a}.scatter_reduce({d}, {a}.detach().argsort({d}) * 0, {a}, "sum")
    {a}.renorm(2, {d}, 0.8)
    torch.nanmean({a}, {d})
    torch.aminmax({a}, dim={d}).max
    torch.std_mean({a}, {d}, correction=0)[1]
    {a}.flatten().unflatten(0, (-1, 1)).squeeze(1)
    """,
)

SHAPES = _expressions(
    (1, 4),
    """
    {a}.reshape(-1)
    {a}.flatten()
    {a}[{i}:] if {d} == 0 else {a}[..., :2]
    {a}[..., ::2]
    {a}[..., -1]
    {a}[None, ..., :1]
    {a}[0]
    {a}[-1:]
    {a}[[0, -1, 0]]
    {a}[torch.tensor([0, -1])]
    {a}[T({s}, *{a}.shape) > 0]
    {a}.expand(2, *{a}.shape)
    {a}.repeat(2, *[1] * ({a}.dim() - 1))
    {a}.tile(2)
    {a}.squeeze()
    {a}.mT if {a}.dim() > 1 else {a}.sin()
    {a}.permute(*reversed(range({a}.dim())))
    {a}.ravel().as_strided((2, 2), (1, 1))
    {a}.contiguous().view(-1)
    {a}.swapaxes(0, -1)
    F.pad({a}, (1, 2))
    F.pad({a}, (-1, 1), value=0.5)
    F.pad({a}.reshape(1, 1, -1), (1, 1), mode="circular")
    F.pad({a}.reshape(1, 1, -1), (1, 1), mode="reflect")
    F.pad({a}.reshape(1, 1, -1), (1, 2), mode="replicate")
    torch.diag({a}.reshape(-1)[:4])
    torch.diag_embed({a}.reshape(-1)[:3])
    torch.block_diag({a}.reshape(-1)[:2], {a}.reshape(-1)[-2:])
    torch.cartesian_prod({a}.reshape(-1)[:2], {a}.reshape(-1)[-2:])
    torch.meshgrid({a}.reshape(-1)[:2], {a}.reshape(-1)[-2:], indexing="ij")[0]
    torch.combinations({a}.reshape(-1)[:4])
    torch.vander({a}.reshape(-1)[:3])
    torch.take({a}, torch.tensor([0, -1, 0]))
    {a}.masked_select(T({s}, *{a}.shape) > 0)
    torch.masked_select({a}, {a} > -9)
    {a}[{a}.detach().argmax() % len({a})]
    {a}.reshape(-1)[{a}.reshape(-1).argsort()]
    {a}.unfold(-1, 2, 1).mean(-1)
    {a}.sum()
    {a}.mean()
    {a}.norm()
    {a}.max()
    ({a} + 3).std()
    torch.linalg.norm({a}.reshape(-1))
    {a}.logsumexp(tuple(range({a}.dim())))
    torch.sum({a}, dtype=torch.float64).to({a}.dtype)
    {a}.tolist() and {a} * 1.0
    F.one_hot(torch.tensor([0, 1]), 2).to({a}) * {a}.sum()
    torch.bucketize({a}.detach(), torch.tensor([0.0])).to({a}) + {a}
    torch.trapz({a}.reshape(-1))
    F.interpolate({a}.reshape(1, 1, -1), scale_factor=2, mode="linear")
    F.interpolate({a}.reshape(1, 1, -1), size=3, mode="nearest")
    F.avg_pool1d({a}.reshape(1, 1, -1), 2)
    F.max_pool1d({a}.reshape(1, 1, -1), 2, 1)
    F.adaptive_avg_pool1d({a}.reshape(1, 1, -1), 2)
    F.lp_pool1d({a}.reshape(1, 1, -1) + 3, 2, 2)
    F.conv1d({a}.reshape(1, 1, -1), T({s}, 2, 1, 2), T({s} + 1, 2), padding=1)
    F.conv_transpose1d({a}.reshape(1, 1, -1), T({s}, 1, 2, 3), stride=2)
    F.layer_norm({a}, {a}.shape[-1:], T({s}, {a}.shape[-1]))
    F.rms_norm({a}, {a}.shape[-1:])
    F.linear({a}, T({s}, 3, {a}.shape[-1]), T({s} + 1, 3))
    {a} @ T({s}, {a}.shape[-1], 2)
    {a} @ T({s}, {a}.shape[-1])
    T({s}, 2, {a}.shape[0]) @ {a}.reshape({a}.shape[0], -1)
    torch.tensordot({a}, T({s}, {a}.shape[-1], 2), 1)
    F.embedding(torch.tensor([0, 0, -1]) % len({a}), {a}.reshape(len({a}), -1))
    F.cross_entropy({a}.reshape(1, -1), torch.tensor([0]))
    F.kl_div({a}.reshape(-1).log_softmax(0), T({s}, {a}.numel()).softmax(0), reduction="none")
    F.binary_cross_entropy_with_logits({a}, T({s}, *{a}.shape).sigmoid(), reduction="none")
    F.bilinear({a}, {a}.sin(), T({s}, 2, {a}.shape[-1], {a}.shape[-1]))
    F.pixel_shuffle({a}.reshape(-1)[:4].reshape(4, 1, 1), 2)
    F.local_response_norm({a}.reshape(1, 1, -1), 2)
    """,
)

MATRICES = _expressions(
    (2, 2),
    """
    {a}.T
    {a}.tril()
    {a}.triu(1)
    {a}.diagonal()
    {a}.mT @ {a}
    {a} @ {a}.mT
    {a}.rot90()
    {a}.fliplr()
    {a}.adjoint() * 1.0
    torch.trace({a}) * {a}
    torch.linalg.inv({a} @ {a}.mT + torch.eye({a}.shape[0], dtype={a}.dtype))
    torch.linalg.solve({a} @ {a}.mT + 2 * torch.eye({a}.shape[0], dtype={a}.dtype), {a})
    torch.linalg.cholesky({a} @ {a}.mT + torch.eye({a}.shape[0], dtype={a}.dtype))
    torch.linalg.slogdet({a} @ {a}.mT + torch.eye({a}.shape[0], dtype={a}.dtype)).logabsdet
    torch.linalg.det({a} @ {a}.mT + torch.eye({a}.shape[0], dtype={a}.dtype))
    torch.linalg.matrix_exp(0.3 * ({a} @ {a}.mT).tanh())
    torch.linalg.solve_triangular({a}.mT @ {a} + 2 * torch.eye({a}.shape[1], dtype={a}.dtype), {a}.mT, upper=True)
    torch.matrix_power(({a} @ {a}.mT).tanh(), 3)
    torch.addmm({a}, {a} @ {a}.mT, {a}, beta=0.5)
    torch.linalg.multi_dot([{a}, {a}.mT, {a}])
    torch.einsum("ij,kj->ik", {a}, {a})
    torch.einsum("ij,ij->i", {a}, {a}.sin())
    torch.einsum("ii->i", {a} @ {a}.mT)
    torch.bmm({a}[None].expand(2, -1, -1), {a}.mT[None].expand(2, -1, -1))
    torch.cov({a})
    torch.cdist({a}, {a}.sin() + 2)
    torch.cdist({a}, {a}.cos() + 3, p=1)
    F.pdist({a} + torch.arange({a}.shape[0])[:, None])
    F.scaled_dot_product_attention({a}[None], {a}[None].sin(), {a}[None])
    F.scaled_dot_product_attention({a}[None], {a}[None].sin(), {a}[None], is_causal=True)
    F.conv2d({a}[None, None], T({s}, 2, 1, 2, 2), padding=1)
    F.conv2d({a}[None, None], T({s}, 1, 1, 1, 2), stride=2, bias=T({s} + 1, 1))
    F.conv_transpose2d({a}[None, None], T({s}, 1, 1, 2, 2), stride=2)
    F.max_pool2d({a}[None, None], 2, 1)
    F.avg_pool2d({a}[None, None], 2, 1, 1)
    F.adaptive_max_pool2d({a}[None, None], 1)
    F.unfold({a}[None, None], (2, 2), padding=1)
    F.fold(F.unfold({a}[None, None], (1, 2)), {a}.shape, (1, 2))
    F.interpolate({a}[None, None], scale_factor=2, mode="bilinear")
    F.interpolate({a}[None, None], scale_factor=2, mode="bicubic", align_corners=True)
    F.grid_sample({a}[None, None], T({s}, 1, 2, 2, 2).tanh(), align_corners=False)
    F.pad({a}[None], (1, 1), mode="reflect")
    F.pad({a}[None, None], (1, 1, 1, 0), mode="replicate")
    F.batch_norm({a}, T({s}, {a}.shape[1]), T({s} + 1, {a}.shape[1]).exp())
    F.instance_norm({a}[None])
    F.group_norm({a}[None], 1)
    F.cross_entropy({a}, torch.zeros({a}.shape[0], dtype=torch.long), reduction="none")
    F.nll_loss({a}.log_softmax(1), torch.zeros({a}.shape[0], dtype=torch.long))
    torch.roll({a}, (1, -1), (0, 1))
    {a}[:, [0, -1]]
    {a}[[0, -1], [-1, 0]]
    {a}[:, None, 0]
    {a}[::2, 1:]
    {a}[T({s}, {a}.shape[0]) > -9, 0]
    torch.linalg.eigvalsh({a} @ {a}.mT + torch.diag(torch.arange({a}.shape[0])))
    torch.linalg.vander({a})[..., :2]
    torch.logdet({a} @ {a}.mT + torch.eye({a}.shape[0], dtype={a}.dtype))
    torch.linalg.matrix_norm({a})
    torch.cross(F.pad({a}, (0, 3))[:, :3], F.pad({a}.sin(), (3, 0))[:, -3:], dim=1)
    """,
)

WRITES = [
    Kind("mul_", "{t} = {a}.clone()\n{t}.mul_({f}).add_({a})"),
    Kind("sin_ of a copy", "{t} = ({a} * 2).sin_()"),
    Kind("copy_", "{t} = torch.empty_like({a})\n{t}.copy_({a}.sin())"),
    Kind("zero_ and +=", "{t} = {a}.clone().zero_()\n{t} += {a}.cos()"),
    Kind("write to an earlier one", "{t} = {a} + 0\n{u} = {t} * {t}\n{t}.add_(1)\n{t} = {t} + {u}"),
    Kind("slice *=", "{t} = {a}.clone()\n{t}[{i}:] *= {f}", (1, 4)),
    Kind("slice =", "{t} = {a}.clone()\n{t}[{i}] = {b}.sum()", (1, 4)),
    Kind("slice = another slice", "{t} = {a}.clone()\n{t}[1:] = {a}[:-1].sin()", (1, 4)),
    Kind("[...] = number", "{t} = {a} * 1\n{t}[..., 0] = {f}", (1, 4)),
    Kind("strided slice =", "{t} = {a}.sin()\n{t}[..., ::2] = {a}[..., ::2]", (1, 4)),
    Kind("mask =", "{t} = {a}.clone()\n{t}[T({s}, *{a}.shape) > 0] = {f}", (1, 4)),
    Kind("mask of values =", "{t} = {a}.clone()\n{t}[{a} > {f}] *= 0.5", (1, 4)),
    Kind("index = with repeats", "{t} = {a}.clone()\n{t}[[0, 0]] = {a}[[-1, -1]]", (1, 4)),
    Kind(
        "index_put_ that adds",
        "{t} = {a}.clone()\n{t}.index_put_((torch.tensor([0, 0]),), {a}[[0, -1]], accumulate=True)",
        (1, 4),
    ),
    Kind(
        "new_zeros, filled by rows",
        "{t} = {a}.new_zeros({a}.shape)\nfor k in range(len({a})):\n    {t}[k] = {a}[k] * (k + 1)",
        (1, 4),
    ),
    Kind(
        "new_empty, filled by halves",
        "{t} = {a}.new_empty({a}.shape)\n{t}[:{i}] = {a}[:{i}]\n{t}[{i}:] = {a}[{i}:].cos()",
        (1, 1),
    ),
    Kind(
        "recurrence in place",
        "{t} = {a}.clone()\nfor k in range(1, len({t})):\n    {t}[k] = {t}[k - 1].clone().sin() + {a}[k]",
        (1, 4),
    ),
    Kind("write through a view", "{t} = {a}.clone()\n{t}.view(-1)[:1].mul_(3)", (1, 4)),
    Kind("write through a transpose", "{t} = {a}.clone()\n{t}.T[0].add_({f})\n{t} = {t} * 1", (2, 2)),
    Kind(
        "write to the base of a view",
        "{t} = {a}.clone()\n{u} = {t}.reshape(-1)[:2]\n{t}.mul_(2)\n{t} = {t}.sum() + {u}",
        (1, 4),
    ),
    Kind("diagonal copy_", "{t} = {a} @ {a}.mT\n{t}.diagonal().copy_({a}.sum(1))", (2, 2)),
    Kind("masked_fill_", "{t} = {a}.clone().masked_fill_({a} < {f}, 0.1)"),
    Kind("masked_scatter", "{t} = {a}.masked_scatter(T({s}, *{a}.shape) > 0, {a}.sin())", (1, 4)),
    Kind("clamp_", "{t} = {a}.clone().clamp_(-0.7, 0.6)"),
    Kind("t_ and unsqueeze_", "{t} = {a}.clone().t_().unsqueeze_(0)", (2, 2)),
    Kind(
        "scatter_add_", "{t} = {a}.new_zeros(3).scatter_add_(0, torch.arange({a}.numel()) % 3, {a}.reshape(-1))", (1, 4)
    ),
    Kind("index_add_", "{t} = {a}.clone().index_add_(0, torch.tensor([0, 0]), {a}[[0, -1]].sin(), alpha=2)", (1, 4)),
    Kind("fill_diagonal_", "{t} = {a}.clone().fill_diagonal_({f})", (2, 2)),
    Kind("fill_ by a tensor", "{t} = {a}.new_empty(3).fill_({a}.sum())"),
    Kind("addmm_", "{t} = {a}.clone().addmm_({a} @ {a}.mT, {a})", (2, 2)),
    Kind("+= a list", "{u} = [{a}, {a}.sin()]\n{u}[0] = {u}[0] + {u}[1]\n{t} = {u}[0]"),
    Kind("as_strided written", "{t} = {a}.clone().reshape(-1)\n{t}.as_strided((2,), (1,)).mul_(0.5)", (1, 4)),
    Kind("expanded, then written", "{t} = {a}.sum().expand(3).clone()\n{t}[1] = {a}.reshape(-1)[0]", (1, 4)),
    Kind("torch.no_grad constant", "with torch.no_grad():\n    {u} = T({s}, *{a}.shape).exp()\n{t} = {a} * {u}"),
    Kind("relu_", "{t} = ({a} + 0.1).relu_()"),
    Kind("cumsum_", "{t} = {a}.clone().cumsum_(0)", (1, 4)),
    Kind("squeeze_ and resize by slices", "{t} = {a}.clone().unsqueeze(0).squeeze_(0)[:2]", (1, 4)),
    Kind("split, one part written", "{u} = {a}.clone()\n{t} = {u}[:1]\n{t}.mul_(2)\n{t} = {u} + {t}", (1, 4)),
]

FLOW = [
    Kind("if by values", "if float({a}.detach().sum()) > {f}:\n    {t} = {a}.sin()\nelse:\n    {t} = {a} * 2"),
    Kind("if by a tensor", "if ({a} > {f}).any():\n    {t} = {a}.cos()\nelse:\n    {t} = {a} - 1"),
    Kind("while by values", "{t} = {a} + 0\nwhile bool({t}.detach().square().sum() > 1):\n    {t} = {t} / 2"),
    Kind(
        "loop, count by values",
        "{t} = {a}\nfor _ in range(1 + int({a}.detach().abs().sum() * 3) % 3):\n    {t} = ({t} * 1.5).sin()",
    ),
    Kind("index by item", "{t} = {a}.reshape(-1)[int({a}.detach().argmax().item())] * {a}"),
    Kind(
        "order by tolist",
        "{u} = {a}.detach().reshape(-1).tolist()\n{t} = {a}.reshape(-1)[sorted(range(len({u})), key={u}.__getitem__)]",
        (1, 4),
    ),
    Kind("nonzero", "{t} = {a}[({a} > {f}).nonzero(as_tuple=True)].sum() + {a}", (1, 4)),
    Kind("mask of values, summed", "{t} = {a}[{a} > {f}].square().sum()", (1, 4)),
    Kind("row by row", "{t} = torch.stack([({a}[k] * (k + 1)).sin() for k in range(len({a}))])", (1, 4)),
    Kind(
        "Newton's method",
        "{t} = torch.ones_like({a})\nfor _ in range(5):\n    {t} = {t} - ({t} ** 3 + {t} - {a}) / (3 * {t} ** 2 + 1)",
    ),
    Kind("Euler's method", "{t} = {a}\nfor _ in range(4):\n    {t} = {t} + 0.1 * ({t}.sin() - {b})"),
    Kind("unique", "{t} = {a} * len(torch.unique({a}.detach().round()))"),
    Kind("numpy decides", "{t} = {a} * (1.5 if {a}.detach().numpy().sum() > {f} else 0.5)"),
    Kind(
        "recursion", "def {u}(x, depth):\n    return x if not depth else {u}(x.sin(), depth - 1) + x\n{t} = {u}({a}, 3)"
    ),
    Kind("try and except", "try:\n    {t} = {a}.view(7, 7, 7)\nexcept RuntimeError:\n    {t} = {a}.cos()"),
    Kind("allclose decides", "{t} = {a}.sin() if torch.allclose({a}.detach(), {a}.detach() * 2) else {a}.cos()"),
]

NESTED = [
    Kind("torch.func.grad", "{t} = torch.func.grad(lambda z: (z.sin() * z).sum())({a})"),
    Kind("grad of grad", "{t} = torch.func.grad(lambda y: torch.func.grad(lambda z: (z ** 3).sum())(y).sum())({a})"),
    Kind("torch.func.vjp", "{u}, back = torch.func.vjp(lambda z: z.sin() * {b}.sum(), {a})\n{t} = back({u})[0]"),
    Kind("torch.func.jvp", "{t} = torch.func.jvp(lambda z: z.tanh() * z, ({a},), ({a}.cos(),))[1]"),
    Kind("torch.func.jacrev", "{t} = torch.func.jacrev(lambda z: z.sin() * z.sum())({a}[:2])", (1, 1)),
    Kind("torch.func.jacfwd", "{t} = torch.func.jacfwd(lambda z: z.cos() * z.sum())({a}[:2])", (1, 1)),
    Kind("torch.func.hessian", "{t} = torch.func.hessian(lambda z: z.sin().sum() ** 2)({a}[:2])", (1, 1)),
    Kind("vmap", "{t} = torch.vmap(lambda row: row.sin() * row.sum())({a})", (1, 4)),
    Kind("vmap over columns", "{t} = torch.vmap(lambda row: row.softmax(0), in_dims=1, out_dims=1)({a})", (2, 2)),
    Kind("vmap of grad", "{t} = torch.vmap(torch.func.grad(lambda row: (row ** 3).sum()))({a})", (1, 4)),
    Kind(
        "autograd.grad inside",
        "with torch.enable_grad():\n    {u} = {a} * 1 if {a}.requires_grad else ({a} * 1).requires_grad_()\n    {t} = torch.autograd.grad(({u} ** 3).sum(), {u}, create_graph=True)[0]",
    ),
    Kind("checkpoint", "{t} = checkpoint(lambda z: z.sin() * z, {a}, use_reentrant=False)"),
    Kind("custom Function, old", "{t} = Old.apply({a})"),
    Kind("custom Function", "{t} = New.apply({a}, {f})"),
    Kind("custom Function with vmap and jvp", "{t} = Whole.apply({a})"),
    Kind("custom Function of two", "{t} = Product.apply({a}, {a}.cos())"),
    Kind(
        "functional_call",
        "{t} = torch.func.functional_call(S.{t}, {{'weight': T({s}, 2, {a}.shape[-1]), 'bias': {a}.reshape(-1)[:1].expand(2)}}, ({a},))",
        (1, 2),
        "S.{t} = filled(nn.Linear({n}, 2), {s})",
    ),
]

MODULES = [
    Kind(
        "Linear", "{t} = S.{t}({a})", (1, 3), "S.{t} = filled(nn.Linear({n}, 3), {s})", "S.{t}.weight.data.mul_(1.25)"
    ),
    Kind(
        "Sequential",
        "{t} = S.{t}({a})",
        (1, 3),
        "S.{t} = filled(nn.Sequential(nn.Linear({n}, 4), nn.GELU(), nn.Linear(4, 2)), {s})",
        "S.{t}[1] = (nn.Tanh(), nn.ReLU(), nn.SiLU())[run % 3]",
    ),
    Kind(
        "LayerNorm",
        "{t} = S.{t}({a})",
        (1, 3),
        "S.{t} = filled(nn.LayerNorm({n}), {s})",
        "S.{t}.bias.data = S.{t}.bias.data + 0.5",
    ),
    Kind(
        "BatchNorm1d",
        "{t} = S.{t}({a})",
        (2, 2),
        "S.{t} = filled(nn.BatchNorm1d({n}), {s}).eval()",
        "S.{t}.running_var.add_(0.5)",
    ),
    Kind(
        "GRU", "{t} = S.{t}({a})[0]", (2, 2), "S.{t} = filled(nn.GRU({n}, 2), {s})", "S.{t}.weight_ih_l0.data.mul_(0.5)"
    ),
    Kind("LSTM", "{t} = S.{t}({a})[0]", (2, 2), "S.{t} = filled(nn.LSTM({n}, 2), {s})"),
    Kind(
        "MultiheadAttention",
        "{t} = S.{t}({a}, {a}, {a})[0]",
        (2, 2),
        "S.{t} = filled(nn.MultiheadAttention({n}, 1), {s})",
    ),
    Kind(
        "Conv1d",
        "{t} = S.{t}({a})",
        (2, 2),
        "S.{t} = filled(nn.Conv1d({m}, 2, 1), {s})",
        "S.{t}.weight = nn.Parameter(S.{t}.weight * 0.5)",
    ),
    Kind("Conv2d", "{t} = S.{t}({a}[None, None])", (2, 2), "S.{t} = filled(nn.Conv2d(1, 2, 2, padding=1), {s})"),
    Kind("PReLU", "{t} = S.{t}({a})", (0, 3), "S.{t} = nn.PReLU(dtype=D)"),
    Kind(
        "hook",
        "{t} = S.{t}({a})",
        (1, 3),
        "S.{t} = filled(nn.Linear({n}, 2), {s})",
        "S.{t}.register_forward_hook(lambda m, i, o: o * 1.5)",
    ),
    Kind(
        "weight_norm",
        "{t} = S.{t}({a})",
        (1, 3),
        "S.{t} = weight_norm(filled(nn.Linear({n}, 2), {s}))",
        "S.{t}.parametrizations.weight.original0.data.mul_(1.5)",
    ),
    Kind(
        "TransformerEncoderLayer",
        "{t} = S.{t}({a})",
        (2, 2),
        "S.{t} = filled(nn.TransformerEncoderLayer({n}, 1, 4, 0.0), {s}).eval()",
    ),
    Kind("Bilinear", "{t} = S.{t}({a}, {a}.sin())", (1, 2), "S.{t} = filled(nn.Bilinear({n}, {n}, 2), {s})"),
    Kind(
        "method swapped",
        "{t} = S.{t}({a})",
        (1, 3),
        "S.{t} = filled(nn.Linear({n}, 2), {s})",
        "S.{t}.forward = lambda z: z.sin() * (run + 1)",
    ),
]

STATE = [
    Kind("attribute", "{t} = {a} * S.{t}", (0, 4), "S.{t} = {f}", "S.{t} = 0.5 + 0.25 * run"),
    Kind("attribute decides", "{t} = {a}.sin() if S.{t} else {a} * 3", (0, 4), "S.{t} = True", "S.{t} = run % 2 == 0"),
    Kind("global", "{t} = {a} + G_{t}", (0, 4), "G_{t} = {f}", "globals()['G_{t}'] = run * 0.5"),
    Kind(
        "global function",
        "{t} = g_{t}({a})",
        (0, 4),
        "g_{t} = torch.sin",
        "globals()['g_{t}'] = (torch.cos, torch.tanh)[run % 2]",
    ),
    Kind(
        "closure",
        "{t} = S.{t}[0]({a})",
        (0, 4),
        "def made_{t}():\n    k = 1.0\n    def use(z):\n        return z * k\n    def put(new):\n        nonlocal k\n        k = new\n    return use, put\nS.{t} = made_{t}()",
        "S.{t}[1](run + 0.5)",
    ),
    Kind("dictionary", "{t} = {a} * S.{t}['k']", (0, 4), "S.{t} = {{'k': {f}}}", "S.{t}['k'] = run + 0.25"),
    Kind(
        "list of functions",
        "{t} = {a}\nfor g in S.{t}:\n    {t} = g({t})",
        (0, 4),
        "S.{t} = [torch.sin]",
        "S.{t}.append(torch.cos)",
    ),
    Kind("tensor written", "{t} = {a} * S.{t}", (0, 4), "S.{t} = T({s}, *{shape})", "S.{t}.mul_(1.5)"),
    Kind("tensor replaced", "{t} = {a} * S.{t}", (0, 4), "S.{t} = T({s}, *{shape})", "S.{t} = S.{t} * 0.5"),
    Kind("data replaced", "{t} = {a} + S.{t}.sin()", (0, 4), "S.{t} = T({s}, *{shape})", "S.{t}.data = S.{t} + 0.5"),
    Kind("value read by item", "{t} = {a} * S.{t}.item()", (0, 4), "S.{t} = T({s}, 1)", "S.{t}.fill_(run + 0.5)"),
    Kind(
        "values read by tolist",
        "{t} = sum({a} * k for k in S.{t}.tolist())",
        (0, 4),
        "S.{t} = T({s}, 2)",
        "S.{t}[0] = run + 0.5",
    ),
    Kind(
        "loop of a length from state",
        "{t} = {a}\nfor _ in range(int(S.{t})):\n    {t} = ({t} * 1.5).sin()",
        (0, 4),
        "S.{t} = torch.tensor(2)",
        "S.{t}.fill_(1 + run % 3)",
    ),
    Kind("numpy array", "{t} = {a} * float(S.{t}[0])", (0, 4), "S.{t} = np.array([{f}, 1.0])", "S.{t}[0] = run + 0.5"),
    Kind(
        "tensor from numpy",
        "{t} = {a} * torch.from_numpy(S.{t}).to({a}.dtype)",
        (0, 4),
        "S.{t} = np.array([{f}])",
        "S.{t}[0] = run + 0.5",
    ),
    Kind("slice from state", "{t} = {a}[S.{t} :] * 2", (1, 4), "S.{t} = 0", "S.{t} = -1 if run % 2 else 0"),
    Kind("index from state", "{t} = {a}[S.{t}]", (1, 4), "S.{t} = torch.tensor([0, -1])", "S.{t}.mul_(0)"),
    Kind(
        "mask from state",
        "{t} = torch.where(S.{t}, {a}, {a}.sin())",
        (0, 4),
        "S.{t} = T({s}, *{shape}) > 0",
        "S.{t}.logical_not_()",
    ),
    Kind(
        "mask selects",
        "{t} = {a}[S.{t}]",
        (1, 4),
        "S.{t} = T({s}, *{shape}) > -0.2",
        "S.{t} = ~S.{t} if S.{t}.numel() != S.{t}.sum() else S.{t}",
    ),
    Kind(
        "partial",
        "{t} = S.{t}({a})",
        (0, 4),
        "S.{t} = partial(torch.clamp, max=0.9)",
        "S.{t} = partial(torch.clamp, max=0.5 - 0.1 * run)",
    ),
    Kind(
        "environment",
        "{t} = {a} * float(os.environ.get('FUZZ_{t}', '1.5'))",
        (0, 4),
        "os.environ.pop('FUZZ_{t}', None)",
        "os.environ['FUZZ_{t}'] = str(run + 0.5)",
    ),
    Kind("class attribute", "{t} = {a} * K_{t}.k", (0, 4), "class K_{t}:\n    k = {f}", "K_{t}.k = run + 0.5"),
    Kind(
        "default argument",
        "{t} = d_{t}({a})",
        (0, 4),
        "def d_{t}(z, k=1.5):\n    return z * k",
        "d_{t}.__defaults__ = (run + 0.5,)",
    ),
    Kind(
        "code replaced",
        "{t} = c_{t}({a})",
        (0, 4),
        "def c_{t}(z):\n    return z.sin()",
        "c_{t}.__code__ = (lambda z: z * 2).__code__ if run % 2 else (lambda z: z.cos()).__code__",
    ),
    Kind(
        "class swapped",
        "{t} = S.{t}({a})",
        (0, 4),
        "S.{t} = nn.Tanh()",
        "S.{t}.__class__ = (nn.Softsign, nn.Sigmoid)[run % 2]",
    ),
    Kind(
        "exponent from state",
        "{t} = ({a}.square() + 1) ** S.{t}",
        (0, 4),
        "S.{t} = 1.0",
        "S.{t} = (2, 0.5, 1.0)[run % 3]",
    ),
    Kind(
        "dtype from state",
        "{t} = {a}.to(S.{t}).sin().to({a}.dtype)",
        (0, 4),
        "S.{t} = torch.float64",
        "S.{t} = (torch.float64, torch.float32)[run % 2]",
    ),
    Kind(
        "property",
        "{t} = {a} * P_{t}().k",
        (0, 4),
        "class P_{t}:\n    held = {f}\n    @property\n    def k(self):\n        return self.held",
        "P_{t}.k = property(lambda self: run + 0.5)",
    ),
    Kind("matrix in a list", "{t} = {a} @ S.{t}[0]", (1, 4), "S.{t} = [T({s}, {n}, 2)]", "S.{t}[0] = S.{t}[0].flip(0)"),
    Kind(
        "storage changed through set_", "{t} = {a} * S.{t}", (0, 4), "S.{t} = T({s}, 1)", "S.{t}.set_(T({s} + run, 1))"
    ),
    Kind(
        "library patched",
        "{t} = F.{t}_patched({a})",
        (0, 4),
        "F.{t}_patched = torch.sin",
        "F.{t}_patched = torch.cos if run % 2 else torch.tanh",
    ),
]

GROUPS = {
    "pointwise": (POINTWISE, 4),
    "binary": (BINARY, 3),
    "along a dimension": (ALONG, 4),
    "shapes": (SHAPES, 4),
    "matrices": (MATRICES, 3),
    "writes": (WRITES, 3),
    "flow": (FLOW, 2),
    "nested": (NESTED, 2),
    "modules": (MODULES, 2),
    "state": (STATE, 2),
}
