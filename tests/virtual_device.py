"""A CPU plays a CUDA device: what a machine with a GPU refuses is refused here, on a machine that has none.

    import virtual_device
    virtual_device.install()            # from here on `torch.cuda.is_available()` is True; `uninstall()` ends the play

Every tensor carries a mark, the device it is on. `tensor.to("cuda")`, `module.to("cuda")` and `device="cuda"` set it, results
inherit it, and an operation on tensors of both devices raises `Mismatch`, as does whatever else CUDA would not do: `numpy()`
of a tensor on the device, a CPU generator for noise drawn there, a CPU tensor indexed by one of the device. What a GPU allows
is allowed: CPU tensors without axes beside any others, CPU indices, copies across. `tests/device/test_virtual_device.py`
is the list of both.

How: a `TorchFunctionMode` sees every call into torch, looks up the rule for it in `RULES` (most have none and follow
`ordinary`) and lets the CPU compute, so results are the CPU's to the bit (but for sums of products in float16, see `rounded`).
Some dozen functions of `torch.cuda` and of its neighbours are replaced by what a small GPU would answer.

What is born outside of torch's Python functions has no mark: from NumPy it is on the CPU, where it is; gradients on their
way through a backward pass are taken for whatever is needed.

Not played: the device's own numbers (rounding, kernels; its random numbers only differ from the CPU's where a function takes
a generator), memory, streams, more than one GPU, operations that CUDA lacks (but for a few), autocast by device (a region
for "cuda" is one for the CPU), and what runs inside one function of torch: its arguments are looked at, no more.
"""
import inspect
import threading
import time
from types import SimpleNamespace

import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack
from torch.utils import _device

Tensor = torch.Tensor
GPU = torch.device("cuda", 0)
MARK = "_virtual_device"                 # the attribute of a tensor that says "cuda" or "cpu"; see `place_of` where it is absent
GIGABYTE = 2**30


class Mismatch(RuntimeError):
    """Tensors of two devices in one operation; CUDA raises a plain RuntimeError."""


# ------------------------------------------------------------------------------------------------------- marks

def wanted(device) -> str:
    """The type of a device as a caller names it: "cuda", "cuda:0", 0, a torch.device."""
    device = torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
    if device.type == "cuda" and device.index not in (None, 0):
        raise RuntimeError("CUDA error: invalid device ordinal")
    return device.type


def real(device):
    """The device that computes for the one a caller names."""
    return "cpu" if wanted(device) == "cuda" else device


def names_device(value) -> bool:
    return isinstance(value, (str, torch.device)) or type(value) is int


def place_of(tensor) -> str | None:
    """"cuda", "cpu" or "meta"; None, for whatever is needed, of tensors without a mark during a backward pass."""
    if tensor.is_meta:
        return "meta"
    return tensor.__dict__.get(MARK) or (None if backward_passes else "cpu")


def put(value, place):
    """Mark the tensors in a result; `place` None leaves them unmarked."""
    global tensors_there
    if isinstance(value, Tensor):
        if place is not None and not value.is_meta:
            setattr(value, MARK, place)
            tensors_there += place == "cuda"
    elif isinstance(value, (tuple, list)):
        for each in value:
            put(each, place)
    elif isinstance(value, dict):
        for each in value.values():
            put(each, place)
    return value


def tensors_in(*values):
    """All tensors among arguments, also those in lists, tuples and dictionaries."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from tensors_in(*value)
        elif isinstance(value, dict):
            yield from tensors_in(*value.values())


def mismatch(func, tensors):
    found = ", ".join(f"{place_of(tensor)}{tuple(tensor.shape)}" for tensor in tensors)
    return Mismatch(f"Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! "
                    f"(in {func.__name__} of {found})")


def common_place(func, args, kwargs) -> str | None:
    """The one device of an operation's tensors. CPU tensors without axes go with any, unless they are written to or joined."""
    tensors = list(tensors_in(args, kwargs))
    written = list(tensors_in(kwargs.get("out"))) + list(tensors_in(args[:1]) if in_place(func) else ())
    places = set()
    for tensor in tensors:
        place = place_of(tensor)
        guest = place == "cpu" and tensor.dim() == 0 and func not in JOINS and all(tensor is not each for each in written)
        if place is not None and not guest:
            places.add(place)
    if {"cuda", "cpu"} <= places:
        raise mismatch(func, tensors)
    if places:
        return next(iter(places - {"meta"}), "meta")
    return "cpu" if any(place_of(tensor) for tensor in tensors) or not tensors else None


