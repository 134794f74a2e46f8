# Addresses are of contiguous float32 tensors (bounds: int32, saved: int64); 0 = not given. See native_src/kda.h.
def kda_forward(
    inputs: list[int],
    bounds: int,
    shape: list[int],
    scale: float,
    spacing: int,
    saved: int,
    states: int,
    o: int,
    final: int,
) -> None: ...
def kda_backward(
    inputs: list[int],
    bounds: int,
    shape: list[int],
    scale: float,
    spacing: int,
    saved: int,
    states: int,
    grads: list[int],
) -> None: ...
def kda_step(
    inputs: list[int], shape: list[int], scale: float, state_in: int, state_out: int, o: int
) -> None: ...
def conv_forward(
    x: int, weight: int, initial: int, bounds: int, shape: list[int], silu: bool, y: int
) -> None: ...
def conv_backward(
    x: int, weight: int, initial: int, bounds: int, shape: list[int], silu: bool, d_y: int, d_x: int, d_weight: int,
    d_initial: int,
) -> None: ...  # fmt: skip
def memory_bandwidth(seconds: float) -> float: ...
def set_num_threads(threads: int) -> None: ...
def num_threads() -> int: ...
def instruction_sets() -> list[str]: ...
def use_instruction_set(name: str) -> None: ...
