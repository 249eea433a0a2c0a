"""The instrument itself: what runs on CUDA runs on the virtual device, what CUDA refuses is refused, and nothing else changes.

Each line is a program: `cpu` is a tensor of three floats on the CPU, `gpu` one on the device; `cpu0`, `gpu0` have no axes.
Where there is a GPU, the same two lists are tried on it instead.
"""
import copy
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import virtual_device

MODEL = Path(__file__).resolve().parent.parent.parent / "data" / "puppet-diffusion"
REAL = torch.cuda.is_available()          # then the lists are tried on the real one

# (program, where its result is: a device, or what the expression is equal to)
ALLOWED = [
    # where things are
    ("torch.cuda.is_available()", True),
    ("torch.device('cuda') == torch.device('cuda', 0)", False),
    ("gpu.device == torch.device('cuda', 0)", True),
    ("(gpu.is_cuda, gpu.is_cpu, cpu.is_cuda, gpu.get_device(), gpu.device.type)", (True, False, False, 0, "cuda")),
    ("gpu.type()", "torch.cuda.FloatTensor"),
    ("repr(gpu)", "tensor([1., 2., 3.], device='cuda:0')"),
    ("torch.from_numpy(np.ones(3))", "cpu"),
    ("torch.tensor([1.0], device='cuda')", "cuda"),
    ("torch.tensor([gpu0, cpu0])", "cpu"),
    ("torch.as_tensor(gpu)", "cuda"),
    ("torch.as_tensor(cpu, device='cuda')", "cuda"),
    ("torch.as_tensor(np.ones(3), device='cuda')", "cuda"),
    ("torch.zeros(gpu.shape)", "cpu"),
    ("torch.arange(3, out=gpu)", "cuda"),
    ("torch.ones(3, device=0)", "cuda"),
    ("torch.ones(3, device=gpu.device)", "cuda"),
    ("torch.zeros_like(gpu)", "cuda"),
    ("torch.zeros_like(gpu, device='cpu')", "cpu"),
    ("torch.randn_like(gpu)", "cuda"),
    ("gpu.new_zeros(3)", "cuda"),
    ("gpu.new_tensor([1, 2])", "cuda"),
    ("cpu.new_ones(3, device='cuda')", "cuda"),
    ("inside('cuda', lambda: torch.zeros(3))", "cuda"),
    ("inside('cuda', lambda: nn.Linear(3, 2).weight)", "cuda"),
    ("inside('meta', lambda: nn.Linear(3, 2).weight)", "meta"),
    # moving
    ("cpu.to('cuda')", "cuda"),
    ("cpu.to(torch.device('cuda', 0), torch.float16)", "cuda"),
    ("cpu.to(gpu)", "cuda"),
    ("cpu.type_as(gpu)", "cuda"),
    ("cpu.cuda()", "cuda"),
    ("gpu.cpu()", "cpu"),
    ("gpu.to(device='cpu', dtype=torch.float64)", "cpu"),
    ("gpu.to(torch.float16)", "cuda"),
    ("gpu.to('cuda') is gpu", True),
    ("cpu.to('cuda').add_(1).cpu().equal(cpu)", False),
    ("cpu.pin_memory().to('cuda', non_blocking=True)", "cuda"),
    ("cpu.clone().copy_(gpu)", "cpu"),
    ("gpu.copy_(cpu)", "cuda"),
    ("copy.deepcopy(gpu)", "cuda"),
    ("copy.deepcopy(layer.cuda()).weight", "cuda"),
    # computing
    ("gpu + 1", "cuda"),
    ("gpu * cpu0", "cuda"),
    ("cpu0 * gpu", "cuda"),
    ("cpu0 + gpu0", "cuda"),
    ("torch.where(gpu > 1, gpu, cpu0)", "cuda"),
    ("torch.lerp(gpu, gpu, cpu0)", "cuda"),
    ("gpu.masked_fill(gpu > 1, cpu0)", "cuda"),
    ("torch.cat([gpu, gpu])", "cuda"),
    ("torch.stack([gpu0, gpu0])", "cuda"),
    ("torch.add(gpu, gpu, out=torch.empty(3, device='cuda'))", "cuda"),
    ("gpu.reshape(3, 1).max(1).values", "cuda"),
    ("gpu.split(1)[2]", "cuda"),
    ("[row for row in gpu][0]", "cuda"),
    ("torch.einsum('i,i->', gpu, gpu)", "cuda"),
    ("cpu.reshape(1, 3).expand_as(torch.ones(2, 3, device='cuda'))", "cpu"),
    ("torch.broadcast_tensors(gpu, cpu)[1]", "cpu"),
    ("layer.to('cuda')(gpu)", "cuda"),
    ("layer.cuda().cpu()(cpu)", "cpu"),
    ("next(layer.cuda().half().parameters())", "cuda"),
    ("nn.Sequential(layer, nn.BatchNorm1d(2)).cuda().state_dict()['1.running_mean']", "cuda"),
    ("nn.MultiheadAttention(4, 2, device='cuda')(*[torch.ones(1, 2, 4, device='cuda')] * 3)[0]", "cuda"),
    ("F.scaled_dot_product_attention(*[torch.ones(1, 2, 4, 8, device='cuda')] * 3)", "cuda"),
    ("regional(torch.float16, lambda: layer.cuda()(gpu)).dtype", torch.float16),
    # parts
    ("gpu[torch.tensor([0, 1])]", "cuda"),
    ("gpu[torch.tensor([True, False, True])]", "cuda"),
    ("cpu[torch.tensor(1, device='cuda')]", "cpu"),
    ("cpu[gpu0.long()]", "cpu"),
    ("assigned(gpu, slice(1), cpu[:1])", "cuda"),
    ("assigned(cpu, slice(2), gpu[:2])", "cpu"),
    ("assigned(gpu, gpu > 1, cpu0)", "cuda"),
    ("assigned(gpu, torch.tensor([0]), 5.0)", "cuda"),
    # leaving torch
    ("(gpu.tolist(), gpu0.item(), float(gpu0), int(gpu0), bool(gpu0), f'{gpu0:.1f}')", ([1.0, 2.0, 3.0], 2.0, 2.0, 2, True, "2.0")),
    ("np.asarray(gpu.cpu()).sum()", 6),
    ("gpu.numpy(force=True).sum()", 6),
    # random numbers
    ("torch.randn(3, device='cuda', generator=torch.Generator('cuda'))", "cuda"),
    ("torch.randn(3, generator=seeded('cpu')).equal(torch.randn(3, device='cuda', generator=seeded('cuda')).cpu())", False),
    ("drawn_after(3).equal(drawn_after(3))", True),
    ("isinstance(torch.default_generator, torch.Generator) and isinstance(seeded('cuda'), torch.Generator)", True),
    ("gpu.normal_(generator=seeded('cuda'))", "cuda"),
    # gradients and training
    ("torch.autograd.grad((leaf('cuda') ** 2).sum(), seen[-1])[0]", "cuda"),
    ("torch.autograd.grad((leaf('cpu').cuda() ** 2).sum(), seen[-1])[0]", "cpu"),
    ("backward(leaf('cuda')).grad + gpu", "cuda"),
    ("hooked(leaf('cuda'), lambda gradient: gradient * gpu).grad", "cuda"),
    ("backward(leaf('cuda'), lambda x: checkpoint(lambda y: (y * gpu).sin(), x, use_reentrant=False)).grad", "cuda"),
    ("backward(leaf('cuda'), Doubled.apply).grad", "cuda"),
    ("trained(torch.optim.Adam, layer.cuda(), gpu).weight", "cuda"),
    ("trained(torch.optim.AdamW, layer.cuda(), gpu, foreach=True).weight", "cuda"),
    ("trained(torch.optim.AdamW, layer.cuda(), gpu, fused=True).weight", "cuda"),
    ("trained(torch.optim.SGD, layer.cuda(), gpu, momentum=0.9).weight", "cuda"),
    ("layer.cuda().load_state_dict(nn.Linear(3, 2).state_dict()) and layer.weight", "cuda"),
    ("layer.load_state_dict(nn.Linear(3, 2).cuda().state_dict(), assign=True) and layer.weight", "cuda"),
    ("nn.utils.clip_grad_norm_(trained(torch.optim.Adam, layer.cuda(), gpu).parameters(), 1.0)", "cuda"),
    ("nn.Parameter(gpu)", "cuda"),
    # files and threads
    ("through_torch(gpu)", "cuda"),
    ("through_torch(gpu, map_location='cpu')", "cpu"),
    ("through_torch(cpu)", "cpu"),
    ("through_torch(cpu, map_location='cuda')", "cuda"),
    ("through_safetensors(gpu)", "cpu"),
    ("through_safetensors(cpu, device='cuda')", "cuda"),
    ("in_thread(lambda: torch.ones(3, device='cuda') + gpu)", "cuda"),
]