def in_place(func) -> bool:
    name = func.__name__
    return name in IN_PLACE_OPERATORS or (name.endswith("_") and not name.endswith("__"))


IN_PLACE_OPERATORS = {f"__i{name}__" for name in "add sub mul truediv floordiv mod pow and or xor lshift rshift".split()}
JOINS = {torch.cat, torch.concat, torch.concatenate, torch.stack, torch.hstack, torch.vstack, torch.dstack, torch.column_stack,
         torch.meshgrid, torch.block_diag}


# ------------------------------------------------------------------------------------------------------- rules
# A rule gets the function that was called with its arguments, may refuse, and calls it. The mode is off meanwhile: here
# torch is the plain one, in which every tensor is on the CPU.

class VirtualDevice(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        return RULES.get(func, ordinary)(func, args, dict(kwargs or {}))


def ordinary(func, args, kwargs):
    """One device for all tensors; the result is there too, or where the argument `device` says (`zeros_like`, `new_ones`)."""
    place = common_place(func, args, kwargs)
    if kwargs.get("device") is not None:
        place, kwargs["device"] = wanted(kwargs["device"]), real(kwargs["device"])
    kwargs.pop("pin_memory", None)
    draw_there(func, place, kwargs)
    return put(func(*args, **kwargs), place)


def rounded(func, args, kwargs):
    """Sums of products in float16: a GPU adds them up in float32 and rounds what comes out, and so does the play, for a CPU's own
    convolutions in float16 take sixty times as long as in float32."""
    if {tensor.dtype for tensor in tensors_in(args, kwargs)} != {torch.float16} or kwargs.get("out") is not None or torch.is_autocast_enabled("cpu"):
        return ordinary(func, args, kwargs)
    place = common_place(func, args, kwargs)
    wide = lambda value: value.float() if isinstance(value, Tensor) else type(value)(map(wide, value)) if isinstance(value, (tuple, list)) else value
    return put(func(*map(wide, args), **{name: wide(value) for name, value in kwargs.items()}).half(), place)


def create(func, args, kwargs):
    """`zeros`, `randn`, `tensor` and their like: on the device that is asked for, or of the tensor given, or on the CPU."""
    tensor = args[0] if func in (torch.tensor, torch.as_tensor, torch.asarray) and args and isinstance(args[0], Tensor) else None
    out = list(tensors_in(kwargs.get("out")))
    device = kwargs.get("device")
    if device is None:
        device = _device.CURRENT_DEVICE              # of `with torch.device("cuda"):` and `torch.set_default_device`
    if device is not None:
        place, kwargs["device"] = wanted(device), real(device)
    else:
        place = place_of(tensor) if tensor is not None else place_of(out[0]) if out else "cpu"
    if any(place_of(each) != place for each in out):
        raise mismatch(func, out)
    kwargs.pop("pin_memory", None)
    draw_there(func, place, kwargs)
    made = func(*args, **kwargs)
    if func in (torch.as_tensor, torch.asarray) and place != ("cpu" if tensor is None else place_of(tensor)):
        made = made.clone()                          # they share memory where they can; across devices they cannot
    return put(made, place)


def draw_there(func, place, kwargs):
    """Random numbers need a generator of their device; without one given, the device has one of its own."""
    generator = kwargs.get("generator")
    if generator is None:
        if place == "cuda" and func in RANDOM:
            kwargs["generator"] = device_generator
    elif place in ("cuda", "cpu") and generator.device.type != place:
        raise RuntimeError(f"Expected a '{place}' device type for generator but found '{generator.device.type}'")


def move(func, args, kwargs):
    """`to`, `cuda`, `cpu`, `type_as`: to a device, to a dtype, or to where another tensor is."""
    source, *rest = args
    if func in (Tensor.cpu, Tensor.cuda):
        device = "cpu" if func == Tensor.cpu else next(filter(names_device, (*rest, kwargs.pop("device", None))), "cuda")
        func, rest, kwargs = Tensor.to, [device], {key: value for key, value in kwargs.items() if key == "memory_format"}
    place = place_of(source)
    for position, value in enumerate(rest):
        if isinstance(value, Tensor):
            place = place_of(value)
        elif names_device(value):
            place, rest[position] = wanted(value), real(value)
    if kwargs.get("device") is not None:
        place, kwargs["device"] = wanted(kwargs["device"]), real(kwargs["device"])
    if isinstance(kwargs.get("other"), Tensor):
        place = place_of(kwargs["other"])
    moved = func(source, *rest, **kwargs)
    if moved is source and place != place_of(source):
        moved = source.clone()
    return put(moved, place)


def as_first(func, args, kwargs):
    """Other tensors lend their shape, their values or nothing; the result is where the first is."""
    place = place_of(args[0])
    return put(func(*args, **kwargs), place)


def each_its_own(func, args, kwargs):
    """As many results as tensors, each where its tensor is."""
    places = [place_of(tensor) for tensor in tensors_in(args)]
    results = func(*args, **kwargs)
    for result, place in zip(results, places):
        put(result, place)
    return results


def anything(func, args, kwargs):
    return func(*args, **kwargs)


def index(func, args, kwargs):
    """Reading and writing parts: indices on the CPU are fine everywhere, others belong where the indexed tensor is."""
    target, indices, *values = args
    place = place_of(target)
    with_axes = [tensor for tensor in tensors_in(indices) if tensor.dim()]
    if place == "cpu" and any(place_of(tensor) == "cuda" for tensor in with_axes):
        raise Mismatch("indices should be either on cpu or on the same device as the indexed tensor (cpu)")
    lists = with_axes or any(isinstance(each, list) for each in (indices if isinstance(indices, tuple) else (indices,)))
    if lists and any(tensor.dim() and place_of(tensor) not in (place, None) for tensor in tensors_in(values)):
        raise mismatch(func, list(tensors_in(args)))          # slices are written by a copy, which may cross; places are not
    return put(func(*args, **kwargs), place)


def iterate(func, args, kwargs):
    return iter(put(list(func(*args, **kwargs)), place_of(args[0])))


def to_numpy(func, args, kwargs):
    if place_of(args[0]) == "cuda" and not kwargs.get("force"):
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory "
                        "first.")
    return func(*args, **kwargs)


