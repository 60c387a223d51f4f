"""A model in ONNX Runtime, in float32 and with weights of eight bits."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Run = Callable[[Any], np.ndarray]


def onnx_paths(
    model: Any, example: tuple[Any, ...], names: Sequence[str], folder: Path, threads: int
) -> dict[str, Run]:
    """Export a model and quantise it.

    Args:
        model: A torch module with one output.
        example: Its inputs, [batch, tokens] each.
        names: Their names, by which batches hold them.
        folder: Where the files go.
        threads: Threads of a run.
    """
    import onnxruntime
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic

    plain, small = folder / "fp32.onnx", folder / "int8.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            example,
            str(plain),
            input_names=list(names),
            output_names=["found"],
            dynamic_axes={name: {0: "batch", 1: "tokens"} for name in names},
            opset_version=17,
            dynamo=False,
        )
        quantize_dynamic(plain, small, per_channel=True, weight_type=QuantType.QInt8)

    def run(file: Path) -> Run:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = onnxruntime.InferenceSession(
            str(file), options, providers=["CPUExecutionProvider"]
        )
        return lambda batch: np.asarray(session.run(None, {n: batch[n].numpy() for n in names})[0])

    return {"onnx fp32": run(plain), "onnx int8": run(small)}
