"""A CUDA device without a GPU: its tensors are computed on the CPU, and refused wherever a real GPU would refuse them.

Each tensor "on" it wraps one in main memory and reports the device 'cuda:0'. An operation that mixes it with a tensor
on the CPU raises, as on a GPU, except for what torch allows there: numbers, indices, and copies. So does `numpy()`.
Speed, rounding, memory, streams, and what cuDNN does are not simulated: for those, run `pytest -m gpu` on a GPU.

It stands on parts of torch that are not public (written for 2.14), and replaces a few functions while it is there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("cuda", 0)

COPIES = {"aten::_to_copy", "aten::copy_"}
"""Operations between devices."""

INDICES = {"aten::index.Tensor", "aten::index_put_", "aten::index_put", "aten::_unsafe_index.Tensor"}
"""Operations whose indices may be on the CPU."""


class OnGPU(torch.Tensor):
    """A tensor on the simulated device, around one in main memory."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> OnGPU:
        made: OnGPU = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=torch.device("cpu"),  # as torch's C++ sees it: its autograd would start threads of CUDA
            requires_grad=held.requires_grad,
        )
        made.held = held
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return computed(func, args, kwargs or {})

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return DEVICE

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    @property
    def is_cpu(self) -> bool:  # type: ignore[override]
        return False

    def cpu(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        return self.to("cpu")

    def cuda(self, *args: Any, **kwargs: Any) -> OnGPU:
        return self

    def new_tensor(self, data: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        return torch.tensor(data, **{"dtype": self.dtype, "device": DEVICE, **kwargs})

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor first.")

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        return self.numpy()

    def __repr__(self) -> str:  # type: ignore[override]
        return f"{self.held!r} on {DEVICE}"

    def __deepcopy__(self, memo: Any) -> Any:
        copied = OnGPU(self.held.detach().clone())
        made = torch.nn.Parameter(copied, self.requires_grad) if isinstance(self, torch.nn.Parameter) else copied
        memo[id(self)] = made
        return made


plain_to: Callable[..., Any] = torch.Tensor.to


def moved(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
    """`Tensor.to` between the simulated device and the CPU; C++ takes both for the CPU."""
    copy = bool(kwargs.pop("copy", False))
    device, dtype, _, layout = torch._C._nn._parse_to(*args, **kwargs)
    device = args[0].device if args and isinstance(args[0], torch.Tensor) else device
    on_gpu = isinstance(tensor, OnGPU)
    if not on_gpu and (device is None or device.type != "cuda"):
        return plain_to(tensor, *args, **kwargs, copy=copy)
    to_gpu = on_gpu if device is None else device.type == "cuda"
    if to_gpu == on_gpu and dtype in (None, tensor.dtype) and layout is None and not copy:
        return tensor
    result: torch.Tensor = Moved.apply(tensor, to_gpu, dtype or tensor.dtype, layout or torch.preserve_format)
    return result


class Moved(torch.autograd.Function):
    """A copy whose gradient goes back to where the tensor was."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, to_gpu: bool, dtype: torch.dtype, layout: Any) -> torch.Tensor:
        ctx.source = isinstance(tensor, OnGPU), tensor.dtype
        source = inner(tensor)
        copied: torch.Tensor = torch.empty_like(source, dtype=dtype, memory_format=layout).copy_(source)
        return OnGPU(copied) if to_gpu else copied

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        on_gpu, dtype = ctx.source
        return moved(gradient, DEVICE if on_gpu else "cpu", dtype), None, None, None


class SimulatedGPU(TorchDispatchMode):
    """While active, what is created on or copied to a CUDA device is a tensor on the simulated one."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {})


def computed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """The result of an operation, on the device where torch would put it."""
    flat, _ = tree_flatten((args, kwargs))
    held = [value for value in flat if isinstance(value, OnGPU)]
    name = func._schema.name + (f".{func._schema.overload_name}" if func._schema.overload_name else "")
    if held and name not in COPIES:
        refuse_mixed(name, args, kwargs)
    asked = kwargs.get("device")
    if asked is not None and held:
        kwargs, to_gpu = {**kwargs, "device": torch.device("cpu")}, True  # C++ means the tensor's own; see `moved`
    elif asked is not None:
        to_gpu = torch.device(asked).type == "cuda"
        kwargs = {**kwargs, "device": torch.device("cpu") if to_gpu else asked}
    else:
        to_gpu = isinstance(args[0], OnGPU) if name in COPIES else bool(held)
    refuse_generator(name, flat, to_gpu)
    own = {id(value.held): value for value in held}
    result = func(*tree_map(inner, args), **tree_map(inner, kwargs))

    def outer(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or isinstance(value, OnGPU) or not to_gpu:
            return value
        return own[id(value)] if id(value) in own else OnGPU(value)  # what was changed in place is itself

    if func is torch.ops.aten._local_scalar_dense.default:
        return result
    for value in own.values():  # e.g. resize_ and t_ change the shape of what they are given
        if value.shape != value.held.shape:
            raise NotImplementedError(f"{name} changes the shape of a tensor in place")
    return tree_map(outer, result)


def inner(value: Any) -> Any:
    """The tensor in main memory."""
    return value.held if isinstance(value, OnGPU) else value


def refuse_mixed(name: str, args: Any, kwargs: dict[str, Any]) -> None:
    """Raise `RuntimeError` if tensors are on two devices; a number, and the indices of a tensor, may be on the CPU."""
    if name in INDICES and isinstance(args[0], OnGPU):
        args = [args[0], *args[2:]]
    tensors = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, torch.Tensor)]
    arrays = {isinstance(value, OnGPU) for value in tensors if value.ndim > 0}
    if len(arrays) > 1 or (arrays == {False} and any(isinstance(value, OnGPU) for value in tensors)):
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! ({name})"
        )


def refuse_generator(name: str, flat: list[Any], to_gpu: bool) -> None:
    """Raise `RuntimeError` if random numbers on one device are asked of a generator on the other."""
    for value in flat:
        if isinstance(value, torch._C.Generator) and (value._cdata in Generator.on_gpu) != to_gpu:  # type: ignore[attr-defined]
            raise RuntimeError(f"Expected a generator on {'cuda' if to_gpu else 'cpu'}, found the other ({name})")


class Generator(torch.Generator):
    """A generator of random numbers that says it is on the device it was made for."""

    on_gpu: dict[int, Generator] = {}
    """Those on the GPU, by the address that torch's operations get: they do not get this object."""

    def __new__(cls, device: Any = "cpu") -> Generator:
        made: Generator = super().__new__(cls, "cpu")  # type: ignore[call-arg]
        if torch.device(device).type == "cuda":
            cls.on_gpu[made._cdata] = made  # type: ignore[attr-defined]
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return DEVICE if self._cdata in self.on_gpu else torch.device("cpu")  # type: ignore[attr-defined]


def one_hot(labels: torch.Tensor, num_classes: int = -1) -> torch.Tensor:
    """`F.one_hot`, which makes its numbers of classes where C++ takes the labels to be."""
    count = num_classes if num_classes >= 0 else int(labels.max()) + 1
    return (labels[..., None] == torch.arange(count, device=labels.device)).long()


def quantile(tensor: torch.Tensor, share: float) -> torch.Tensor:
    """`Tensor.quantile`, likewise."""
    result: torch.Tensor = moved(torch.quantile(inner(tensor), share), tensor.device)
    return result


def enter_no_grad(self: torch.inference_mode) -> None:
    """Enter `torch.no_grad` instead of inference mode, whose tensors cannot be wrapped."""
    self.instead = torch.no_grad() if self.mode else contextlib.nullcontext()  # type: ignore[attr-defined]
    self.instead.__enter__()  # type: ignore[attr-defined]


def leave_no_grad(self: torch.inference_mode, *error: object) -> None:
    """Leave it."""
    self.instead.__exit__(*error)  # type: ignore[attr-defined]


def autocast_on_cpu(autocast: Callable[..., Any]) -> Callable[..., Any]:
    """`torch.autocast`, on the CPU where it is asked for on CUDA."""
    return lambda device, *args, **kwargs: autocast("cpu" if device == "cuda" else device, *args, **kwargs)


@contextlib.contextmanager
def simulated_gpu() -> Iterator[None]:
    """Make torch find a CUDA device."""
    state: list[torch.Tensor] = [torch.get_rng_state()]

    def set_state(new: torch.Tensor, device: Any = None) -> None:
        state[0] = new

    simple: dict[str, Callable[..., Any]] = {
        "is_available": lambda: True,
        "is_initialized": lambda: False,
        "device_count": lambda: 1,
        "get_device_name": lambda device=None: "a simulated GPU",
        "get_device_capability": lambda device=None: (8, 0),
        "mem_get_info": lambda device=None: (2**36, 2**36),
        "max_memory_allocated": lambda device=None: 2**20,
        "reset_peak_memory_stats": mock.Mock(side_effect=RuntimeError("Invalid device argument")),  # not initialised
        "manual_seed": lambda seed: None,
        "get_rng_state": lambda device=None: state[0],
        "set_rng_state": set_state,
        "device": lambda device: contextlib.nullcontext(),
    }
    mode = SimulatedGPU()  # type: ignore[no-untyped-call]
    mode._mode_key = torch._C._TorchDispatchModeKey.FAKE  # type: ignore[attr-defined] # torch then starts no CUDA
    with contextlib.ExitStack() as stack:
        for name, function in simple.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, function))
        stack.callback(Generator.on_gpu.clear)
        stack.enter_context(mock.patch.object(torch, "Generator", Generator))
        stack.enter_context(mock.patch.object(torch.Tensor, "to", moved))
        stack.enter_context(mock.patch.object(torch.inference_mode, "__enter__", enter_no_grad))
        stack.enter_context(mock.patch.object(torch.inference_mode, "__exit__", leave_no_grad))
        stack.enter_context(mock.patch.object(torch.nn.functional, "one_hot", one_hot))
        stack.enter_context(mock.patch.object(torch.Tensor, "quantile", quantile))
        stack.enter_context(mock.patch.object(torch, "autocast", autocast_on_cpu(torch.autocast)))
        stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        stack.callback(torch._C._set_only_lift_cpu_tensors, torch._C._only_lift_cpu_tensors())
        torch._C._set_only_lift_cpu_tensors(True)  # so that torch.tensor() copies to the device like everything else
        stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, False)
        torch.__future__.set_overwrite_module_params_on_conversion(True)  # Module.to() would change them in place
        for name in ("_accelerator_graph_capture_health_check", "_cuda_graph_capture_health_check"):
            stack.enter_context(mock.patch.object(torch.optim.Optimizer, name, mock.Mock(), create=True))
        stack.enter_context(mode)
        yield