def cpu_only(func, args, kwargs):
    if any(place_of(tensor) == "cuda" for tensor in tensors_in(args, kwargs)):
        raise NotImplementedError(f"Could not run '{func.__name__}' with arguments from the 'CUDA' backend.")
    return ordinary(func, args, kwargs)


def device_of(func, args, kwargs):
    return GPU if place_of(args[0]) == "cuda" else func(*args)


def is_on(*places):
    return lambda func, args, kwargs: place_of(args[0]) in places


def describe(func, args, kwargs):
    text = func(*args, **kwargs)
    if place_of(args[0]) != "cuda":
        return text
    ends = [position for word in (", dtype=", ", grad_fn=", ", requires_grad=") if (position := text.rfind(word)) > 0]
    end = min(ends, default=len(text) - 1)
    return f"{text[:end]}, device='cuda:0'{text[end:]}"


def type_of(func, args, kwargs):
    """`type()` names the class of the tensor; with an argument it is a conversion."""
    result = func(*args, **kwargs)
    if isinstance(result, Tensor):
        return put(result, place_of(args[0]))
    return result.replace("torch.", "torch.cuda.") if place_of(args[0]) == "cuda" else result


def set_gradient(func, args, kwargs):
    target, gradient = args
    if isinstance(gradient, Tensor) and place_of(gradient) not in (place_of(target), None):
        raise RuntimeError(f"attempting to assign a gradient with device type '{place_of(gradient)}' to a tensor with device type "
                           f"'{place_of(target)}'. Please ensure that the gradient and the tensor are on the same device")
    return func(*args)


def set_data(func, args, kwargs):
    """`module.to` moves parameters so."""
    func(*args)
    put(args[0], place_of(args[1]))