MIXED = (virtual_device.Mismatch, "same device")
REFUSED = [
    ("gpu + cpu", *MIXED),
    ("cpu * gpu0", *MIXED),
    ("gpu @ cpu", *MIXED),
    ("torch.cat([gpu, cpu])", *MIXED),
    ("torch.stack([gpu0, cpu0])", *MIXED),
    ("torch.where(cpu > 1, gpu, gpu)", *MIXED),
    ("torch.lerp(gpu, gpu, cpu)", *MIXED),
    ("torch.lerp(cpu, cpu, gpu0)", *MIXED),
    ("gpu.lerp_(cpu, 0.5)", *MIXED),
    ("torch.meshgrid(gpu, cpu, indexing='ij')", *MIXED),
    ("torch.add(gpu, gpu, out=torch.empty(3))", *MIXED),
    ("torch.zeros(3, out=torch.empty(3), device='cuda')", *MIXED),
    ("gpu.add_(cpu)", *MIXED),
    ("cpu.add_(gpu0)", *MIXED),
    ("cpu0.add_(gpu0)", *MIXED),
    ("added(cpu, gpu)", *MIXED),
    ("gpu > cpu", *MIXED),
    ("torch.equal(gpu, cpu)", *MIXED),
    ("torch.allclose(gpu, cpu)", *MIXED),
    ("torch.einsum('i,i->', gpu, cpu)", *MIXED),
    ("F.mse_loss(gpu, cpu)", *MIXED),
    ("F.linear(gpu, torch.ones(2, 3))", *MIXED),
    ("F.embedding(torch.tensor([0]), torch.ones(2, 3, device='cuda'))", *MIXED),
    ("F.grid_sample(torch.ones(1, 1, 4, 4, device='cuda'), torch.zeros(1, 2, 2, 2), align_corners=False)", *MIXED),
    ("F.cross_entropy(torch.ones(2, 3, device='cuda'), torch.tensor([0, 1]))", *MIXED),
    ("gpu.gather(0, torch.tensor([0]))", *MIXED),
    ("gpu.index_select(0, torch.tensor([0]))", *MIXED),
    ("gpu.masked_fill(cpu > 1, 0.0)", *MIXED),
    ("gpu.repeat_interleave(torch.tensor([1, 2, 3]))", *MIXED),
    ("torch.searchsorted(cpu, gpu)", *MIXED),
    ("torch.isin(gpu, cpu)", *MIXED),
    ("gpu * torch.from_numpy(np.ones(3, 'float32'))", *MIXED),
    ("layer.cuda()(cpu)", *MIXED),
    ("layer(gpu)", *MIXED),
    ("layer.cuda().load_state_dict(nn.Linear(3, 2).state_dict(), assign=True) and layer(gpu)", *MIXED),
    ("regional(torch.float16, lambda: layer.cuda()(cpu))", *MIXED),
    ("assigned(gpu, torch.tensor([0, 1]), cpu[:2])", *MIXED),
    ("assigned(gpu, gpu > 1, cpu[:2])", *MIXED),
    ("cpu[torch.tensor([0, 1], device='cuda')]", virtual_device.Mismatch, "indices should be"),
    ("cpu[gpu > 1]", virtual_device.Mismatch, "indices should be"),
    ("assigned(cpu, torch.tensor([0], device='cuda'), 1.0)", virtual_device.Mismatch, "indices should be"),
    ("backward(leaf('cuda')).grad + cpu", *MIXED),
    ("hooked(leaf('cuda'), lambda gradient: gradient * cpu)", *MIXED),
    ("backward(leaf('cuda'), lambda x: x * cpu)", *MIXED),
    ("torch.autograd.grad(leaf('cuda') * 2, seen[-1], torch.ones(3))", virtual_device.Mismatch, "invalid gradient"),
    ("torch.autograd.backward([leaf('cuda') * 2], [torch.ones(3)])", *MIXED),
    ("(leaf('cuda') * 2).backward(torch.ones(3))", *MIXED),
    ("in_thread(lambda: gpu + cpu)", *MIXED),
    ("setattr(gpu, 'grad', cpu)", RuntimeError, "assign a gradient"),
    ("gpu.numpy()", TypeError, "can't convert cuda:0"),
    ("np.asarray(gpu)", TypeError, "can't convert cuda:0"),
    ("np.stack([gpu, gpu])", TypeError, "can't convert cuda:0"),
    ("np.add(np.ones(3), gpu)", TypeError, "can't convert cuda:0"),
    ("gpu.apply_(abs)", (TypeError, NotImplementedError), "apply_"),
    ("torch.histogram(gpu, 2)", NotImplementedError, "CUDA"),
    ("torch.randn(3, device='cuda', generator=torch.Generator())", RuntimeError,
     "Expected a 'cuda' device type for generator but found 'cpu'"),
    ("torch.randn(3, generator=torch.Generator('cuda'))", RuntimeError,
     "Expected a 'cpu' device type for generator but found 'cuda'"),
    ("torch.randperm(3, device='cuda', generator=torch.Generator())", RuntimeError, "Expected a 'cuda' device type"),
    ("gpu.normal_(generator=torch.Generator())", RuntimeError, "Expected a 'cuda' device type"),
    ("torch.multinomial(gpu, 1, generator=torch.Generator())", RuntimeError, "Expected a 'cuda' device type"),
    ("torch.ones(3, device='cuda:63')", RuntimeError, "invalid device ordinal"),
    ("gpu.to('cuda:63')", RuntimeError, "invalid device ordinal"),
]