def hook(func, args, kwargs):
    """A hook on a tensor gets a gradient of the tensor's device."""
    (tensor, function), place = args, place_of(args[0])
    return func(tensor, lambda gradient: function(put(gradient, place)), **kwargs)


def gradients(func, args, kwargs):
    """`torch.autograd.grad`: each gradient is where its input is."""
    inputs = args[1] if len(args) > 1 else kwargs["inputs"]
    results = func(*args, **kwargs)
    for result, source in zip(results, [inputs] if isinstance(inputs, Tensor) else inputs):
        put(result, place_of(source))
    return results


def reduce(func, args, kwargs):
    """For `torch.save`: no mark goes into a file, but the storage is known for one of the device."""
    tensor = args[0]
    mark = tensor.__dict__.pop(MARK, None)
    if mark == "cuda":
        device_storages.add(tensor.untyped_storage()._cdata)
    try:
        return func(*args, **kwargs)
    finally:
        if mark:
            setattr(tensor, MARK, mark)


def rules() -> dict:
    found = dict.fromkeys(_device._device_constructors(), create)
    found |= dict.fromkeys([torch.conv2d, torch.conv_transpose2d, F.linear, torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, Tensor.bmm,
                            torch.baddbmm, torch.einsum, F.scaled_dot_product_attention], rounded)
    found |= dict.fromkeys([Tensor.to, Tensor.cuda, Tensor.cpu, Tensor.type_as], move)
    found |= dict.fromkeys([Tensor.copy_, Tensor.expand_as, Tensor.view_as, Tensor.reshape_as, Tensor.resize_as_,
                            Tensor.__deepcopy__, Tensor.data.__get__, Tensor.grad.__get__, Tensor._grad.__get__], as_first)
    found |= dict.fromkeys([torch.broadcast_tensors, torch.atleast_1d, torch.atleast_2d, torch.atleast_3d], each_its_own)
    found |= dict.fromkeys([torch._foreach_copy_, torch.result_type, torch._has_compatible_shallow_copy_type,
                            Tensor.is_same_size, Tensor.is_set_to], anything)
    found |= dict.fromkeys([Tensor.__getitem__, Tensor.__setitem__, Tensor.index_put, Tensor.index_put_, torch.index_put], index)
    found |= dict.fromkeys([Tensor.numpy, Tensor.__array__], to_numpy)
    found |= dict.fromkeys([Tensor.apply_, Tensor.map_, Tensor.histogram, torch.histogram, torch.histogramdd], cpu_only)
    found |= {
        Tensor.device.__get__: device_of,
        Tensor.is_cuda.__get__: is_on("cuda"),
        Tensor.is_cpu.__get__: is_on("cpu", None),
        Tensor.get_device: lambda func, args, kwargs: 0 if place_of(args[0]) == "cuda" else -1,
        Tensor.type: type_of,
        Tensor.__repr__: describe,
        Tensor.__iter__: iterate,
        Tensor.grad.__set__: set_gradient,
        Tensor.data.__set__: set_data,
        Tensor.register_hook: hook,
        Tensor.__reduce_ex__: reduce,
        Tensor.pin_memory: lambda func, args, kwargs: args[0],
        Tensor.record_stream: lambda func, args, kwargs: None,
        torch.autograd.grad: gradients,
    }
    return found


RULES = rules()
RANDOM = {torch.rand, torch.randn, torch.randint, torch.randperm, torch.normal, torch.bernoulli, torch.multinomial,
          Tensor.bernoulli, Tensor.multinomial, Tensor.normal_, Tensor.uniform_, Tensor.random_, Tensor.bernoulli_,
          Tensor.exponential_, Tensor.cauchy_, Tensor.geometric_, Tensor.log_normal_}


# ------------------------------------------------------------------------------------------------------- generators

class _AnyGenerator(type(torch._C.Generator)):
    def __instancecheck__(cls, value):
        return isinstance(value, torch._C.Generator)


class Generator(torch._C.Generator, metaclass=_AnyGenerator):
    """Stands in for `torch.Generator`. One of the device draws other numbers than a CPU generator with the same seed."""

    def __new__(cls, device="cpu"):
        self = super().__new__(cls, "cpu")
        self._device = GPU if wanted(device) == "cuda" else torch.device(device)
        return self

    def __init__(self, device="cpu"):
        if self._device == GPU:
            self.manual_seed(67280421310721)                         # torch's default seed

    @property
    def device(self):
        return self._device

    def manual_seed(self, seed):
        self._seed = seed
        super().manual_seed((seed ^ 0xC0DA) % 2**63 if self._device == GPU else seed)
        return self

    def initial_seed(self):
        return self._seed if self._device == GPU else super().initial_seed()


device_generator = Generator("cuda")


# ------------------------------------------------------------------------------------------------------- what else is played

tensors_there = 0                        # how many results were on the device, for those who want to know that any was
backward_passes = 0                      # how many are running, see `place_of`
device_storages = set()                  # addresses of storages of the device, between a saving or loading and its end
mode = VirtualDevice()
replaced = []                            # (owner, name, what was there)


def replace(owner, name, new):
    """Until `uninstall`; what this version of torch does not have, nobody misses."""
    if hasattr(owner, name):
        replaced.append((owner, name, inspect.getattr_static(owner, name)))
        setattr(owner, name, new)


def always(value):
    return lambda *args, **kwargs: value


def properties(device=None):
    return SimpleNamespace(name="virtual", major=9, minor=0, total_memory=80 * GIGABYTE, multi_processor_count=1, warp_size=32)


class Event:
    """Of `torch.cuda.Event`, what timing needs."""

    def __init__(self, *args, **kwargs):
        self.at = 0.0

    def record(self, stream=None):
        self.at = time.perf_counter()

    def elapsed_time(self, later):
        return (later.at - self.at) * 1000

    synchronize = wait = query = always(True)


class Stream:
    """A stream in which everything is already done."""

    def __init__(self, *args, **kwargs):
        self.device = GPU

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    synchronize = wait_stream = wait_event = record_event = always(None)
    is_capturing = always(False)


def replace_cuda():
    """`torch.cuda`, and `torch.accelerator` where this torch has it."""
    answers = dict(
        is_available=True, is_initialized=True, device_count=1, current_device=0, get_device_name="virtual",
        get_device_capability=(9, 0), get_arch_list=["sm_90"], is_bf16_supported=True, is_current_stream_capturing=False,
        memory_allocated=0, max_memory_allocated=0, memory_reserved=0, max_memory_reserved=0,
        mem_get_info=(80 * GIGABYTE, 80 * GIGABYTE), _exchange_device=0, _maybe_exchange_device=0)
    for name, answer in answers.items():
        replace(torch.cuda, name, always(answer))
    for name in ("_lazy_init", "init", "set_device", "empty_cache", "ipc_collect", "synchronize", "reset_peak_memory_stats",
                 "reset_max_memory_allocated"):
        replace(torch.cuda, name, always(None))
    for name, new in dict(memory_stats=lambda device=None: {}, get_device_properties=properties, Event=Event, Stream=Stream,
                          current_stream=Stream, default_stream=Stream, stream=lambda stream: stream or Stream()).items():
        replace(torch.cuda, name, new)
    replace(torch.cuda, "manual_seed", device_generator.manual_seed)
    replace(torch.cuda, "manual_seed_all", device_generator.manual_seed)
    replace(torch.cuda, "initial_seed", device_generator.initial_seed)
    replace(torch.cuda, "get_rng_state", lambda device="cuda": device_generator.get_state())
    replace(torch.cuda, "set_rng_state", lambda state, device="cuda": device_generator.set_state(state))
    replace(torch.cuda, "get_rng_state_all", lambda: [device_generator.get_state()])
    replace(torch.cuda, "set_rng_state_all", lambda states: device_generator.set_state(states[0]))
    if hasattr(torch, "accelerator"):
        answers = dict(is_available=True, current_accelerator=torch.device("cuda"), device_count=1, current_device_index=0,
                       synchronize=None, empty_cache=None, memory_allocated=0, max_memory_allocated=0)
        for name, answer in answers.items():
            replace(torch.accelerator, name, always(answer))
        replace(torch.accelerator, "current_stream", Stream)