class Doubled(torch.autograd.Function):
    """In its backward pass gradients and what was saved meet what was kept."""

    @staticmethod
    def forward(context, x):
        context.save_for_backward(x)
        context.kept = torch.full_like(x, 2)
        return x * context.kept

    @staticmethod
    def backward(context, gradient):
        return gradient * context.kept + 0 * context.saved_tensors[0]


class Words(dict):
    """The words that the programs are made of."""

    def __init__(self, folder):
        super().__init__(globals(), cpu=torch.tensor([1.0, 2.0, 3.0]), cpu0=torch.tensor(2.0), layer=nn.Linear(3, 2), seen=[])
        self |= dict(gpu=self["cpu"].to("cuda"), gpu0=self["cpu0"].to("cuda"), leaf=self.leaf)
        self |= dict(through_torch=lambda tensor, **how: through_torch(folder / "file.pt", tensor, how),
                     through_safetensors=lambda tensor, **how: through_safetensors(folder / "file.safetensors", tensor, how))

    def leaf(self, device):
        self["seen"].append(torch.tensor([1.0, 2.0, 3.0], device=device, requires_grad=True))
        return self["seen"][-1]


def inside(device, function):
    with torch.device(device):
        return function()


def regional(dtype, function):
    with torch.autocast("cuda", dtype):
        return function()