def replace_autocast():
    """A region for "cuda" is one for the CPU, by default in float16."""
    enter, enabled, dtype = torch.autocast.__init__, torch.is_autocast_enabled, torch.get_autocast_dtype

    def init(self, device_type, *args, **kwargs):
        if device_type == "cuda":
            device_type = "cpu"
            if not args and kwargs.get("dtype") is None:
                kwargs["dtype"] = torch.float16
        enter(self, device_type, *args, **kwargs)

    replace(torch.autocast, "__init__", init)
    replace(torch, "is_autocast_enabled", lambda kind="cpu": enabled("cpu" if kind == "cuda" else kind))
    replace(torch, "get_autocast_dtype", lambda kind: dtype("cpu" if kind == "cuda" else kind))


def replace_backward():
    """Hooks and recomputations run inside a backward pass, with the mode on."""
    run = torch.autograd._engine_run_backward

    def run_backward(outputs, gradients, *args, **kwargs):
        global backward_passes
        backward_passes += 1
        try:
            for output, gradient in zip(outputs, gradients):
                if isinstance(gradient, Tensor) and place_of(gradient) not in (place_of(output), None):
                    raise Mismatch(f"invalid gradient - expected device {place_of(output)} but got {place_of(gradient)}")
            return in_mode(run)(outputs, gradients, *args, **kwargs)
        finally:
            backward_passes -= 1

    replace(torch.autograd, "_engine_run_backward", run_backward)
    # checkpoints compare what is saved, seen from inside of a function where all is on the CPU, with what is recomputed
    checks = torch.utils.checkpoint._allowed_determinism_checks_to_fns
    same = {"default": lambda tensor: {"shape": tensor.shape, "dtype": tensor.dtype}}
    replace(torch.utils.checkpoint, "_allowed_determinism_checks_to_fns", checks | same)


def replace_parameters():
    """A parameter is where its data is. accelerate makes new ones from all attributes of old ones, marks included."""
    make = torch.nn.Parameter.__new__

    def new(cls, data=None, requires_grad=True, **marks):
        made = make(cls, data, requires_grad)
        return made if data is None else put(made, place_of(data))

    replace(torch.nn.Parameter, "__new__", staticmethod(new))


def replace_files():
    """A file remembers for each tensor that it was on a device, and `torch.load` brings it back there unless told otherwise."""
    save, load = torch.save, torch.load

    def save_marked(*args, **kwargs):
        device_storages.clear()
        return in_mode(save)(*args, **kwargs)

    def load_marked(*args, **kwargs):
        device_storages.clear()
        loaded = load(*args, **kwargs)
        for tensor in tensors_in(loaded):
            put(tensor, "cuda" if tensor.untyped_storage()._cdata in device_storages else "cpu")
        return loaded

    def location(storage):
        return "cuda:0" if storage._cdata in device_storages else None

    def restore(storage, place):
        if place.startswith("cuda"):
            wanted(place)
            device_storages.add(storage._cdata)
            return storage

    torch.serialization.register_package(0, location, restore)
    replace(torch, "save", save_marked)
    replace(torch, "load", load_marked)


def replace_threads():
    """Modes belong to a thread: new ones get this one as well."""
    start = threading.Thread.start

    def start_in_mode(self):
        self.run = in_mode(self.run)
        start(self)

    replace(threading.Thread, "start", start_in_mode)


def in_mode(function):
    """The function, with the mode on while it runs."""
    def run(*args, **kwargs):
        if mode in _get_current_function_mode_stack():
            return function(*args, **kwargs)
        with mode:
            return function(*args, **kwargs)
    return run


def install():
    """Let the play begin, in this thread and in those that it starts."""
    if replaced:
        raise RuntimeError("the virtual device is installed already")
    replace(torch, "Generator", Generator)
    replace_cuda()
    replace_autocast()
    replace_backward()
    replace_parameters()
    replace_files()
    replace_threads()
    device_generator.manual_seed(67280421310721)
    mode.__enter__()


def uninstall():
    """Torch as it was; tensors that were on the device are CPU tensors again."""
    mode.__exit__(None, None, None)
    while replaced:
        owner, name, old = replaced.pop()
        setattr(owner, name, old)
    torch.serialization._package_registry[:] = [
        entry for entry in torch.serialization._package_registry if entry[1].__module__ != __name__]