def assigned(target, where, values):
    target[where] = values
    return target


def added(target, values):
    target += values
    return target


def seeded(device):
    return torch.Generator(device).manual_seed(3)


def drawn_after(seed):
    torch.manual_seed(seed)
    return torch.randn(3, device="cuda")


def backward(leaf, function=torch.square):
    function(leaf).sum().backward()
    return leaf


def hooked(leaf, hook):
    leaf.register_hook(hook)
    return backward(leaf)


def trained(optimizer, layer, batch, **settings):
    steps = optimizer(layer.parameters(), lr=0.1, **settings)
    for _ in range(2):
        steps.zero_grad()
        layer(batch).square().sum().backward()
        steps.step()
    steps.load_state_dict(steps.state_dict())
    steps.step()
    assert all(value.device == batch.device for state in steps.state.values() for value in state.values() if value.dim())
    return layer


def through_torch(path, tensor, how):
    torch.save({"it": tensor}, path)
    return torch.load(path, weights_only=True, **how)["it"]


def through_safetensors(path, tensor, how):
    save_file({"it": tensor}, path)
    return load_file(path, **how)["it"]


def in_thread(function):
    results = []

    def run():
        try:
            results.append(function())
        except Exception as error:
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if isinstance(results[0], Exception):
        raise results[0]
    return results[0]


@pytest.fixture
def device():
    if REAL:
        yield
    else:
        virtual_device.install()
        yield
        virtual_device.uninstall()


@pytest.fixture
def words(device, tmp_path):
    return Words(tmp_path)


# ---------------------------------------------------------------------------------------------- the two lists

@pytest.mark.parametrize("program, expected", ALLOWED, ids=[program for program, _ in ALLOWED])
def test_what_cuda_allows(program, expected, words):
    result = eval(program, words)
    if isinstance(result, torch.Tensor):
        assert result.device == (torch.device("cuda", 0) if expected == "cuda" else torch.device(expected))
    else:
        assert result == expected


@pytest.mark.parametrize("program, error, says", REFUSED, ids=[program for program, _, _ in REFUSED])
def test_what_cuda_refuses(program, error, says, words):
    with pytest.raises((RuntimeError, TypeError) if REAL else error, match=None if REAL else says):
        eval(program, words)


# ---------------------------------------------------------------------------------------------- the whole of it

only_without_gpu = pytest.mark.skipif(REAL, reason="there is a real device")


@only_without_gpu
def test_afterwards_torch_is_what_it_was():
    everything = lambda: [dict(vars(owner)) for owner in (torch, torch.cuda, torch.autograd, torch.Tensor, torch.nn.Parameter)]
    before = everything()
    virtual_device.install()
    with pytest.raises(RuntimeError, match="installed already"):
        virtual_device.install()
    there = torch.ones(3, device="cuda")
    virtual_device.uninstall()
    assert everything() == before
    assert there.device.type == "cpu" and torch.equal(there, torch.ones(3)) and there.numpy().sum() == 3
    with pytest.raises((AssertionError, RuntimeError)):
        torch.ones(3, device="cuda")


def picture(prepare=lambda pipe: pipe):
    pipe = StableDiffusionPipeline.from_pretrained(MODEL)
    pipe.set_progress_bar_config(disable=True)
    pipe = prepare(pipe) or pipe
    return pipe("a puppet on a beach", num_inference_steps=3, generator=torch.Generator().manual_seed(0), output_type="pt").images


@pytest.fixture(scope="module")
def plain_picture():
    return picture()


WAYS = {
    "to cuda": lambda pipe: pipe.to("cuda"),
    "model offload": lambda pipe: pipe.enable_model_cpu_offload(device="cuda"),
    "sequential offload": lambda pipe: pipe.enable_sequential_cpu_offload(device="cuda"),
}


@only_without_gpu
@pytest.mark.parametrize("way", WAYS)
def test_a_pipeline_samples_there_as_on_the_cpu(way, plain_picture, device):
    there = picture(WAYS[way])
    assert there.is_cuda
    assert torch.equal(there.cpu(), plain_picture)
